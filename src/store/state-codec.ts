/** Bodies of the rows that hold state: channels, producers, partitions, checkpoints. docs/format.md, "The database". */
import { type ByteReader, type ByteWriter, MalformedError } from '../common/bytes.js';
import { type ErrorFields, type Reason, reasons } from '../common/errors.js';
import type { Index, PartitionId, Seq, Term, TimeUs } from '../common/ids.js';
import type { ConfState } from '../common/log-types.js';
import { initialMembership, type Membership, readMembership, writeMembership } from '../common/membership.js';
import { AnswerWindow } from '../conversation/answer-window.js';
import type {
  AppendAnswer,
  ChannelState,
  Participant,
  PartitionMeta,
  ProducerAnswer,
  ProducerState,
  TrashedChannel,
} from '../conversation/types.js';
import type { RunKind } from './keys.js';
import type { RowVersion } from './rows.js';

/** One of a channel's last blocks that is to merge with those behind it. */
export interface SmallBlock {
  readonly firstSeq: Seq;
  /** Of its events, as `weightOf` counts. */
  readonly weight: number;
}

/** A channel as sealed: its fields, where its blocks end, and which of them are small. */
export interface SealedChannel {
  readonly state: ChannelState;
  /** Only the name and what is kept of a deleted channel (`deletedState`). */
  readonly deleted: boolean;
  /** First seq that is in no block. */
  readonly openFirstSeq: Seq;
  readonly blockCount: number;
  /** The last ones of its blocks, as far as they are small. */
  readonly smallBlocks: readonly SmallBlock[];
  /** Events behind the blocks, uncompressed: rows of an earlier program have them. */
  readonly openUnit: Uint8Array | undefined;
}

export interface RunInfo {
  readonly kind: RunKind;
  readonly run: number;
  readonly entries: number;
  readonly chunks: number;
  readonly indexRows: number;
  readonly bytes: number;
  /** Commit times of the oldest and newest entry; 0 for message ids. */
  readonly minTimeUs: TimeUs;
  readonly maxTimeUs: TimeUs;
}

/** What a checkpoint decides: all else in the database counts only as far as this says so. */
export interface PartitionRecord {
  readonly partition: PartitionId;
  readonly generation: number;
  readonly appliedIndex: Index;
  readonly appliedTerm: Term;
  readonly confState: ConfState;
  readonly membership: Membership;
  readonly meta: PartitionMeta;
  readonly producerCount: number;
  /** Events of all sealed channels: notices a channel's row that is an older one. */
  readonly eventCount: number;
  /** Rows of the index of terms; undefined: an earlier program sealed this and made none. */
  readonly termCount: number | undefined;
  /** Deleted channels of which rows are left. */
  readonly endedCount: number;
  /** Checkpoint records at hand: first … last, dense. 0: none yet. */
  readonly firstCheckpoint: number;
  readonly lastCheckpoint: number;
  readonly lastDigest: bigint;
  readonly nextRun: number;
  /** The change list tells of entries behind this one … */
  readonly changesFrom: Index;
  /** … up to this one; those between it and `appliedIndex` brought no events. */
  readonly changesTo: Index;
  /** Oldest first. */
  readonly runs: readonly RunInfo[];
  /** Merged or expired: out of use, their rows go with the next checkpoint. */
  readonly retired: readonly RunInfo[];
}

export interface CheckpointRecord {
  readonly number: number;
  readonly appliedIndex: Index;
  readonly appliedTerm: Term;
  /** Rows that this checkpoint wrote, this record and the partition's excluded. */
  readonly rowCount: number;
  readonly digest: bigint;
  readonly previousDigest: bigint;
}

/** 2: with what names that were deleted need. 3: with small blocks. 4: sealed, or deleted so that it may come back. */
export function channelRowVersion(channel: SealedChannel): RowVersion {
  const { sealedTimeUs, deletedTimeUs } = channel.state;
  if (sealedTimeUs !== undefined || deletedTimeUs !== undefined) return 4;
  if (channel.smallBlocks.length > 0) return 3;
  return channel.deleted || channel.state.baseSeq > 0 ? 2 : 1;
}

