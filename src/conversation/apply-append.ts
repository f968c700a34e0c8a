/**
 * An append, in the order in which it meets the checks: contents, producer, keys,
 * message ids, append condition, references. All are made before the first change.
 */
import { xxh64Equals } from '../common/hash-scratch.js';
import type { Seq, TimeUs } from '../common/ids.js';
import type { AppendCommand, AppendCondition, AppendedRecord } from './append-command.js';
import { checkNames, newChannel } from './apply-channel.js';
import { copyOfDigest, Repeats } from './apply-keys.js';
import { answerByCounter, producerExpired, rememberAnswer } from './apply-producer.js';
import { keptOf, liveChannel } from './apply-trash.js';
import { contentXxh64Place, saltBytes } from './event-record.js';
import { refuse } from './refuse.js';
import {
  type AppendAnswer,
  type Appended,
  type ApplyState,
  type ChannelState,
  EventType,
  type ProducerState,
  type Refused,
} from './types.js';

export function applyAppend(
  state: ApplyState,
  bytes: Buffer,
  command: AppendCommand,
  commitTimeUs: TimeUs,
): AppendAnswer {
  const channel = liveChannel(state, command.tenant, command.channel);
  // What fails here can not have passed a door, so it takes no counter.
  const malformed = checkForm(bytes, command, channel);
  if (malformed !== undefined) return malformed;

  let producer: ProducerState | undefined;
  if (command.producerId !== 0) {
    producer = state.producer(command.producerId);
    if (producer === undefined || producer.tenant !== command.tenant) return producerExpired();
    const answer = answerByCounter(producer, command);
    if (answer !== undefined) return answer;
  }
  const answer = appendNext(state, bytes, command, channel, commitTimeUs);
  if (producer === undefined) return answer;
  const kept =
    answer.kind === 'refused' ? { ...answer, fields: { ...answer.fields, counter_consumed: true } } : answer;
  rememberAnswer(state, producer, command, kept, commitTimeUs);
  return kept;
}

function checkForm(
  bytes: Buffer,
  { tenant, channel: name, records }: AppendCommand,
  channel: ChannelState | undefined,
): Refused | undefined {
  // A name that is taken was checked when it was taken.
  const problem = channel === undefined ? checkNames(tenant, name) : undefined;
  return problem ?? checkContents(bytes, records);
}

/** An append that meets all its checks; nothing has changed yet. */
export interface AppendPlan {
  readonly kind: 'plan';
  readonly command: AppendCommand;
  readonly channel: ChannelState | undefined;
  readonly repeats: Repeats | undefined;
}

/** Of an append without a producer, as a part of something larger. */
export function planAppend(state: ApplyState, bytes: Buffer, command: AppendCommand): AppendPlan | Refused {
  const channel = liveChannel(state, command.tenant, command.channel);
  return checkForm(bytes, command, channel) ?? check(state, bytes, command, channel);
}

/** To be called for all plans of a command, with no other change of their channels between. */
export function storeAppend(
  state: ApplyState,
  bytes: Buffer,
  { command, channel, repeats }: AppendPlan,
  commitTimeUs: TimeUs,
): Appended {
  if (repeats !== undefined && channel !== undefined && repeats.count === command.records.length)
    return repeats.answer(channel);
  return store(state, bytes, command, channel, repeats, commitTimeUs);
}

/** The append of an unknown producer, or its producer's next one. */
function appendNext(
  state: ApplyState,
  bytes: Buffer,
  command: AppendCommand,
  channel: ChannelState | undefined,
  commitTimeUs: TimeUs,
): AppendAnswer {
  const plan = check(state, bytes, command, channel);
  return plan.kind === 'refused' ? plan : storeAppend(state, bytes, plan, commitTimeUs);
}

function check(
  state: ApplyState,
  bytes: Buffer,
  command: AppendCommand,
  channel: ChannelState | undefined,
): AppendPlan | Refused {
  const { records } = command;
  const repeats = command.hasKeys ? new Repeats(state, channel, bytes, records) : undefined;
  if (repeats?.refusal !== undefined) return repeats.refusal;
  if (repeats !== undefined && channel !== undefined && repeats.count === records.length) {
    return { kind: 'plan', command, channel, repeats };
  }
  if (channel?.sealedTimeUs !== undefined) return sealed(channel);
  const refusal =
    (command.hasMessageIds ? checkMessageIds(state, channel, records, repeats) : undefined) ??
    (command.condition === undefined ? undefined : checkCondition(command.condition, channel)) ??
    checkReferences(state, command, channel, repeats);
  return refusal ?? { kind: 'plan', command, channel, repeats };
}

function sealed({ name, sealedTimeUs = 0 }: ChannelState): Refused {
  return refuse('CHANNEL_SEALED', 'the channel was sealed: it takes no more events', {
    channel: name,
    sealed_time_us: sealedTimeUs,
  });
}

