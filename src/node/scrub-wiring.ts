/** The scrubber's place in a node: what it reads, whom it asks, who acts on what it finds. */
import { ByteReader, ByteWriter } from '../common/bytes.js';
import { HansardError } from '../common/errors.js';
import type { NodeId, PartitionId } from '../common/ids.js';
import { emptyProposal, type Proposal } from '../partition/proposals.js';
import type { Replica } from '../partition/replica.js';
import { Pace } from '../store/pace.js';
import { DigestRounds, digestRoundMethod } from './digest-rounds.js';
import type { Forwarding } from './forwarding.js';
import type { NodeOptions } from './options.js';
import { Scrubber } from './scrubber.js';

/** By a leader, to a node whose replica differs from a majority. */
const differsMethod = 'hansard.internal.v1/ReplicaDiffers';
const scrubFact = 'scrub';
const tellMs = 5_000;

export interface ScrubWiring {
  readonly options: NodeOptions;
  readonly forwarding: Forwarding;
  replica(partition: PartitionId): Replica | undefined;
  replicas(): readonly Replica[];
  isConnected(node: NodeId): boolean;
  submit(partition: PartitionId, proposal: Proposal): void;
  markDamaged(partition: PartitionId, why: string): void;
  wantCheckpoint(partition: PartitionId): void;
  fatal(error: unknown): void;
}

export function createScrubber(wiring: ScrubWiring): Scrubber {
  const { options, forwarding } = wiring;
  // Not the guarded clock: what waits must end also where the node has failed.
  const { clock, logger, settings, store, wal, identity } = options;
  const readable = (partition: PartitionId): Replica | undefined => {
    const replica = wiring.replica(partition);
    return replica?.isInitialised && !replica.isStateDamaged && !replica.isMute ? replica : undefined;
  };
  const rounds = new DigestRounds({
    nodeId: identity.nodeId,
    clock,
    store: (partition) => readable(partition)?.store,
    members: (partition) => membersToCompare(wiring, readable(partition)),
    ask: (node, method, request, deadlineMs) => forwarding.forward(node, method, request, deadlineMs),
    proposeNothing: (partition, deadlineMs) => proposeNothing(wiring, partition, deadlineMs),
    pace: () => new Pace(clock, settings.scrubBytesPerSecond),
    damaged: (partition, error) => {
      scrubber.found('row', partition, error.message);
      wiring.markDamaged(partition, error.message);
    },
    fatal: wiring.fatal,
  });
  const scrubber = new Scrubber({
    nodeId: identity.nodeId,
    clock,
    logger,
    periodMs: settings.scrubPeriodMs,
    bytesPerSecond: settings.scrubBytesPerSecond,
    files: options.scrubFiles,
    rounds,
    stores: () => store.partitions(),
    leads: (partition) => readable(partition)?.isLeader === true,
    replicaCount: (partition) => wiring.replica(partition)?.members.length ?? 0,
    extent: () => wal.extent(),
    damaged: wiring.markDamaged,
    tell: async (node, partition, why) => {
      const request = new ByteWriter(64).u8(1).uvarint(partition).string(why).finish();
      await forwarding.forward(node, differsMethod, request, clock.monotonicMs() + tellMs);
    },
    recordsDamaged: () => {
      store.rewriteRecords().catch(wiring.fatal);
    },
    logDamaged: (partitions) => {
      // Sealed, its entries are not needed any more: the segment goes with the next ones.
      for (const { partition } of wiring.replicas())
        if (partitions === undefined || partitions.includes(partition)) wiring.wantCheckpoint(partition);
    },
    load: () => store.getFact(scrubFact),
    save: (bytes) => store.putFact(scrubFact, bytes),
    fatal: wiring.fatal,
  });
  forwarding.serve(digestRoundMethod, async (from, request) => rounds.serve(from, request));
  forwarding.serve(differsMethod, async (from, request) => {
    const reader = new ByteReader(request);
    if (reader.u8() !== 1) throw new HansardError('NOT_IMPLEMENTED', 'a later version of this request');
    const [partition, why] = [reader.uvarint(), reader.string()];
    // Who led it a moment ago has compared it, and knows that a majority is of another mind, also where somebody else
    // leads by now: passed over, it would stay as it is until the next pass.
    const isMember = wiring.replica(partition)?.members.some(({ nodeId }) => nodeId === from) === true;
    if (!isMember)
      throw new HansardError(
        'NOT_LEADER',
        `no replica of partition ${partition} on node ${from} is known here`,
      );
    scrubber.found('digest', partition, why);
    wiring.markDamaged(partition, why);
    return new Uint8Array(0);
  });
  return scrubber;
}

/** Undefined: this node does not lead it. */
function membersToCompare(wiring: ScrubWiring, replica: Replica | undefined): readonly NodeId[] | undefined {
  if (replica?.isLeader !== true) return undefined;
  const { nodeId: self } = wiring.options.identity;
  const others = replica.members.map(({ nodeId }) => nodeId).filter((node) => node !== self);
  return [self, ...others.filter((node) => wiring.isConnected(node))];
}

function proposeNothing(wiring: ScrubWiring, partition: PartitionId, deadlineMs: number): Promise<void> {
  return new Promise((resolve, reject) => {
    wiring.submit(
      partition,
      emptyProposal(deadlineMs, () => resolve(), reject),
    );
  });
}
