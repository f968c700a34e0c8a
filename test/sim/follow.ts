/**
 * At the end of a run: whoever follows a partition from its beginning, each step on another
 * replica, gets every event of every channel that is there once and in order; and
 * all replicas list the same changes, wherever their checkpoints, snapshots and crashes fell.
 */
import { backfillStart, type FeedFilter, type FeedPlace, pullFeed } from '../../src/api/feed.js';
import { HansardError } from '../../src/common/errors.js';
import type { ChangePlace } from '../../src/store/changes.js';
import type { PartitionStore } from '../../src/store/types.js';

const filter: FeedFilter = {
  tenant: 'default',
  names: undefined,
  prefix: '',
  label: undefined,
  types: undefined,
  fromTimeUs: 0,
};
const stepsMax = 20_000;

/** Problems found; `wait` lets simulated time pass. The replicas have applied the same, and none is damaged. */
export async function checkFollowing(
  stores: readonly PartitionStore[],
  channels: readonly string[],
  wait: <T>(promise: Promise<T>) => Promise<T>,
): Promise<string[]> {
  try {
    return await problemsOf(stores, channels, wait);
  } catch (error) {
    if (!(error instanceof HansardError)) throw error;
    return [`following partition ${stores[0]?.partition}: ${error.reason}: ${error.message}`];
  }
}

async function problemsOf(
  stores: readonly PartitionStore[],
  channels: readonly string[],
  wait: <T>(promise: Promise<T>) => Promise<T>,
): Promise<string[]> {
  const problems: string[] = [];
  const [first] = stores;
  if (first === undefined) return problems;
  let from = 0;
  for (const store of stores) from = Math.max(from, await firstIndex(store, wait));
  // By what there is now, and by the list of changes alone.
  for (const start of [backfillStart, { index: from, events: 0 }]) {
    const got = await followed(stores, start, wait, problems);
    for (const name of channels) {
      const channel = await wait(first.channelByName('default', name));
      if (channel === undefined) continue;
      const seqs = got.get(name) ?? [];
      const all = channel.headSeq - channel.baseSeq;
      // A list that begins later has the last ones.
      const wanted = start === backfillStart || from === 0 ? all : seqs.length;
      const isWhole =
        seqs.length === wanted && seqs.every((seq, i) => seq === channel.headSeq - wanted + 1 + i);
      if (!isWhole) problems.push(`following ${name}: ${seqs.length} of ${wanted} events, or not in order`);
    }
  }
  const lists = new Map<string, number>();
  for (const store of stores) {
    const list = await changesOf(store, from, wait);
    lists.set(list, (lists.get(list) ?? 0) + 1);
  }
  if (lists.size > 1) problems.push(`partition ${first.partition}: ${lists.size} different lists of changes`);
  return problems;
}

/** Of each channel what came, page by page from one replica after the other. */
async function followed(
  stores: readonly PartitionStore[],
  start: FeedPlace,
  wait: <T>(promise: Promise<T>) => Promise<T>,
  problems: string[],
): Promise<Map<string, number[]>> {
  const got = new Map<string, number[]>();
  let place = start;
  for (let step = 0; step < stepsMax; step++) {
    const store = stores[step % stores.length] as PartitionStore;
    const budget = { events: 1 + ((step * 7) % 60), bytes: 200 + ((step * 131) % 9_000) };
    const page = await wait(pullFeed(store, filter, place, budget));
    place = page.place;
    for (const { channel, events } of page.parts) {
      const list = got.get(channel) ?? [];
      got.set(channel, list);
      for (const { seq } of events) list.push(seq);
    }
    if (page.atEnd) return got;
  }
  problems.push(`following partition ${stores[0]?.partition} does not come to an end`);
  return got;
}

/** From where on the list is there: a replica may be of an earlier time than the list. */
async function firstIndex(
  store: PartitionStore,
  wait: <T>(promise: Promise<T>) => Promise<T>,
): Promise<number> {
  const first = { index: 0, events: 0 };
  try {
    await wait(store.changes({ after: first, maxEvents: 1, wants: () => true }));
    return 0;
  } catch (error) {
    const from = (error as { fields?: { changes_from?: number } }).fields?.changes_from;
    if (from === undefined) throw error;
    return from;
  }
}

async function changesOf(
  store: PartitionStore,
  from: number,
  wait: <T>(promise: Promise<T>) => Promise<T>,
): Promise<string> {
  let list = '';
  let after: ChangePlace = { index: from, events: 0 };
  for (let step = 0; step < stepsMax; step++) {
    const page = await wait(store.changes({ after, maxEvents: 1_000, wants: () => true }));
    for (const { index, channel, firstSeq, lastSeq } of page.changes) {
      for (let seq = firstSeq; seq <= lastSeq; seq++) list += `${index} ${channel.id} ${seq},`;
    }
    after = page.next;
    if (page.atEnd) return list;
  }
  return `${list} and no end`;
}