/** The first change of state is here. */
function store(
  state: ApplyState,
  bytes: Buffer,
  command: AppendCommand,
  existing: ChannelState | undefined,
  repeats: Repeats | undefined,
  commitTimeUs: TimeUs,
): Appended {
  const { records, producerId, firstCounter } = command;
  const channel = existing ?? newChannel(state, command.tenant, command.channel, commitTimeUs);
  if (existing === undefined) state.putChannel(channel);
  const firstSeq = channel.headSeq + 1;
  channel.activityTimeUs = commitTimeUs;
  for (let i = 0; i < records.length; i++) {
    if (repeats?.isRepeat(i)) continue;
    const record = records[i] as AppendedRecord;
    const seq = channel.headSeq + 1;
    channel.headSeq = seq;
    if (isMessage(record.type)) {
      channel.lastMessageSeq = seq;
      channel.messageCount++;
    }
    state.append(channel, {
      seq,
      commitTimeUs,
      producerId,
      producerCounter: producerId === 0 ? 0 : firstCounter + i,
      bytes,
      headerOffset: record.headerOffset,
      headerLength: record.headerLength,
      contentBytes: bytes,
      contentOffset: record.contentOffset,
      contentLength: record.contentLength,
    });
    repeats?.stored(i, seq);
    if (record.messageId !== undefined) state.putMessageId(channel.id, record.messageId, seq);
    if (record.key !== undefined) {
      state.putKey(channel.id, record.key, {
        seq,
        contentDigest: copyOfDigest(bytes, record),
        commitTimeUs,
      });
    }
  }
  state.putChannel(channel);
  if (repeats !== undefined && repeats.count > 0) return repeats.answer(channel, commitTimeUs);
  return {
    kind: 'appended',
    firstSeq,
    count: records.length,
    commitTimeUs,
    seqs: undefined,
    duplicate: false,
    channelUid: channel.uid,
  };
}

/** Events that are messages: they count, and `last_message_seq` follows them. */
export function isMessage(type: EventType): boolean {
  return type <= EventType.messageStarted;
}

/** Events that say nothing without the earlier one that they are about. */
function needsTarget(type: EventType): boolean {
  switch (type) {
    case EventType.messageEdited:
    case EventType.messageDeleted:
    case EventType.messageRedacted:
    case EventType.reactionAdded:
    case EventType.reactionRemoved:
      return true;
    default:
      return false;
  }
}

/** The last guard of the checksum from end to end before the event is stored. */
function checkContents(bytes: Buffer, records: readonly AppendedRecord[]): Refused | undefined {
  for (let i = 0; i < records.length; i++) {
    const { headerOffset, contentOffset, contentLength } = records[i] as AppendedRecord;
    const end = contentOffset + contentLength;
    if (!xxh64Equals(bytes, contentOffset + saltBytes, end, contentXxh64Place(headerOffset))) {
      return refuse('CHECKSUM_MISMATCH', 'a content does not match its checksum', { position: i });
    }
  }
  return undefined;
}

function checkMessageIds(
  state: ApplyState,
  channel: ChannelState | undefined,
  records: readonly AppendedRecord[],
  repeats: Repeats | undefined,
): Refused | undefined {
  const inBatch = records.length > 1 ? new Set<string>() : undefined;
  for (let i = 0; i < records.length; i++) {
    const { messageId } = records[i] as AppendedRecord;
    // The repeat of a keyed message meets its own id: no conflict.
    if (messageId === undefined || repeats?.isRepeat(i)) continue;
    const seq = channel === undefined ? undefined : state.messageId(channel.id, messageId);
    if (seq !== undefined || inBatch?.has(messageId)) {
      return refuse('MESSAGE_ID_EXISTS', 'the message_id is taken', {
        message_id: messageId,
        position: i,
        ...(seq === undefined ? {} : { seq }),
      });
    }
    inBatch?.add(messageId);
  }
  return undefined;
}

function checkCondition(condition: AppendCondition, channel: ChannelState | undefined): Refused | undefined {
  switch (condition.kind) {
    case 'expectedHeadSeq':
      return checkSeq('expected_head_seq', condition.seq, channel?.headSeq ?? 0);
    case 'expectedLastMessageSeq':
      return checkSeq('expected_last_message_seq', condition.seq, channel?.lastMessageSeq ?? 0);
    case 'mustNotExist':
      return channel === undefined ? undefined : conditionFailed('must_not_exist', 'no channel', 'a channel');
    case 'mustExist':
      return channel === undefined ? conditionFailed('must_exist', 'a channel', 'no channel') : undefined;
  }
}

function checkSeq(condition: string, expected: Seq, actual: Seq): Refused | undefined {
  return expected === actual ? undefined : conditionFailed(condition, expected, actual);
}

function conditionFailed(condition: string, expected: Seq | string, actual: Seq | string): Refused {
  const message = `the append condition ${condition} does not hold`;
  return refuse('CONDITION_FAILED', message, { condition, expected, actual });
}

/** Targets must be earlier events; places in the batch must mean what they say once stored. */
function checkReferences(
  state: ApplyState,
  command: AppendCommand,
  channel: ChannelState | undefined,
  repeats: Repeats | undefined,
): Refused | undefined {
  if (command.usesBatchPosition && repeats !== undefined && repeats.count > 0) {
    return refuse(
      'INVALID_ARGUMENT',
      'a batch of new messages and repeats by key can not refer to its own places',
      { field: 'batch_position' },
    );
  }
  // A name that was deleted goes on behind its old head, and events before that are gone.
  const kept = channel === undefined ? keptOf(state, command.tenant, command.channel)?.headSeq : undefined;
  const baseSeq = channel?.baseSeq ?? kept ?? 0;
  let seq = channel?.headSeq ?? baseSeq;
  for (let i = 0; i < command.records.length; i++) {
    if (repeats?.isRepeat(i)) continue;
    seq++;
    const { targetSeq, type } = command.records[i] as AppendedRecord;
    const isMissing = targetSeq === 0 ? needsTarget(type) : targetSeq <= baseSeq;
    if (targetSeq >= seq || isMissing) {
      const fields = {
        field: 'target_seq',
        position: i,
        target_seq: targetSeq,
        head_seq: channel?.headSeq ?? 0,
      };
      return refuse('INVALID_ARGUMENT', 'target_seq is not an earlier event of the channel', fields);
    }
  }
  return undefined;
}
