/**
 * Carries out MsgStorageApply: committed entries, in order, one after the other.
 * It pauses while an entry's bytes or lookups are being read and while the tails
 * are full; the log goes on meanwhile.
 */
import { HansardError, InvariantError } from '../common/errors.js';
import type { Index, Term } from '../common/ids.js';
import { type Entry, EntryType } from '../common/log-types.js';
import { applyEntry } from '../conversation/apply.js';
import { type DecodedEntry, decodeEntry } from '../conversation/decoded-entry.js';
import type { CommandAnswer } from '../conversation/types.js';
import type { Message } from '../raft/types.js';
import type { PartitionStore } from '../store/types.js';
import type { DecodedAhead } from './types.js';

export interface ApplierHooks {
  /** Reads what the cache has dropped; false: the entries are gone from the log. */
  fill(entries: readonly Entry[]): Promise<boolean>;
  applied(index: Index, term: Term, answers: readonly CommandAnswer[]): void;
  applyConfChange(entry: Entry): void;
  /** All entries of the message are applied. */
  done(message: Message): void;
  mayApply(): boolean;
  /** Has `pump` called in a later turn. */
  later(): void;
  fatal(error: unknown): void;
}

const noAnswers: readonly CommandAnswer[] = Object.freeze([]);
/** Entries read from the log at once when the cache has dropped them. */
const fillEntries = 64;
/** Entries that wait for their turn are decoded, and their lookups begun, up to this many bytes ahead: of one partition … */
const decodedBytesMax = 128 * 1024;
/**
 * … and of all that share a `DecodedAhead`. A start has all of them wait: what is decoded long before its turn lives long enough
 * for the collector to copy it twice, which cost as much as applying.
 */
const sharedBytesMax = 1024 * 1024;

export class Applier {
  readonly #store: PartitionStore;
  readonly #hooks: ApplierHooks;
  readonly #sliceBytes: number;
  readonly #ahead: DecodedAhead;
  #queue: Message[] = [];
  /** Next entry of the first message. */
  #at = 0;
  /** Something is being read for the next entry. */
  #waiting = false;
  /** Entry whose lookups were waited for once: a cache too small for them must not make it wait for ever. */
  #prefetched: Index = 0;
  /** Up to here lookups of entries that wait have been begun. */
  #begun: Index = 0;
  /** Of entries that wait, the first ones. */
  readonly #decoded = new Map<Index, DecodedEntry>();
  #decodedBytes = 0;
  #stopped = false;

  constructor(store: PartitionStore, sliceBytes: number, ahead: DecodedAhead, hooks: ApplierHooks) {
    this.#store = store;
    this.#sliceBytes = sliceBytes;
    this.#ahead = ahead;
    this.#hooks = hooks;
  }

  get isIdle(): boolean {
    return this.#queue.length === 0;
  }

  /** To be followed by `pump` in the same turn. */
  push(message: Message): void {
    this.#queue.push(message);
  }

  stop(): void {
    this.#stopped = true;
    this.#queue = [];
    this.#decoded.clear();
    this.#countDecoded(-this.#decodedBytes);
  }

