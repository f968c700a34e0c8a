/**
 * Which leaderships should go to another node. Each leader decides for itself, by what the nodes told of their loads.
 *
 * Together: the first member, by node id, leads. What is proposed at one node shares entries, frames, syncs and wake-ups,
 * and those cost more than what they carry: three nodes that lead a third each take up to twice the CPU for the same
 * appends, and answer later (docs/performance.md). That ends where so much is under way that each of several leaders
 * has its entries full: then who is busy hands leaderships to nodes that are less so, and they stay where they are as long as
 * such loads come back. And it ends where the loop alone is what limits: how much of it a node could carry if it had
 * it back nobody can know beforehand, so that is tried after a while, and each time that it was too much, after twice as long.
 *
 * Spread: each partition has a first member of its own by hash, whatever the loads: fewer channels wait where a node is lost.
 */
import type { NodeId, PartitionId, ReplicaId } from '../common/ids.js';
import type { ReplicaMember } from '../common/membership.js';
import type { Leaders } from './placement.js';

/** Of this node, in the last seconds (loop-load.ts). */
export interface Load {
  /** Shares of the time, 0 to 1: the loop had something to do; it ran on a core. */
  readonly busy: number;
  readonly cpu: number;
  /** Proposals under way at one time. */
  readonly proposals: number;
  /** Much is under way at all nodes together, or was lately: so that those among whom it was spread see it, too. */
  readonly isDeep: boolean;
}

/** As a node tells it. */
export interface Standing {
  /** Its loop had something to do, 0 to 1, in the last seconds. */
  readonly busy: number;
  /** Proposals that it had under way at one time, in the last seconds. */
  readonly proposals: number;
  /** It would lead what others lead in its place. */
  readonly hasRoom: boolean;
}

/** What it asks of a Replica. */
export interface Led {
  readonly partition: PartitionId;
  readonly isLeader: boolean;
  readonly isQuiescent: boolean;
  readonly leader: NodeId | undefined;
  /** In the order in which they should lead. */
  readonly voters: readonly ReplicaMember[];
  readonly membership: { isHeir(replicaId: ReplicaId): boolean };
  isCaughtUp(replicaId: ReplicaId): boolean;
}

export interface BalanceContext {
  readonly nodeId: NodeId;
  readonly leaders: Leaders;
  monotonicMs(): number;
  load(): Load;
  /** Undefined: it has not told, is of an earlier build, or has its leaders spread. Nobody is handed leaderships against his own rules. */
  standingOf(node: NodeId): Standing | undefined;
  /** It lives, and may lead that partition. */
  mayTake(node: NodeId, partition: PartitionId): boolean;
}

export interface Transfer<L extends Led> {
  readonly replica: L;
  readonly to: ReplicaMember;
}

/** From this share of the time on a loop is busy: what comes waits for its turn, or for a core that others have. */
const busyFrom = 0.8;
/** From this share of a core on the loop is what limits, and nothing else. */
const saturatedFrom = 0.9;
/** Who takes a leadership from it is less busy by this much, as what it takes makes it busier and the other one less. */
const busyGap = 0.2;
/** A node that handed on what was too much for it has it back no sooner, ms; each time that this was too early, twice as long later. */
const holdOffMinMs = 10_000;
const holdOffMaxMs = 16 * 60_000;
/** It did well for so long: the load is another one. */
const calmMs = 10 * 60_000;

/**
 * Transfers begun in one look: leadership moves without a stampede of elections; and of so many replicas one,
 * so that a thousand have moved within half a minute of a start, not five.
 */
const transfersPerLook = 4;
const replicasPerTransfer = 32;
/** The same where a loop has too much to do, which is urgent. */
const shedPerLook = 8;

export class LeaderBalance {
  readonly #context: BalanceContext;
  #holdOffMs = holdOffMinMs;
  #roomFromMs = Number.NEGATIVE_INFINITY;

  constructor(context: BalanceContext) {
    this.#context = context;
  }

