/**
 * A whole cluster in one process: complete nodes (all of src/ below api/) on one
 * simulated clock, with simulated disks, LevelDBs and network, driven by one
 * seed. What is kept of a node across its lives is its disk and its database.
 */

import type { Clock } from '../../src/common/env.js';
import { HansardError, type Reason } from '../../src/common/errors.js';
import type { ReplicaFault } from '../../src/common/faults.js';
import type { HostedId } from '../../src/common/ids.js';
import type { LogFields, Logger } from '../../src/common/logger.js';
import { partitionOf } from '../../src/common/partitioning.js';
import { supportedApplyVersion } from '../../src/conversation/command.js';
import { defaultSettings } from '../../src/conversation/settings.js';
import type { LoopMeters } from '../../src/node/loop-load.js';
import { HansardNode } from '../../src/node/node.js';
import { partitionsOf } from '../../src/node/open.js';
import { PartsOpener } from '../../src/node/open-parts.js';
import { type MemberAddress, type NodeSettings, nodeDefaults } from '../../src/node/options.js';
import type { RaftJudging } from '../../src/partition/types.js';
import type { Tracer } from '../../src/raft/trace.js';
import { formatStore, storeDefaults } from '../../src/store/store.js';
import { createTransport } from '../../src/transport/transport.js';
import { formatWal, type GroupLog, type LogDevice } from '../../src/wal/index.js';
import { BusyLoop } from './busy-loop.js';
import { Callers } from './callers.js';
import { Digests } from './digests.js';
import type { History } from './history.js';
import { allInvariants, type SeenNode } from './invariants/invariants.js';
import { watchPromises } from './invariants/kept-before-said.js';
import { NodeClock } from './node-clock.js';
import { pausable } from './pausable-network.js';
import { repeating } from './repeating.js';
import { overwriting } from './sending.js';
import { SimClock, SimRandom } from './sim-clock.js';
import type { SimDisk } from './sim-disk.js';
import { blockBytes, SimFolder } from './sim-folder.js';
import type { SimKvDisk } from './sim-kv.js';
import { SimNetwork } from './sim-network.js';
import { SimUpgrade } from './upgrading.js';

/**
 * Planted bugs, to prove that the checks see them. early-acknowledgement: the log
 * says that a batch is synced when it was only asked for. unasked-reads: a read is
 * answered without asking the quorum.
 */
export type Mutant = 'early-acknowledgement' | 'unasked-reads';

export type CrashKind = 'process' | 'power';

export interface SimClusterOptions {
  readonly seed: number;
  readonly nodes: number;
  readonly partitions: number;
  readonly history: History;
  readonly mutant?: Mutant | undefined;
  /** Logs so small that a node that was away for a moment needs snapshots. */
  readonly smallLogs?: boolean | undefined;
  /** Each node's clock runs fast or slow by up to a twentieth. */
  readonly drift?: boolean | undefined;
  /** The apply version that all clients need; default: the newest. */
  readonly oldestApplyVersion?: number | undefined;
  /** Told what every core does; pre-vote and check-quorum are off then (the specification knows neither). */
  readonly tracer?: Tracer | undefined;
}

/** A process whose disk has failed has ended by then, simulated ms. */
const failureNoticedMs = 1_000;

/** How often the invariants are looked at, simulated ms. */
const observeMs = 2;
/** The same where something is about to happen. */
const finelyMs = 0.2;

const clusterId = 'c1'.repeat(16);
const replicationFactor = 3;
/** Small, so that segments are made, filled and given back all the time. */
const segmentBytes = 64 * 1024;

export class SimCluster {
  readonly clock = new SimClock();
  readonly random: SimRandom;
  readonly network: SimNetwork;
  readonly nodes: SimNode[] = [];
  readonly history: History;
  /** "partition/term" → node: at most one leader per term. */
  readonly #leaders = new Map<string, number>();
  readonly violations: string[] = [];
  readonly #invariants = allInvariants(this.clock);
  readonly #digests = new Digests((what) => this.violations.push(what));
  /** Between clients and nodes. */
  readonly callers: Callers;
  /** Of each message of consensus: that it comes twice. */
  repeatChance = 0;
  /** What a node does may take as long as that, ms. */
  busyMaxMs = 0;
  /** Answers kept of each producer: replicated. More than any client has in flight, and few, since every checkpoint writes them. */
  readonly producerWindow: number;
  readonly upgrade: SimUpgrade;

