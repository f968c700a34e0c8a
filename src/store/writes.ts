/** What is being written to the database. After a failed write nothing is written any more: the process must end. */
import type { Kv, KvBatch } from '../common/env.js';
import { HansardError } from '../common/errors.js';

export class Writes {
  readonly #kv: Kv;
  readonly #onFailure: (error: unknown) => void;
  readonly #running = new Set<Promise<unknown>>();
  #failure: unknown;
  #isTold = false;
  #isClosing = false;

  constructor(kv: Kv, onFailure: (error: unknown) => void) {
    this.#kv = kv;
    this.#onFailure = onFailure;
  }

  /** Nothing new begins. */
  get isClosing(): boolean {
    return this.#isClosing;
  }

  /** What runs beside everything else may go on. */
  get goOn(): boolean {
    return !this.#isClosing && this.#failure === undefined;
  }

  fail(error: unknown): void {
    this.#failure ??= error;
  }

  /** Of work that nobody waits for: a quiet node might write nothing more for long, and go on as though its disk were sound. */
  failUnasked(error: unknown): void {
    this.fail(error);
    if (this.#isTold) return;
    this.#isTold = true;
    this.#onFailure(error);
  }

  refuseAfterFailure(): void {
    if (this.#failure === undefined) return;
    throw new HansardError(
      'DISK_FAILED',
      'an earlier write to the database failed',
      {},
      { cause: this.#failure },
    );
  }

  /** Its failure is the store's. */
  async write(batch: KvBatch): Promise<void> {
    await this.track(
      batch.write().catch((error: unknown) => {
        this.fail(error);
        throw error;
      }),
    );
  }

  /** Who closes waits for it. */
  async track<T>(work: Promise<T>): Promise<T> {
    this.#running.add(work);
    try {
      return await work;
    } finally {
      this.#running.delete(work);
    }
  }

  /** Waits for what is being written, and closes the database. */
  async close(): Promise<void> {
    this.#isClosing = true;
    while (this.#running.size > 0) await Promise.allSettled([...this.#running]);
    await this.#kv.close();
  }
}

/** That it is over, whatever came of it. */
export function outcome(work: Promise<unknown>): Promise<void> {
  return work.then(
    () => undefined,
    () => undefined,
  );
}
