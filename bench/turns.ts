/**
 * What consensus costs alone: three whole nodes in one process, on a log and a
 * network in memory and a state that keeps nothing. Commands of 200 bytes that
 * applying refuses at once go to all partitions, a fixed number in flight.
 * CPU of all three nodes and of the driver; lowest of several runs.
 *
 *     node [--cpu-prof] dist/bench/turns.js [--in-flight 1,64,256] [--messages 40000] [--runs 5] [--idle 5] [--hop-ms 0] [--sync-ms 0]
 *
 * `--hop-ms`, `--sync-ms`: how long a frame and a sync take, for how turns gather
 * on a real machine; 0: until the events that are ready now have been handled.
 */
import { parseArgs } from 'node:util';
import { assert } from '../src/common/errors.js';
import type { NodeId, PartitionId } from '../src/common/ids.js';
import type { ConfState } from '../src/common/log-types.js';
import { silentLogger } from '../src/common/logger.js';
import { initialMembership, type Membership } from '../src/common/membership.js';
import { CommandKind } from '../src/conversation/command.js';
import { HansardNode } from '../src/node/node.js';
import { nodeDefaults } from '../src/node/options.js';
import { initialConfState } from '../src/node/placement.js';
import { realClock, realRandom } from '../src/node/real-env.js';
import type { PartitionStore, Store } from '../src/store/types.js';
import type { Transport, TransportHandlers } from '../src/transport/types.js';
import { formatWal, type LogDevice, openWal, type Wal } from '../src/wal/index.js';
import { ModelState } from '../test/conversation/model-state.js';

const { values } = parseArgs({
  options: {
    'in-flight': { type: 'string', default: '1,64,256' },
    messages: { type: 'string', default: '40000' },
    runs: { type: 'string', default: '5' },
    idle: { type: 'string', default: '5' },
    partitions: { type: 'string', default: '64' },
    'hop-ms': { type: 'string', default: '0' },
    'sync-ms': { type: 'string', default: '0' },
  },
});
const partitionCount = Number(values.partitions);
const messages = Number(values.messages);
const hopMs = Number(values['hop-ms']);
const syncMs = Number(values['sync-ms']);
const clusterId = 'c1'.repeat(16);
const nodeIds: readonly NodeId[] = [1, 2, 3];
const segmentBytes = 16 * 1024 * 1024;

function later(ms: number, fn: () => void): void {
  if (ms === 0) setImmediate(fn);
  else setTimeout(fn, ms);
}

// ---- the world in memory ---------------------------------------------------

class MemoryDevice implements LogDevice {
  readonly #files = new Map<number, Buffer>();
  list = () =>
    Promise.resolve(
      [...this.#files]
        .map(([segment, { length: bytes }]) => ({ segment, bytes }))
        .sort((a, b) => a.segment - b.segment),
    );
  create(segment: number, bytes: number): Promise<void> {
    this.#files.set(segment, Buffer.alloc(bytes));
    return Promise.resolve();
  }
  rename(from: number, to: number): Promise<void> {
    this.#files.set(to, this.#file(from));
    this.#files.delete(from);
    return Promise.resolve();
  }
  remove(segment: number): Promise<void> {
    this.#files.delete(segment);
    return Promise.resolve();
  }
  read(segment: number, offset: number, target: Uint8Array): Promise<number> {
    return Promise.resolve(this.#file(segment).copy(target, 0, offset));
  }
  write(segment: number, offset: number, bytes: Uint8Array): Promise<number> {
    this.#file(segment).set(bytes, offset);
    return new Promise((resolve) => later(syncMs, () => resolve(syncMs)));
  }
  allocate(bytes: number): Buffer {
    return Buffer.alloc(bytes);
  }
  close(): Promise<void> {
    return Promise.resolve();
  }
  #file(segment: number): Buffer {
    const file = this.#files.get(segment);
    assert(file !== undefined, `segment ${segment} is there`);
    return file;
  }
}

/** Frames of one turn arrive together, as the real one's do. */
class MemoryTransport implements Transport {
  readonly address = 'memory';
  handlers: TransportHandlers | undefined;
  readonly peersByNode = new Map<NodeId, MemoryTransport>();
  readonly #queued = new Map<NodeId, Uint8Array[]>();
  #flushDue = false;
  messages = 0;
  frames = 0;
  bytes = 0;

