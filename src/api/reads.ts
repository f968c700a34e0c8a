/**
 * What all reads share: their options, the barrier, which replica serves them, and
 * what becomes of a read that the asked replica can't serve as fresh as it must be.
 */
import { HansardError } from '../common/errors.js';
import type { NodeId, PartitionId } from '../common/ids.js';
import type { ChannelState } from '../conversation/types.js';
import type { NodeService, ReadView } from '../node/types.js';
import type { ReadBarrierLevel } from '../partition/reads.js';
import type { CallContext, Response } from './calls.js';
import { invalidArgument } from './names.js';
import type { Router } from './route.js';
import type { Route } from './skim.js';
import type { Soon } from './soon.js';
import type { CommitPositions, Tokens } from './tokens.js';

/** hansard.v1.ReadOptions as proto-loader decodes it. */
export interface ReadOptionsMessage {
  level: number;
  preference: number;
  max_staleness: { seconds: string; nanos: number } | null;
  commit_tokens: Uint8Array[];
}

/** 'asked': the node that was asked, whatever it is. */
export type PlannedReplica = 'asked' | 'primary' | 'primary-preferred' | 'secondary' | 'secondary-preferred';

export interface ReadPlan {
  readonly level: ReadBarrierLevel;
  readonly preference: PlannedReplica;
  /** For 'bounded'. */
  readonly maxStalenessMs: number;
  readonly positions: CommitPositions;
}

const Level = { unspecified: 0, linearizable: 1, session: 2, bounded: 3, eventual: 4 } as const;
/** By number of hansard.v1.ReadPreference; NEAREST is where the client has sent it. */
const preferences: readonly PlannedReplica[] = [
  'asked',
  'primary',
  'primary-preferred',
  'secondary',
  'secondary-preferred',
  'asked',
];
const nothing: CommitPositions = new Map();
const defaultPlan: ReadPlan = Object.freeze({
  level: 'linearizable',
  preference: 'asked',
  maxStalenessMs: 0,
  positions: nothing,
});

/**
 * The share of a read's time after which a replica that does not meet its level
 * hands it over: what is left must be enough for another one.
 */
const patienceShare = 0.4;
/** And at most so long, ms: a replica that applies what it has takes less. */
const patienceMaxMs = 300;

/** Throws INVALID_ARGUMENT, INVALID_TOKEN, INCARNATION_CHANGED. */
export function planRead(read: ReadOptionsMessage | null | undefined, tokens: Tokens): ReadPlan {
  if (read === null || read === undefined) return defaultPlan;
  const { level, max_staleness } = read;
  const preference = preferences[read.preference];
  if (preference === undefined)
    throw invalidArgument('read.preference', 'no preference that this version knows');
  if (level > Level.eventual) throw invalidArgument('read.level', 'no level that this version knows');
  const positions = read.commit_tokens.length > 0 ? tokens.merge(read.commit_tokens) : nothing;
  return {
    // SESSION is what the tokens say, and they are honoured at every level.
    level:
      level === Level.bounded
        ? 'bounded'
        : level === Level.session || level === Level.eventual
          ? 'eventual'
          : 'linearizable',
    preference,
    maxStalenessMs: level === Level.bounded ? boundOf(max_staleness) : 0,
    positions,
  };
}

function boundOf(duration: ReadOptionsMessage['max_staleness']): number {
  if (duration === null) throw invalidArgument('read.max_staleness', 'BOUNDED needs it');
  const ms = Number(duration.seconds) * 1_000 + duration.nanos / 1e6;
  if (ms < 0) throw invalidArgument('read.max_staleness', 'must not be negative');
  return ms;
}

/**
 * How long a read that was handed over waits for a leader that can be reached, ms: whoever
 * is cut off says so soon, and its client asks another node.
 */
const handOverMs = 700;

type Serve = (view: ReadView) => Soon<Response>;

export class Reads {
  readonly #node: NodeService;
  readonly #router: Router;

  constructor(node: NodeService, router: Router) {
    this.#node = node;
    this.#router = router;
  }