export function writeChannel(writer: ByteWriter, channel: SealedChannel): void {
  writeChannelFields(writer, channel.state);
  writer.uvarint(channel.openFirstSeq).uvarint(channel.blockCount);
  writer.sized(channel.openUnit ?? none);
  const version = channelRowVersion(channel);
  if (version >= 2) writer.u8(channel.deleted ? 1 : 0).uvarint(channel.state.baseSeq);
  if (version >= 3) writeSmallBlocks(writer, channel.smallBlocks);
  if (version >= 4) writeChannelTimes(writer, channel.state);
}

/** Also what the digest sees of such a channel. 0: none. */
export function writeChannelTimes(writer: ByteWriter, { sealedTimeUs, deletedTimeUs }: ChannelState): void {
  writer.u64(sealedTimeUs ?? 0).u64(deletedTimeUs ?? 0);
}

function readChannelTimes(reader: ByteReader): Pick<ChannelState, 'sealedTimeUs' | 'deletedTimeUs'> {
  const sealedTimeUs = reader.u64();
  const deletedTimeUs = reader.u64();
  return {
    ...(sealedTimeUs === 0 ? {} : { sealedTimeUs }),
    ...(deletedTimeUs === 0 ? {} : { deletedTimeUs }),
  };
}

function writeSmallBlocks(writer: ByteWriter, blocks: readonly SmallBlock[]): void {
  writer.uvarint(blocks.length);
  let seq = 0;
  for (const { firstSeq, weight } of blocks) {
    writer.uvarint(firstSeq - seq).uvarint(weight);
    seq = firstSeq;
  }
}

function readSmallBlocks(reader: ByteReader): SmallBlock[] {
  let firstSeq = 0;
  return list(reader, 2, () => {
    firstSeq += reader.uvarint();
    return { firstSeq, weight: reader.uvarint() };
  });
}

const none = new Uint8Array(0);
const noBlocks: readonly SmallBlock[] = Object.freeze([]);

export function readChannel(reader: ByteReader, version: number): SealedChannel {
  const fields = readChannelFields(reader);
  const openFirstSeq = reader.uvarint();
  const blockCount = reader.uvarint();
  const openUnit = reader.sized();
  const deleted = version >= 2 && reader.u8() === 1;
  const baseSeq = version >= 2 ? reader.uvarint() : 0;
  const smallBlocks = version >= 3 ? readSmallBlocks(reader) : noBlocks;
  const times = version >= 4 ? readChannelTimes(reader) : {};
  reader.end();
  return {
    state: { ...fields, baseSeq, ...times },
    deleted,
    openFirstSeq,
    blockCount,
    smallBlocks,
    openUnit: openUnit.length === 0 ? undefined : openUnit,
  };
}

/** What stays of a deleted channel, in a channel's form: nothing that anybody wrote but the name. */
export function deletedState(channel: ChannelState): ChannelState {
  const { id, tenant, name, uid, headSeq, revision } = channel;
  return {
    id,
    tenant,
    name,
    uid,
    title: '',
    labels: [],
    class: '',
    participants: [],
    createTimeUs: 0,
    updateTimeUs: 0,
    activityTimeUs: 0,
    baseSeq: headSeq,
    headSeq,
    lastMessageSeq: 0,
    messageCount: 0,
    revision,
  };
}

/** A deleted channel of which rows are left. */
export interface EndedChannel {
  /** Blocks from this first seq on are left; 0: none. */
  readonly nextSeq: Seq;
  /** Runs with lower numbers may hold its keys and message ids. */
  readonly untilRun: number;
}

export function writeEnded(writer: ByteWriter, ended: EndedChannel): void {
  writer.uvarint(ended.nextSeq).uvarint(ended.untilRun);
}

export function readEnded(reader: ByteReader): EndedChannel {
  const ended = { nextSeq: reader.uvarint(), untilRun: reader.uvarint() };
  reader.end();
  return ended;
}

/** Also what the digest sees of a channel; its base seq shows in its events. */
export function writeChannelFields(writer: ByteWriter, state: ChannelState): void {
  writer.uvarint(state.id).string(state.tenant).string(state.name).string(state.uid);
  writer.string(state.title).string(state.class).uvarint(state.labels.length);
  for (const [key, value] of state.labels) writer.string(key).string(value);
  writer.uvarint(state.participants.length);
  for (const who of state.participants) writer.string(who.id).string(who.displayName).string(who.role);
  writer.u64(state.createTimeUs).u64(state.updateTimeUs).u64(state.activityTimeUs);
  writer.uvarint(state.headSeq).uvarint(state.lastMessageSeq).uvarint(state.messageCount);
  writer.uvarint(state.revision);
}

