/** What Linux tells of a process and of a folder; NaN elsewhere. */
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { loadavg } from 'node:os';
import { join } from 'node:path';

export const MB = 1_000_000;
export const MiB = 1024 * 1024;

/** `name` of /proc/<pid>/status, bytes: RssAnon, VmRSS, VmHWM … */
export function statusBytes(pid: number | 'self', name: string): number {
  try {
    const text = readFileSync(`/proc/${pid}/status`, 'utf8');
    return 1024 * Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(text)?.[1] ?? Number.NaN);
  } catch {
    return Number.NaN;
  }
}

/** Bytes that the process had written to its disks; pages that were dropped before they were written do not count. */
export function diskBytesWritten(pid: number | 'self'): number {
  try {
    const text = readFileSync(`/proc/${pid}/io`, 'utf8');
    const of = (name: string): number =>
      Number(new RegExp(`^${name}: (\\d+)`, 'm').exec(text)?.[1] ?? Number.NaN);
    return of('write_bytes') - of('cancelled_write_bytes');
  } catch {
    return Number.NaN;
  }
}

/** Of all files below a folder, as they are allocated. */
export function folderBytes(folder: string): number {
  let bytes = 0;
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name);
    // A table that LevelDB deletes meanwhile is no loss.
    bytes += entry.isDirectory()
      ? folderBytes(path)
      : (statSync(path, { throwIfNoEntry: false })?.blocks ?? 0) * 512;
  }
  return bytes;
}

export function loadAverage(): string {
  return (loadavg()[0] as number).toFixed(1);
}

export const inMB = (bytes: number): string => `${(bytes / MB).toFixed(bytes < 10 * MB ? 1 : 0)} MB`;
export const inMiB = (bytes: number): string => `${(bytes / MiB).toFixed(0)} MiB`;
export const count = (n: number): string => Math.round(n).toLocaleString('en');
