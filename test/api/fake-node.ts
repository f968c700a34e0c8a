/**
 * A node of one process and no disk: real state machines (conversation/) over model
 * state, without consensus. What a real node would refuse is switched on by hand.
 */
import { compareBytewise } from '../../src/api/list-channels.js';
import { HansardError } from '../../src/common/errors.js';
import type { ChannelId, NodeId, PartitionId, Seq } from '../../src/common/ids.js';
import { partitionOf } from '../../src/common/partitioning.js';
import { applyEntry } from '../../src/conversation/apply.js';
import { liveChannel } from '../../src/conversation/apply-trash.js';
import { encodeEntry } from '../../src/conversation/command.js';
import type { ChannelState, StoredEvent } from '../../src/conversation/types.js';
import type {
  ChangeReplicasOptions,
  ChangeReplicasResult,
  ReplicaChange,
} from '../../src/node/change-replicas.js';
import type { ScrubStatus } from '../../src/node/scrubber.js';
import type {
  ClusterView,
  NodeFault,
  NodeService,
  PartitionDetail,
  PartitionView,
  ProposeOptions,
  ProposeResult,
  ReadBarrierOptions,
  ReadView,
} from '../../src/node/types.js';
import type { Proposal } from '../../src/partition/proposals.js';
import { ChangeList } from '../../src/store/change-list.js';
import { changePageOf } from '../../src/store/changes.js';
import { compareActivity } from '../../src/store/find-channels.js';
import { matches } from '../../src/store/terms.js';
import type { PageRange, PartitionReader } from '../../src/store/types.js';
import { Watches } from '../../src/store/watches.js';
import { ModelState } from '../conversation/model-state.js';

type ForwardHandler = (method: string, request: Uint8Array, deadlineMs: number) => Promise<Uint8Array>;

