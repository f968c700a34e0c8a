/**
 * What this client has written and seen, as commit tokens: with them a read at
 * level `session` finds the client's own writes, and never less than an earlier
 * read, whichever replica answers.
 */
import type { PartitionId } from '../common/ids.js';
import { invalid } from './check-input.js';
import { ProtoReader, WireError } from './wire-reader.js';

interface Place {
  readonly index: number;
  readonly token: Uint8Array;
}

/** Of tokens that this version can't take apart: they are sent with every read, the newest so many. */
const foreignMax = 16;
const tokenVersion = 1;
const tokenMaxBytes = 32 * 1024;
const pairsMax = 1_024;

export class Session {
  /**
   * By incarnation of the cluster. What was written before a restore must not be
   * forgotten in silence because a later write succeeded: the read that needs it
   * fails with INCARNATION_CHANGED first.
   */
  readonly #places = new Map<number, Map<PartitionId, Place>>();
  readonly #foreign: Uint8Array[] = [];
  /** Partitions of which something was heard that no token says. */
  readonly #doubts = new Map<PartitionId, number>();
  #lastDoubt = 0;
  /** Of the last answer to an append. */
  #lastAnswered: Uint8Array | undefined;

  /** Takes in the token of an answer to an append; those that come together share theirs. */
  answered(token: Uint8Array): void {
    if (token === this.#lastAnswered) return;
    this.#lastAnswered = token;
    this.observe(token);
  }

  /** Keeps what the token says beyond what is known. */
  observe(token: Uint8Array): void {
    if (token.length === 0) return;
    const pairs = pairsOf(token);
    if (pairs === undefined) return this.#keepForeign(token);
    let copy: Uint8Array | undefined;
    let places = this.#places.get(pairs.incarnation);
    if (places === undefined) {
      places = new Map();
      this.#places.set(pairs.incarnation, places);
    }
    for (let i = 0; i < pairs.positions.length; i += 2) {
      const partition = pairs.positions[i] as number;
      const index = pairs.positions[i + 1] as number;
      const known = places.get(partition);
      if (known !== undefined && known.index >= index) continue;
      // Of its own memory: the frame that it came in must not stay for it.
      copy ??= Uint8Array.from(token);
      places.set(partition, { index, token: copy });
    }
  }

  /** For a read of that partition, or of all. */
  tokens(partition?: PartitionId): Uint8Array[] {
    const found = new Set<Uint8Array>();
    const seen = new Set<PartitionId>();
    for (const incarnation of [...this.#places.keys()].sort((a, b) => a - b)) {
      const places = this.#places.get(incarnation) as Map<PartitionId, Place>;
      if (partition !== undefined) {
        const place = places.get(partition);
        if (place !== undefined) return [place.token, ...this.#foreign];
        continue;
      }
      for (const [each, { token }] of places) {
        if (seen.has(each)) continue;
        seen.add(each);
        found.add(token);
      }
    }
    return [...found, ...this.#foreign];
  }

  /** The cluster has come back as another one; the caller was told. Only what it gave since counts. */
  forget(incarnation: number): void {
    for (const each of [...this.#places.keys()]) if (each !== incarnation) this.#places.delete(each);
    this.#foreign.length = 0;
    this.#lastAnswered = undefined;
  }

  /** A write failed, or its outcome is not known: a read that follows must see what it met. */
  doubt(partition: PartitionId): void {
    this.#doubts.set(partition, ++this.#lastDoubt);
  }

  /** Not 0: there is a doubt, which only a linearizable read settles. */
  doubtOf(partition: PartitionId): number {
    return this.#doubts.get(partition) ?? 0;
  }

  /** Such a read, begun when the doubt was that, was answered. */
  settled(partition: PartitionId, doubt: number): void {
    if (this.#doubts.get(partition) === doubt) this.#doubts.delete(partition);
  }

  #keepForeign(token: Uint8Array): void {
    if (token.length > tokenMaxBytes) throw invalid('token', 'no commit token');
    if (this.#foreign.some((known) => Buffer.compare(known, token) === 0)) return;
    this.#foreign.push(Uint8Array.from(token));
    if (this.#foreign.length > foreignMax) this.#foreign.shift();
  }
}

/** docs/format.md, "Tokens". Undefined: of a version that this one does not know; the server judges it. */
function pairsOf(token: Uint8Array): { incarnation: number; positions: number[] } | undefined {
  if (token[0] !== tokenVersion || token.length < 6) return undefined;
  try {
    const reader = new ProtoReader(token.subarray(1, token.length - 4));
    const incarnation = reader.uint();
    const count = reader.uint();
    if (count > pairsMax) return undefined;
    const positions: number[] = [];
    for (let i = 0; i < count; i++) positions.push(reader.uint(), reader.uint());
    return reader.atEnd ? { incarnation, positions } : undefined;
  } catch (error) {
    if (error instanceof WireError) return undefined;
    throw error;
  }
}
