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

/**
 * Bytes of this process's write system calls, to files and sockets alike: for one that has no sockets. What Linux calls
 * write_bytes is no measure: where the page cache works in large folios it counts a whole folio for any byte in it.
 */
export function bytesOfWrites(): number {
  try {
    return Number(/^wchar: (\d+)/m.exec(readFileSync('/proc/self/io', 'utf8'))?.[1] ?? Number.NaN);
  } catch {
    return Number.NaN;
  }
}

/** Bytes that were written to the device on which a folder lies, by whomever: true of one program where no other writes. */
export function deviceBytesWritten(folder: string): number {
  try {
    const { dev } = statSync(folder);
    // As glibc packs it.
    const [major, minor] = [(dev >>> 8) & 0xfff, (dev & 0xff) | ((dev >>> 12) & 0xfff00)];
    const line = new RegExp(`^ *${major} +${minor} .*$`, 'm').exec(readFileSync('/proc/diskstats', 'utf8'));
    // Behind major, minor and name: four numbers of reads, then writes, writes merged, sectors of 512 bytes.
    return Number(line?.[0].trim().split(/ +/)[9] ?? Number.NaN) * 512;
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