/** ModelState that also keeps the records, and reads of it. */
class PartitionModel extends ModelState {
  index = 0;
  readonly changes = new ChangeList();
  readonly watches = new Watches();
  readonly stored = new Map<ChannelId, StoredEvent[]>();
  readonly reader: PartitionReader = {
    channelByName: async (tenant, name) => liveChannel(this, tenant, name),
    channelNow: () => 'unknown',
    events: async (channel, range) => this.#page(channel, range),
    eventsNow: () => undefined,
    seqOfMessageId: async (channelId, messageId) => this.messageId(channelId, messageId),
    seqAtTime: async (channel, timeUs) => this.#seqAtTime(channel, timeUs),
    listChannels: async (query) =>
      [...this.channels.values()]
        .filter((c) => c.deletedTimeUs === undefined)
        .filter((c) => c.tenant === query.tenant && c.name.startsWith(query.prefix))
        .sort((a, b) => compareBytewise(a.name, b.name))
        .filter((c) => query.after === undefined || compareBytewise(c.name, query.after) > 0)
        .slice(0, query.limit),
    listDeleted: async (query) =>
      [...this.channels.values()]
        .filter((c) => c.deletedTimeUs !== undefined)
        .filter((c) => c.tenant === query.tenant && c.name.startsWith(query.prefix))
        .sort((a, b) => compareBytewise(a.name, b.name))
        .filter((c) => query.after === undefined || compareBytewise(c.name, query.after) > 0)
        .slice(0, query.limit),
    channelsAt: async (query) => {
      const appliedIndex = this.index;
      const channels = await this.reader.listChannels(query);
      return { appliedIndex, channels: channels.map((channel) => ({ ...channel })) };
    },
    changes: async (query) => changePageOf(this.changes, this.index, query),
    readCursor: async (tenant, channel, reader, kind) => this.cursor(tenant, channel, reader, kind),
    listCursors: async ({ tenant, channel, after, limit, kind = 'read' }) =>
      [...this.cursors.values()]
        .filter(
          (c) =>
            c.tenant === tenant &&
            c.channel === channel &&
            (c.failed === undefined) === (kind === 'read') &&
            (after === '' || compareBytewise(c.reader, after) > 0),
        )
        .sort((a, b) => compareBytewise(a.reader, b.reader))
        .slice(0, limit),
    subscriptionNow: (tenant, name) => this.subscription(tenant, name),
    subscriptionsOf: (tenant) =>
      [...this.subscriptions.values()]
        .filter((each) => each.tenant === tenant)
        .sort((a, b) => compareBytewise(a.name, b.name)),
    findChannels: async (query) => {
      const found = [...this.channels.values()].filter(
        (c) =>
          c.deletedTimeUs === undefined &&
          c.tenant === query.tenant &&
          c.name.startsWith(query.prefix) &&
          matches(c, query),
      );
      if (found.length > query.scanMax) throw new HansardError('TOO_MANY_CHANNELS', 'too many');
      const { after } = query;
      const byName = query.order === 'name';
      return found
        .sort((a, b) => (byName ? compareBytewise(a.name, b.name) : compareActivity(a, b)))
        .filter((c) => {
          if (after === undefined) return true;
          if (byName) return compareBytewise(c.name, after.name) > 0;
          return compareActivity(c, { activityTimeUs: after.timeUs, name: after.name }) > 0;
        })
        .slice(0, query.limit);
    },
    scanChannels: async ({ tenant, prefix, after, limit }) => ({
      appliedIndex: this.index,
      channels: [...this.channels.values()]
        .filter((c) => (tenant === '' || c.tenant === tenant) && c.name.startsWith(prefix))
        .map((c) => ({ key: Buffer.from(`${c.tenant}\0${c.name}`), state: c, deleted: false, damage: '' }))
        .sort((a, b) => Buffer.compare(a.key, b.key))
        .filter(({ key }) => after === undefined || Buffer.compare(key, after) > 0)
        .slice(0, limit),
    }),
    scanEvents: async ({ tenant, name, uid, fromSeq, maxEvents, maxBytes }) => {
      const state = this.channel(tenant, name);
      const nothing = { appliedIndex: this.index, channel: undefined, events: [], damages: [], nextSeq: 0 };
      if (state === undefined || state.uid !== uid) return nothing;
      const range = { fromSeq, toSeq: state.headSeq, reverse: false, maxEvents, maxBytes };
      const events = this.#page(state, range);
      const last = events.at(-1)?.seq ?? state.headSeq;
      const key = Buffer.from(`${tenant}\0${name}`);
      return {
        ...nothing,
        channel: { key, state, deleted: false, damage: '' },
        events,
        nextSeq: last < state.headSeq ? last + 1 : 0,
      };
    },
    digestAt: async () => ({ appliedIndex: this.index, digest: '00000000000000aa' }),
  };

  override append(channel: ChannelState, event: StoredEvent): void {
    super.append(channel, event);
    const { headerOffset: h, contentOffset: c } = event;
    const events = this.stored.get(channel.id) ?? [];
    events.push({
      ...event,
      bytes: Buffer.from(event.bytes.subarray(h, h + event.headerLength)),
      headerOffset: 0,
      contentBytes: Buffer.from(event.contentBytes.subarray(c, c + event.contentLength)),
      contentOffset: 0,
    });
    this.stored.set(channel.id, events);
    if (!this.changes.extend(this.index, channel, event.seq))
      this.changes.push(this.index, channel, event.seq, event.seq);
  }

  override deleteChannel(channel: ChannelState): void {
    super.deleteChannel(channel);
    this.watches.changed(channel.tenant, channel.name);
  }

  override putChannel(channel: ChannelState): void {
    super.putChannel(channel);
    this.watches.changed(channel.tenant, channel.name);
  }

  #page(channel: ChannelState, range: PageRange): StoredEvent[] {
    const all = (this.stored.get(channel.id) ?? []).filter(
      (e) => e.seq >= range.fromSeq && e.seq <= range.toSeq,
    );
    if (range.reverse) all.reverse();
    const page: StoredEvent[] = [];
    let bytes = 0;
    for (const event of all) {
      if (page.length > 0 && (page.length >= range.maxEvents || bytes >= range.maxBytes)) break;
      bytes += event.headerLength + event.contentLength;
      page.push(event);
    }
    return range.reverse ? page.reverse() : page;
  }

  #seqAtTime(channel: ChannelState, timeUs: number): Seq {
    const found = (this.stored.get(channel.id) ?? []).find((event) => event.commitTimeUs >= timeUs);
    return found?.seq ?? channel.headSeq + 1;
  }
}

