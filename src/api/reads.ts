/** What all reads share: their options, the barrier, and who serves them. */
import { HansardError } from '../common/errors.js';
import type { PartitionId } from '../common/ids.js';
import type { ChannelState } from '../conversation/types.js';
import type { NodeService, ReadView } from '../node/types.js';
import type { CallContext } from './calls.js';
import type { Router } from './route.js';
import type { Route } from './skim.js';
import type { CommitPositions, Tokens } from './tokens.js';

/** hansard.v1.ReadOptions as proto-loader decodes it. */
export interface ReadOptionsMessage {
  level: number;
  preference: number;
  commit_tokens: Uint8Array[];
}

export interface ReadPlan {
  readonly level: 'linearizable' | 'eventual';
  readonly preference: 'local' | 'leader' | 'leader-if-known';
  readonly positions: CommitPositions;
}

const Level = { unspecified: 0, linearizable: 1, session: 2, bounded: 3, eventual: 4 } as const;
const Preference = { primary: 1, primaryPreferred: 2 } as const;
const nothing: CommitPositions = new Map();

/** Throws READ_LEVEL_UNAVAILABLE, INVALID_TOKEN, INCARNATION_CHANGED. */
export function planRead(read: ReadOptionsMessage | null | undefined, tokens: Tokens): ReadPlan {
  if (read === null || read === undefined) {
    return { level: 'linearizable', preference: 'local', positions: nothing };
  }
  const { level, preference } = read;
  if (level === Level.bounded) {
    throw new HansardError('READ_LEVEL_UNAVAILABLE', 'BOUNDED is not served by this version', {
      level: 'BOUNDED',
    });
  }
  const positions = read.commit_tokens.length > 0 ? tokens.merge(read.commit_tokens) : nothing;
  return {
    // SESSION is what the tokens say, and they are honoured at every level.
    level: level === Level.session || level === Level.eventual ? 'eventual' : 'linearizable',
    preference:
      preference === Preference.primary
        ? 'leader'
        : preference === Preference.primaryPreferred
          ? 'leader-if-known'
          : 'local',
    positions,
  };
}

export class Reads {
  readonly #node: NodeService;
  readonly #router: Router;

  constructor(node: NodeService, router: Router) {
    this.#node = node;
    this.#router = router;
  }

  /** Has `serve` answer from a replica that the plan allows: this node's, or the leader's. */
  at(
    context: CallContext,
    partition: PartitionId,
    plan: ReadPlan,
    request: Buffer,
    serve: (view: ReadView) => Promise<Uint8Array>,
  ): Promise<Uint8Array> {
    const local = async (): Promise<Uint8Array> => serve(await this.barrier(context, partition, plan));
    const leads = this.#node.leaderOf(partition) === this.#node.identity.nodeId;
    const wantsLeader =
      plan.preference === 'leader' ||
      (plan.preference === 'leader-if-known' && this.#node.leaderOf(partition) !== undefined);
    if (leads) return local();
    if (wantsLeader) return this.#atLeader(context, partition, request, local);
    return local().catch((error) => {
      // No replica of the partition here.
      const elsewhere = error instanceof HansardError && error.reason === 'NOT_LEADER';
      if (elsewhere && context.origin !== 'forward')
        return this.#atLeader(context, partition, request, local);
      throw error;
    });
  }

  barrier(context: CallContext, partition: PartitionId, plan: ReadPlan): Promise<ReadView> {
    return this.#node.readBarrier(partition, {
      level: plan.level,
      minIndex: plan.positions.get(partition) ?? 0,
      deadlineMs: context.deadlineMs,
    });
  }

  async #atLeader(
    context: CallContext,
    partition: PartitionId,
    request: Buffer,
    local: () => Promise<Uint8Array>,
  ): Promise<Uint8Array> {
    try {
      return await this.#router.atLeader(context, partition, request, local);
    } catch (error) {
      if (!(error instanceof HansardError) || error.reason !== 'COMMIT_UNKNOWN') throw error;
      // A read has no effect: where its answer was lost it may simply be sent again.
      throw new HansardError('NOT_LEADER', `the leader of partition ${partition} was lost during the read`, {
        partition,
      });
    }
  }
}

export async function channelOf(view: ReadView, route: Route): Promise<ChannelState> {
  const channel = await view.reader.channelByName(route.tenant, route.channel);
  if (channel !== undefined) return channel;
  throw new HansardError('CHANNEL_NOT_FOUND', `tenant ${route.tenant} has no channel ${route.channel}`, {
    tenant: route.tenant,
    channel: route.channel,
  });
}
