/** Brings a call to the leader of its partition: here, by one hop, or after a short wait for an election. */
import { HansardError } from '../common/errors.js';
import type { NodeId, PartitionId } from '../common/ids.js';
import type { NodeService, Refusal } from '../node/types.js';
import type { CallContext, Response } from './calls.js';

/** An election takes one to two seconds at worst; longer means that there is no majority, ms. */
const leaderWaitMs = 3_000;
/** How often the leader is looked for while calls wait, ms. */
const leaderPollMs = 10;
/** Leadership that is lost between look and proposal leads to another look, at most so often. */
const attemptsMax = 3;

/** Before a call that met a leader of yesterday is forwarded anew, ms: a heartbeat tells who leads today. */
const forwardRetryMs = 50;

interface Waiter {
  readonly context: CallContext;
  readonly untilMs: number;
  readonly resolve: () => void;
  readonly reject: (error: HansardError) => void;
}

export class Router {
  readonly #node: NodeService;
  /** Calls that wait for a leader, oldest first: they go on in the order in which they came. */
  readonly #waiting = new Map<PartitionId, Waiter[]>();

  constructor(node: NodeService) {
    this.#node = node;
  }

  /** Does this node lead, and does no earlier call wait? Then a proposal keeps the order of arrival. */
  leadsNow(partition: PartitionId): boolean {
    return (
      (this.#waiting.size === 0 || !this.#waiting.has(partition)) &&
      this.#node.leaderOf(partition) === this.#node.identity.nodeId
    );
  }

  /**
   * Runs `local` where this node leads (synchronously, so that proposals keep the
   * order of arrival), else has the leader handle `request`: one hop, begun anew
   * where leadership moved meanwhile. A forwarded call goes no further.
   */
  atLeader<R extends Response>(
    context: CallContext,
    partition: PartitionId,
    request: Buffer,
    local: () => Promise<R>,
    attempt = 1,
    untilMs = Math.min(context.deadlineMs, this.#node.monotonicMs() + leaderWaitMs),
  ): Promise<R | Uint8Array> {
    const again = (next = attempt + 1): Promise<R | Uint8Array> =>
      this.atLeader(context, partition, request, local, next, untilMs);
    const leader = this.#waiting.has(partition) ? undefined : this.#node.leaderOf(partition);
    if (leader === this.#node.identity.nodeId) {
      context.forwardedTo = 0;
      if (context.origin === 'forward' || attempt >= attemptsMax) return local();
      return local().catch((error) => {
        // Nothing was proposed: whoever leads now may take it.
        if (error instanceof HansardError && error.reason === 'NOT_LEADER') return again();
        throw error;
      });
    }
    if (context.origin === 'forward') throw this.notLeader(partition, leader);
    if (leader !== undefined) {
      context.forwardedTo = leader;
      return this.#node.forward(leader, context.method, request, context.deadlineMs).catch((error) => {
        // Leadership had moved when it arrived: nothing was proposed, and soon we know who leads.
        const moved = error instanceof HansardError && error.reason === 'NOT_LEADER';
        if (!moved || context.cancelled || this.#node.monotonicMs() + forwardRetryMs >= untilMs) throw error;
        return new Promise((resolve) => setTimeout(resolve, forwardRetryMs)).then(() => again(attempt));
      });
    }
    // Nobody waits for what only an operator can bring back.
    if (attempt >= attemptsMax || this.#refusal(partition) !== undefined) throw this.#noQuorum(partition);
    return this.#leaderKnown(context, partition, untilMs).then(() => again());
  }

  /** The error for whoever must go to the leader; empty where it is not known. */
  notLeader(partition: PartitionId, leader: NodeId | undefined): HansardError {
    const address = leader === undefined ? undefined : this.#node.addressOf(leader);
    return new HansardError(
      'NOT_LEADER',
      `node ${this.#node.identity.nodeId} does not lead partition ${partition}`,
      {
        partition,
        ...(leader === undefined ? {} : { leader_node_id: leader }),
        ...(address === undefined ? {} : { leader_address: address }),
      },
    );
  }

  #refusal(partition: PartitionId): Refusal | undefined {
    return this.#node.refusals().find((one) => one.partition === partition);
  }

  #noQuorum(partition: PartitionId): HansardError {
    const refusal = this.#refusal(partition);
    if (refusal !== undefined) {
      const damaged = refusal.damagedNodes.join(',');
      return new HansardError('NO_QUORUM', refusal.text, { partition, damaged_nodes: damaged });
    }
    return new HansardError('NO_QUORUM', `partition ${partition} has no leader that this node knows`, {
      partition,
    });
  }

  #leaderKnown(context: CallContext, partition: PartitionId, untilMs: number): Promise<void> {
    return new Promise((resolve, reject) => {
      const waiter: Waiter = { context, untilMs, resolve, reject };
      const queue = this.#waiting.get(partition);
      if (queue !== undefined) queue.push(waiter);
      else {
        this.#waiting.set(partition, [waiter]);
        setTimeout(() => this.#look(partition), leaderPollMs);
      }
    });
  }

  #look(partition: PartitionId): void {
    const queue = this.#waiting.get(partition) ?? [];
    if (this.#node.leaderOf(partition) !== undefined) {
      // Out of the map first: those released look again and must not queue behind themselves.
      this.#waiting.delete(partition);
      for (const waiter of queue) waiter.resolve();
      return;
    }
    const nowMs = this.#node.monotonicMs();
    const rest = queue.filter((waiter) => {
      if (waiter.untilMs > nowMs && !waiter.context.cancelled) return true;
      waiter.reject(this.#noQuorum(partition));
      return false;
    });
    if (rest.length === 0) {
      this.#waiting.delete(partition);
      return;
    }
    this.#waiting.set(partition, rest);
    setTimeout(() => this.#look(partition), leaderPollMs);
  }
}