  /**
   * Has `serve` answer from a replica that the plan allows: this node's, or another
   * one's. The level holds wherever it is answered; a replica that can't meet it in
   * time hands the read over, or says so.
   */
  at(
    context: CallContext,
    partition: PartitionId,
    plan: ReadPlan,
    request: Buffer,
    serve: Serve,
  ): Promise<Response> {
    const { preference } = plan;
    const leader = this.#node.leaderOf(partition);
    const leads = leader === this.#node.identity.nodeId;
    if (leads && preference !== 'secondary' && preference !== 'secondary-preferred')
      return this.#here(context, partition, plan, serve);
    if (context.origin === 'forward') return this.#forwarded(context, partition, plan, serve, leads);
    switch (preference) {
      case 'primary':
        return this.#atLeader(context, partition, request, () => this.#here(context, partition, plan, serve));
      case 'primary-preferred':
        if (leader !== undefined) return this.#leaderFirst(context, partition, plan, request, serve);
        return this.#hereOrLeader(context, partition, plan, request, serve);
      case 'secondary':
      case 'secondary-preferred':
        return this.#atSecondary(context, partition, plan, request, serve, leads);
      case 'asked':
        return this.#hereOrLeader(context, partition, plan, request, serve);
    }
  }

  barrier(
    context: Pick<CallContext, 'deadlineMs'>,
    partition: PartitionId,
    plan: ReadPlan,
    deadlineMs = context.deadlineMs,
  ): Promise<ReadView> {
    return this.#node.readBarrier(partition, {
      level: plan.level,
      minIndex: plan.positions.get(partition) ?? 0,
      deadlineMs,
      maxStalenessMs: plan.maxStalenessMs,
    });
  }

  async #here(context: CallContext, partition: PartitionId, plan: ReadPlan, serve: Serve): Promise<Response> {
    const view = await this.barrier(context, partition, plan);
    // Leadership may have come or gone while the barrier was waited for.
    if (plan.preference === 'primary' && view.role !== 'primary')
      throw this.#router.notLeader(partition, this.#node.leaderOf(partition));
    if (plan.preference === 'secondary' && view.role === 'primary') throw noSecondary(partition);
    return serve(view);
  }

  /** Another node chose this one: as a replica that it took for a secondary, or because it could not serve itself. */
  #forwarded(
    context: CallContext,
    partition: PartitionId,
    plan: ReadPlan,
    serve: Serve,
    leads: boolean,
  ): Promise<Response> {
    if (plan.preference === 'primary')
      return Promise.reject(this.#router.notLeader(partition, this.#node.leaderOf(partition)));
    if (plan.preference === 'secondary' && leads) return Promise.reject(noSecondary(partition));
    return this.#here(context, partition, plan, serve);
  }

  /** Undefined: this replica does not meet the level within its share of the time; `why` it does not is kept. */
  async #viewInTime(
    context: CallContext,
    partition: PartitionId,
    plan: ReadPlan,
    why: { error?: HansardError },
  ): Promise<ReadView | undefined> {
    const nowMs = this.#node.monotonicMs();
    const patienceMs = Math.min(patienceMaxMs, (context.deadlineMs - nowMs) * patienceShare);
    try {
      return await this.barrier(context, partition, plan, nowMs + patienceMs);
    } catch (error) {
      if (!(error instanceof HansardError) || !mayServeElsewhere.has(error.reason)) throw error;
      why.error = error;
      return undefined;
    }
  }

  /** This node's replica if it can, else the leader's. */
  async #hereOrLeader(
    context: CallContext,
    partition: PartitionId,
    plan: ReadPlan,
    request: Buffer,
    serve: Serve,
  ): Promise<Response> {
    const view = await this.#viewInTime(context, partition, plan, {});
    if (view !== undefined) return serve(view);
    const untilMs = Math.min(context.deadlineMs, this.#node.monotonicMs() + handOverMs);
    const local = (): Promise<Response> => this.#here(context, partition, plan, serve);
    return this.#atLeader(context, partition, request, local, untilMs);
  }

  /** The leader's while it answers; another replica keeps the level as well, only later or not at all. */
  async #leaderFirst(
    context: CallContext,
    partition: PartitionId,
    plan: ReadPlan,
    request: Buffer,
    serve: Serve,
  ): Promise<Response> {
    const nowMs = this.#node.monotonicMs();
    const { method, origin, traceparent, deadlineMs } = context;
    const share: CallContext = {
      method,
      origin,
      traceparent,
      deadlineMs: nowMs + (deadlineMs - nowMs) * (1 - patienceShare),
      get cancelled() {
        return context.cancelled;
      },
      forwardedTo: 0,
    };
    try {
      return await this.#atLeader(share, partition, request, () => this.#here(share, partition, plan, serve));
    } catch (error) {
      if (!(error instanceof HansardError) || !mayServeElsewhere.has(error.reason)) throw error;
      return await this.#here(context, partition, plan, serve).catch(() => {
        throw error;
      });
    } finally {
      context.forwardedTo = share.forwardedTo;
    }
  }

  /** A replica that does not lead: this one, else others in turn; with 'preferred' the leader in the end. */
  async #atSecondary(
    context: CallContext,
    partition: PartitionId,
    plan: ReadPlan,
    request: Buffer,
    serve: Serve,
    leads: boolean,
  ): Promise<Response> {
    const why: { error?: HansardError } = {};
    if (!leads) {
      const view = await this.#viewInTime(context, partition, plan, why);
      if (view !== undefined && view.role !== 'primary') return serve(view);
    }
    const others = this.#otherSecondaries(partition);
    for (const [i, node] of others.entries()) {
      const nowMs = this.#node.monotonicMs();
      const leftMs = context.deadlineMs - nowMs;
      if (leftMs <= 0 || context.cancelled) break;
      // Something is left for the next one, and for the leader behind them.
      const isLast = i === others.length - 1 && plan.preference === 'secondary';
      const untilMs = isLast ? context.deadlineMs : nowMs + leftMs * (1 - patienceShare);
      try {
        // Not `forwardedTo`: that tells clients who leads.
        return await this.#node.forward(node, context.method, request, untilMs);
      } catch (error) {
        if (!(error instanceof HansardError) || !mayServeElsewhere.has(error.reason)) throw error;
        why.error = error;
      }
    }
    if (plan.preference === 'secondary') throw why.error ?? noSecondary(partition);
    if (leads) return this.#here(context, partition, plan, serve);
    const atLeader = { ...plan, preference: 'primary' as const };
    return this.#atLeader(context, partition, request, () => this.#here(context, partition, atLeader, serve));
  }

  /** Connected ones; those that lead are left out, as far as this node knows. */
  #otherSecondaries(partition: PartitionId): NodeId[] {
    const { leader, replicas } = this.#node.partitionDetail(partition);
    const self = this.#node.identity.nodeId;
    return replicas
      .filter(({ nodeId, connected }) => connected && nodeId !== self && nodeId !== leader)
      .map(({ nodeId }) => nodeId);
  }

  async #atLeader(
    context: CallContext,
    partition: PartitionId,
    request: Buffer,
    local: () => Promise<Response>,
    untilMs?: number,
  ): Promise<Response> {
    try {
      return await this.#router.atLeader(context, partition, request, local, 1, untilMs);
    } catch (error) {
      if (!(error instanceof HansardError) || error.reason !== 'COMMIT_UNKNOWN') throw error;
      // A read has no effect: where its answer was lost it may simply be sent again.
      throw new HansardError('NOT_LEADER', `the leader of partition ${partition} was lost during the read`, {
        partition,
      });
    }
  }
}

/** What says nothing of the read, only of the replica or of the way there. */
const mayServeElsewhere: ReadonlySet<string> = new Set([
  'NOT_LEADER',
  'NO_QUORUM',
  'NO_SECONDARY',
  'DEADLINE_EXCEEDED',
  'COMMIT_UNKNOWN',
  'SHUTTING_DOWN',
  'OVERLOADED',
]);

function noSecondary(partition: PartitionId): HansardError {
  return new HansardError('NO_SECONDARY', `no secondary of partition ${partition} can be reached`, {
    partition,
  });
}

export async function channelOf(view: ReadView, route: Route): Promise<ChannelState> {
  const channel = await view.reader.channelByName(route.tenant, route.channel);
  if (channel !== undefined) return channel;
  throw channelNotFound(route);
}

export function channelNotFound({ tenant, channel }: Route): HansardError {
  return new HansardError('CHANNEL_NOT_FOUND', `tenant ${tenant} has no channel ${channel}`, {
    tenant,
    channel,
  });
}
