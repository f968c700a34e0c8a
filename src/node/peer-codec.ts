/**
 * What nodes say to each other, as bytes (docs/format.md, "Between nodes").
 * Compact and by hand: a replicated entry costs one copy on either side.
 * Whatever comes in is checked before it is believed: a count before its loop, a
 * length before its allocation, an entry's checksum before raft/ sees it.
 * Anything wrong is a MalformedError, on which the transport breaks the link.
 */
import { ByteReader, ByteWriter, MalformedError } from '../common/bytes.js';
import { controlNumber, packControl, unpackControl } from '../common/control-record.js';
import { entryChecksum } from '../common/entry-checksum.js';
import {
  assert,
  type ErrorFields,
  HansardError,
  InvariantError,
  type Reason,
  reasons,
} from '../common/errors.js';
import { type FaultKind, faultKinds } from '../common/faults.js';
import type { Index, PartitionId, ReplicaId, Term, TimeUs } from '../common/ids.js';
import { type ConfState, type Entry, EntryType } from '../common/log-types.js';
import type { Membership } from '../common/membership.js';
import { entryMemory } from '../common/slab.js';
import {
  isLocalMessage,
  isLocalTarget,
  type Message,
  MessageType,
  messageTypeNames,
  message as newMessage,
  noEntries,
  type Snapshot,
} from '../raft/types.js';
import type { Standing } from './leader-balance.js';

/** One partition's part of a heartbeat message, of its answer, or of a message of acknowledgements. */
export interface Beat {
  readonly partition: PartitionId;
  readonly from: ReplicaId;
  readonly to: ReplicaId;
  readonly term: Term;
  /** The commit index, 0 in answers; of an acknowledgement the index up to which entries are kept. */
  readonly commit: Index;
  /** The read round, 0: none. */
  readonly context: number;
}

export interface ForwardRequest {
  readonly id: number;
  readonly method: string;
  /** Left when it was sent, ms: clocks of two nodes have nothing in common. */
  readonly timeoutMs: number;
  readonly body: Uint8Array;
}

export type ForwardResponse =
  | { readonly id: number; readonly body: Uint8Array; readonly error?: undefined }
  | { readonly id: number; readonly body?: undefined; readonly error: HansardError };

export interface Gossip {
  readonly nowUs: TimeUs;
  /** The sender is stopping, or its clock is ahead: nobody hands it leadership. */
  readonly unwilling: boolean;
  /** The sender's disk has less room than its reserve. */
  readonly diskFull: boolean;
  /** Partitions that the sender leads; `keptByAll`: every member has the log up to here. */
  readonly led: readonly {
    readonly partition: PartitionId;
    readonly term: Term;
    readonly keptByAll: Index;
    /** Where its replicas are, once that has changed. */
    readonly places?: Places | undefined;
  }[];
  /** The newest apply version that the sender can carry out. */
  readonly applyVersion: number;
  /** Its replicas whose disks lost or changed something: nobody hands them leadership. */
  readonly faults: readonly ToldFault[];
  /** By which leaderships go to it or not; undefined: the sender does not go by loads, or is of an earlier build. */
  readonly standing?: Standing | undefined;
}

export interface ToldFault {
  readonly partition: PartitionId;
  readonly kind: FaultKind;
  readonly sinceUs: TimeUs;
}

/** A partition's table of members, as its leader has applied it. */
export interface Places extends Membership {
  /** Those of `members` that have no vote. */
  readonly learners: readonly ReplicaId[];
  /** All members have it in their logs: nobody needs the votes of those who were removed. */
  readonly settled: boolean;
}

/** A partition that the sender leads, in this term. */
export interface ReadPair {
  readonly partition: PartitionId;
  readonly term: Term;
}

/** Are your replicas in these terms (read-rounds.ts)? */
export interface ReadRoundQuestion {
  readonly number: number;
  readonly pairs: readonly ReadPair[];
}

export interface ReadRoundAnswer {
  readonly number: number;
  /** Partitions that the peer does not vouch for; it does for all others that it was asked for. */
  readonly refused: readonly PartitionId[];
}

/** A quiescent partition that the sender leads, in this term, up to this index (quiescence.ts). */
export interface Vouching extends ReadPair {
  readonly commit: Index;
}