export class FakeNode implements NodeService {
  readonly scrubber = {
    status: (): ScrubStatus => ({
      state: 'off',
      pass: undefined,
      lastEndedUs: 0,
      bytes: 0,
      findingsByKind: { identity: 0, log: 0, database: 0, row: 0, digest: 0 },
      findings: [],
    }),
    scrubNow: (): void => {},
  };
  readonly identity: NodeService['identity'];
  readonly partitionCount: number;
  partitions: PartitionModel[];
  readonly #drainListeners: (() => void)[] = [];
  #isDraining = false;
  get isDraining(): boolean {
    return this.#isDraining;
  }
  set isDraining(isDraining: boolean) {
    this.#isDraining = isDraining;
    for (const listener of this.#drainListeners) listener();
  }
  onDrain(listener: () => void): void {
    this.#drainListeners.push(listener);
  }
  /** What every read here meets. */
  barrierError: HansardError | undefined;
  /** Nodes with a replica of every partition, all connected; undefined: as two of them once were. */
  members: readonly NodeId[] | undefined;
  /** Who leads every partition; undefined: nobody known. */
  leader: NodeId | undefined = 1;
  /** Microseconds since 1970; each reading is one later. */
  timeUs = 1_700_000_000_000_000;
  /** Set: `propose` waits for what it gives before it applies. */
  gate: ((proposal: number) => Promise<void>) | undefined;
  /** Set: proposals are rejected with it. */
  proposeError: unknown;
  readonly peers = new Map<NodeId, FakeNode>();
  readonly barriers: ReadBarrierOptions[] = [];
  /** Partitions of which this node holds no replica. */
  readonly notHere = new Set<PartitionId>();
  proposals = 0;
  isTwoConnected = false;
  /** What nodes can carry out, where it is not 2. */
  readonly applyVersions = new Map<NodeId, number>();
  forwards = 0;
  handler: ForwardHandler | undefined;

  constructor(nodeId: NodeId = 1, clusterId = 'cluster-1', incarnation = 1, partitionCount = 4) {
    this.partitionCount = partitionCount;
    this.partitions = Array.from({ length: partitionCount }, (_, p) => new PartitionModel(p));
    this.identity = {
      clusterId,
      incarnation,
      nodeId,
      storeId: `store-${nodeId}`,
      bootId: 'b',
      version: '0.1.0',
    };
  }

  nowUs(): number {
    return this.timeUs++;
  }
  monotonicMs(): number {
    return performance.now();
  }
  commitNowUs(): number {
    return this.nowUs();
  }
  partitionOf(tenant: string, channel: string): PartitionId {
    return partitionOf(tenant, channel, this.partitionCount);
  }
  leaderOf(): NodeId | undefined {
    return this.leader;
  }
  addressOf(node: NodeId): string | undefined {
    return `127.0.0.1:${7000 + node}`;
  }

  refusals(): readonly never[] {
    return [];
  }
  faults(): readonly NodeFault[] {
    return [];
  }

  cluster(): ClusterView {
    const node = (nodeId: NodeId, connected: boolean) => ({
      nodeId,
      clientAddress: `127.0.0.1:${7000 + nodeId}`,
      peerAddress: `127.0.0.1:${7100 + nodeId}`,
      connected,
      storeId: `store-${nodeId}`,
      applyVersion: connected ? (this.applyVersions.get(nodeId) ?? 2) : 0,
      diskFull: false,
    });
    return {
      nodes: [node(1, true), node(2, this.isTwoConnected)],
      replicationFactor: 2,
      partitionMapVersion: 7,
      partitions: this.partitions.map((partition, p) => ({
        partition: p,
        leader: this.leader,
        term: 3,
        commitIndex: partition.index,
        appliedIndex: partition.index,
        applyVersion: partition.meta.settings.applyVersion,
        replicas: [{ replicaId: p * 2 + 1, nodeId: 1, learner: false }],
      })),
    };
  }

  /** Asked to change members, and what is answered. */
  readonly changesAsked: { partition: PartitionId; changes: readonly ReplicaChange[]; force: boolean }[] = [];
  changeResult: ChangeReplicasResult | Error = { done: true, waitsFor: 0 };

  async changeReplicas(
    partition: PartitionId,
    changes: readonly ReplicaChange[],
    { force }: ChangeReplicasOptions,
  ): Promise<ChangeReplicasResult> {
    this.changesAsked.push({ partition, changes, force });
    if (this.changeResult instanceof Error) throw this.changeResult;
    return this.changeResult;
  }

  partitionDetail(partition: PartitionId): PartitionDetail {
    const view = this.cluster().partitions[partition] as PartitionView;
    return {
      ...view,
      toldByLeader: this.leader === this.identity.nodeId,
      isJoint: false,
      changes: 2,
      replicas: this.members?.map((nodeId) => ({
        replicaId: nodeId,
        nodeId,
        role: 'voter',
        connected: true,
        matchIndex: 0,
        caughtUp: true,
      })) ?? [
        { replicaId: 1, nodeId: 1, role: 'voter', connected: true, matchIndex: 40, caughtUp: true },
        { replicaId: 7, nodeId: 2, role: 'learner', connected: false, matchIndex: 12, caughtUp: false },
      ],
    };
  }

  async propose(p: PartitionId, command: Uint8Array, options: ProposeOptions): Promise<ProposeResult> {
    const proposal = ++this.proposals;
    if (this.proposeError !== undefined) throw this.proposeError;
    const partition = this.partitions[p] as PartitionModel;
    // Applied in the order of proposals, whenever the answers leave.
    const index = ++partition.index;
    const data = encodeEntry([command], this.nowUs(), 1);
    const { answers } = applyEntry(partition, { index, term: 3, data });
    if (this.gate !== undefined) await this.gate(proposal);
    if (options.deadlineMs <= this.monotonicMs()) throw new HansardError('DEADLINE_EXCEEDED', 'too late');
    const answer = answers[0];
    if (answer === undefined) throw new Error('no answer');
    return { answer, index, term: 3 };
  }

  submit(p: PartitionId, proposal: Proposal): void {
    const { command, deadlineMs } = proposal;
    this.propose(p, command, { deadlineMs }).then(
      ({ answer, index, term }) => proposal.applied(answer, index, term),
      (error: HansardError) => proposal.failed(error),
    );
  }

  async readBarrier(p: PartitionId, options: ReadBarrierOptions): Promise<ReadView> {
    this.barriers.push(options);
    if (this.barrierError !== undefined) throw this.barrierError;
    this.requireHere(p);
    const partition = this.partitions[p] as PartitionModel;
    if (options.minIndex > partition.index)
      throw new HansardError('DEADLINE_EXCEEDED', 'the index is not reached');
    const role = this.leader === this.identity.nodeId ? 'primary' : 'secondary';
    return {
      reader: partition.reader,
      get appliedIndex() {
        return partition.index;
      },
      role,
    };
  }

  watchChannel(p: PartitionId, tenant: string, channel: string, listener: () => void): () => void {
    return (this.partitions[p] as PartitionModel).watches.add(tenant, channel, listener);
  }

  requireHere(p: PartitionId): void {
    if (this.notHere.has(p))
      throw new HansardError('NOT_LEADER', `no replica of ${p} here`, { partition: p });
  }

  watchPartition(p: PartitionId, listener: (tenant?: string, channel?: string) => void): () => void {
    this.requireHere(p);
    return (this.partitions[p] as PartitionModel).watches.addAll(listener);
  }

  async forward(to: NodeId, method: string, request: Uint8Array, deadlineMs: number): Promise<Uint8Array> {
    this.forwards++;
    const handler = this.peers.get(to)?.handler;
    if (handler === undefined) throw new HansardError('NOT_LEADER', `node ${to} can't be reached`);
    return handler(method, Buffer.from(request), deadlineMs);
  }

  onForward(handler: ForwardHandler): void {
    this.handler = handler;
  }
}
