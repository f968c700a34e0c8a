/** From append to readers: one writer, an append at a time, and readers of its channel. */
import { Failure, Recorder, type Running } from './drive.js';
import { payloadBytes } from './load.js';
import type { Following, Item, System } from './system.js';

/** Between an append's answer and the next one: latency is asked for, not throughput, ms. */
const pauseMs = 5;
/** What was appended within the window and has not arrived this much later is lost, ms. */
const arrivalMs = 15_000;
/** Readers that have begun are found out by appends that all of them get; between these, ms. */
const probeMs = 100;
const firstChannel = 3_000;

let channelsUsed = 0;

/** Undefined where the system's readers can't wait for what comes. */
export function tailLoop(system: System, readers: number): Promise<Running> | undefined {
  if (system.tail === undefined) return undefined;
  return begin(system, readers);
}

async function begin(system: System, readers: number): Promise<Running> {
  // One of its own: readers of an earlier round may still be leaving.
  const loop = new TailLoop(system, firstChannel + channelsUsed++, readers);
  await loop.begin();
  return loop;
}

class TailLoop implements Running {
  readonly #recorder = new Recorder();
  readonly #failure = new Failure();
  readonly #append: (item: Item) => Promise<unknown>;
  #following: Following[] = [];
  /** By number of the message: when its append began, and whether it counts. */
  readonly #sent = new Map<number, { readonly atMs: number; missing: number; readonly counts: boolean }>();
  /** By reader: the number of the message that it was told of last; each comes once, in order. */
  readonly #last: number[] = [];
  #next = 0;
  /** Deliveries of the window that have not come. */
  #missing = 0;
  #arrived = (): void => {};
  #isStopping = false;
  #writer: Promise<void> = Promise.resolve();

  constructor(
    private readonly system: System,
    private readonly channel: number,
    private readonly readers: number,
  ) {
    this.#append = (item) =>
      system.appendTold === undefined ? system.append(item) : system.appendTold(item);
  }

  get failed(): Promise<never> {
    return this.#failure.promise;
  }

  async begin(): Promise<void> {
    const tail = this.system.tail?.bind(this.system);
    if (tail === undefined) throw new Error(`${this.system.name} has no readers`);
    const heard = new Set<number>();
    // There before its readers: some systems can't follow what is not there.
    await this.#append({ channel: this.channel, text: textOf(this.#next++) });
    const begun = await Promise.allSettled(
      Array.from({ length: this.readers }, (_, reader) =>
        tail(this.channel, (text) => {
          heard.add(reader);
          this.#told(reader, text);
        }),
      ),
    );
    this.#following = begun.flatMap((each) => (each.status === 'fulfilled' ? [each.value] : []));
    try {
      for (const each of begun) if (each.status === 'rejected') throw each.reason;
      await this.#heardByAll(heard);
    } catch (error) {
      await this.#leave();
      throw error;
    }
    this.#writer = this.#write();
    this.#writer.catch(this.#failure.fail);
  }

  async #heardByAll(heard: ReadonlySet<number>): Promise<void> {
    const untilMs = performance.now() + arrivalMs;
    while (heard.size < this.readers) {
      if (performance.now() > untilMs)
        throw new Error(
          `${this.system.name}: ${this.readers - heard.size} of ${this.readers} readers hear nothing`,
        );
      await this.#append({ channel: this.channel, text: textOf(this.#next++) });
      await new Promise((done) => setTimeout(done, probeMs));
    }
  }

  async #write(): Promise<void> {
    while (!this.#isStopping) {
      const number = this.#next++;
      const counts = this.#recorder.isOpen;
      if (counts) this.#missing += this.readers;
      this.#sent.set(number, { atMs: performance.now(), missing: this.readers, counts });
      await this.#append({ channel: this.channel, text: textOf(number) });
      await new Promise((done) => setTimeout(done, pauseMs));
    }
  }

  #told(reader: number, text: string): void {
    const nowMs = performance.now();
    const number = Number.parseInt(text, 10);
    if (!(number > (this.#last[reader] ?? -1)))
      this.#failure.fail(
        new Error(`${this.system.name}: a reader got ${number} after ${this.#last[reader]}`),
      );
    this.#last[reader] = number;
    const sent = this.#sent.get(number);
    // A probe, from before the writer began.
    if (sent === undefined) return;
    if (--sent.missing === 0) this.#sent.delete(number);
    if (!sent.counts) return;
    this.#recorder.units(1, nowMs, true);
    this.#recorder.latency(nowMs - sent.atMs);
    if (--this.#missing === 0) this.#arrived();
  }

  open(): void {
    this.#recorder.open();
  }

  hasCounted(): boolean {
    return this.#recorder.hasCounted || this.#missing > 0;
  }

  async close(): ReturnType<Running['close']> {
    this.#recorder.close();
    if (this.#missing > 0) {
      let timer: NodeJS.Timeout | undefined;
      const all = new Promise<void>((resolve, reject) => {
        this.#arrived = resolve;
        timer = setTimeout(
          () => reject(new Error(`${this.system.name}: ${this.#missing} deliveries did not come`)),
          arrivalMs,
        );
      });
      await Promise.race([all, this.failed]).finally(() => clearTimeout(timer));
    }
    return this.#recorder.interval;
  }

  async stop(): Promise<void> {
    this.#isStopping = true;
    await this.#writer;
    await this.#leave();
  }

  async #leave(): Promise<void> {
    await Promise.all(this.#following.map((each) => each.stop()));
  }
}

/** Begins with its number; as long as other messages. */
function textOf(number: number): string {
  return `${number} `.padEnd(payloadBytes, 'and so on ');
}
