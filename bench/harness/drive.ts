/**
 * Keeps a system under load: a fixed number of calls in flight, or calls at fixed
 * times. What is measured is a window cut out of a load that goes on before and
 * after it, so neither its beginning nor its end is in the figures.
 */
import { build, type Histogram } from 'hdr-histogram-js';

/** A load that is going on. */
export interface Running {
  /** What counts begins now. */
  open(): void;
  /** Whether anything counts so far. */
  hasCounted(): boolean;
  /** What counts ends now; resolves when all that counts is known. */
  close(): Promise<Interval>;
  /** Resolves when nothing is under way any more. */
  stop(): Promise<void>;
  /** Rejects with the first call's error that comes; else never settles. */
  readonly failed: Promise<never>;
}

export interface Interval {
  readonly latency: Histogram;
  readonly units: number;
  readonly seconds: number;
  /** Units per second, slice by slice. */
  readonly overTime: readonly number[];
}

/** Of throughput over time, ms. */
const sliceMs = 250;
/** A minute: longer than any call's own timeout, µs. */
const latencyMaxUs = 60_000_000;

/** Counts within the window. */
export class Recorder {
  #latency = newHistogram();
  #units = 0;
  #slices: number[] = [];
  #openedMs = Number.NaN;
  #closedMs = Number.NaN;

  get isOpen(): boolean {
    return !Number.isNaN(this.#openedMs) && Number.isNaN(this.#closedMs);
  }

  get hasCounted(): boolean {
    return this.#units > 0;
  }

  /** Whether what was due then counts. */
  covers(ms: number): boolean {
    return ms >= this.#openedMs && (Number.isNaN(this.#closedMs) || ms < this.#closedMs);
  }

  open(): void {
    this.#openedMs = performance.now();
  }

  close(): void {
    this.#closedMs = performance.now();
  }

  /** Of the window where they end in it, or where `belongs` says that they do anyway. */
  units(count: number, nowMs: number, belongs = false): void {
    if (!this.isOpen && !belongs) return;
    this.#units += count;
    const slice = Math.floor((nowMs - this.#openedMs) / sliceMs);
    while (this.#slices.length <= slice) this.#slices.push(0);
    this.#slices[slice] = (this.#slices[slice] as number) + count;
  }

  latency(ms: number): void {
    this.#latency.recordValue(Math.min(latencyMaxUs, Math.max(1, Math.round(ms * 1000))));
  }

  get interval(): Interval {
    const ms = this.#closedMs - this.#openedMs;
    const overTime = this.#slices
      .slice(0, Math.max(1, Math.floor(ms / sliceMs)))
      .map((units) => units / (sliceMs / 1000));
    return { latency: this.#latency, units: this.#units, seconds: ms / 1000, overTime };
  }
}

function newHistogram(): Histogram {
  return build({ highestTrackableValue: latencyMaxUs, numberOfSignificantValueDigits: 3 });
}

/** A promise that only ever rejects, by `fail`. */
export class Failure {
  readonly promise: Promise<never>;
  fail: (error: unknown) => void = () => {};

  constructor() {
    this.promise = new Promise((_, reject) => {
      this.fail = reject;
    });
    // Whoever waits gets it; that nobody waits any more is no error.
    this.promise.catch(() => {});
  }
}

/** So many calls in flight at any time. A call counts where it ends within the window. */
export function closedLoop(call: () => Promise<unknown>, inFlight: number, perCall: number): Running {
  const recorder = new Recorder();
  const failure = new Failure();
  let isStopping = false;
  const worker = async (): Promise<void> => {
    while (!isStopping) {
      const sentMs = performance.now();
      try {
        await call();
      } catch (error) {
        // The others end too: what comes next must not meet their calls.
        isStopping = true;
        failure.fail(error);
        return;
      }
      const nowMs = performance.now();
      if (!recorder.isOpen) continue;
      recorder.units(perCall, nowMs);
      recorder.latency(nowMs - sentMs);
    }
  };
  const workers = Promise.all(Array.from({ length: inFlight }, worker));
  return {
    failed: failure.promise,
    open: () => recorder.open(),
    hasCounted: () => recorder.hasCounted,
    close: () => {
      recorder.close();
      return Promise.resolve(recorder.interval);
    },
    stop: async () => {
      isStopping = true;
      await drained(workers);
    },
  };
}

/** Calls that are under way when a load stops are waited for, but not for ever, ms. */
const drainMs = 60_000;

async function drained(calls: Promise<unknown>): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const limit = new Promise((resolve) => {
    timer = setTimeout(resolve, drainMs);
    timer.unref();
  });
  await Promise.race([calls, limit]);
  clearTimeout(timer);
}

/** More than this under way means that the rate is far above what the system bears. */
export const openLoopWaitingMax = 50_000;

/**
 * A call every so often, whether earlier ones have ended or not. Its latency runs
 * from when it was due, so a system that stalls pays for every call that the stall
 * delayed (no coordinated omission). All calls due within the window count.
 */
export function openLoop(call: () => Promise<unknown>, perSecond: number): Running {
  const recorder = new Recorder();
  const failure = new Failure();
  const stepMs = 1000 / perSecond;
  let dueMs = performance.now();
  let underWay = 0;
  /** Of the window. */
  let counted = 0;
  let told = (): void => {};
  let isStopping = false;

  const begin = (mineMs: number): void => {
    const counts = recorder.covers(mineMs);
    underWay++;
    if (counts) counted++;
    call().then(
      () => {
        const nowMs = performance.now();
        underWay--;
        recorder.units(1, nowMs);
        if (counts) {
          recorder.latency(nowMs - mineMs);
          counted--;
        }
        told();
      },
      (error: unknown) => {
        underWay--;
        failure.fail(error);
        told();
      },
    );
  };
  const beginDue = (): void => {
    for (const nowMs = performance.now(); dueMs <= nowMs; dueMs += stepMs) {
      if (underWay >= openLoopWaitingMax)
        throw new Error(`${openLoopWaitingMax} calls wait: ${perSecond}/s is more than it bears`);
      begin(dueMs);
    }
  };
  const turn = (): void => {
    if (isStopping) return;
    try {
      beginDue();
    } catch (error) {
      isStopping = true;
      failure.fail(error);
      return;
    }
    // Timers are a millisecond apart at best; what became due meanwhile goes at once, with its own time.
    setTimeout(turn, Math.max(0, dueMs - performance.now()));
  };
  turn();
  const until = (reached: () => boolean): Promise<void> =>
    new Promise((resolve) => {
      told = () => {
        if (reached()) resolve();
      };
      told();
    });
  return {
    failed: failure.promise,
    open: () => recorder.open(),
    hasCounted: () => recorder.hasCounted,
    close: async () => {
      // A stall just now must not hide the calls that it delayed.
      beginDue();
      recorder.close();
      await Promise.race([until(() => counted === 0), failure.promise]);
      return recorder.interval;
    },
    stop: async () => {
      isStopping = true;
      await drained(until(() => underWay === 0));
    },
  };
}
