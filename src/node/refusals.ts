/**
 * Partitions that can elect no leader because damage is on a majority of their replicas:
 * told in the log, in GetCluster and in the error that callers get, with what this node
 * knows of their channels. Nothing here mends anything; `hansard repair` is for that.
 */
import type { Clock } from '../common/env.js';
import { HansardError } from '../common/errors.js';
import type { NodeId, PartitionId, Seq } from '../common/ids.js';
import type { Logger } from '../common/logger.js';
import type { Replica } from '../partition/replica.js';
import type { NodeFault, Refusal } from './types.js';

export interface RefusalsContext {
  readonly nodeId: NodeId;
  readonly clock: Clock;
  readonly logger: Logger;
  replica(partition: PartitionId): Replica | undefined;
  leaderOf(partition: PartitionId): NodeId | undefined;
  /** How many nodes hold a voting replica. */
  votersOf(partition: PartitionId): number;
  faults(): readonly NodeFault[];
  fatal(error: unknown): void;
}

/** Without a leader for so long, ms: an election, and a repair that needs only a moment, are none. */
const patienceMs = 5_000;
/** Of one partition; how many there are is told. */
const channelsTold = 100;
const channelsInText = 5;

export class Refusals {
  readonly #context: RefusalsContext;
  /** When each was first seen so. */
  readonly #since = new Map<PartitionId, number>();
  readonly #told = new Map<PartitionId, Refusal>();
  readonly #reading = new Set<PartitionId>();

  constructor(context: RefusalsContext) {
    this.#context = context;
  }

  of(partition: PartitionId): Refusal | undefined {
    return this.#told.get(partition);
  }

  all(): readonly Refusal[] {
    return [...this.#told.values()].sort((a, b) => a.partition - b.partition);
  }

  /** Once a second or so. */
  look(): void {
    const { clock, logger, leaderOf, votersOf } = this.#context;
    const damaged = new Map<PartitionId, Set<NodeId>>();
    for (const { partition, nodeId } of this.#context.faults()) {
      const nodes = damaged.get(partition) ?? new Set();
      damaged.set(partition, nodes.add(nodeId));
    }
    const isRefused = (partition: PartitionId): boolean =>
      leaderOf(partition) === undefined && 2 * (damaged.get(partition)?.size ?? 0) > votersOf(partition);
    for (const partition of [...this.#since.keys()]) {
      if (isRefused(partition)) continue;
      this.#since.delete(partition);
      if (this.#told.delete(partition)) logger.info({ partition }, 'the partition is refused no more');
    }
    const now = clock.monotonicMs();
    for (const [partition, nodes] of damaged) {
      if (!isRefused(partition)) continue;
      const since = this.#since.get(partition) ?? now;
      this.#since.set(partition, since);
      if (now - since < patienceMs || this.#told.has(partition) || this.#reading.has(partition)) continue;
      this.#reading.add(partition);
      this.#tell(
        partition,
        [...nodes].sort((a, b) => a - b),
      )
        .catch(this.#context.fatal)
        .finally(() => this.#reading.delete(partition));
    }
  }

  async #tell(partition: PartitionId, nodes: readonly NodeId[]): Promise<void> {
    const replica = this.#context.replica(partition);
    const { channels, isCut } = await knownChannels(replica);
    if (!this.#since.has(partition)) return;
    const refusal: Refusal = {
      partition,
      damagedNodes: nodes,
      channels,
      moreChannels: isCut,
      text: textOf(partition, nodes, this.#context.nodeId, channels, isCut),
    };
    this.#told.set(partition, refusal);
    this.#context.logger.error({ partition, damagedNodes: nodes, channels }, refusal.text);
  }
}

type Known = Refusal['channels'];

/** As far as this node's replica has applied; none where its state is damaged, or none is here. */
async function knownChannels(replica: Replica | undefined): Promise<{ channels: Known; isCut: boolean }> {
  if (replica === undefined || replica.isStateDamaged) return { channels: [], isCut: false };
  try {
    const query = { tenant: '', prefix: '', after: undefined, limit: channelsTold + 1 };
    const { channels } = await replica.store.scanChannels(query);
    const known: { tenant: string; channel: string; knownSeq: Seq }[] = [];
    for (const { state, deleted } of channels)
      if (state !== undefined && !deleted)
        known.push({ tenant: state.tenant, channel: state.name, knownSeq: state.headSeq });
    return { channels: known.slice(0, channelsTold), isCut: channels.length > channelsTold };
  } catch (error) {
    // Its damage is told as such by who reads it.
    if (error instanceof HansardError) return { channels: [], isCut: false };
    throw error;
  }
}

function textOf(
  partition: PartitionId,
  nodes: readonly NodeId[],
  self: NodeId,
  channels: Known,
  isCut: boolean,
): string {
  const some = channels
    .slice(0, channelsInText)
    .map(({ tenant, channel, knownSeq }) => `${tenant}/${channel} behind seq ${knownSeq}`);
  const more = isCut || channels.length > channelsInText ? ' and others' : '';
  const known =
    some.length === 0
      ? `node ${self} knows none of its channels`
      : `by what node ${self} knows, events may be lost of ${some.join(', ')}${more}`;
  return `partition ${partition} is refused: its replicas on nodes ${nodes.join(', ')} are damaged, a majority; ${known}`;
}
