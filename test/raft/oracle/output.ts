/** What a command prints: the harness's lines and, by level, the nodes' logs. */
import type { Logger } from '../../../src/raft/index.js';

const levels = ['DEBUG', 'INFO', 'WARN', 'ERROR', 'FATAL', 'NONE'];

export class Output implements Logger {
  level = 0;
  text = '';

  /** At NONE all is silent but the errors of commands. */
  get quiet(): boolean {
    return this.level === levels.length - 1;
  }

  /** False: no such level. */
  setLevel(name: string): boolean {
    const level = levels.indexOf(name.toUpperCase());
    if (level >= 0) this.level = level;
    return level >= 0;
  }

  write(text: string): void {
    if (!this.quiet) this.text += text;
  }

  /** All that `fn` prints, two blanks to the right. */
  indented(fn: () => string | undefined): string | undefined {
    const before = this.text;
    this.text = '';
    const error = fn();
    const lines = this.text.replace(/\n$/, '').split('\n');
    const inner = this.text === '' ? '' : lines.map((line) => `  ${line}\n`).join('');
    this.text = before + inner;
    return error;
  }

  debug(text: string): void {
    this.#log(0, text);
  }
  info(text: string): void {
    this.#log(1, text);
  }
  warn(text: string): void {
    this.#log(2, text);
  }
  error(text: string): void {
    this.#log(3, text);
  }

  #log(level: number, text: string): void {
    if (this.level <= level) this.write(`${levels[level]} ${text}\n`);
  }
}