  constructor(readonly options: SimClusterOptions) {
    this.random = new SimRandom(options.seed);
    this.producerWindow = 16 + this.random.below(64);
    this.history = options.history;
    const { seed, oldestApplyVersion = supportedApplyVersion, partitions } = options;
    const leaderOf = (partition: number) => this.leaderOf(partition);
    this.upgrade = new SimUpgrade(seed, oldestApplyVersion, this.clock, partitions, leaderOf);
    this.network = new SimNetwork(this.clock, this.random.fork());
    const members = Array.from({ length: options.nodes }, (_, i) => ({
      nodeId: i + 1,
      peerAddress: `node${i + 1}:1`,
      clientAddress: `node${i + 1}:2`,
    }));
    for (const { nodeId } of members) this.nodes.push(new SimNode(this, nodeId, members));
    this.callers = new Callers(this.clock, this.random.fork(), this.nodes, options.partitions);
  }

  get living(): SimNode[] {
    return this.nodes.filter((node) => node.node !== undefined);
  }

  /** The living node that leads in the latest term. */
  leaderOf(partition: number): HansardNode | undefined {
    return this.#leadersOf(partition)[0];
  }

  /** Where a client looks: mostly there, else at any node that believes itself leader. */
  anyLeaderOf(partition: number): HansardNode | undefined {
    const leaders = this.#leadersOf(partition);
    return leaders[leaders.length > 1 && this.random.below(4) === 0 ? this.random.below(leaders.length) : 0];
  }

  #leadersOf(partition: number): HansardNode[] {
    const leaders: { readonly node: HansardNode; readonly term: number }[] = [];
    for (const { node } of this.living) {
      const replica = node?.replicas().find((one) => one.partition === partition && one.isLeader);
      if (node !== undefined && replica !== undefined) leaders.push({ node, term: replica.term });
    }
    return leaders.sort((a, b) => b.term - a.term).map(({ node }) => node);
  }

  partitionOf(channel: string): number {
    return partitionOf('default', channel, this.options.partitions);
  }

  /** Digests of replicas at one index that were compared along the way. */
  get digestsCompared(): number {
    return this.#digests.compared;
  }

  /** Lets `ms` pass, and looks at what must hold. */
  pass(ms: number): Promise<void> {
    return this.#pass(ms, observeMs);
  }

  passFinely(ms: number): Promise<void> {
    return this.#pass(ms, finelyMs);
  }

  /** Until `done` says so; false: not within `limitMs`, or a promise was broken meanwhile. */
  async passUntil(done: () => boolean, limitMs: number): Promise<boolean> {
    const endMs = this.clock.monotonicMs() + limitMs;
    while (!done()) {
      const leftMs = endMs - this.clock.monotonicMs();
      if (leftMs <= 0 || this.violations.length > 0) return false;
      const fromMs = this.clock.monotonicMs();
      const stepMs = Math.min(observeMs, leftMs);
      if (!(await this.clock.until(done, stepMs)))
        await this.clock.run(fromMs + stepMs - this.clock.monotonicMs());
      this.observe();
    }
    return true;
  }

  async #pass(ms: number, stepMs: number): Promise<void> {
    const endMs = this.clock.monotonicMs() + ms;
    while (this.clock.monotonicMs() < endMs) {
      await this.clock.run(Math.min(stepMs, endMs - this.clock.monotonicMs()));
      this.observe();
    }
  }

  /** What must hold at any moment. The first thing found is enough: what follows from it would hide it. */
  observe(): void {
    this.observeLeaders();
    if (this.violations.length > 0) return;
    for (const invariant of this.#invariants) {
      const problem = invariant.look(this.nodes);
      if (problem !== undefined) this.violations.push(problem);
    }
    this.#digests.look(this.nodes, this.clock.monotonicMs());
  }

  /** At most one leader per term (Raft, Figure 3: election safety). */
  observeLeaders(): void {
    for (const { node, nodeId } of this.living) {
      for (const replica of node?.replicas() ?? []) {
        if (!replica.isLeader) continue;
        const key = `${replica.partition}/${replica.term}`;
        const known = this.#leaders.get(key);
        if (known !== undefined && known !== nodeId) {
          this.violations.push(
            `partition ${replica.partition} term ${replica.term}: nodes ${known} and ${nodeId} lead`,
          );
        }
        this.#leaders.set(key, nodeId);
      }
    }
  }

  log(line: string): void {
    this.history.log(this.clock.monotonicMs(), line);
  }
}

