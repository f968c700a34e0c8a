/** What a node had promised by a moment, from the marks of its recording (recorded-node.ts). */
import type { Mark } from './recorder.js';

export interface PeerPromises {
  term: number;
  vote: { term: number; candidate: number } | undefined;
  /** To the leader of the newest term: the log up to here. */
  kept: { term: number; index: number; entryTerm: number } | undefined;
}

export interface Promises {
  isFormatted: boolean;
  /** By channel: seq → number of the append. */
  readonly acknowledged: Map<string, Map<number, number>>;
  /** Channels whose deletion was asked for; and acknowledged. */
  readonly going: Set<string>;
  readonly gone: Set<string>;
  readonly peers: Map<number, PeerPromises>;
  /** What the channels hold on replicas that lost nothing, in the order of seqs. */
  finals: ReadonlyMap<string, readonly number[]> | undefined;
  /** Filled by the check. */
  readonly found: Map<string, number[]>;
}

export function noPromises(): Promises {
  return {
    isFormatted: false,
    acknowledged: new Map(),
    going: new Set(),
    gone: new Set(),
    peers: new Map(),
    finals: undefined,
    found: new Map(),
  };
}

/** Those made before `moment`, on top of `promises`. */
export function promisesAt(marks: readonly Mark[], moment: number, promises = noPromises()): Promises {
  for (const { at, text } of marks) {
    // A promise that was made in the very call of the moment is not out yet.
    if (at > moment) break;
    keep(promises, text);
  }
  return promises;
}

function keep(promises: Promises, text: string): void {
  const [kind, name = '', ...rest] = text.split(' ');
  const [a = 0, b = 0, c = 0] = rest.map(Number);
  switch (kind) {
    case 'init':
      promises.isFormatted = true;
      return;
    case 'ack': {
      const appends = promises.acknowledged.get(name) ?? new Map<number, number>();
      promises.acknowledged.set(name, appends.set(a, b));
      return;
    }
    case 'going':
      promises.going.add(name);
      return;
    case 'gone':
      promises.gone.add(name);
      return;
    case 'term':
      peer(promises, name).term = Math.max(peer(promises, name).term, a);
      return;
    case 'vote':
      if (a >= (peer(promises, name).vote?.term ?? 0)) peer(promises, name).vote = { term: a, candidate: b };
      return;
    case 'kept': {
      const of = peer(promises, name);
      if (of.kept === undefined || a > of.kept.term || (a === of.kept.term && b > of.kept.index))
        of.kept = { term: a, index: b, entryTerm: c };
      return;
    }
    case 'installing':
    case 'installed':
      return;
    default:
      throw new Error(`unknown mark: ${text}`);
  }
}

function peer(promises: Promises, name: string): PeerPromises {
  const partition = Number(name);
  const known = promises.peers.get(partition);
  if (known !== undefined) return known;
  const made: PeerPromises = { term: 0, vote: undefined, kept: undefined };
  promises.peers.set(partition, made);
  return made;
}
