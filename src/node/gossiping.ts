/**
 * What nodes tell each other every second: how far all members of a partition are, so that
 * followers may cut their logs; members; clocks; whether the node may lead; faults.
 */
import type { Clock } from '../common/env.js';
import type { NodeId } from '../common/ids.js';
import type { Replica } from '../partition/replica.js';
import type { ClockWatch } from './clock-watch.js';
import type { ClusterViews } from './cluster-views.js';
import type { DiskStall } from './disk-stall.js';
import type { FaultLedger } from './fault-ledger.js';
import type { HandOver } from './hand-over.js';
import type { Hearsay } from './hearsay.js';
import type { LeaderBalance } from './leader-balance.js';
import type { Members } from './members.js';
import type { NodeOptions } from './options.js';
import type { Gossip, Places } from './peer-codec.js';
import type { ReplicaSet } from './replica-set.js';
import type { ToPeers } from './to-peers.js';

export const gossipMs = 1_000;
/** What is quiet has been told; again once in so many times, where that got lost. */
const quietRounds = 16;
/** Told so often before: who hears that it was removed goes with the second word, some time behind the first (members.ts). */
const quietTells = 2;

export interface GossipingContext {
  readonly options: NodeOptions;
  /** The guarded one. */
  readonly clock: Clock;
  readonly replicas: ReplicaSet;
  readonly toPeers: ToPeers;
  readonly hearsay: Hearsay;
  readonly views: ClusterViews;
  readonly members: Members;
  readonly clockWatch: ClockWatch;
  readonly stall: DiskStall;
  readonly ledger: FaultLedger;
  readonly handOver: HandOver;
  isDraining(): boolean;
  readonly balance: LeaderBalance;
  /** What else is done as often. */
  also(): void;
}

export class Gossiping {
  readonly #context: GossipingContext;
  #toldMs: number;
  #round = 0;
  /** How often the last state of quiet ones has been told. */
  readonly #toldQuiet = new Map<Replica, number>();
  /** As it was told last: 1 ahead, -1 behind. */
  #clockOff = 0;

  constructor(context: GossipingContext) {
    this.#context = context;
    this.#toldMs = context.clock.monotonicMs();
  }

  /** With each tick: what is said then goes in one frame with what else the node says. */
  tick(nowMs: number): void {
    if (nowMs - this.#toldMs < gossipMs) return;
    this.#toldMs = nowMs;
    this.#round++;
    this.#tell(this.#context.replicas.held.filter((replica) => this.#isNews(replica)));
    this.#context.also();
  }

  #isNews(replica: Replica): boolean {
    if (!replica.isLeader) return false;
    if (!replica.isQuiescent) return true;
    const times = this.#toldQuiet.get(replica) ?? 0;
    if (times >= quietTells && (replica.partition + this.#round) % quietRounds !== 0) return false;
    this.#toldQuiet.set(replica, times + 1);
    return true;
  }

  /** It woke, or went. */
  stirred(replica: Replica): void {
    this.#toldQuiet.delete(replica);
  }

  /** All of it to all, now; what is quiet as though it had just become so, as somebody may hear it for the first time. */
  tell(): void {
    this.#toldQuiet.clear();
    this.#tell(this.#context.replicas.held.filter((replica) => replica.isLeader));
  }

  #tell(replicas: readonly Replica[]): void {
    const { options, toPeers, views, stall, ledger, handOver } = this.#context;
    const led = replicas.map((replica) => ({
      partition: replica.partition,
      term: replica.term,
      keptByAll: replica.matchedByAll(),
      places: placesToTell(replica),
    }));
    const diskFull = options.space?.isLow === true;
    const mayNotLead = this.#isClockAhead() || diskFull || stall.isStanding;
    const unwilling = this.#context.isDraining() || mayNotLead;
    const { standing } = this.#context.balance;
    for (const { nodeId } of options.nodes) {
      if (nodeId === options.identity.nodeId) continue;
      const { faults } = ledger;
      const nowUs = options.clock.nowUs();
      const gossip = { nowUs, unwilling, diskFull, led, applyVersion: views.applyVersion, faults, standing };
      toPeers.send(nodeId, { kind: 'gossip', gossip });
    }
    if (mayNotLead)
      for (const replica of this.#context.replicas.held) if (replica.isLeader) handOver.transfer(replica);
  }

  hear(from: NodeId, gossip: Gossip): void {
    const { options, replicas, hearsay, clockWatch, members } = this.#context;
    clockWatch.heard(from, gossip.nowUs);
    hearsay.heard(from, gossip);
    for (const { partition, places } of gossip.led) {
      if (partition >= options.partitionCount) continue;
      const replica = replicas.at(partition);
      if (!replica?.isInitialised || replica.isMute) hearsay.noteLeader(partition, from);
      if (places !== undefined) members.hear(partition, places);
    }
  }

  /** Told in the log when it begins and ends, as that it is behind. */
  #isClockAhead(): boolean {
    const { options, clockWatch } = this.#context;
    const offUs = clockWatch.offUs();
    const off = Math.sign(offUs);
    if (off !== this.#clockOff) {
      this.#clockOff = off;
      const told = { ahead_ms: Math.round(offUs / 1_000) };
      if (off > 0)
        options.logger.warn(
          told,
          "this node's clock is far ahead of a majority's: it stamps less and leads nothing; set the clock",
        );
      else if (off < 0)
        options.logger.warn(
          told,
          "this node's clock is far behind a majority's: it stamps more; set the clock",
        );
      else options.logger.info(told, "this node's clock is no longer far off");
    }
    return off > 0;
  }
}

/** Undefined: as it was made, which everybody knows. */
function placesToTell(replica: Replica): Places | undefined {
  const { membership, confState } = replica.store;
  return membership.changes === 0
    ? undefined
    : { ...membership, learners: confState.learners, settled: replica.isChangeSettled };
}