/** One node's folder, and the process that runs on it (if any). */
export class SimNode implements SeenNode {
  readonly folder: SimFolder;
  node: HansardNode | undefined;
  clock: NodeClock;
  /** A process runs on the folder (it may still be opening). */
  isUp = false;
  #formatted = false;
  /** Of the process that runs or ran last. */
  #logs: () => readonly GroupLog[] = () => [];
  #boots = 0;
  #snapshots = 0;
  /** Ends the process's own doings when it is killed while it opens. */
  #life = 0;
  /** Reasons with which a process may end by itself, after what was done to its disks. */
  readonly #allowed = new Set<Reason>();
  /** It refused to start, and counts as lost from here on. */
  refused: Reason | undefined;
  /** Its log or database was damaged behind its back: what it says of what it can't read is an error, never wrong. */
  isDamaged = false;
  readonly settings: NodeSettings;
  /** Of messages between replicas: so small that what one lacks comes in many. */
  readonly limits: Pick<RaftJudging, 'maxSizePerMsg' | 'maxInflightMsgs'>;
  readonly storeId: string;
  readonly #clockRate: number;
  /** With randomness of its own: where nothing takes time all else stays as it is. */
  readonly #toil: BusyLoop;
  /** Bytes of what it keeps of its store and its log in memory. */
  readonly #caches: { readonly storeCache: number; readonly entryCache: number };
  #parts: PartsOpener | undefined;

  constructor(
    private readonly cluster: SimCluster,
    readonly nodeId: number,
    private readonly members: readonly MemberAddress[],
  ) {
    const { random, clock } = cluster;
    const onFailure = (): void => this.mustEndSoon();
    this.folder = new SimFolder({ clock, random: random.fork(), onFailure });
    this.#clockRate = cluster.options.drift ? 1 + (random.fraction() - 0.5) / 10 : 1;
    this.#toil = new BusyLoop(
      clock,
      new SimRandom((cluster.options.seed << 4) ^ nodeId),
      () => cluster.busyMaxMs,
    );
    this.clock = new NodeClock(clock, 0, this.#clockRate);
    this.storeId = nodeId.toString(16).padStart(16, 'a');
    this.limits = {
      maxSizePerMsg: random.below(2) === 0 ? 1 << 20 : 300 + random.below(6_000),
      maxInflightMsgs: 1 + random.below(128),
    };
    // Each node its own sizes and times: nothing replicated may depend on them.
    this.settings = {
      ...nodeDefaults,
      entryBytes: 200 + random.below(5_000),
      tailBytes: 20_000 + random.below(100_000),
      // Channels have little in such tails: they grow to several times as much.
      checkpointBytes: 500 + random.below(5_000),
      checkpointAgeMs: 100 + random.below(3_000),
      logBytes: 64 * 1024 * (1 + random.below(cluster.options.smallLogs ? 3 : 60)),
      snapshotChunkBytes: 200 + random.below(4_000),
      snapshotPartBytes: 500 + random.below(20_000),
      snapshotBytesPerSecond: 20_000 + random.below(1_000_000),
      snapshotsOut: 1 + random.below(2),
      snapshotsIn: 1 + random.below(2),
      snapshotIdleMs: 500 + random.below(2_000),
      quiesceAfterMs: random.below(200),
      leaders: cluster.options.seed % 2 === 0 ? 'together' : 'spread',
      deepProposals: 4,
      deepForMs: 1_000,
    };
    const cache = (): number => [1, 20_000, 64 << 20][random.below(3)] as number;
    this.#caches = { storeCache: cache(), entryCache: cache() };
  }

  get hasSetAside(): boolean {
    return this.folder.hasSetAside;
  }

  get clockOffsetUs(): number {
    return this.clock.offsetUs;
  }

  /** Another one once a damaged log was replaced. */
  get disk(): SimDisk {
    return this.folder.disk;
  }

  /** Another one once a damaged database was. */
  get database(): SimKvDisk {
    return this.folder.database.disk('db');
  }

