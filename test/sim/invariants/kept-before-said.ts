/**
 * What a message promises is on the sender's disk when it leaves (Raft, figure 2:
 * "updated on stable storage before responding"; thesis, section 3.8): votes given
 * and asked for, and acknowledgements of entries.
 */
import { decodePeerMessage, type PeerMessage } from '../../../src/node/peer-codec.js';
import { MessageType } from '../../../src/raft/types.js';
import type { Store } from '../../../src/store/types.js';
import type { Transport } from '../../../src/transport/types.js';
import type { GroupLog, Wal } from '../../../src/wal/index.js';
import { sendingBy } from '../sending.js';

/** A transport whose every message is looked at as it leaves. */
export function watchPromises(
  transport: Transport,
  wal: Wal,
  store: Store,
  violated: (what: string) => void,
): Transport {
  return sendingBy(transport, (to, message, urgent) => {
    const problem = problemOf(message, wal, store);
    if (problem !== undefined) violated(`said before it was kept: ${problem}`);
    return transport.send(to, message, urgent);
  });
}

/** First bytes of messages that may hold a promise: kinds 1 (raft) and 11 (acknowledgements). */
const kinds: ReadonlySet<number> = new Set([1, 11]);

function problemOf(bytes: Uint8Array, wal: Wal, store: Store): string | undefined {
  // Entries and the rest promise nothing, and to decode them all would take most of a run's time.
  if (!kinds.has(bytes[0] as number) || isAppend(bytes)) return undefined;
  for (const promise of promisesOf(decodePeerMessage(bytes))) {
    // An acknowledgement that waited for company may leave when its replica has been removed: nobody relies on it any more.
    if (store.partitions().every(({ partition }) => partition !== promise.partition)) continue;
    const log = wal.group(promise.partition);
    if (log === undefined) return `partition ${promise.partition} has no log`;
    const problem = problemWith(promise, log, store);
    if (problem !== undefined) return `partition ${promise.partition}: ${problem}`;
  }
  return undefined;
}

/** MsgApp: kind, version, partition (below 128 in the simulator), type. */
function isAppend(bytes: Uint8Array): boolean {
  return bytes[0] === 1 && bytes[3] === MessageType.MsgApp;
}

interface Promised {
  readonly partition: number;
  readonly term: number;
  /** Whom the vote of this term went to. */
  readonly vote?: number;
  /** Entries up to here are kept. */
  readonly index?: number;
}

function promisesOf(message: PeerMessage): Promised[] {
  if (message.kind === 'acknowledgements')
    return message.beats.map(({ partition, term, commit }) => ({ partition, term, index: commit }));
  if (message.kind !== 'raft') return [];
  const { partition } = message;
  const { type, from, to, term, index, reject } = message.message;
  if (reject) return [];
  if (type === MessageType.MsgVoteResp) return [{ partition, term, vote: to }];
  if (type === MessageType.MsgVote) return [{ partition, term, vote: from }];
  if (type === MessageType.MsgAppResp) return [{ partition, term, index }];
  return [];
}

function problemWith(
  { partition, term, vote, index }: Promised,
  log: GroupLog,
  store: Store,
): string | undefined {
  const kept = log.hardState;
  // A snapshot that was decided just before a crash may be of a later term than the
  // log knows: a start begins in that one, without a vote (raft-storage.ts).
  const { sealedTerm } = store.partition(partition);
  if (sealedTerm > kept.term)
    return term > sealedTerm || (term === sealedTerm && vote !== undefined)
      ? `a message of term ${term}, the disks have ${sealedTerm} without a vote`
      : undefined;
  if (kept.term < term) return `a message of term ${term}, the disk has ${kept.term}`;
  // A later term on disk: whatever was kept in this one may be gone by right.
  if (kept.term > term) return undefined;
  if (vote !== undefined && kept.vote !== vote)
    return `a vote for ${vote} in term ${term}, the disk has ${kept.vote}`;
  if (index !== undefined && log.lastIndex() < index)
    return `entries up to ${index} acknowledged in term ${term}, the disk has ${log.lastIndex()}`;
  return undefined;
}
