/**
 * Compares the replicas of a partition at one index while writes go on. The leader
 * names an index that nobody has applied yet; each replica takes its digest in the very turn in
 * which it applies that entry. Where nothing is written the leader proposes an entry
 * that does nothing. What can't be taken so (the index was passed meanwhile, a
 * checkpoint ran just then) is tried again at a later index.
 */
import { ByteReader, ByteWriter } from '../common/bytes.js';
import type { Clock } from '../common/env.js';
import { HansardError } from '../common/errors.js';
import type { Index, NodeId, PartitionId } from '../common/ids.js';
import type { Pace } from '../store/pace.js';
import { isStoreDamage } from '../store/rows.js';
import type { PartitionStore } from '../store/types.js';

export const digestRoundMethod = 'hansard.internal.v1/DigestRound';

export interface DigestRoundsContext {
  readonly nodeId: NodeId;
  readonly clock: Clock;
  /** This node's replica, where it has one that can be read. */
  store(partition: PartitionId): PartitionStore | undefined;
  /** Nodes that have a replica, this one included, and can be reached; undefined: this node does not lead. */
  members(partition: PartitionId): readonly NodeId[] | undefined;
  ask(node: NodeId, method: string, request: Uint8Array, deadlineMs: number): Promise<Uint8Array>;
  proposeNothing(partition: PartitionId, deadlineMs: number): Promise<void>;
  pace(): Pace;
  /** Taking its own digest this replica met damage. */
  damaged(partition: PartitionId, error: HansardError): void;
  fatal(error: unknown): void;
}

/** What one replica answers. */
export type RoundAnswer =
  | { readonly kind: 'digest'; readonly digest: string }
  | { readonly kind: 'damaged'; readonly problem: string }
  /** None could be taken at that index. */
  | { readonly kind: 'missed' };

export interface Comparison {
  readonly index: Index;
  readonly answers: ReadonlyMap<NodeId, RoundAnswer>;
}

const attemptsMax = 6;
/** Entries between what is applied and the index that is named; more where that was passed too soon. */
const marginMin = 1;
const marginGrowth = 8;
const marginMax = 4_096;
/** An answer to a question that needs no reading. */
const askMs = 5_000;
/** How long a round waits for its index and its slowest replica. */
const reachMs = 30_000;
const collectMs = 15 * 60_000;
const pollMs = 100;
/** Also what the end of the node waits for at most. */
const pollMsMax = 250;
/** Rounds that are remembered for who asked; a leader that forgets leaves them. */
const roundsMax = 256;

const Op = { arm: 1, collect: 2 } as const;
const State = { pending: 0, digest: 1, missed: 2, damaged: 3 } as const;

interface Armed {
  answer: RoundAnswer | undefined;
}

export class DigestRounds {
  readonly #context: DigestRoundsContext;
  readonly #armed = new Map<string, Armed>();
  readonly #paces = new Set<Pace>();
  #lastRound = 0;
  #stopped = false;

  constructor(context: DigestRoundsContext) {
    this.#context = context;
  }