function readChannelFields(reader: ByteReader): Omit<ChannelState, 'baseSeq'> {
  return {
    id: reader.uvarint(),
    tenant: reader.string(),
    name: reader.string(),
    uid: reader.string(),
    title: reader.string(),
    class: reader.string(),
    labels: list(reader, 2, (): [string, string] => [reader.string(), reader.string()]),
    participants: list(
      reader,
      3,
      (): Participant => ({ id: reader.string(), displayName: reader.string(), role: reader.string() }),
    ),
    createTimeUs: reader.u64(),
    updateTimeUs: reader.u64(),
    activityTimeUs: reader.u64(),
    headSeq: reader.uvarint(),
    lastMessageSeq: reader.uvarint(),
    messageCount: reader.uvarint(),
    revision: reader.uvarint(),
  };
}

const AnswerKind = { appended: 0, refused: 1 } as const;

export function writeProducer(writer: ByteWriter, producer: ProducerState): void {
  writer.uvarint(producer.id).string(producer.tenant).string(producer.name);
  writer.uvarint(producer.lastCounter).u64(producer.lastActiveUs).uvarint(producer.answers.length);
  for (let i = 0; i < producer.answers.length; i++) {
    const { firstCounter, lastCounter, digest, answer } = producer.answers.at(i);
    writer.uvarint(firstCounter).uvarint(lastCounter).u32(digest);
    writeAnswer(writer, answer);
  }
}

export function readProducer(reader: ByteReader): ProducerState {
  const producer = {
    id: reader.uvarint(),
    tenant: reader.string(),
    name: reader.string(),
    lastCounter: reader.uvarint(),
    lastActiveUs: reader.u64(),
    answers: AnswerWindow.of(
      list(
        reader,
        7,
        (): ProducerAnswer => ({
          firstCounter: reader.uvarint(),
          lastCounter: reader.uvarint(),
          digest: reader.u32(),
          answer: readAnswer(reader),
        }),
      ),
    ),
  };
  reader.end();
  return producer;
}

function writeAnswer(writer: ByteWriter, answer: AppendAnswer): void {
  if (answer.kind === 'appended') {
    writer.u8(AnswerKind.appended).uvarint(answer.firstSeq).uvarint(answer.count).u64(answer.commitTimeUs);
    writer.u8(answer.duplicate ? 1 : 0).string(answer.channelUid);
    // 0: dense; else the number of seqs and one more.
    writer.uvarint(answer.seqs === undefined ? 0 : answer.seqs.length + 1);
    for (const seq of answer.seqs ?? []) writer.uvarint(seq);
    return;
  }
  writer.u8(AnswerKind.refused).string(answer.reason).string(answer.message);
  const fields = Object.entries(answer.fields);
  writer.uvarint(fields.length);
  for (const [name, value] of fields) writer.string(name).string(JSON.stringify(value));
}

function readAnswer(reader: ByteReader): AppendAnswer {
  const kind = reader.u8();
  if (kind === AnswerKind.appended) {
    const answer = {
      kind: 'appended' as const,
      firstSeq: reader.uvarint(),
      count: reader.uvarint(),
      commitTimeUs: reader.u64(),
      duplicate: reader.u8() === 1,
      channelUid: reader.string(),
    };
    const seqs = reader.uvarint();
    if (seqs === 0) return { ...answer, seqs: undefined };
    if (seqs - 1 > reader.remaining) throw new MalformedError(`${seqs} seqs`);
    return { ...answer, seqs: Array.from({ length: seqs - 1 }, () => reader.uvarint()) };
  }
  if (kind !== AnswerKind.refused) throw new MalformedError(`answer kind ${kind}`);
  const reason = reader.string();
  if (!(reason in reasons)) throw new MalformedError(`unknown reason ${reason}`);
  const message = reader.string();
  const fields = Object.fromEntries(
    list(reader, 2, (): [string, string | number | boolean] => [
      reader.string(),
      jsonScalar(reader.string()),
    ]),
  ) satisfies ErrorFields;
  return { kind: 'refused', reason: reason as Reason, message, fields };
}