/** The sender vouches for all of its list `number` (vouch-lists.ts). */
export interface VouchWord {
  readonly number: number;
  /** The list that what follows is good on, or any between the two; 0: what follows is the whole list. */
  readonly since: number;
  /** The receiver's list that the sender has taken over since its last word, and all of it holds; 0: none. */
  readonly heard: number;
  /** In no list any more. */
  readonly gone: readonly PartitionId[];
  readonly vouchings: readonly Vouching[];
}

export interface VouchAnswer {
  /** The list that the sender has now; 0: none that the word is good on. */
  readonly number: number;
  /** Partitions for which only their leader's own messages will do. */
  readonly refused: readonly PartitionId[];
}

export type PeerMessage =
  | { readonly kind: 'raft'; readonly partition: PartitionId; readonly message: Message }
  | {
      readonly kind: 'heartbeats' | 'heartbeatResponses' | 'acknowledgements';
      readonly beats: readonly Beat[];
    }
  | { readonly kind: 'request'; readonly request: ForwardRequest }
  | { readonly kind: 'response'; readonly response: ForwardResponse }
  /** Nobody waits for the answer any more. */
  | { readonly kind: 'cancel'; readonly id: number }
  | { readonly kind: 'gossip'; readonly gossip: Gossip }
  | { readonly kind: 'readRound'; readonly question: ReadRoundQuestion }
  | { readonly kind: 'readRoundAnswer'; readonly answer: ReadRoundAnswer }
  | { readonly kind: 'vouch'; readonly word: VouchWord }
  | { readonly kind: 'vouchAnswer'; readonly answer: VouchAnswer };

/** First byte. Numbers are part of the protocol: never reuse one. */
const Kind = {
  raft: 1,
  heartbeats: 2,
  heartbeatResponses: 3,
  request: 4,
  response: 5,
  errorResponse: 6,
  cancel: 7,
  gossip: 8,
  readRound: 9,
  readRoundAnswer: 10,
  acknowledgements: 11,
  // 12 and 13 vouched without lists' numbers.
  vouch: 14,
  vouchAnswer: 15,
} as const;

/** Second byte. */
const version = 1;

const Flag = { reject: 1, snapshot: 2, snapshotData: 4 } as const;
const allFlags = 7;

/** kind, version, partition, type, flags and ten numbers: an estimate, so that the writer allocates once. */
const raftHeaderBytes = 96;
const entryHeaderBytes = 32;
/** The least that one of each can take: what a count is held against. */
const entryBytesMin = 8;
const beatBytesMin = 6;
const pairBytesMin = 2;
const vouchingBytesMin = 3;
/** A deadline far enough away to be none, ms. */
const timeoutMsMax = 2 ** 31 - 1;

// ---- to bytes ------------------------------------------------------------------

/** What most messages fit in; they are copied to what is to be sent before the next one is written. */
const scratch = new ByteWriter(64 * 1024);
/** Above a message full of entries (`messageBytes` in partition/types.ts), whatever surrounds each of them. */
const scratchBytesMax = 1.5 * 1024 * 1024;

function writerFor(bytes: number): ByteWriter {
  return bytes <= scratchBytesMax ? scratch.truncate(0) : new ByteWriter(bytes);
}

/**
 * Entries must have their data, messages to the local threads don't leave. The bytes of this and of encodePeerMessage are valid
 * until the next message is encoded.
 */
export function encodeRaftMessage(partition: PartitionId, message: Message): Buffer {
  assert(!isLocalMessage(message.type) && !isLocalTarget(message.to), 'a local message stays in its process');
  assert(message.responses.length === 0, 'only storage messages have responses');
  let bytes = raftHeaderBytes + (message.snapshot?.data?.length ?? 0);
  for (const entry of message.entries) bytes += entryHeaderBytes + entry.sizeBytes;
  const writer = writerFor(bytes);
  writer.u8(Kind.raft).u8(version).uvarint(partition).u8(message.type).u8(flagsOf(message));
  writer.uvarint(message.to).uvarint(message.from).uvarint(message.term).uvarint(message.logTerm);
  writer.uvarint(message.index).uvarint(message.commit).uvarint(message.vote);
  writer.uvarint(message.rejectHint).uvarint(message.context).uvarint(message.entries.length);
  const placed = message.type === MessageType.MsgApp;
  for (const entry of message.entries) writeEntry(writer, partition, entry, placed);
  if (message.snapshot !== undefined) writeSnapshot(writer, message.snapshot);
  return writer.finish();
}

