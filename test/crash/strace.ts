/**
 * What a process asks of its files, as strace tells it: each call with the
 * moments at which it began and ended, in the order of one count. Calls that
 * could change a file in a way that nobody here understands stop the recording.
 */
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';

/** All that changes files or says which they are. */
const traced = [
  'open,openat,creat,close,dup,dup2,dup3,lseek',
  'write,pwrite64,writev,pwritev,pwritev2,ftruncate,truncate',
  'fsync,fdatasync,sync_file_range',
  'rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat,rmdir',
  'fallocate,link,linkat,symlink,symlinkat,sendfile,copy_file_range,splice,mmap,msync,io_uring_setup',
].join(',');

/** Undefined where processes can be traced here, else why not. */
export function straceMissing(): string | undefined {
  if (process.platform !== 'linux') return 'strace: Linux only';
  const { error, status, stderr } = spawnSync('strace', ['-f', '-qq', '-o', '/dev/null', '/bin/true'], {
    encoding: 'utf8',
    timeout: 10_000,
  });
  if (error !== undefined) return `strace: ${(error as NodeJS.ErrnoException).code ?? error.message}`;
  return status === 0 ? undefined : `strace: ${stderr.trim().split('\n')[0] ?? 'does not run'}`;
}

/** The command in front of a program that is to be recorded. */
export function straceCommand(output: string, inject: readonly string[] = []): string[] {
  return [
    'strace',
    ...['-f', '--seccomp-bpf', '-qq', '-xx', '-s', `${64 * 1024 * 1024}`, '-o', output],
    ...['-e', `trace=${traced}`, '-e', 'signal=none'],
    ...inject.flatMap((what) => ['-e', `inject=${what}`]),
  ];
}

/** In front of a program in which one of its calls, on one of `paths`, does what `how` says (`error=EIO:when=3`). */
export function injectCommand(call: string, how: string, paths: readonly string[]): string[] {
  return [
    'strace',
    ...['-f', '--seccomp-bpf', '-qq', '-o', '/dev/null', '-e', 'signal=none'],
    ...['-e', `trace=${call}`, '-e', `inject=${call}:${how}`],
    ...paths.flatMap((path) => ['-P', path]),
  ];
}

/** With this in its environment the node's calls are all seen. */
export const tracedEnv = { UV_USE_IO_URING: '0' };

export interface Call {
  readonly thread: number;
  readonly name: string;
  /** As printed, without the name and its brackets. */
  args: string;
  /** Undefined: it never returned (the process was killed in it). */
  result: number | undefined;
  /** Counts of begins and ends of all calls: who began or ended first. */
  readonly began: number;
  ended: number;
}

const linePattern = /^(\d+) +([a-z_0-9]+)\((.*)$/s;
const resumedPattern = /^(\d+) +<\.\.\. ([a-z_0-9]+) resumed>(.*)$/s;
const resultPattern = /^(.*)\) += (-?\d+|0x[0-9a-f]+|\?)(?: .*)?$/s;

/** In the order of their begins. */
export function readTrace(file: string, from = 0): Call[] {
  const calls: Call[] = [];
  const open = new Map<number, Call>();
  let count = from;
  for (const line of readFileSync(file, 'latin1').split('\n')) {
    if (line === '') continue;
    const resumed = resumedPattern.exec(line);
    if (resumed !== null) {
      const [, thread, name, rest] = resumed as unknown as [string, string, string, string];
      const call = open.get(Number(thread));
      if (call?.name !== name) throw new Error(`a call resumes that was not begun: ${line.slice(0, 200)}`);
      open.delete(Number(thread));
      finish(call, call.args + rest, ++count, line);
      continue;
    }
    const begun = linePattern.exec(line);
    // Ends of threads and of the process; and a call of which the tracer could read nothing any more, as its thread
    // was killed on the way into it: whether the folder is as all the others left it is looked at (Recorder).
    if (begun === null) {
      if (/^\d+ +(\+\+\+|---|\?\?\?\()/.test(line) || /^\d+ +<\.\.\. \S+ resumed/.test(line)) continue;
      throw new Error(`a line of the trace is not understood: ${line.slice(0, 200)}`);
    }
    const [, thread, name, rest] = begun as unknown as [string, string, string, string];
    const call: Call = {
      thread: Number(thread),
      name,
      args: '',
      result: undefined,
      began: ++count,
      ended: 0,
    };
    call.ended = Number.POSITIVE_INFINITY;
    calls.push(call);
    if (rest.endsWith('<unfinished ...>')) {
      call.args = rest.slice(0, -'<unfinished ...>'.length);
      open.set(call.thread, call);
    } else if (/\) += \?$/.test(rest)) call.args = rest.replace(/\) += \?$/, '');
    else finish(call, rest, ++count, line);
  }
  return calls;
}

function finish(call: Call, text: string, ended: number, line: string): void {
  const match = resultPattern.exec(text);
  if (match === null) {
    // The last line of a process that was killed may be cut.
    if (/^.*\) += \?/.test(text) || !text.includes(') ')) return;
    throw new Error(`a result is not understood: ${line.slice(0, 200)} … ${line.slice(-100)}`);
  }
  call.args = match[1] as string;
  if (match[2] === '?') return;
  call.result = Number(match[2]);
  call.ended = ended;
}

/** The strings of a call's arguments, as bytes. Cut ones are an error. */
export function stringsOf(args: string): Buffer[] {
  const found: Buffer[] = [];
  for (const match of args.matchAll(/"((?:\\x[0-9a-f]{2})*)"(\.\.\.)?/g)) {
    if (match[2] !== undefined) throw new Error('strace has cut a string');
    found.push(Buffer.from((match[1] as string).replaceAll('\\x', ''), 'hex'));
  }
  return found;
}