function jsonScalar(text: string): string | number | boolean {
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value === 'string' || typeof value === 'number' || typeof value === 'boolean') return value;
  } catch {
    // Falls through: the row's checksum was right, so it was written wrongly.
  }
  throw new MalformedError('a field of a refusal');
}

export function writePartition(writer: ByteWriter, record: PartitionRecord): void {
  writer
    .u16(record.partition)
    .u32(record.generation)
    .uvarint(record.appliedIndex)
    .uvarint(record.appliedTerm);
  writeConfState(writer, record.confState);
  writeMeta(writer, record.meta);
  writer.uvarint(record.producerCount).uvarint(record.eventCount);
  writer.uvarint(record.firstCheckpoint).uvarint(record.lastCheckpoint).u64big(record.lastDigest);
  writer.uvarint(record.nextRun);
  writeRuns(writer, record.runs);
  writeRuns(writer, record.retired);
  // 0: no index; else the number of its rows and one more.
  writer.uvarint(record.termCount === undefined ? 0 : record.termCount + 1);
  writer.uvarint(record.meta.deletedCount).uvarint(record.endedCount);
  const version = partitionRowVersion(record);
  if (version >= 3) writeMembership(writer, record.membership);
  if (version >= 4) writer.uvarint(record.changesFrom).uvarint(record.changesTo);
  if (version >= 5) writeTrash(writer, record.meta.trash ?? []);
  if (version >= 6) writer.uvarint(record.meta.cursorCount ?? 0);
  if (version >= 7) writer.uvarint(record.meta.subscriptionCount ?? 0);
  if (version >= 8) writer.uvarint(record.meta.nextSubscription ?? 0);
}

/**
 * Of the row that `writePartition` fills. 3: its members have changed since it was
 * formatted. 4: the change list does not begin just here. 5: deleted channels may be
 * brought back. 6: there are read cursors. 7: there is or was a durable subscription. 8: and one
 * was made or deleted since their numbers are kept.
 */
export function partitionRowVersion({
  membership,
  appliedIndex,
  changesFrom,
  changesTo,
  meta,
}: Pick<PartitionRecord, 'membership' | 'appliedIndex' | 'changesFrom' | 'changesTo' | 'meta'>): RowVersion {
  if (meta.nextSubscription !== undefined) return 8;
  if (meta.subscriptionCount !== undefined) return 7;
  if (meta.cursorCount !== undefined) return 6;
  if (meta.trash !== undefined) return 5;
  if (changesFrom !== appliedIndex || changesTo !== appliedIndex) return 4;
  return membership.changes > 0 ? 3 : 2;
}

function writeRuns(writer: ByteWriter, runs: readonly RunInfo[]): void {
  writer.uvarint(runs.length);
  for (const run of runs) {
    writer.u8(run.kind).uvarint(run.run).uvarint(run.entries).uvarint(run.chunks).uvarint(run.indexRows);
    writer.uvarint(run.bytes).u64(run.minTimeUs).u64(run.maxTimeUs);
  }
}

function readRuns(reader: ByteReader): RunInfo[] {
  return list(reader, 20, () => ({
    kind: reader.u8() as RunKind,
    run: reader.uvarint(),
    entries: reader.uvarint(),
    chunks: reader.uvarint(),
    indexRows: reader.uvarint(),
    bytes: reader.uvarint(),
    minTimeUs: reader.u64(),
    maxTimeUs: reader.u64(),
  }));
}

export function readPartition(reader: ByteReader, version: number): PartitionRecord {
  const partition = reader.u16();
  const record = {
    partition,
    generation: reader.u32(),
    appliedIndex: reader.uvarint(),
    appliedTerm: reader.uvarint(),
    confState: readConfState(reader),
    meta: readMeta(reader, partition),
    producerCount: reader.uvarint(),
    eventCount: reader.uvarint(),
    firstCheckpoint: reader.uvarint(),
    lastCheckpoint: reader.uvarint(),
    lastDigest: reader.u64big(),
    nextRun: reader.uvarint(),
    runs: readRuns(reader),
    retired: readRuns(reader),
  };
  const terms = version >= 2 ? reader.uvarint() : 0;
  record.meta.deletedCount = version >= 2 ? reader.uvarint() : 0;
  const endedCount = version >= 2 ? reader.uvarint() : 0;
  const membership = version >= 3 ? readMembership(reader) : initialMembership(record.confState);
  const changesFrom = version >= 4 ? reader.uvarint() : record.appliedIndex;
  const changesTo = version >= 4 ? reader.uvarint() : record.appliedIndex;
  const trash = version >= 5 ? readTrash(reader) : [];
  if (trash.length > 0) record.meta.trash = trash;
  const cursors = version >= 6 ? reader.uvarint() : 0;
  // Version 7 is also written where there is no cursor.
  if (version === 6 || cursors > 0) record.meta.cursorCount = cursors;
  if (version >= 7) record.meta.subscriptionCount = reader.uvarint();
  if (version >= 8) record.meta.nextSubscription = reader.uvarint();
  reader.end();
  return {
    ...record,
    membership,
    changesFrom,
    changesTo,
    termCount: terms === 0 ? undefined : terms - 1,
    endedCount,
  };
}