export function encodePeerMessage(message: PeerMessage): Buffer {
  switch (message.kind) {
    case 'raft':
      return encodeRaftMessage(message.partition, message.message);
    case 'heartbeats':
    case 'heartbeatResponses':
    case 'acknowledgements':
      return encodeBeats(Kind[message.kind], message.beats);
    case 'request': {
      const { id, method, timeoutMs, body } = message.request;
      const left = Math.min(timeoutMsMax, Math.max(0, Math.floor(timeoutMs)));
      const writer = writerFor(body.length + method.length * 3 + 32);
      writer.u8(Kind.request).u8(version).uvarint(id).uvarint(left).string(method);
      return writer.bytes(body).finish();
    }
    case 'response':
      return encodeResponse(message.response);
    case 'cancel':
      return writerFor(16).u8(Kind.cancel).u8(version).uvarint(message.id).finish();
    case 'gossip': {
      const { nowUs, unwilling, diskFull, led, applyVersion, faults, standing } = message.gossip;
      const record = packControl([
        nowUs,
        unwilling,
        led.map(({ partition, term, keptByAll, places }) =>
          places === undefined
            ? [partition, term, keptByAll]
            : [partition, term, keptByAll, placesRow(places)],
        ),
        applyVersion,
        faults.map(({ partition, kind, sinceUs }) => [partition, faultKinds.indexOf(kind), sinceUs]),
        diskFull,
        ...(standing === undefined
          ? []
          : [[Math.round(standing.busy * 100), standing.hasRoom, standing.proposals]]),
      ]);
      return writerFor(record.length + 2)
        .u8(Kind.gossip)
        .u8(version)
        .bytes(record)
        .finish();
    }
    case 'readRound': {
      const { number, pairs } = message.question;
      const writer = writerFor(24 + pairs.length * 8);
      writer.u8(Kind.readRound).u8(version).uvarint(number).uvarint(pairs.length);
      for (const { partition, term } of pairs) writer.uvarint(partition).uvarint(term);
      return writer.finish();
    }
    case 'readRoundAnswer': {
      const { number, refused } = message.answer;
      const writer = writerFor(24 + refused.length * 4);
      writer.u8(Kind.readRoundAnswer).u8(version).uvarint(number);
      return writePartitions(writer, refused).finish();
    }
    case 'vouch': {
      const { number, since, heard, gone, vouchings } = message.word;
      const writer = writerFor(40 + gone.length * 4 + vouchings.length * 12);
      writer.u8(Kind.vouch).u8(version).uvarint(number).uvarint(since).uvarint(heard);
      writePartitions(writer, gone).uvarint(vouchings.length);
      for (const { partition, term, commit } of vouchings)
        writer.uvarint(partition).uvarint(term).uvarint(commit);
      return writer.finish();
    }
    case 'vouchAnswer': {
      const { number, refused } = message.answer;
      const writer = writerFor(24 + refused.length * 4);
      writer.u8(Kind.vouchAnswer).u8(version).uvarint(number);
      return writePartitions(writer, refused).finish();
    }
  }
}

function writePartitions(writer: ByteWriter, partitions: readonly PartitionId[]): ByteWriter {
  writer.uvarint(partitions.length);
  for (const partition of partitions) writer.uvarint(partition);
  return writer;
}

function placesRow({ changes, nextReplicaId, members, learners, settled }: Places) {
  return [
    changes,
    nextReplicaId,
    members.map(({ replicaId, nodeId }) => [replicaId, nodeId]),
    learners,
    settled,
  ];
}

function flagsOf(message: Message): number {
  let flags = message.reject ? Flag.reject : 0;
  if (message.snapshot !== undefined) flags |= Flag.snapshot;
  if (message.snapshot?.data !== undefined) flags |= Flag.snapshotData;
  return flags;
}

/**
 * `placed`: term and index are final (MsgApp), so the checksum is kept at the
 * entry for the other followers and the log; a forwarded proposal has no place yet.
 */
function writeEntry(writer: ByteWriter, partition: PartitionId, entry: Entry, placed: boolean): void {
  const data = entry.data ?? noData;
  if (data.length !== entry.sizeBytes) throw new InvariantError(`entry ${entry.index} without its data`);
  const { type, term, index } = entry;
  let checksum = placed ? entry.checksum : undefined;
  if (checksum === undefined) {
    checksum = entryChecksum(partition, { type, term, index, data });
    if (placed) (entry as { checksum?: number | undefined }).checksum = checksum;
  }
  writer.u8(type).uvarint(term).uvarint(index).u32(checksum).sized(data);
}

