/** What all peers need: finding programs and clients, starting, waiting, stopping. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { chmodSync, closeSync, existsSync, openSync, readdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { connect } from 'node:net';
import { join } from 'node:path';
import { forgetProcess, temporaryFolder, watchProcess } from '../harness/leftovers.js';
import { Absent, pause } from '../harness/system.js';

const peersPackage = new URL('../../../bench/peers/package.json', import.meta.url);
const startTimeoutMs = 60_000;
const stopTimeoutMs = 10_000;

/** A client's package out of bench/peers, which is installed on its own. */
export function clientPackage(name: string): unknown {
  try {
    return createRequire(peersPackage)(name);
  } catch {
    throw new Absent(`the package ${name} is not there: npm ci --prefix bench/peers`);
  }
}

/** Where Debian puts servers, beside PATH. */
function folders(): string[] {
  const postgres = '/usr/lib/postgresql';
  const versions = existsSync(postgres) ? readdirSync(postgres).sort().reverse() : [];
  return [
    // Before PATH, where Debian has a script of the same names that changes the user and the folder.
    '/usr/lib/rabbitmq/bin',
    ...(process.env.PATH ?? '').split(':'),
    '/usr/sbin',
    '/usr/local/sbin',
    ...versions.map((version) => join(postgres, version, 'bin')),
  ];
}

export function program(name: string): string {
  const found = folders()
    .map((folder) => join(folder, name))
    .find((path) => existsSync(path));
  if (found === undefined) throw new Absent(`no program ${name} on this machine`);
  return found;
}

export function versionOf(path: string, args: readonly string[], pattern: RegExp): string {
  const text = execFileSync(path, args, { stdio: ['ignore', 'pipe', 'ignore'] }).toString();
  return pattern.exec(text)?.[1] ?? text.split('\n')[0] ?? '';
}

/** A folder that other users may enter: servers that refuse root run as their own. */
export function workFolder(name: string): string {
  const dir = temporaryFolder(`hansard-bench-${name}-`);
  chmodSync(dir, 0o755);
  return dir;
}

export interface Account {
  readonly uid: number;
  readonly gid: number;
}

/** Undefined where this process may start the server as itself. */
export function accountInsteadOfRoot(name: string): Account | undefined {
  if (process.getuid?.() !== 0) return undefined;
  const line = readFileSync('/etc/passwd', 'utf8')
    .split('\n')
    .find((each) => each.startsWith(`${name}:`));
  const [, , uid, gid] = (line ?? '').split(':');
  if (uid === undefined) throw new Absent(`it refuses to run as root, and there is no user ${name}`);
  return { uid: Number(uid), gid: Number(gid) };
}

export interface ServerOptions {
  readonly account?: Account | undefined;
  readonly env?: Readonly<Record<string, string>>;
}

export class Server {
  readonly #child: ChildProcess;
  readonly #logFile: string;

  constructor(path: string, args: readonly string[], logFile: string, options: ServerOptions = {}) {
    this.#logFile = logFile;
    const log = openSync(logFile, 'a');
    const { account, env = {} } = options;
    // A group of its own: Ctrl-C reaches the harness alone, which then ends its servers in order.
    this.#child = spawn(path, args, {
      stdio: ['ignore', log, log],
      env: { ...process.env, ...env },
      detached: true,
      ...account,
    });
    closeSync(log);
    this.#child.on('error', () => {});
    this.#child.once('exit', () => forgetProcess(this.pid));
    watchProcess(this.pid);
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  get #ended(): boolean {
    return this.#child.exitCode !== null || this.#child.signalCode !== null || this.pid === 0;
  }

  async listening(port: number, signal: AbortSignal): Promise<void> {
    await until(`port ${port}`, signal, async () => {
      if (this.#ended)
        throw new Error(`the server ended: ${readFileSync(this.#logFile, 'utf8').slice(-500)}`);
      return accepts(port);
    });
  }

  async stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
    if (this.#ended) return;
    const ended = new Promise((done) => this.#child.once('exit', done));
    this.#child.kill(signal);
    const timer = setTimeout(() => this.#child.kill('SIGKILL'), stopTimeoutMs);
    await ended;
    clearTimeout(timer);
  }
}

/** Asks ten times a second, for as long as a start may take. */
export async function until(
  what: string,
  signal: AbortSignal,
  reached: () => Promise<boolean>,
): Promise<void> {
  const endMs = performance.now() + startTimeoutMs;
  while (!(await reached())) {
    if (performance.now() > endMs) throw new Error(`${what}: not there within ${startTimeoutMs / 1000} s`);
    await pause(100, signal);
  }
}

function accepts(port: number): Promise<boolean> {
  return new Promise((done) => {
    const socket = connect(port, '127.0.0.1');
    socket.once('connect', () => {
      socket.destroy();
      done(true);
    });
    socket.once('error', () => done(false));
  });
}