  /** Starts a process; what goes wrong in it is a violation, unless it was killed meanwhile. */
  start(): void {
    const life = ++this.#life;
    this.isUp = true;
    this.#open(life).catch((error) => this.#failed(life, error));
  }

  async #open(life: number): Promise<void> {
    const { cluster } = this;
    const clock = new NodeClock(cluster.clock, this.clock.offsetUs, this.#clockRate, this.#toil);
    this.clock = clock;
    const random = cluster.random.fork();
    const logger = historyLogger((line) => {
      if (life === this.#life) cluster.log(`node ${this.nodeId} says: ${line}`);
    });
    if (!this.#formatted) await this.#format(random);
    const parts = new PartsOpener({
      folder: this.folder.opened(
        { clusterId, storeId: this.storeId, nodeId: this.nodeId, replicationFactor },
        clock,
        random.fork(),
        (device) =>
          cluster.options.mutant === 'early-acknowledgement' ? earlyDevice(device, clock) : device,
      ),
      settings: {
        ...this.#caches,
        tailLimit: storeDefaults.tailLimitBytes,
        changeRetention: storeDefaults.changeRetentionMs,
        logSegment: segmentBytes,
        logMax: this.settings.logBytes,
      },
      logger,
      firstPartitions: this.#firstPartitions().map(({ partition }) => partition),
      onFailure: (error) => this.#failed(life, error),
      opened: [],
    });
    await parts.openStore();
    const { wal, store } = await parts.openLog();
    const bootId = (++this.#boots * 256 + this.nodeId).toString(16).padStart(16, '0');
    const identity = {
      clusterId,
      incarnation: 1,
      nodeId: this.nodeId,
      storeId: this.storeId,
      bootId,
      version: 'sim',
    };
    const connected = createTransport({
      self: identity,
      peers: this.members.map((member) => ({ nodeId: member.nodeId, address: member.peerAddress })),
      network: pausable(cluster.network.node(this.nodeId, `node${this.nodeId}:1`), clock),
      clock,
      random,
      pins: {
        getPinned: (nodeId) => decode(store.getFact(`store-of/${nodeId}`)),
        pin: (nodeId, storeId) => store.putFact(`store-of/${nodeId}`, Buffer.from(storeId)),
      },
      logger,
    });
    // A repeat promises nothing that was not looked at when it was first said; it may outlive its replica.
    const repeated = repeating(connected, clock, random.fork(), () => cluster.repeatChance);
    const watched = watchPromises(repeated, wal, store, (what) => {
      if (life === this.#life) cluster.violations.push(`node ${this.nodeId}: ${what}`);
    });
    const transport = overwriting(watched);
    if (life !== this.#life) return;
    this.#logs = () => wal.groups();
    this.#parts = parts;
    const node = new HansardNode({
      identity,
      nodes: this.members,
      partitionCount: cluster.options.partitions,
      replicationFactor,
      settings: this.settings,
      clock,
      random,
      logger,
      wal,
      store,
      transport,
      judging: () => this.#judging(life),
      loopMeters: changingLoad(new SimRandom((cluster.options.seed << 6) ^ this.nodeId)),
      faults: parts.ledger,
      onFatal: (error) => this.#failed(life, error),
    });
    this.node = node;
    await node.start();
    cluster.log(`node ${this.nodeId} up`);
  }

  #firstPartitions() {
    return partitionsOf({
      nodeId: this.nodeId,
      members: this.members,
      partitionCount: this.cluster.options.partitions,
      replicationFactor,
    });
  }

  async #format(random: SimRandom): Promise<void> {
    const { storeId, cluster } = this;
    const device = this.disk.device();
    await formatWal(device, { clusterId: Buffer.from(clusterId, 'hex'), storeId, random, segmentBytes });
    await device.close();
    const kv = await this.folder.database.open('db', { create: true });
    const settings = {
      ...defaultSettings,
      producerWindow: cluster.producerWindow,
      applyVersion: cluster.upgrade.from,
    };
    const partitions = this.#firstPartitions();
    await formatStore({ kv, clusterId, storeId, partitions, settings, blockBytes });
    await kv.close();
    this.#formatted = true;
  }

  /** Of which its process, or the one before, is certain. */
  get faults(): readonly ReplicaFault[] {
    return this.#parts?.ledger.faults ?? [];
  }

  get gone(): readonly HostedId[] {
    return this.#parts?.ledger.record.gone ?? [];
  }

  #judging(life: number): RaftJudging {
    const { tracer } = this.cluster.options;
    if (tracer === undefined) return this.limits;
    return {
      ...this.limits,
      preVote: false,
      checkQuorum: false,
      // A killed process does nothing more, whatever its objects still do.
      tracer: (name, raft, detail) => {
        if (life === this.#life) tracer(name, raft, detail);
      },
    };
  }

  replicas() {
    return this.node?.replicas() ?? [];
  }

  lastLogs(): readonly GroupLog[] {
    return this.#logs();
  }

  /** Taken in, in all lives. */
  get snapshots(): number {
    return this.#snapshots + (this.node?.snapshotStats().received ?? 0);
  }

  /** The process is gone at once; `power`: so is what the disk had not synced. */
  kill(kind: CrashKind): void {
    if (!this.isUp) return;
    this.isUp = false;
    this.#snapshots += this.node?.snapshotStats().received ?? 0;
    this.cluster.log(`node ${this.nodeId} ${kind === 'power' ? 'loses power' : 'is killed'}`);
    this.#life++;
    this.node = undefined;
    this.clock.kill();
    this.cluster.network.kill(this.nodeId);
    this.folder.crash(kind);
  }

  /** What was done to its disks ends the process, or keeps it from starting, with one of these. */
  mayEndWith(...reasons: readonly Reason[]): void {
    for (const reason of reasons) this.#allowed.add(reason);
  }

  /** One of its disks reported a failure: nothing may go on as though it had not (design rule 6). */
  mustEndSoon(): void {
    const life = this.#life;
    this.cluster.clock.after(failureNoticedMs, () => {
      if (life === this.#life && this.isUp && !this.clock.isPaused)
        this.cluster.violations.push(`node ${this.nodeId} goes on after its disk has failed`);
    });
  }

  /** From here on its disks work. */
  repair(): void {
    this.disk.clearFaults();
    this.database.failWrites = false;
    this.database.trap = undefined;
    this.#allowed.delete('DISK_FAILED');
  }

  #endsAsItMay(life: number, error: unknown): boolean {
    if (!(error instanceof HansardError) || !this.#allowed.has(error.reason)) return false;
    this.cluster.log(`node ${this.nodeId} ends by itself: ${error.message}`);
    if (life === this.#life) this.kill('process');
    return true;
  }

  #failed(life: number, error: unknown): void {
    if (life !== this.#life || this.#endsAsItMay(life, error)) return;
    const what = `node ${this.nodeId}: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`;
    this.cluster.violations.push(what);
    this.cluster.log(what);
    this.kill('process');
  }
}

/** What a node says that people should hear, into the readable history. */
function historyLogger(log: (line: string) => void): Logger {
  const say = (fields: LogFields, message: string): void => log(`${message} ${JSON.stringify(fields)}`);
  const logger: Logger = { debug() {}, info() {}, warn: say, error: say, child: () => logger };
  return logger;
}

function decode(bytes: Uint8Array | undefined): string | undefined {
  return bytes === undefined ? undefined : Buffer.from(bytes).toString();
}

/** Says "synced" long before it is: what a crash of all nodes takes then was acknowledged. */
function earlyDevice(device: LogDevice, clock: Clock): LogDevice {
  const early = Object.create(device) as LogDevice;
  early.write = (segment, offset, bytes) => {
    const copy = Buffer.from(bytes);
    clock.after(400, () => {
      device.write(segment, offset, copy).catch(() => undefined);
    });
    return Promise.resolve(0.1);
  };
  Object.defineProperty(early, 'here', { value: undefined });
  for (const name of ['list', 'create', 'rename', 'remove', 'read', 'allocate', 'close'] as const) {
    (early as unknown as Record<string, unknown>)[name] = (
      device[name] as (...args: unknown[]) => unknown
    ).bind(device);
  }
  return early;
}

/** Of a loop: it comes and goes within seconds, so that leaderships move with it. */
function changingLoad(random: SimRandom): LoopMeters {
  let share = 0;
  return {
    busyShare: () => {
      if (random.below(4) === 0) share = random.below(3) / 2;
      return share;
    },
    cpuShare: () => share,
  };
}
