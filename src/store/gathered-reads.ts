/**
 * Rows by key for many who ask one by one: what is asked for in one stretch of
 * synchronous work is read at once. A read of its own costs 20 µs and more of the
 * loop's time, a row of many a quarter of that. What is being read already is not
 * read again: a tail that is rebuilt asks for the same channel thousands of times.
 */
import type { Kv } from '../common/env.js';

type Row = Uint8Array | undefined;

interface Asked {
  readonly key: Uint8Array;
  resolve(row: Row): void;
  reject(error: unknown): void;
}

/** Of one read: whoever takes in the rows works on them in one turn, about 1 ms. */
const rowsAtOnce = 256;

export class GatheredReads {
  readonly #kv: Kv;
  #asked: Asked[] = [];

  constructor(kv: Kv) {
    this.#kv = kv;
  }

  /** The row as it is in this turn, or later. */
  get(key: Uint8Array): Promise<Row> {
    return new Promise((resolve, reject) => {
      if (this.#asked.length === 0) queueMicrotask(() => this.#read());
      this.#asked.push({ key, resolve, reject });
    });
  }

  #read(): void {
    const asked = this.#asked;
    this.#asked = [];
    for (let from = 0; from < asked.length; from += rowsAtOnce) {
      const some = asked.slice(from, from + rowsAtOnce);
      this.#kv.getMany(some.map(({ key }) => key)).then(
        (rows) => {
          for (let i = 0; i < some.length; i++) (some[i] as Asked).resolve(rows[i]);
        },
        (error: unknown) => {
          for (const { reject } of some) reject(error);
        },
      );
    }
  }
}
