/** `hansard start` on a folder as a process of its own; its log lines by their text. */
import { type ChildProcess, spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { nodeFlags } from '../../cluster/node-flags.js';
import { forgetProcess, watchProcess } from './leftovers.js';

type Line = Readonly<Record<string, unknown>>;

const sayWithinMs = 180_000;
const stopWithinMs = 15_000;

export class NodeProcess {
  readonly process: ChildProcess;
  readonly #seen = new Map<string, Line>();
  readonly #counts = new Map<string, number>();
  readonly #waiting = new Map<string, ((line: Line) => void)[]>();

  constructor(dir: string, env: Readonly<Record<string, string>> = {}) {
    const script = fileURLToPath(new URL('../../src/cli/main.js', import.meta.url));
    const flags = ['--dir', dir, '--http-address', 'off', '--log-format', 'json'];
    this.process = spawn(process.execPath, [...nodeFlags, script, 'start', ...flags], {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, ...env },
    });
    watchProcess(this.pid);
    for (const stream of [this.process.stdout, this.process.stderr]) {
      if (stream !== null) createInterface(stream).on('line', (text) => this.#take(text));
    }
  }

  get pid(): number {
    return this.process.pid ?? 0;
  }

  /** How often it has said so. */
  times(text: string): number {
    return this.#counts.get(text) ?? 0;
  }

  /** The newest line of that text, the first one where there is none yet. */
  async line(text: string): Promise<Line> {
    const known = this.#seen.get(text);
    if (known !== undefined) return known;
    return new Promise((resolve, reject) => {
      const fail = (): void => reject(new Error(`the node did not say "${text}"`));
      const timer = setTimeout(fail, sayWithinMs).unref();
      this.process.once('exit', fail);
      const found = (line: Line): void => {
        clearTimeout(timer);
        this.process.off('exit', fail);
        resolve(line);
      };
      this.#waiting.set(text, [...(this.#waiting.get(text) ?? []), found]);
    });
  }

  async stop(): Promise<void> {
    const { process: node } = this;
    if (node.exitCode === null && node.signalCode === null) {
      const ended = new Promise((resolve) => node.once('exit', resolve));
      node.kill('SIGTERM');
      const timer = setTimeout(() => node.kill('SIGKILL'), stopWithinMs);
      await ended;
      clearTimeout(timer);
    }
    forgetProcess(this.pid);
  }

  #take(text: string): void {
    let line: Line;
    try {
      line = JSON.parse(text) as Line;
    } catch {
      process.stderr.write(`${text}\n`);
      return;
    }
    const name = String(line.msg);
    if (Number(line.level) >= 50) process.stderr.write(`${text}\n`);
    this.#seen.set(name, line);
    this.#counts.set(name, this.times(name) + 1);
    for (const found of this.#waiting.get(name) ?? []) found(line);
    this.#waiting.delete(name);
  }
}