  /** Applies up to one slice of bytes; the rest in a later turn, so that heartbeats get theirs. */
  pump(): void {
    try {
      this.#pump();
      // Most entries are applied as they come. Those that must wait have their lookups begun meanwhile.
      if (this.#queue.length > 0 && !this.#stopped) this.#prefetchWaiting();
    } catch (error) {
      this.stop();
      this.#hooks.fatal(error);
    }
  }

  #pump(): void {
    let budget = this.#sliceBytes;
    while (!this.#waiting && !this.#stopped) {
      const message = this.#queue[0];
      if (message === undefined) return;
      const entry = message.entries[this.#at];
      if (entry === undefined) {
        this.#queue.shift();
        this.#at = 0;
        this.#hooks.done(message);
        continue;
      }
      if (!this.#hooks.mayApply()) return;
      if (budget <= 0) return this.#hooks.later();
      if (entry.data === undefined && entry.sizeBytes > 0) return this.#fill(message);
      if (!this.#apply(entry)) return;
      budget -= entry.sizeBytes;
      this.#at++;
    }
  }

  /** False: its lookups are being read first. */
  #apply(entry: Entry): boolean {
    const store = this.#store;
    if (entry.index !== store.appliedIndex + 1)
      throw new InvariantError(
        `partition ${store.partition}: entry ${entry.index} to apply after ${store.appliedIndex}`,
      );
    let answers = noAnswers;
    if (entry.type !== EntryType.normal) {
      store.beginEntry();
      this.#hooks.applyConfChange(entry);
    } else if (entry.sizeBytes === 0) {
      store.beginEntry();
    } else {
      const data = entry.data as Uint8Array;
      const decoded = this.#decoded.get(entry.index) ?? decodeEntry(data);
      const reading = this.#prefetched === entry.index ? undefined : store.prefetch(decoded);
      if (reading !== undefined) {
        this.#prefetched = entry.index;
        this.#keep(entry, decoded);
        this.#resumeAfter(reading);
        return false;
      }
      if (this.#decoded.delete(entry.index)) this.#countDecoded(-entry.sizeBytes);
      store.beginEntry();
      const outcome = applyEntry(store, { index: entry.index, term: entry.term, data }, decoded);
      if (outcome.unsupportedVersion !== undefined) {
        // Nothing was changed. Going on would make this replica differ from those that know the version.
        throw new HansardError(
          'FORMAT_TOO_NEW',
          `partition ${store.partition}: entry ${entry.index} needs apply version ${outcome.unsupportedVersion}`,
        );
      }
      answers = outcome.answers;
    }
    store.endEntry(entry.index, entry.term);
    this.#hooks.applied(entry.index, entry.term, answers);
    return true;
  }

  /** Starts reading what entries will look up before their turn comes; each once, and no more than are kept decoded. */
  #prefetchWaiting(): void {
    for (let m = 0; m < this.#queue.length; m++) {
      const { entries } = this.#queue[m] as Message;
      const next = (entries[m === 0 ? this.#at : 0] as Entry | undefined)?.index ?? 0;
      // Indexes are dense: those begun before are passed over in one step.
      for (let i = (m === 0 ? this.#at : 0) + Math.max(0, this.#begun + 1 - next); i < entries.length; i++) {
        if (this.#decodedBytes >= decodedBytesMax || this.#ahead.bytes >= sharedBytesMax) return;
        const entry = entries[i] as Entry;
        this.#begun = entry.index;
        if (entry.type !== EntryType.normal || entry.data === undefined || entry.sizeBytes === 0) continue;
        const decoded = this.#decoded.get(entry.index) ?? decodeEntry(entry.data);
        this.#keep(entry, decoded);
        // It is waited for already.
        if (this.#prefetched === entry.index) continue;
        this.#store.prefetch(decoded)?.catch((error) => {
          // While the node stops, the database closes under its readers.
          if (!this.#stopped) this.#hooks.fatal(error);
        });
      }
    }
  }

  #keep(entry: Entry, decoded: DecodedEntry): void {
    if (this.#decoded.has(entry.index)) return;
    this.#decoded.set(entry.index, decoded);
    this.#countDecoded(entry.sizeBytes);
  }

  #countDecoded(bytes: number): void {
    this.#decodedBytes += bytes;
    this.#ahead.bytes += bytes;
  }

  #fill(message: Message): void {
    const missing: Entry[] = [];
    for (let i = this.#at; i < message.entries.length && missing.length < fillEntries; i++) {
      const entry = message.entries[i] as Entry;
      if (entry.data === undefined && entry.sizeBytes > 0) missing.push(entry);
    }
    this.#resumeAfter(
      this.#hooks.fill(missing).then((found) => {
        // A committed entry never leaves the log before it is applied and sealed.
        if (!found)
          throw new InvariantError(
            `partition ${this.#store.partition}: committed entry ${missing[0]?.index} is not in the log`,
          );
      }),
    );
  }

  #resumeAfter(reading: Promise<void>): void {
    this.#waiting = true;
    reading.then(
      () => {
        this.#waiting = false;
        if (!this.#stopped) this.#hooks.later();
      },
      (error) => {
        if (!this.#stopped) this.#hooks.fatal(error);
      },
    );
  }
}
