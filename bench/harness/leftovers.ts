/**
 * What must not outlive the harness: folders, and processes with their
 * descendants. Systems stop themselves; this is for when they could not.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { familyOf, startOf } from './measure.js';

interface Running {
  readonly pid: number;
  /** When Linux says it began: another process may get its number later. */
  readonly start: string;
}

const folders = new Set<string>();
const processes = new Map<number, Running>();

/** A new folder under the system's temporary one, removed at the latest when this process ends. */
export function temporaryFolder(prefix: string): string {
  const dir = mkdtempSync(join(tmpdir(), prefix));
  folders.add(dir);
  return dir;
}

export function removeFolder(dir: string): void {
  // A server's last write may come between the listing and the removal.
  rmSync(dir, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 });
  folders.delete(dir);
}

export function watchProcess(pid: number): void {
  if (pid > 1) processes.set(pid, { pid, start: startOf(pid) });
}

export function forgetProcess(pid: number): void {
  processes.delete(pid);
}

/** SIGKILL to every watched process that is still itself, its descendants first found; then the folders. */
export function endLeftovers(): void {
  for (const { pid, start } of processes.values())
    if (startOf(pid) === start)
      for (const each of familyOf(pid)) {
        try {
          process.kill(each, 'SIGKILL');
        } catch {
          // Gone meanwhile.
        }
      }
  processes.clear();
  for (const dir of [...folders]) {
    try {
      removeFolder(dir);
    } catch (error) {
      process.stderr.write(`${dir} is left: ${error instanceof Error ? error.message : String(error)}\n`);
    }
  }
}

/**
 * Aborts at the first SIGINT, SIGTERM, SIGHUP or uncaught exception, so that the
 * run ends in order; a second one, or the process's own end, ends everything at once.
 */
export function untilSignal(told: (name: string) => void): AbortSignal {
  const ending = new AbortController();
  const numbers = { SIGINT: 2, SIGTERM: 15, SIGHUP: 1 } as const;
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const)
    process.on(name, () => {
      process.exitCode = 128 + numbers[name];
      if (ending.signal.aborted) process.exit();
      told(name);
      ending.abort();
    });
  // A client's event that nobody listens to: a mistake of ours, but servers must end all the same.
  process.on('uncaughtException', (error) => {
    process.exitCode = 1;
    if (ending.signal.aborted) process.exit();
    told(error.stack ?? error.message);
    ending.abort();
  });
  process.on('exit', endLeftovers);
  return ending.signal;
}
