/**
 * Which channels exist, as a hash set in typed arrays (8 to 16 bytes a name):
 * what is not in it does not exist, without asking LevelDB, which loses rows in
 * silence. Seeds are the store's own, so nobody outside can make names collide;
 * a false "may exist" is settled by the name's row.
 */
import { xxh32OfNotes } from '../common/hash-scratch.js';

export class NameSet {
  /** Pairs (a, b); 0, 0 is free. */
  #slots: Uint32Array;
  #size = 0;
  constructor(
    readonly seedA: number,
    readonly seedB: number,
    /** So many come at once: it never grows for them. */
    expected = 0,
  ) {
    let slots = 64;
    while (slots * 3 <= expected * 4) slots *= 2;
    this.#slots = new Uint32Array(2 * slots);
  }

  get size(): number {
    return this.#size;
  }

  /** False: was there already. */
  add(name: Uint8Array): boolean {
    if (this.#size * 4 >= (this.#slots.length / 2) * 3) this.#grow();
    const [a, b] = this.#hash(name);
    const at = this.#find(a, b);
    if (this.#slots[at] !== 0 || this.#slots[at + 1] !== 0) return false;
    this.#slots[at] = a;
    this.#slots[at + 1] = b;
    this.#size++;
    return true;
  }

  has(name: Uint8Array): boolean {
    const [a, b] = this.#hash(name);
    const at = this.#find(a, b);
    return this.#slots[at] !== 0 || this.#slots[at + 1] !== 0;
  }

  #hash(name: Uint8Array): [number, number] {
    const a = xxh32OfNotes(name, name.length, this.seedA);
    const b = xxh32OfNotes(name, name.length, this.seedB);
    return a === 0 && b === 0 ? [1, 0] : [a, b];
  }

  /** The pair's place, or the free one where it belongs. */
  #find(a: number, b: number): number {
    const slots = this.#slots;
    const mask = slots.length / 2 - 1;
    for (let slot = a & mask; ; slot = (slot + 1) & mask) {
      const at = slot * 2;
      if (slots[at] === a && slots[at + 1] === b) return at;
      if (slots[at] === 0 && slots[at + 1] === 0) return at;
    }
  }

  #grow(): void {
    const old = this.#slots;
    this.#slots = new Uint32Array(old.length * 2);
    for (let i = 0; i < old.length; i += 2) {
      const a = old[i] as number;
      const b = old[i + 1] as number;
      if (a === 0 && b === 0) continue;
      const at = this.#find(a, b);
      this.#slots[at] = a;
      this.#slots[at + 1] = b;
    }
  }
}
