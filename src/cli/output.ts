/**
 * How commands speak: results on stdout (text for people, or JSON), everything
 * else on stderr. Colours and progress only where a terminal shows them.
 */
import { once } from 'node:events';
import type { Writable } from 'node:stream';
import Table from 'cli-table3';
import picocolors from 'picocolors';
import { HansardError, reasons } from '../common/errors.js';

export type Stream = Writable & { readonly isTTY?: boolean; readonly columns?: number };

export interface OutputOptions {
  readonly json: boolean;
  readonly stdout?: Stream;
  readonly stderr?: Stream;
  readonly env?: Readonly<Record<string, string | undefined>>;
}

export interface Column {
  readonly title: string;
  readonly align?: 'left' | 'right';
}

export class Output {
  readonly isJson: boolean;
  readonly stdout: Stream;
  readonly stderr: Stream;
  /** Colours for stdout. */
  readonly colors: ReturnType<typeof picocolors.createColors>;
  /** Colours for stderr. */
  readonly errorColors: ReturnType<typeof picocolors.createColors>;

  constructor(options: OutputOptions) {
    const env = options.env ?? process.env;
    this.isJson = options.json;
    this.stdout = options.stdout ?? process.stdout;
    this.stderr = options.stderr ?? process.stderr;
    this.colors = picocolors.createColors(wantsColors(this.stdout, env));
    this.errorColors = picocolors.createColors(wantsColors(this.stderr, env));
  }

  /** A result for people; nothing with --json. */
  line(text = ''): void {
    if (!this.isJson) this.stdout.write(`${text}\n`);
  }

  /** A result for programs; nothing without --json. */
  json(value: unknown): void {
    if (this.isJson) this.stdout.write(`${stringify(value)}\n`);
  }

  /** Aligned columns without frames, so that grep and awk like them too; nothing with --json. Stored text comes `printable`. */
  table(columns: readonly Column[], rows: readonly (readonly (string | number)[])[]): void {
    if (this.isJson) return;
    const table = new Table({
      head: columns.map((column) => this.colors.bold(column.title)),
      colAligns: columns.map((column) => column.align ?? 'left'),
      chars: noFrame,
      style: { head: [], border: [], 'padding-left': 0, 'padding-right': 2 },
    });
    for (const row of rows) table.push([...row]);
    const lines = table.toString().split('\n');
    this.stdout.write(`${lines.map((line) => line.trimEnd()).join('\n')}\n`);
  }

  /** Beside the result: what was done, what to do next. Stderr, so that pipes stay clean. */
  note(text: string): void {
    if (!this.isJson) this.stderr.write(`${text}\n`);
  }

  warn(text: string): void {
    if (this.isJson) this.stderr.write(`${JSON.stringify({ warning: text })}\n`);
    else this.stderr.write(`${this.errorColors.yellow('warning:')} ${text}\n`);
  }

  /** What happened, the reason, what to do: `cure` where the command knows better than the catalogue. */
  error(error: unknown, cure?: string): void {
    this.stderr.write(
      this.isJson ? `${stringify(errorAsJson(error, cure))}\n` : this.#errorText(error, cure),
    );
  }

  /** Wrong usage, as JSON: the command line's own errors have no reason of the catalogue. */
  usage(text: string): void {
    const message = text.trim().replace(/^error: /, '');
    const error = { reason: 'USAGE', message, cure: 'See the command with --help.', retry: 'no' };
    this.stderr.write(`${JSON.stringify({ error })}\n`);
  }

  #errorText(error: unknown, better: string | undefined): string {
    const c = this.errorColors;
    const lines = (what: string, reason: string, cure: string) =>
      `${c.red('error:')} ${printable(what)} ${c.dim(`(${reason})`)}\n${c.bold('cure:')}  ${cure}\n`;
    if (error instanceof HansardError)
      return lines(error.message + fieldsText(error), error.reason, better ?? reasons[error.reason].cure);
    if (isMissingPackage(error))
      return lines(error.message, 'INTERNAL', 'Run `npm ci`: what is installed here is of another version.');
    const what = error instanceof Error ? (error.stack ?? error.message) : String(error);
    return lines(what, 'INTERNAL', better ?? reasons.INTERNAL.cure);
  }
}

/** After an update of the checkout alone. */
function isMissingPackage(error: unknown): error is Error {
  return error instanceof Error && (error as NodeJS.ErrnoException).code === 'ERR_MODULE_NOT_FOUND';
}

/** Fields that tell people nothing that the message does not. */
const forPrograms: ReadonlySet<string> = new Set([
  'counter_consumed',
  'field',
  'problem',
  'setting',
  'bad_lines',
]);

/** What the message does not say already. */
function fieldsText(error: HansardError): string {
  const more = Object.entries(error.fields).filter(
    ([name, value]) => !forPrograms.has(name) && !error.message.includes(String(value)),
  );
  return more.length === 0 ? '' : `; ${more.map(([name, value]) => `${name} ${value}`).join(', ')}`;
}

export function errorAsJson(error: unknown, cure?: string): unknown {
  const known =
    error instanceof HansardError
      ? error
      : new HansardError('INTERNAL', error instanceof Error ? (error.stack ?? error.message) : String(error));
  const info = reasons[known.reason];
  return {
    error: {
      reason: known.reason,
      message: known.message,
      fields: known.fields,
      cause: info.cause,
      cure: cure ?? info.cure,
      retry: info.retry,
      ...(known.retryDelayMs === undefined ? {} : { retry_delay_ms: known.retryDelayMs }),
    },
  };
}

/** Waits where the reader is slow; a closed pipe (`| head`) ends the command quietly in main.ts. */
export async function writeAll(stream: Writable, chunk: string | Uint8Array): Promise<void> {
  if (!stream.write(chunk)) await once(stream, 'drain');
}

/** Numbers with thousands separators, always with a comma. */
export function count(value: number): string {
  return String(Math.round(value)).replace(/\B(?=(\d{3})+(?!\d))/g, ',');
}

export function bytesText(bytes: number): string {
  if (bytes < 1000) return `${Math.round(bytes)} B`;
  if (bytes < 1e6) return `${(bytes / 1e3).toFixed(1)} kB`;
  if (bytes < 1e9) return `${(bytes / 1e6).toFixed(1)} MB`;
  return `${(bytes / 1e9).toFixed(2)} GB`;
}

export function durationText(seconds: number): string {
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return `${minutes} min ${whole % 60} s`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** Stored text must not move the cursor or recolour a terminal: control characters are shown, not sent. */
export function printable(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
  return text.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/g, (c) =>
    c === '\u007f' ? '\u2421' : String.fromCodePoint(0x2400 + ((c.codePointAt(0) ?? 0) & 0x1f)),
  );
}

function stringify(value: unknown): string {
  return JSON.stringify(value, (_key, v: unknown) => (typeof v === 'bigint' ? v.toString() : v));
}

function wantsColors(stream: Stream, env: Readonly<Record<string, string | undefined>>): boolean {
  if (env.NO_COLOR !== undefined && env.NO_COLOR !== '') return false;
  return stream.isTTY === true && env.TERM !== 'dumb';
}

const noFrame = {
  top: '',
  'top-mid': '',
  'top-left': '',
  'top-right': '',
  bottom: '',
  'bottom-mid': '',
  'bottom-left': '',
  'bottom-right': '',
  left: '',
  'left-mid': '',
  mid: '',
  'mid-mid': '',
  right: '',
  'right-mid': '',
  middle: '',
};