  constructor(readonly self: NodeId) {}
  start(handlers: TransportHandlers): Promise<void> {
    this.handlers = handlers;
    return Promise.resolve();
  }
  send(to: NodeId, message: Uint8Array): boolean {
    // What is sent outside of a turn leaves soon after, as in the real one.
    if (!this.#flushDue) {
      this.#flushDue = true;
      setImmediate(() => {
        this.#flushDue = false;
        this.flush();
      });
    }
    const queued = this.#queued.get(to);
    const copy = Uint8Array.from(message);
    if (queued === undefined) this.#queued.set(to, [copy]);
    else queued.push(copy);
    this.messages++;
    this.bytes += message.length;
    return true;
  }
  flush(): void {
    for (const [to, queued] of this.#queued) {
      if (queued.length === 0) continue;
      this.frames++;
      this.#queued.set(to, []);
      const peer = this.peersByNode.get(to);
      later(hopMs, () => {
        for (const message of queued) peer?.handlers?.onMessage(this.self, message);
      });
    }
  }
  fetch(): never {
    throw new Error('nobody needs a snapshot here');
  }
  isConnected(peer: NodeId): boolean {
    return this.peersByNode.has(peer);
  }
  peers() {
    return [];
  }
  stop(): Promise<void> {
    return Promise.resolve();
  }
}

/** Only what consensus asks of a state. */
class NoState extends ModelState {
  appliedIndex = 0;
  appliedTerm = 0;
  readonly sealedIndex = 0;
  readonly sealedTerm = 0;
  readonly installedIndex = 0;
  readonly dirtySinceMs = undefined;
  readonly tailBytes = 0;
  confState: ConfState = initialConfState([...nodeIds]);
  membership = initialMembership(this.confState);
  sealedMembership = this.membership;

