/** A line on a terminal that tells how far a long command is. Silent where nobody watches. */
import { bytesText, count, durationText, type Stream } from './output.js';

export interface ProgressState {
  /** Bytes of the source that are read. */
  readonly bytes: number;
  /** Of how many, where that is known. */
  readonly totalBytes: number | undefined;
  readonly messages: number;
  /** What else tells how far it is. */
  readonly note?: string;
}

const intervalMs = 200;

export class Progress {
  readonly #stream: Stream;
  readonly #label: string;
  readonly #read: () => ProgressState;
  readonly #startedMs = performance.now();
  #timer: NodeJS.Timeout | undefined;

  constructor(options: {
    readonly stream: Stream;
    readonly label: string;
    readonly enabled: boolean;
    readonly read: () => ProgressState;
  }) {
    this.#stream = options.stream;
    this.#label = options.label;
    this.#read = options.read;
    if (!options.enabled || options.stream.isTTY !== true) return;
    this.#timer = setInterval(() => this.#draw(), intervalMs);
    this.#timer.unref();
  }

  get seconds(): number {
    return (performance.now() - this.#startedMs) / 1000;
  }

  stop(): void {
    if (this.#timer === undefined) return;
    clearInterval(this.#timer);
    this.#timer = undefined;
    this.#stream.write('\r\u001b[K');
  }

  #draw(): void {
    const text = progressText(this.#label, this.#read(), this.seconds);
    this.#stream.write(`\r\u001b[K${text.slice(0, (this.#stream.columns ?? 80) - 1)}`);
  }
}

export function progressText(label: string, state: ProgressState, seconds: number): string {
  const rate = seconds > 0 ? state.messages / seconds : 0;
  const parts = [`${count(state.messages)} messages`, `${count(rate)}/s`];
  if (state.totalBytes === undefined || state.totalBytes === 0) parts.push(bytesText(state.bytes));
  else {
    const done = Math.min(1, state.bytes / state.totalBytes);
    parts.unshift(`${String(Math.floor(done * 100)).padStart(3)} %`);
    parts.push(`${bytesText(state.bytes)} of ${bytesText(state.totalBytes)}`);
    if (done > 0 && done < 1) parts.push(`${durationText((seconds / done) * (1 - done))} left`);
  }
  if (state.note !== undefined) parts.push(state.note);
  return `${label}  ${parts.join('  ')}`;
}