  stop(): void {
    this.#stopped = true;
    for (const pace of this.#paces) pace.stop();
  }

  /** Undefined: this node does not lead (any more), or no index could be agreed on. */
  async compare(partition: PartitionId): Promise<Comparison | undefined> {
    let margin = marginMin;
    for (let attempt = 0; attempt < attemptsMax; attempt++) {
      const members = this.#context.members(partition);
      const store = this.#context.store(partition);
      if (members === undefined || store === undefined || this.#stopped) return undefined;
      const index = store.appliedIndex + margin;
      const round = ++this.#lastRound;
      const armed = await Promise.all(members.map((node) => this.#arm(node, partition, round, index)));
      if (armed.includes('passed')) {
        margin = Math.min(margin * marginGrowth, marginMax);
        continue;
      }
      if (!(await this.#reach(partition, index))) return undefined;
      const there = members.filter((_, i) => armed[i] === 'armed');
      const answers = await Promise.all(
        there.map(async (node) => [node, await this.#collect(node, partition, round)] as const),
      );
      if (answers.length > 1 && answers.every(([, { kind }]) => kind !== 'missed')) {
        return { index, answers: new Map(answers) };
      }
      if (there.length < 2) return { index, answers: new Map(answers) };
    }
    return undefined;
  }

  async #arm(
    node: NodeId,
    partition: PartitionId,
    round: number,
    index: Index,
  ): Promise<'armed' | 'passed' | 'away'> {
    const request = new ByteWriter(32).u8(Op.arm).uvarint(partition).uvarint(round).uvarint(index).finish();
    const answer = await this.#ask(node, request);
    if (answer === undefined) return 'away';
    return new ByteReader(answer).u8() === 1 ? 'armed' : 'passed';
  }

  /** Waits until the index is applied here; where nobody writes, it is this that moves the partition. */
  async #reach(partition: PartitionId, index: Index): Promise<boolean> {
    const { clock } = this.#context;
    const untilMs = clock.monotonicMs() + reachMs;
    for (;;) {
      const before = this.#context.store(partition)?.appliedIndex;
      if (before === undefined || this.#context.members(partition) === undefined) return false;
      if (before >= index) return true;
      if (clock.monotonicMs() >= untilMs || this.#stopped) return false;
      try {
        await this.#context.proposeNothing(partition, clock.monotonicMs() + askMs);
      } catch (error) {
        if (!(error instanceof HansardError)) throw error;
        await this.#sleep(pollMs);
      }
    }
  }

  async #collect(node: NodeId, partition: PartitionId, round: number): Promise<RoundAnswer> {
    const { clock } = this.#context;
    const request = new ByteWriter(32).u8(Op.collect).uvarint(partition).uvarint(round).finish();
    const untilMs = clock.monotonicMs() + collectMs;
    for (let waitMs = pollMs; clock.monotonicMs() < untilMs; waitMs = Math.min(waitMs * 2, pollMsMax)) {
      if (this.#stopped) break;
      const answer = await this.#ask(node, request);
      if (answer === undefined) return { kind: 'missed' };
      const reader = new ByteReader(answer);
      const state = reader.u8();
      if (state === State.digest) return { kind: 'digest', digest: reader.string() };
      if (state === State.damaged) return { kind: 'damaged', problem: reader.string() };
      if (state === State.missed) return { kind: 'missed' };
      await this.#sleep(waitMs);
    }
    return { kind: 'missed' };
  }

  /** Undefined: it gave no answer. */
  async #ask(node: NodeId, request: Uint8Array): Promise<Uint8Array | undefined> {
    if (node === this.#context.nodeId) return this.serve(node, request);
    try {
      const deadlineMs = this.#context.clock.monotonicMs() + askMs;
      return await this.#context.ask(node, digestRoundMethod, request, deadlineMs);
    } catch (error) {
      if (error instanceof HansardError) return undefined;
      throw error;
    }
  }

  /** A leader's question. */
  serve(from: NodeId, request: Uint8Array): Uint8Array {
    const reader = new ByteReader(request);
    const op = reader.u8();
    const partition = reader.uvarint();
    const name = `${from}/${partition}/${reader.uvarint()}`;
    if (op === Op.arm) return Uint8Array.of(this.#serveArm(name, partition, reader.uvarint()) ? 1 : 0);
    const armed = this.#armed.get(name);
    if (armed === undefined) return Uint8Array.of(State.missed);
    if (armed.answer === undefined) return Uint8Array.of(State.pending);
    this.#armed.delete(name);
    return encodeAnswer(armed.answer);
  }

  /** False: the index is passed. */
  #serveArm(name: string, partition: PartitionId, index: Index): boolean {
    const store = this.#context.store(partition);
    if (store === undefined) {
      throw new HansardError('NOT_LEADER', `this node holds no replica of partition ${partition}`, {
        partition,
      });
    }
    if (store.appliedIndex >= index) return false;
    const armed: Armed = { answer: undefined };
    for (const oldest of this.#armed.keys()) {
      if (this.#armed.size < roundsMax) break;
      this.#armed.delete(oldest);
    }
    this.#armed.set(name, armed);
    const pace = this.#context.pace();
    this.#paces.add(pace);
    store
      .digestWhen(index, pace)
      .then(
        (digest) => {
          armed.answer =
            digest === undefined ? { kind: 'missed' } : { kind: 'digest', digest: digest.digest };
        },
        (error: unknown) => {
          armed.answer = { kind: 'missed' };
          if (!isStoreDamage(error)) return;
          armed.answer = { kind: 'damaged', problem: error.message };
          this.#context.damaged(partition, error);
        },
      )
      .finally(() => this.#paces.delete(pace))
      .catch((error: unknown) => this.#context.fatal(error));
    return true;
  }

  #sleep(ms: number): Promise<void> {
    return new Promise((resolve) => this.#context.clock.after(ms, resolve));
  }
}

function encodeAnswer(answer: RoundAnswer): Uint8Array {
  switch (answer.kind) {
    case 'digest':
      return new ByteWriter(32).u8(State.digest).string(answer.digest).finish();
    case 'damaged':
      return new ByteWriter(64).u8(State.damaged).string(answer.problem).finish();
    case 'missed':
      return Uint8Array.of(State.missed);
  }
}

/** Who differs from a majority of the partition's replicas; `differing` without `expected`: nobody knows who is right. */
export function judge(
  { answers }: Comparison,
  replicas: number,
): { readonly differing: readonly NodeId[]; readonly expected: string | undefined } {
  const byDigest = new Map<string, NodeId[]>();
  for (const [node, answer] of answers) {
    if (answer.kind !== 'digest') continue;
    const nodes = byDigest.get(answer.digest) ?? [];
    nodes.push(node);
    byDigest.set(answer.digest, nodes);
  }
  if (byDigest.size < 2) return { differing: [], expected: undefined };
  const [[digest, most]] = [...byDigest].sort((a, b) => b[1].length - a[1].length) as [[string, NodeId[]]];
  const all = [...byDigest.values()].flat();
  if (most.length * 2 <= replicas) return { differing: all, expected: undefined };
  return { differing: all.filter((node) => !most.includes(node)), expected: digest };
}