function writeSnapshot(writer: ByteWriter, { metadata, data }: Snapshot): void {
  const { voters, votersOutgoing, learners, learnersNext, autoLeave } = metadata.confState;
  writer.uvarint(metadata.index).uvarint(metadata.term);
  for (const members of [voters, votersOutgoing, learners, learnersNext]) {
    writer.uvarint(members.length);
    for (const member of members) writer.uvarint(member);
  }
  writer.u8(autoLeave ? 1 : 0);
  if (data !== undefined) writer.sized(data);
}

function encodeBeats(kind: number, beats: readonly Beat[]): Buffer {
  const writer = writerFor(16 + beats.length * 20);
  writer.u8(kind).u8(version).uvarint(beats.length);
  for (const beat of beats) {
    writer.uvarint(beat.partition).uvarint(beat.from).uvarint(beat.to);
    writer.uvarint(beat.term).uvarint(beat.commit).uvarint(beat.context);
  }
  return writer.finish();
}

function encodeResponse(response: ForwardResponse): Buffer {
  if (response.error === undefined) {
    const writer = writerFor(response.body.length + 16);
    return writer.u8(Kind.response).u8(version).uvarint(response.id).bytes(response.body).finish();
  }
  const { reason, code, message, fields, retryDelayMs } = response.error;
  const writer = writerFor(256);
  writer.u8(Kind.errorResponse).u8(version).uvarint(response.id).string(reason).u8(code).string(message);
  // 0: unknown.
  writer.uvarint(retryDelayMs === undefined ? 0 : Math.max(0, Math.round(retryDelayMs)) + 1);
  const all = Object.entries(fields);
  writer.uvarint(all.length);
  for (const [name, value] of all) writer.string(name).string(JSON.stringify(value));
  return writer.finish();
}

// ---- from bytes ----------------------------------------------------------------

/** Everything in the result is its own copy. Throws MalformedError. */
export function decodePeerMessage(bytes: Uint8Array): PeerMessage {
  const reader = new ByteReader(bytes);
  const kind = reader.u8();
  const got = reader.u8();
  if (got !== version) throw new MalformedError(`message of version ${got}, this node knows ${version}`);
  const message = readBody(reader, kind);
  reader.end();
  return message;
}

function readBody(reader: ByteReader, kind: number): PeerMessage {
  switch (kind) {
    case Kind.raft:
      return readRaftMessage(reader);
    case Kind.heartbeats:
      return { kind: 'heartbeats', beats: readBeats(reader) };
    case Kind.heartbeatResponses:
      return { kind: 'heartbeatResponses', beats: readBeats(reader) };
    case Kind.acknowledgements:
      return { kind: 'acknowledgements', beats: readBeats(reader) };
    case Kind.request: {
      const id = reader.uvarint();
      const timeoutMs = reader.uvarint();
      if (timeoutMs > timeoutMsMax) throw new MalformedError(`a timeout of ${timeoutMs} ms`);
      const method = reader.string();
      return { kind: 'request', request: { id, method, timeoutMs, body: rest(reader) } };
    }
    case Kind.response:
      return { kind: 'response', response: { id: reader.uvarint(), body: rest(reader) } };
    case Kind.errorResponse:
      return { kind: 'response', response: { id: reader.uvarint(), error: readError(reader) } };
    case Kind.cancel:
      return { kind: 'cancel', id: reader.uvarint() };
    case Kind.gossip:
      return { kind: 'gossip', gossip: readGossip(reader) };
    case Kind.readRound: {
      const number = reader.uvarint();
      const pairs = new Array<ReadPair>(countOf(reader, pairBytesMin));
      for (let i = 0; i < pairs.length; i++)
        pairs[i] = { partition: reader.uvarint(), term: reader.uvarint() };
      return { kind: 'readRound', question: { number, pairs } };
    }
    case Kind.readRoundAnswer: {
      const number = reader.uvarint();
      return { kind: 'readRoundAnswer', answer: { number, refused: readPartitions(reader) } };
    }
    case Kind.vouch: {
      const number = reader.uvarint();
      const since = reader.uvarint();
      const heard = reader.uvarint();
      const gone = readPartitions(reader);
      const vouchings = new Array<Vouching>(countOf(reader, vouchingBytesMin));
      for (let i = 0; i < vouchings.length; i++)
        vouchings[i] = { partition: reader.uvarint(), term: reader.uvarint(), commit: reader.uvarint() };
      return { kind: 'vouch', word: { number, since, heard, gone, vouchings } };
    }
    case Kind.vouchAnswer: {
      const number = reader.uvarint();
      return { kind: 'vouchAnswer', answer: { number, refused: readPartitions(reader) } };
    }
    default:
      throw new MalformedError(`message of unknown kind ${kind}`);
  }
}

