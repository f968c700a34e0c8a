/**
 * Durable subscriptions: all of a partition are in memory, and a row each in the database. Changed in place by the
 * entry that asks for one to change; what a checkpoint or a digest holds on to is copied before that.
 */
import { ByteWriter } from '../common/bytes.js';
import { xxh64, xxh64Seeded } from '../common/hash.js';
import {
  cloneSubscription,
  readSubscription,
  type SubscriptionState,
  writeSubscription,
} from '../conversation/subscription-state.js';
import { nameBytes, nameKey, nameOfKey, type Place, RowKind } from './keys.js';
import { damaged, openRow } from './rows.js';
import type { SealBatch } from './seal-batch.js';
import type { Slicer } from './slices.js';
import { channelName, type FrozenTail, type Tail } from './tail.js';

export class Subscriptions {
  /** By `channelName`. */
  readonly #all: Map<string, SubscriptionState>;
  /** Nobody else holds on to these. */
  readonly #own = new Set<SubscriptionState>();

  constructor(loaded: ReadonlyMap<string, SubscriptionState>) {
    this.#all = new Map(loaded);
  }

  get(tenant: string, name: string): SubscriptionState | undefined {
    return this.#all.get(channelName(tenant, name));
  }

  of(tenant: string): SubscriptionState[] {
    return [...this.#all.values()]
      .filter((each) => each.tenant === tenant)
      .sort((a, b) => Buffer.compare(Buffer.from(a.name), Buffer.from(b.name)));
  }

  toChange(tail: Tail, tenant: string, name: string): SubscriptionState | undefined {
    const key = channelName(tenant, name);
    const known = this.#all.get(key);
    if (known === undefined) return undefined;
    // The frozen tail's, when there is a new one, or a digest's.
    if (this.#own.has(known) && tail.subscriptions.get(key) === known) return known;
    const copy = cloneSubscription(known);
    this.#own.delete(known);
    this.put(tail, copy);
    return copy;
  }

  put(tail: Tail, state: SubscriptionState): void {
    const key = channelName(state.tenant, state.name);
    this.#all.set(key, state);
    this.#own.add(state);
    tail.addSubscription(key, state);
  }

  delete(tail: Tail, tenant: string, name: string): void {
    const key = channelName(tenant, name);
    const known = this.#all.get(key);
    if (known !== undefined) this.#own.delete(known);
    this.#all.delete(key);
    tail.addSubscription(key, undefined);
  }

  /** As they are now, for whoever looks at them in later turns. */
  share(): SubscriptionState[] {
    this.#own.clear();
    return [...this.#all.values()];
  }
}

export function openSubscriptionRow(key: Uint8Array, row: Uint8Array): SubscriptionState {
  const name = Buffer.from(nameOfKey(key)).toString();
  const zero = name.indexOf('\0');
  if (zero < 0) throw damaged('the row of a durable subscription', 'its key names no tenant', key);
  return openRow(key, row, 'the row of a durable subscription', (reader) =>
    readSubscription(reader, name.slice(0, zero), name.slice(zero + 1)),
  );
}

export async function sealSubscriptions(place: Place, frozen: FrozenTail, out: SealBatch): Promise<void> {
  for (const [name, state] of frozen.tail.subscriptions) {
    const zero = name.indexOf('\0');
    const key = nameKey(RowKind.subscription, place, nameBytes(name.slice(0, zero), name.slice(zero + 1)));
    if (state === undefined) {
      out.del(key);
      continue;
    }
    const writer = out.row();
    writeSubscription(writer, state);
    const pause = out.put(key, writer);
    if (pause !== undefined) await pause;
  }
}

/** Sum of the hashes, modulo 2^64; `states` must not change. */
export async function digestSubscriptions(
  states: readonly SubscriptionState[],
  slicer: Slicer,
): Promise<{ sum: bigint; count: number }> {
  let sum = 0n;
  for (const state of states) {
    const writer = new ByteWriter(1_024);
    writeSubscription(writer, state);
    const bytes = writer.finish();
    const name = Buffer.from(channelName(state.tenant, state.name));
    sum = (sum + xxh64Seeded(bytes, xxh64(name))) & 0xffff_ffff_ffff_ffffn;
    if (slicer.spent(bytes.length)) await slicer.pause();
  }
  return { sum, count: states.length };
}
