/**
 * Damaged blocks of a replica that an operator trusts all the same (`hansard repair`): an
 * erased event takes the place of each event that can't be read, so that seqs stay dense
 * and all else of the channel goes on. Only blocks: no other row can be made up.
 */
import { ByteWriter } from '../common/bytes.js';
import type { KvBatch } from '../common/env.js';
import type { Seq, TimeUs } from '../common/ids.js';
import { EventFlag, fixedHeaderBytes, writeHeaderStart } from '../conversation/event-record.js';
import { type ChannelState, EventType, type StoredEvent } from '../conversation/types.js';
import { writeUnit } from './block.js';
import { blockKey, RowKind } from './keys.js';
import type { Pace } from './pace.js';
import type { PartitionState } from './partition-state.js';
import { damaged, rowWriter, sealRow } from './rows.js';
import { type ScannedChannel, scanChannels, scanEvents } from './scan.js';
import { sweepRows } from './sweep.js';

export interface LostEvents {
  readonly tenant: string;
  readonly channel: string;
  readonly firstSeq: Seq;
  readonly lastSeq: Seq;
  readonly problem: string;
}

interface LostBlock {
  readonly lost: LostEvents;
  readonly state: ChannelState;
  /** Of the event before: times never fall. */
  readonly timeUs: TimeUs;
}

const channelsAtOnce = 1_000;
const pageLimits = Object.freeze({ maxEvents: 1_000, maxBytes: 4 * 1024 * 1024 });
/** Rows in one batch. */
const blocksAtOnce = 256;

/** Reads all that is sealed. Rejects STORE_DAMAGED where more than blocks is damaged: then nothing can go on from it. */
export async function findLostBlocks(state: PartitionState, pace: Pace): Promise<LostBlock[]> {
  await sweepRows(state, pace, ({ key, kind, problem }) => {
    // The change list begins anew (change-rows.ts).
    if (kind !== RowKind.block && kind !== RowKind.change)
      throw damaged(`partition ${state.place.partition}, a row of kind ${kind}`, `${problem} (${key})`);
  });
  const lost: LostBlock[] = [];
  for (let after: Uint8Array | undefined; ; ) {
    const { channels } = await scanChannels(state, { tenant: '', prefix: '', after, limit: channelsAtOnce });
    for (const channel of channels) {
      after = channel.key;
      for (const block of await lostOf(state, channel)) lost.push(block);
    }
    if (channels.length < channelsAtOnce) return lost;
  }
}

async function lostOf(
  state: PartitionState,
  { state: channel, deleted, damage }: ScannedChannel,
): Promise<LostBlock[]> {
  if (damage !== '') throw damaged(`partition ${state.place.partition}, a channel`, damage);
  if (channel === undefined || deleted) return [];
  const { tenant, name, uid, id } = channel;
  const lost: LostBlock[] = [];
  let timeUs = channel.createTimeUs;
  for (let fromSeq: Seq = channel.baseSeq + 1; fromSeq > 0; ) {
    const page = await scanEvents(state, { tenant, name, uid, fromSeq, ...pageLimits });
    for (const { firstSeq, lastSeq, problem } of page.damages) {
      const what = `${tenant}/${name}, events ${firstSeq} to ${lastSeq}`;
      // How many rows lay there nobody knows: a channel's blocks are counted.
      if ((await state.shared.kv.get(blockKey(state.place, id, firstSeq))) === undefined)
        throw damaged(what, problem);
      const before = page.events.findLast(({ seq }) => seq < firstSeq)?.commitTimeUs ?? timeUs;
      const block = { tenant, channel: name, firstSeq, lastSeq, problem };
      lost.push({ lost: block, state: channel, timeUs: before });
    }
    timeUs = page.events.at(-1)?.commitTimeUs ?? timeUs;
    fromSeq = page.nextSeq;
  }
  return lost;
}

/** Synced when it resolves. Nothing may be unsealed. */
export async function fillLostBlocks(
  state: PartitionState,
  lost: readonly LostBlock[],
  write: (batch: KvBatch) => Promise<void>,
): Promise<void> {
  for (let from = 0; from < lost.length; from += blocksAtOnce) {
    const batch = state.shared.kv.batch();
    for (const block of lost.slice(from, from + blocksAtOnce)) {
      const key = blockKey(state.place, block.state.id, block.lost.firstSeq);
      const writer = rowWriter(4_096);
      writeUnit(writer, erasedEvents(block), false);
      batch.put(key, sealRow(key, writer));
    }
    await write(batch);
  }
}

function erasedEvents({ lost: { firstSeq, lastSeq }, timeUs }: LostBlock): StoredEvent[] {
  // Checksum and commitment are zero: what they were of is not known.
  const header = Buffer.alloc(fixedHeaderBytes);
  writeHeaderStart(header, 0, EventType.messageCompleted, EventFlag.erased, fixedHeaderBytes, 0);
  return Array.from({ length: lastSeq - firstSeq + 1 }, (_, i) => ({
    seq: firstSeq + i,
    commitTimeUs: timeUs,
    producerId: 0,
    producerCounter: 0,
    bytes: header,
    headerOffset: 0,
    headerLength: header.length,
    contentBytes: noContent,
    contentOffset: 0,
    contentLength: 0,
  }));
}

const noContent = new ByteWriter(0).finish();