/** Also what the digest sees, where there are any. */
export function writeTrash(writer: ByteWriter, trash: readonly TrashedChannel[]): void {
  writer.uvarint(trash.length);
  for (const { tenant, name, deletedTimeUs } of trash) writer.string(tenant).string(name).u64(deletedTimeUs);
}

function readTrash(reader: ByteReader): TrashedChannel[] {
  return list(reader, 10, () => ({
    tenant: reader.string(),
    name: reader.string(),
    deletedTimeUs: reader.u64(),
  }));
}

/** Also what the digest sees of a partition, beside the count of deleted names. */
export function writeMeta(writer: ByteWriter, meta: PartitionMeta): void {
  writer
    .u64(meta.lastCommitTimeUs)
    .u64(meta.keyHorizonUs)
    .uvarint(meta.nextChannelId)
    .uvarint(meta.nextProducer);
  writer.uvarint(meta.channelCount);
  const { applyVersion, producerWindow, keyRetentionUs, producerIdleUs } = meta.settings;
  writer.uvarint(applyVersion).uvarint(producerWindow).u64(keyRetentionUs).u64(producerIdleUs);
}

function readMeta(reader: ByteReader, partition: PartitionId): PartitionMeta {
  return {
    partition,
    lastCommitTimeUs: reader.u64(),
    keyHorizonUs: reader.u64(),
    nextChannelId: reader.uvarint(),
    nextProducer: reader.uvarint(),
    channelCount: reader.uvarint(),
    deletedCount: 0,
    settings: {
      applyVersion: reader.uvarint(),
      producerWindow: reader.uvarint(),
      keyRetentionUs: reader.u64(),
      producerIdleUs: reader.u64(),
    },
  };
}

/** Also what the digest sees, once members have changed. */
export function writeConfState(writer: ByteWriter, conf: ConfState): void {
  for (const ids of [conf.voters, conf.votersOutgoing, conf.learners, conf.learnersNext]) {
    writer.uvarint(ids.length);
    for (const id of ids) writer.uvarint(id);
  }
  writer.u8(conf.autoLeave ? 1 : 0);
}

function readConfState(reader: ByteReader): ConfState {
  const ids = () => list(reader, 1, () => reader.uvarint());
  return {
    voters: ids(),
    votersOutgoing: ids(),
    learners: ids(),
    learnersNext: ids(),
    autoLeave: reader.u8() === 1,
  };
}

export function writeCheckpoint(writer: ByteWriter, record: CheckpointRecord): void {
  writer.uvarint(record.number).uvarint(record.appliedIndex).uvarint(record.appliedTerm);
  writer.uvarint(record.rowCount).u64big(record.digest).u64big(record.previousDigest);
}

export function readCheckpoint(reader: ByteReader): CheckpointRecord {
  const record = {
    number: reader.uvarint(),
    appliedIndex: reader.uvarint(),
    appliedTerm: reader.uvarint(),
    rowCount: reader.uvarint(),
    digest: reader.u64big(),
    previousDigest: reader.u64big(),
  };
  reader.end();
  return record;
}

/** A counted list; each item takes at least `minBytes`, so a damaged count can't make us allocate. */
function list<T>(reader: ByteReader, minBytes: number, read: () => T): T[] {
  const count = reader.uvarint();
  if (count * minBytes > reader.remaining) throw new MalformedError(`a list of ${count}`);
  return Array.from({ length: count }, read);
}