  /** To be told; undefined: leaderships do not go by loads here. */
  get standing(): Standing | undefined {
    if (this.#context.leaders === 'spread') return undefined;
    const { busy, cpu, proposals, isDeep } = this.#context.load();
    const isHeldOff = this.#context.monotonicMs() < this.#roomFromMs;
    return { busy, proposals, hasRoom: !isDeep && !isHeldOff && cpu < saturatedFrom };
  }

  /** For one look. `replicas`: all that this node holds. */
  due<L extends Led>(replicas: readonly L[]): Transfer<L>[] {
    if (this.#context.leaders === 'spread') return this.#homeward(replicas);
    const { busy, cpu, isDeep } = this.#context.load();
    if (isDeep) return busy < busyFrom ? [] : this.#shed(replicas, busy);
    if (cpu < saturatedFrom) return this.#homeward(replicas);
    const transfers = this.#shed(replicas, busy);
    if (transfers.length > 0) this.#holdOff(this.#context.monotonicMs());
    return transfers;
  }

  /** To whom should lead. */
  #homeward<L extends Led>(replicas: readonly L[]): Transfer<L>[] {
    const most = Math.max(transfersPerLook, replicas.length / replicasPerTransfer);
    const transfers: Transfer<L>[] = [];
    for (const replica of replicas) {
      if (transfers.length >= most) break;
      if (!replica.isLeader) continue;
      // To the first one or nobody: where it has no room, who comes next has been handed what it is to have.
      const to = replica.voters.find((member) => this.#couldLead(replica, member));
      if (to === undefined || to.nodeId === this.#context.nodeId || !this.#hasRoom(to.nodeId)) continue;
      if (replica.isCaughtUp(to.replicaId)) transfers.push({ replica, to });
    }
    return transfers;
  }

  #hasRoom(node: NodeId): boolean {
    return this.#context.leaders === 'spread' || this.#context.standingOf(node)?.hasRoom === true;
  }

  #couldLead(replica: Led, { nodeId, replicaId }: ReplicaMember): boolean {
    return replica.membership.isHeir(replicaId) && this.#context.mayTake(nodeId, replica.partition);
  }

  /** Half of what it leads at most in one look: how busy all are then comes with the next words. What is quiet is no load. */
  #shed<L extends Led>(replicas: readonly L[], ownBusy: number): Transfer<L>[] {
    const { nodeId, standingOf } = this.#context;
    const awake = replicas.filter((replica) => !replica.isQuiescent);
    const led = new Map<NodeId, number>();
    const ledBy = (node: NodeId): number => led.get(node) ?? 0;
    for (const { leader } of awake) if (leader !== undefined) led.set(leader, ledBy(leader) + 1);
    const bearable = Math.max(shedPerLook, replicas.length / replicasPerTransfer);
    const most = Math.min(Math.ceil(ledBy(nodeId) / 2), bearable);
    const transfers: Transfer<L>[] = [];
    for (const replica of awake) {
      if (transfers.length >= most) break;
      if (!replica.isLeader) continue;
      const [to] = replica.voters
        .filter(
          (member) =>
            (standingOf(member.nodeId)?.busy ?? 1) <= ownBusy - busyGap &&
            // Else it would be the other one's to hand it back.
            ledBy(member.nodeId) + 2 <= ledBy(nodeId) &&
            this.#couldLead(replica, member) &&
            replica.isCaughtUp(member.replicaId),
        )
        .sort((a, b) => ledBy(a.nodeId) - ledBy(b.nodeId));
      if (to === undefined) continue;
      transfers.push({ replica, to });
      led.set(to.nodeId, ledBy(to.nodeId) + 1);
      led.set(nodeId, ledBy(nodeId) - 1);
    }
    return transfers;
  }

  #holdOff(nowMs: number): void {
    if (nowMs > this.#roomFromMs + calmMs) this.#holdOffMs = holdOffMinMs;
    else if (nowMs >= this.#roomFromMs) this.#holdOffMs = Math.min(2 * this.#holdOffMs, holdOffMaxMs);
    this.#roomFromMs = nowMs + this.#holdOffMs;
  }
}
