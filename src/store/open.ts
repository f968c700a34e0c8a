/**
 * Opening a partition: reads what must be known in full (which channels and
 * producers exist, the runs' filters) and checks all that LevelDB does not: that
 * no checkpoint of the chain is missing, and that the rows are as many as the
 * partition's record says.
 */
import type { Kv } from '../common/env.js';
import { HansardError } from '../common/errors.js';
import { xxh32, xxh32Seeded } from '../common/hash.js';
import type { ChannelId, Index, PartitionId, ProducerId } from '../common/ids.js';
import type { SubscriptionState } from '../conversation/subscription-state.js';
import { readCursor } from './cursors.js';
import {
  checkpointKey,
  kindRange,
  nameOfKey,
  numberOfKey,
  type Place,
  partitionKey,
  RowKind,
} from './keys.js';
import { NameSet } from './name-set.js';
import { openProducerRow, PartitionState, type SealedIndex, type StoreShared } from './partition-state.js';
import { damaged, openRow } from './rows.js';
import { loadRun } from './runs.js';
import {
  type EndedChannel,
  type PartitionRecord,
  readCheckpoint,
  readEnded,
  readPartition,
} from './state-codec.js';
import { openSubscriptionRow } from './subscriptions.js';
import { channelName, cloneMeta } from './tail.js';

const rowsAtOnce = 1000;

export async function openPartition(
  shared: StoreShared,
  partition: PartitionId,
  storeId: string,
  installedIndex: Index,
): Promise<PartitionState> {
  const { kv } = shared;
  const record = await readPartitionRecord(kv, partition);
  const place: Place = { partition, generation: record.generation };
  await checkCheckpoints(kv, place, record);
  const sealed = await loadSealed(kv, record, storeId);
  return new PartitionState(shared, sealed, cloneMeta(record.meta), installedIndex);
}

/** What `record` says must be known in full, read from its generation's rows and counted. */
export async function loadSealed(kv: Kv, record: PartitionRecord, storeId: string): Promise<SealedIndex> {
  const place: Place = { partition: record.partition, generation: record.generation };
  const idBytes = Buffer.from(storeId);
  const channels = record.meta.channelCount + record.meta.deletedCount;
  const names = new NameSet(xxh32(idBytes), xxh32Seeded(idBytes, 0x9e3779b9), channels);
  await loadNames(kv, place, record, names);
  const cursors = new NameSet(xxh32Seeded(idBytes, 0x85ebca6b), xxh32Seeded(idBytes, 0xc2b2ae35));
  await loadCursors(kv, place, record, cursors);
  const ended = await loadEnded(kv, place, record);
  const producers = new Set<ProducerId>();
  const producerNames = new Map<string, ProducerId>();
  await loadProducers(kv, place, record, producers, producerNames);
  const subscriptions = await loadSubscriptions(kv, place, record);
  const keyRuns = [];
  const messageIdRuns = [];
  for (const info of record.runs) {
    const run = await loadRun(kv, place, info);
    if (info.kind === RowKind.keyRun) keyRuns.push(run);
    else messageIdRuns.push(run);
  }
  return { record, names, cursors, ended, producers, producerNames, subscriptions, keyRuns, messageIdRuns };
}

async function readPartitionRecord(kv: Kv, partition: PartitionId): Promise<PartitionRecord> {
  const key = partitionKey(partition);
  const row = await kv.get(key);
  const what = `the record of partition ${partition}`;
  if (row === undefined) throw damaged(what, 'it is missing', key);
  const record = openRow(key, row, what, readPartition);
  if (record.partition !== partition) throw damaged(what, `it names partition ${record.partition}`, key);
  return record;
}

/** Every checkpoint that is kept must be there and follow the one before it. */
async function checkCheckpoints(kv: Kv, place: Place, record: PartitionRecord): Promise<void> {
  const what = `the checkpoints of partition ${place.partition}`;
  let expected = record.firstCheckpoint;
  let digest: bigint | undefined;
  let index = 0;
  await eachRow(kv, RowKind.checkpoint, place, (key, row) => {
    if (numberOfKey(key) !== expected) {
      throw damaged(what, `number ${numberOfKey(key)} follows where ${expected} is due`, key);
    }
    const checkpoint = openRow(key, row, what, readCheckpoint);
    if (checkpoint.number !== expected) throw damaged(what, `number ${expected} is misplaced`, key);
    if (digest !== undefined && checkpoint.previousDigest !== digest) {
      throw damaged(what, `number ${expected} does not follow the one before it`, key);
    }
    digest = checkpoint.digest;
    index = checkpoint.appliedIndex;
    expected++;
  });
  if (record.lastCheckpoint === 0) {
    if (expected !== record.firstCheckpoint) throw damaged(what, 'there are some where none was made');
    return;
  }
  if (
    expected !== record.lastCheckpoint + 1 ||
    digest !== record.lastDigest ||
    index !== record.appliedIndex
  ) {
    throw damaged(
      what,
      `they end at number ${expected - 1}, index ${index}; the partition's record says
      number ${record.lastCheckpoint}, index ${record.appliedIndex}`.replace(/\s+/g, ' '),
      checkpointKey(place, expected),
    );
  }
}