  constructor(readonly partition: PartitionId) {
    super(partition);
  }
  setConfState(confState: ConfState, membership: Membership): void {
    this.confState = confState;
    this.membership = membership;
  }
  beginEntry(): void {}
  endEntry(index: number, term: number): void {
    this.appliedIndex = index;
    this.appliedTerm = term;
  }
  prefetch(): undefined {}
  lastCounterOf(): number {
    return 0;
  }
}

function noStore(): Store {
  const partitions = Array.from(
    { length: partitionCount },
    (_, partition) => new NoState(partition) as unknown as PartitionStore,
  );
  const store: Partial<Store> = {
    storeId: '00000000000000ab',
    tailBytes: 0,
    tailLimitBytes: 1,
    partition: (partition) => partitions[partition] as PartitionStore,
    partitions: () => partitions,
    hosted: () => partitions.map(({ partition }) => ({ partition, replicaId: 0, removed: false })),
    checkpoint: () => Promise.resolve(),
    onDamage: () => {},
    onUnfit: () => {},
    setAsidePartitions: () => new Map(),
    getFact: () => undefined,
    putFact: () => Promise.resolve(),
    stats: () => ({
      tailBytes: 0,
      checkpoints: 0,
      checkpointBytes: 0,
      syncReads: 0,
      blocksRead: 0,
      eventsApplied: 0,
    }),
    close: () => Promise.resolve(),
  };
  return store as Store;
}

// ---- the cluster -------------------------------------------------------------

interface Running {
  readonly node: HansardNode;
  readonly wal: Wal;
  readonly transport: MemoryTransport;
}

function fatal(error: unknown): never {
  console.error(error);
  process.exit(1);
}

async function startCluster(): Promise<Running[]> {
  const members = nodeIds.map((nodeId) => ({ nodeId, peerAddress: 'memory:1', clientAddress: 'memory:2' }));
  const cluster: Running[] = [];
  for (const nodeId of nodeIds) {
    const device = new MemoryDevice();
    const ids = { clusterId: Buffer.from(clusterId, 'hex'), storeId: '00000000000000ab' };
    await formatWal(device, { ...ids, random: realRandom, segmentBytes });
    const wal = await openWal({
      device,
      ...ids,
      clock: realClock,
      onFailure: fatal,
      segmentBytes,
      maxBatchBytes: 1024 * 1024,
      cacheBytes: 16 * 1024 * 1024,
    });
    const transport = new MemoryTransport(nodeId);
    const node = new HansardNode({
      identity: {
        clusterId,
        incarnation: 1,
        nodeId,
        storeId: ids.storeId,
        bootId: `000000000000000${nodeId}`,
        version: 'bench',
      },
      nodes: members,
      partitionCount,
      replicationFactor: 3,
      // All of it is over before anything is measured.
      settings: { ...nodeDefaults, balanceMs: 300 },
      clock: realClock,
      random: realRandom,
      logger: silentLogger,
      wal,
      store: noStore(),
      transport,
      onFatal: fatal,
    });
    cluster.push({ node, wal, transport });
  }
  for (const { transport } of cluster) {
    for (const peer of cluster) {
      if (peer.transport !== transport) transport.peersByNode.set(peer.transport.self, peer.transport);
    }
  }
  for (const { node } of cluster) await node.start();
  while (leadersOf(cluster).some((leader) => leader === undefined)) await sleep(20);
  // Until nobody hands leadership to a better placed one any more.
  for (let quietMs = 0, before = ''; quietMs < 3_000; quietMs += 250) {
    await sleep(250);
    const now = cluster
      .map(({ node }) =>
        node
          .replicas()
          .map(({ term }) => term)
          .join(),
      )
      .join();
    if (now !== before) quietMs = 0;
    before = now;
  }
  return cluster;
}

function leadersOf(cluster: readonly Running[]): (HansardNode | undefined)[] {
  return Array.from(
    { length: partitionCount },
    (_, partition) =>
      cluster.find(({ node }) => node.replicas().some((r) => r.partition === partition && r.isLeader))?.node,
  );
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

// ---- measuring -----------------------------------------------------------------

interface Figures {
  readonly perMessageUs: number;
  readonly perEntryUs: number;
  readonly perEntry: number;
  readonly batches: number;
  readonly peerMessages: number;
  readonly frames: number;
  readonly wallUs: number;
}

function counts(cluster: readonly Running[]): {
  entries: number;
  batches: number;
  peerMessages: number;
  frames: number;
} {
  let entries = 0;
  let batches = 0;
  let peerMessages = 0;
  let frames = 0;
  for (const { node, wal, transport } of cluster) {
    for (const replica of node.replicas()) if (replica.isLeader) entries += replica.commitIndex;
    batches += wal.stats().batches;
    peerMessages += transport.messages;
    frames += transport.frames;
  }
  return { entries, batches, peerMessages, frames };
}

async function run(cluster: readonly Running[], inFlight: number, total: number): Promise<Figures> {
  const leaders = leadersOf(cluster) as HansardNode[];
  const command = new Uint8Array(200).fill(0x61);
  command[0] = CommandKind.eraseContent;
  const options = { deadlineMs: performance.now() + 600_000 };
  const before = counts(cluster);
  const cpu = process.cpuUsage();
  const startMs = performance.now();
  let next = 0;
  const worker = async (): Promise<void> => {
    while (next < total) {
      const partition = (next++ * 7919) % partitionCount;
      await (leaders[partition] as HansardNode).propose(partition, command, options);
    }
  };
  await Promise.all(Array.from({ length: inFlight }, worker));
  const wallUs = (performance.now() - startMs) * 1000;
  const { user, system } = process.cpuUsage(cpu);
  const after = counts(cluster);
  const entries = after.entries - before.entries;
  return {
    perMessageUs: (user + system) / total,
    perEntryUs: (user + system) / entries,
    perEntry: total / entries,
    batches: (after.batches - before.batches) / entries,
    peerMessages: (after.peerMessages - before.peerMessages) / entries,
    frames: (after.frames - before.frames) / entries,
    wallUs: wallUs / total,
  };
}

const cluster = await startCluster();
for (const inFlight of values['in-flight'].split(',').map(Number)) {
  if (inFlight === 0) continue;
  const total = inFlight === 1 ? Math.ceil(messages / 10) : messages;
  await run(cluster, inFlight, total);
  let best: Figures | undefined;
  for (let i = 0; i < Number(values.runs); i++) {
    const figures = await run(cluster, inFlight, total);
    if (best === undefined || figures.perMessageUs < best.perMessageUs) best = figures;
  }
  if (best === undefined) continue;
  console.log(
    `${String(inFlight).padStart(4)} in flight: ${best.perMessageUs.toFixed(1)} us of CPU a message, ${best.perEntryUs.toFixed(1)} an entry ` +
      `(${best.perEntry.toFixed(2)} messages); per entry ${best.batches.toFixed(2)} batches, ${best.peerMessages.toFixed(2)} peer messages in ${best.frames.toFixed(2)} frames; ` +
      `${best.wallUs.toFixed(0)} us of time a message`,
  );
}
const idleSeconds = Number(values.idle);
if (idleSeconds > 0) {
  await sleep(2_000);
  const before = counts(cluster);
  const cpu = process.cpuUsage();
  const startMs = performance.now();
  await sleep(idleSeconds * 1000);
  const seconds = (performance.now() - startMs) / 1000;
  const { user, system } = process.cpuUsage(cpu);
  const { peerMessages } = counts(cluster);
  console.log(
    `idle: ${((user + system) / 1e4 / seconds / nodeIds.length).toFixed(2)} % of a core for each node, ` +
      `${((peerMessages - before.peerMessages) / seconds).toFixed(0)} peer messages a second`,
  );
}
process.exit(0);
