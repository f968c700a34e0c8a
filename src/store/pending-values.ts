/** Values of one batch on their way into a value file: records one behind the other, in memory. */
import { BufferPool, type Lent } from '../common/buffer-pool.js';
import { asBuffer } from './keys.js';
import { putRecord, recordBytes, type ValuePlace } from './value-format.js';

/** Of records on their way, allocated at once. */
const slabBytes = 256 * 1024;
/** What is kept between two batches: about what a checkpoint of the default size brings. */
const slabs = new BufferPool(16 * 1024 * 1024);

/** Records of one batch. */
export class PendingValues {
  #slabs: { readonly lent: Lent; used: number }[] = [];
  readonly #places = new Map<
    string,
    {
      readonly key: Uint8Array;
      readonly slab: number;
      readonly at: number;
      readonly value: Pick<ValuePlace, 'bytes' | 'checksum'>;
    }
  >();
  /** Of values that were put and deleted again. */
  dead = 0;

  put(key: Uint8Array, value: Uint8Array, checksum: bigint): void {
    this.del(key);
    const bytes = recordBytes(key.length, value.length);
    let slab = this.#slabs.at(-1);
    if (slab === undefined || slab.used + bytes > slab.lent.bytes.length) {
      const room = Math.max(bytes, this.#slabs.length === 0 ? slabBytes / 4 : slabBytes);
      slab = { lent: slabs.take(room), used: 0 };
      this.#slabs.push(slab);
    }
    const buffer = slab.lent.bytes;
    const at = putRecord(buffer, slab.used, key, value);
    slab.used += bytes;
    const copy = buffer.subarray(at - key.length, at);
    this.#places.set(copy.toString('latin1'), {
      key: copy,
      slab: this.#slabs.length - 1,
      at,
      value: { bytes: value.length, checksum },
    });
  }

  del(key: Uint8Array): void {
    if (this.#places.size === 0) return;
    const name = asBuffer(key).toString('latin1');
    const known = this.#places.get(name);
    if (known === undefined) return;
    this.dead += recordBytes(key.length, known.value.bytes);
    this.#places.delete(name);
  }

  get size(): number {
    return this.#places.size;
  }

  get slabs(): readonly Buffer[] {
    return this.#slabs.map(({ lent, used }) => lent.bytes.subarray(0, used));
  }

  /** Once all of it is written, pointers included, or given up: its memory is used again. */
  release(): void {
    for (const { lent } of this.#slabs) slabs.give(lent);
    this.#slabs = [];
    this.#places.clear();
  }

  /** `slabs`: where each one lies now. */
  *placesIn(
    slabs: readonly { readonly file: number; readonly offset: number }[],
  ): Generator<[Uint8Array, ValuePlace]> {
    for (const { key, slab, at, value } of this.#places.values()) {
      const { file, offset } = slabs[slab] as (typeof slabs)[number];
      yield [key, { file, offset: offset + at, ...value }];
    }
  }
}
