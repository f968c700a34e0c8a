/**
 * Who leads. When a leader's process is gone (its stream broke and a reconnect
 * was refused) nobody waits for the election timeout: followers forget it, and
 * the one ranked r campaigns after r steps; pre-vote still guards (design rule
 * 14). In quiet times a leader hands over to a better ranked replica.
 */
import type { Clock, Random, Timer } from '../common/env.js';
import type { NodeId, PartitionId } from '../common/ids.js';
import type { Replica } from '../partition/replica.js';
import type { NodeSettings } from './options.js';

export interface ElectionsContext {
  readonly nodeId: NodeId;
  readonly clock: Clock;
  readonly random: Random;
  readonly settings: NodeSettings;
  replicas(): readonly Replica[];
  /** A process that we can talk to both ways. */
  isConnected(node: NodeId): boolean;
  /** Not where its clock is far ahead, it stops, or its replica is damaged. */
  mayLead(node: NodeId, partition: PartitionId): boolean;
}

/**
 * Transfers begun in one look: leadership moves without a stampede of elections; and of so many replicas one,
 * so that a thousand are spread within half a minute of a start, not five.
 */
const transfersPerLook = 4;
const replicasPerTransfer = 32;

export class Elections {
  readonly #context: ElectionsContext;
  readonly #campaigns = new Map<Replica, Timer>();
  #balanceTimer: Timer | undefined;
  #stopped = false;

  constructor(context: ElectionsContext) {
    this.#context = context;
  }

  start(): void {
    this.#scheduleBalance();
    // With nobody to wait for. (The core knows whether this replica may stand at all.)
    for (const replica of this.#context.replicas()) if (replica.voters.length === 1) replica.campaign();
  }

  /** A peer can be talked to: leaderless partitions elect without waiting for the timeout. */
  peerUp(): void {
    for (const replica of this.#context.replicas()) {
      if (replica.leader === undefined && this.#hasQuorum(replica)) this.#campaignSoon(replica);
    }
  }

  /** The process of `node` is gone. */
  peerGone(node: NodeId): void {
    for (const replica of this.#context.replicas()) {
      if (replica.leader !== node) continue;
      replica.forgetLeader();
      this.#campaignSoon(replica);
    }
  }

  /** The replica is no member any more. */
  forget(replica: Replica): void {
    this.#campaigns.get(replica)?.cancel();
    this.#campaigns.delete(replica);
  }

  stop(): void {
    this.#stopped = true;
    this.#balanceTimer?.cancel();
    for (const timer of this.#campaigns.values()) timer.cancel();
    this.#campaigns.clear();
  }

  #campaignSoon(replica: Replica): void {
    if (this.#stopped || this.#campaigns.has(replica)) return;
    const { settings, clock, random } = this.#context;
    const rank = this.#rankAmongLiving(replica);
    const delay = rank * settings.campaignStepMs + (random.u32() % (settings.campaignJitterMs + 1));
    this.#campaigns.set(
      replica,
      clock.after(delay, () => {
        this.#campaigns.delete(replica);
        if (replica.leader !== undefined || replica.isLeader || !this.#hasQuorum(replica)) return;
        replica.campaign();
        // Lost or split: again after all others had their turn.
        this.#campaigns.set(
          replica,
          clock.after(settings.campaignStepMs * (replica.voters.length + 1), () => {
            this.#campaigns.delete(replica);
            if (replica.leader === undefined) this.#campaignSoon(replica);
          }),
        );
      }),
    );
  }

  #rankAmongLiving(replica: Replica): number {
    let rank = 0;
    for (const { nodeId } of replica.voters) {
      if (nodeId === this.#context.nodeId) return rank;
      if (this.#context.isConnected(nodeId)) rank++;
    }
    return rank;
  }

  #hasQuorum(replica: Replica): boolean {
    return replica.membership.hasQuorum((node) => this.#isAlive(node));
  }

  #isAlive(node: NodeId): boolean {
    return node === this.#context.nodeId || this.#context.isConnected(node);
  }

  #scheduleBalance(): void {
    const { clock, settings, random } = this.#context;
    const delay = settings.balanceMs + (random.u32() % (settings.balanceMs / 2 + 1));
    this.#balanceTimer = clock.after(delay, () => {
      if (this.#stopped) return;
      this.#balance();
      this.#scheduleBalance();
    });
  }

  /** Hands a few partitions to their best ranked living replica, if it has all that is committed. */
  #balance(): void {
    let begun = 0;
    const most = Math.max(transfersPerLook, this.#context.replicas().length / replicasPerTransfer);
    for (const replica of this.#context.replicas()) {
      if (begun >= most) return;
      if (!replica.isLeader) continue;
      const best = replica.voters.find(
        ({ nodeId, replicaId }) =>
          replica.membership.isHeir(replicaId) &&
          this.#isAlive(nodeId) &&
          this.#context.mayLead(nodeId, replica.partition),
      );
      if (best === undefined || best.nodeId === this.#context.nodeId || !replica.isCaughtUp(best.replicaId))
        continue;
      replica.transferLeadership(best.replicaId);
      begun++;
    }
  }
}