function readPartitions(reader: ByteReader): PartitionId[] {
  const partitions = new Array<PartitionId>(countOf(reader, 1));
  for (let i = 0; i < partitions.length; i++) partitions[i] = reader.uvarint();
  return partitions;
}

function readRaftMessage(reader: ByteReader): PeerMessage {
  const partition = reader.uvarint();
  const type = reader.u8() as MessageType;
  if (type >= messageTypeNames.length || isLocalMessage(type)) {
    throw new MalformedError(`raft message of type ${type}`);
  }
  const flags = reader.u8();
  if (flags > allFlags) throw new MalformedError(`raft message with flags ${flags}`);
  const message = newMessage(type, reader.uvarint());
  message.reject = (flags & Flag.reject) !== 0;
  message.from = reader.uvarint();
  message.term = reader.uvarint();
  message.logTerm = reader.uvarint();
  message.index = reader.uvarint();
  message.commit = reader.uvarint();
  message.vote = reader.uvarint();
  message.rejectHint = reader.uvarint();
  message.context = reader.uvarint();
  message.entries = readEntries(reader, partition, type === MessageType.MsgApp);
  if ((flags & Flag.snapshot) !== 0) {
    message.snapshot = readSnapshot(reader, (flags & Flag.snapshotData) !== 0);
  } else if ((flags & Flag.snapshotData) !== 0) throw new MalformedError('data of no snapshot');
  return { kind: 'raft', partition, message };
}

function readEntries(reader: ByteReader, partition: PartitionId, placed: boolean): readonly Entry[] {
  const count = countOf(reader, entryBytesMin);
  if (count === 0) return noEntries;
  const entries = new Array<Entry>(count);
  for (let i = 0; i < count; i++) {
    const type = reader.u8() as EntryType;
    if (type > EntryType.confChangeV2) throw new MalformedError(`entry of type ${type}`);
    const term = reader.uvarint();
    const index = reader.uvarint();
    const checksum = reader.u32();
    const view = reader.sized();
    // Its own piece: an entry lives much longer than the frame it came in.
    const data = entryMemory.take(view.length);
    data.set(view);
    if (entryChecksum(partition, { type, term, index, data }) !== checksum) {
      throw new MalformedError(`entry ${index} of partition ${partition} does not match its checksum`);
    }
    entries[i] = {
      term,
      index,
      type,
      sizeBytes: data.length,
      data,
      checksum: placed ? checksum : undefined,
    };
  }
  return entries;
}

function readSnapshot(reader: ByteReader, hasData: boolean): Snapshot {
  const index = reader.uvarint();
  const term = reader.uvarint();
  const [voters, votersOutgoing, learners, learnersNext] = [
    readMembers(reader),
    readMembers(reader),
    readMembers(reader),
    readMembers(reader),
  ];
  const autoLeave = reader.u8();
  if (autoLeave > 1) throw new MalformedError('neither true nor false');
  const confState: ConfState = {
    voters,
    votersOutgoing,
    learners,
    learnersNext,
    autoLeave: autoLeave === 1,
  };
  return { metadata: { index, term, confState }, data: hasData ? copy(reader.sized()) : undefined };
}

function readMembers(reader: ByteReader): number[] {
  const members = new Array<number>(countOf(reader, 1));
  for (let i = 0; i < members.length; i++) members[i] = reader.uvarint();
  return members;
}

function readBeats(reader: ByteReader): Beat[] {
  const beats = new Array<Beat>(countOf(reader, beatBytesMin));
  for (let i = 0; i < beats.length; i++) {
    const partition = reader.uvarint();
    const from = reader.uvarint();
    const to = reader.uvarint();
    const term = reader.uvarint();
    const commit = reader.uvarint();
    const context = reader.uvarint();
    beats[i] = { partition, from, to, term, commit, context };
  }
  return beats;
}

