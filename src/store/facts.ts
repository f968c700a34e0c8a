/** Small durable facts of the node (peers' store ids …): in memory, a row each. */
import type { ByteReader } from '../common/bytes.js';
import type { Kv, KvBatch } from '../common/env.js';
import { after, asBuffer, factKey, RowKind } from './keys.js';
import { openRow, rowWriter, sealRow } from './rows.js';
import { outcome, type Writes } from './writes.js';

export class Facts {
  readonly #kv: Kv;
  readonly #writes: Writes;
  readonly #facts: Map<string, Uint8Array>;
  /** Facts are written one after the other: an older one must not land behind a newer one. */
  #keeping: Promise<void> = Promise.resolve();

  constructor(kv: Kv, writes: Writes, facts: Map<string, Uint8Array>) {
    this.#kv = kv;
    this.#writes = writes;
    this.#facts = facts;
  }

  get(name: string): Uint8Array | undefined {
    return this.#facts.get(name);
  }

  put(name: string, value: Uint8Array): Promise<void> {
    const own = Uint8Array.from(value);
    return this.keep(async () => {
      const batch = this.#kv.batch();
      putRow(batch, name, own);
      await this.#writes.write(batch);
      this.#facts.set(name, own);
    });
  }

  /** All of them as they are in memory. */
  putAll(batch: KvBatch): void {
    for (const [name, value] of this.#facts) putRow(batch, name, value);
  }

  /** Behind what is being kept. */
  keep(work: () => Promise<void>): Promise<void> {
    const done = this.#keeping.then(() => {
      this.#writes.refuseAfterFailure();
      return work();
    });
    this.#keeping = outcome(done);
    // From this very turn on: who closes waits for it.
    return this.#writes.track(done);
  }
}

function putRow(batch: KvBatch, name: string, value: Uint8Array): void {
  const key = factKey(name);
  batch.put(key, sealRow(key, rowWriter(value.length).bytes(value)));
}

export async function readFacts(kv: Kv): Promise<Map<string, Uint8Array>> {
  const facts = new Map<string, Uint8Array>();
  const prefix = Uint8Array.of(RowKind.fact);
  const iterator = kv.iterator({ gte: prefix, lt: after(prefix) });
  try {
    for (;;) {
      const rows = await iterator.next(100);
      if (rows.length === 0) break;
      for (const [key, row] of rows) {
        const name = asBuffer(key).subarray(1).toString();
        const copy = (reader: ByteReader) => Uint8Array.from(reader.bytes(reader.remaining));
        facts.set(name, openRow(key, row, `fact ${name}`, copy));
      }
    }
  } finally {
    await iterator.close();
  }
  return facts;
}
