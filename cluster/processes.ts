/**
 * Background processes that a launcher may find again: a record per process
 * with what tells it from another process under the same number.
 */
import { spawn, spawnSync } from 'node:child_process';
import {
  closeSync,
  existsSync,
  fstatSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { dirname } from 'node:path';

export interface ProcessRecord {
  readonly pid: number;
  /** When the system says it began: pids are used again, a pid with its start is not. */
  readonly startTime: string;
  readonly command: readonly string[];
  readonly startedAt: string;
  /** Where in the log file its own words begin, bytes. */
  readonly logFrom: number;
}

/** `stale`: the record's process is gone, and its number may be another's now. */
export type ProcessState = 'running' | 'stale' | 'none';

export function spawnDetached(
  command: readonly string[],
  options: { readonly logFile: string; readonly recordFile: string; readonly env: NodeJS.ProcessEnv },
): ProcessRecord {
  mkdirSync(dirname(options.logFile), { recursive: true });
  mkdirSync(dirname(options.recordFile), { recursive: true });
  const log = openSync(options.logFile, 'a');
  const logFrom = fstatSync(log).size;
  try {
    const [program = process.execPath, ...args] = command;
    const child = spawn(program, args, {
      detached: true,
      stdio: ['ignore', log, log],
      env: options.env,
    });
    // Without it a failed exec would be an uncaught 'error'; the missing process is found by `stateOf`.
    child.on('error', () => {});
    child.unref();
    const record: ProcessRecord = {
      pid: child.pid ?? 0,
      startTime: startTimeOf(child.pid ?? 0) ?? '',
      command,
      startedAt: new Date().toISOString(),
      logFrom,
    };
    writeJson(options.recordFile, record);
    return record;
  } finally {
    closeSync(log);
  }
}

/** Of this very process, for those that come after it. */
export function recordOfSelf(): ProcessRecord {
  return {
    pid: process.pid,
    startTime: startTimeOf(process.pid) ?? '',
    command: process.argv,
    startedAt: new Date().toISOString(),
    logFrom: 0,
  };
}

export function readRecord(recordFile: string): ProcessRecord | undefined {
  const value = readJson(recordFile) as Partial<ProcessRecord> | undefined;
  if (value === undefined || typeof value.pid !== 'number' || typeof value.startTime !== 'string')
    return undefined;
  return {
    pid: value.pid,
    startTime: value.startTime,
    command: value.command ?? [],
    startedAt: value.startedAt ?? '',
    logFrom: value.logFrom ?? 0,
  };
}

export function stateOf(record: ProcessRecord | undefined): ProcessState {
  if (record === undefined) return 'none';
  if (record.pid <= 1 || record.startTime === '') return 'stale';
  return startTimeOf(record.pid) === record.startTime ? 'running' : 'stale';
}

/**
 * SIGTERM, and SIGKILL where that was not enough in time. Before each signal
 * the process is checked again to be the recorded one.
 */
export async function stopProcess(
  record: ProcessRecord,
  options: { readonly graceMs: number; readonly killWaitMs?: number },
): Promise<'stopped' | 'killed' | 'gone'> {
  if (!signal(record, 'SIGTERM')) return 'gone';
  if (await waitGone(record, options.graceMs)) return 'stopped';
  if (!signal(record, 'SIGKILL')) return 'stopped';
  await waitGone(record, options.killWaitMs ?? 5_000);
  return 'killed';
}

export function signal(record: ProcessRecord, name: NodeJS.Signals): boolean {
  if (stateOf(record) !== 'running') return false;
  try {
    process.kill(record.pid, name);
    return true;
  } catch {
    // It ended between the check and the signal.
    return false;
  }
}

async function waitGone(record: ProcessRecord, timeoutMs: number): Promise<boolean> {
  const until = performance.now() + timeoutMs;
  while (stateOf(record) === 'running') {
    if (performance.now() >= until) return false;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  return true;
}

/** Undefined where there is no such process (a zombie is none). */
function startTimeOf(pid: number): string | undefined {
  if (pid <= 1) return undefined;
  if (existsSync('/proc/self/stat')) {
    let stat: string;
    try {
      stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    } catch {
      return undefined;
    }
    // The command's name stands in parentheses and may hold any character.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return fields[0] === 'Z' || fields[0] === 'X' ? undefined : fields[19];
  }
  const ps = spawnSync('ps', ['-o', 'stat=,lstart=', '-p', String(pid)], { encoding: 'utf8' });
  const text = ps.stdout?.trim() ?? '';
  if (ps.status !== 0 || text === '' || text.startsWith('Z')) return undefined;
  return text.slice(text.indexOf(' ')).trim();
}

export function readJson(file: string): unknown {
  try {
    return JSON.parse(readFileSync(file, 'utf8'));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT' || error instanceof SyntaxError) return undefined;
    throw error;
  }
}

/** Whole or not at all: a reader never sees half a file. */
export function writeJson(file: string, value: unknown): void {
  const temporary = `${file}.tmp`;
  writeFileSync(temporary, `${JSON.stringify(value, undefined, 2)}\n`);
  renameSync(temporary, file);
}

export function removeFile(file: string): void {
  rmSync(file, { force: true });
}
