/**
 * Who leads. When a leader's process is gone (its stream broke and a reconnect
 * was refused) nobody waits for the election timeout: followers forget it, and
 * the one ranked r campaigns after r steps; pre-vote still guards (design rule
 * 14). Now and then a leader hands over to who should lead (leader-balance.ts).
 */
import type { Clock, Random, Timer } from '../common/env.js';
import type { NodeId } from '../common/ids.js';
import type { Logger } from '../common/logger.js';
import type { Replica } from '../partition/replica.js';
import type { LeaderBalance } from './leader-balance.js';
import type { NodeSettings } from './options.js';

export interface ElectionsContext {
  readonly nodeId: NodeId;
  readonly clock: Clock;
  readonly random: Random;
  readonly settings: NodeSettings;
  readonly logger: Logger;
  replicas(): readonly Replica[];
  /** A process that we can talk to both ways. */
  isConnected(node: NodeId): boolean;
  readonly balance: LeaderBalance;
}

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

  #balance(): void {
    const { balance, logger, replicas } = this.#context;
    const transfers = balance.due(replicas());
    for (const { replica, to } of transfers) replica.transferLeadership(to.replicaId);
    if (transfers.length === 0) return;
    const busy = balance.standing?.busy;
    const told = busy === undefined ? {} : { busy_percent: Math.round(busy * 100) };
    logger.info({ leaderships: transfers.length, ...told }, 'leaderships go to other nodes');
  }
}