function readGossip(reader: ByteReader): Gossip {
  const [nowUs, unwilling, led, applyVersion, faults, diskFull, standing] = unpackControl(
    reader.bytes(reader.remaining),
  );
  if (typeof unwilling !== 'boolean') throw new MalformedError('neither true nor false');
  if (!Array.isArray(led)) throw new MalformedError('gossip without a list of partitions');
  return {
    nowUs: controlNumber(nowUs),
    unwilling,
    diskFull: diskFull === true,
    led: led.map((row: unknown) => {
      if (!Array.isArray(row)) throw new MalformedError('gossip about no partition');
      const [partition, term, keptByAll, places] = row as unknown[];
      return {
        partition: controlNumber(partition),
        term: controlNumber(term),
        keptByAll: controlNumber(keptByAll),
        places: places === undefined ? undefined : readPlaces(places),
      };
    }),
    // A build that does not tell is held to know the first one only.
    applyVersion: applyVersion === undefined ? 1 : controlNumber(applyVersion),
    faults: Array.isArray(faults) ? faults.map(readFault) : [],
    // False: from a build that has more to tell behind it.
    standing: standing === undefined || standing === false ? undefined : readStanding(standing),
  };
}

function readStanding(row: unknown): Standing {
  if (!Array.isArray(row)) throw new MalformedError('gossip about no load');
  const [busyPercent, hasRoom, proposals] = row as unknown[];
  return {
    busy: controlNumber(busyPercent) / 100,
    hasRoom: hasRoom === true,
    proposals: controlNumber(proposals),
  };
}

function readFault(row: unknown): ToldFault {
  if (!Array.isArray(row)) throw new MalformedError('gossip about no fault');
  const [partition, kind, sinceUs] = row as unknown[];
  return {
    partition: controlNumber(partition),
    // Of a kind that a later build tells of: the worst.
    kind: faultKinds[controlNumber(kind)] ?? 'term-or-vote-lost',
    sinceUs: controlNumber(sinceUs),
  };
}

function readPlaces(row: unknown): Places {
  if (!Array.isArray(row)) throw new MalformedError('gossip about no places');
  const [changes, nextReplicaId, members, learners, settled] = row as unknown[];
  if (!Array.isArray(members) || !Array.isArray(learners))
    throw new MalformedError('gossip about no members');
  return {
    changes: controlNumber(changes),
    nextReplicaId: controlNumber(nextReplicaId),
    members: members.map((member: unknown) => {
      if (!Array.isArray(member)) throw new MalformedError('gossip about no member');
      const [replicaId, nodeId] = member as unknown[];
      return { replicaId: controlNumber(replicaId), nodeId: controlNumber(nodeId) };
    }),
    learners: learners.map(controlNumber),
    settled: settled === true,
  };
}

function readError(reader: ByteReader): HansardError {
  const reason = reader.string();
  const code = reader.u8() as HansardError['code'];
  const message = reader.string();
  const retry = reader.uvarint();
  const fields: Record<string, string | number | boolean> = {};
  const count = countOf(reader, 2);
  for (let i = 0; i < count; i++) {
    const name = reader.string();
    // Not by assignment: a field may be called __proto__.
    Object.defineProperty(fields, name, { value: readField(reader), enumerable: true });
  }
  if (code < 1 || code > 16) throw new MalformedError(`status code ${code}`);
  const options = retry === 0 ? { code } : { code, retryDelayMs: retry - 1 };
  if (Object.hasOwn(reasons, reason)) {
    return new HansardError(reason as Reason, message, fields as ErrorFields, options);
  }
  // Of a newer version: the code still says what a client may do.
  return new HansardError('INTERNAL', `${reason}: ${message}`, fields as ErrorFields, options);
}

function readField(reader: ByteReader): string | number | boolean {
  const text = reader.string();
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value === 'string' || typeof value === 'number' || typeof value === 'boolean') return value;
  } catch {
    // Falls through: the text itself is not worth repeating.
  }
  throw new MalformedError('a field that is no text, number or boolean');
}

/** A count, held against what is left before anything is allocated for it. */
function countOf(reader: ByteReader, bytesMin: number): number {
  const count = reader.uvarint();
  if (count * bytesMin > reader.remaining) throw new MalformedError(`${count} elements can't fit`);
  return count;
}

const noData = new Uint8Array(0);

function copy(view: Buffer): Buffer {
  // Not Buffer.from: what is kept must not hold the frame, nor a large one a shared pool.
  const own = Buffer.allocUnsafe(view.length);
  own.set(view);
  return own;
}

function rest(reader: ByteReader): Buffer {
  return copy(reader.bytes(reader.remaining));
}