async function loadNames(kv: Kv, place: Place, record: PartitionRecord, names: NameSet): Promise<void> {
  let count = 0;
  await eachRow(kv, RowKind.channelName, place, (key, row) => {
    openRow(key, row, 'a channel name row', (reader) => {
      reader.uvarint();
      reader.end();
    });
    names.add(nameOfKey(key));
    count++;
  });
  const expected = record.meta.channelCount + record.meta.deletedCount;
  if (count !== expected) {
    throw damaged(`partition ${place.partition}`, `it has ${count} of ${expected} channels`);
  }
}

async function loadCursors(kv: Kv, place: Place, record: PartitionRecord, cursors: NameSet): Promise<void> {
  const expected = record.meta.cursorCount ?? 0;
  let count = 0;
  await eachRow(kv, RowKind.cursor, place, (key, row) => {
    openRow(key, row, 'a cursor row', readCursor);
    cursors.add(nameOfKey(key));
    count++;
  });
  if (count !== expected) {
    throw damaged(`partition ${place.partition}`, `it has ${count} of ${expected} read cursors`);
  }
}

async function loadSubscriptions(
  kv: Kv,
  place: Place,
  record: PartitionRecord,
): Promise<Map<string, SubscriptionState>> {
  const expected = record.meta.subscriptionCount ?? 0;
  const subscriptions = new Map<string, SubscriptionState>();
  await eachRow(kv, RowKind.subscription, place, (key, row) => {
    const state = openSubscriptionRow(key, row);
    subscriptions.set(channelName(state.tenant, state.name), state);
  });
  if (subscriptions.size !== expected) {
    throw damaged(
      `partition ${place.partition}`,
      `it has ${subscriptions.size} of ${expected} durable subscriptions`,
    );
  }
  return subscriptions;
}

async function loadEnded(
  kv: Kv,
  place: Place,
  record: PartitionRecord,
): Promise<Map<ChannelId, EndedChannel>> {
  const ended = new Map<ChannelId, EndedChannel>();
  await eachRow(kv, RowKind.ended, place, (key, row) => {
    ended.set(numberOfKey(key), openRow(key, row, 'the row of a deleted channel', readEnded));
  });
  if (ended.size !== record.endedCount) {
    throw damaged(
      `partition ${place.partition}`,
      `it has ${ended.size} of ${record.endedCount} deleted channels`,
    );
  }
  return ended;
}

async function loadProducers(
  kv: Kv,
  place: Place,
  record: PartitionRecord,
  producers: Set<ProducerId>,
  producerNames: Map<string, ProducerId>,
): Promise<void> {
  await eachRow(kv, RowKind.producer, place, (key, row) => {
    const producer = openProducerRow(key, row);
    producers.add(producer.id);
    if (producer.name !== '') producerNames.set(channelName(producer.tenant, producer.name), producer.id);
  });
  if (producers.size !== record.producerCount) {
    throw damaged(
      `partition ${place.partition}`,
      `it has ${producers.size} of ${record.producerCount} producers`,
    );
  }
}

async function eachRow(
  kv: Kv,
  kind: RowKind,
  place: Place,
  use: (key: Uint8Array, row: Uint8Array) => void,
): Promise<void> {
  const iterator = kv.iterator(kindRange(kind, place));
  try {
    for (;;) {
      const rows = await iterator.next(rowsAtOnce);
      if (rows.length === 0) return;
      for (const [key, row] of rows) use(key, row);
    }
  } finally {
    await iterator.close();
  }
}

export function foreign(what: string, found: string, expected: string): HansardError {
  return new HansardError(
    'REPLICA_LOST',
    `the database belongs to another ${what}: ${found}, not ${expected}`,
    {
      found,
      expected,
    },
  );
}
