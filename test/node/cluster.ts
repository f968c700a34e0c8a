/** A few whole nodes in one process on a simulated clock, disk, database and network, for the node's own tests. */

import { HansardError } from '../../src/common/errors.js';
import { decodeFaults, encodeFaults, noFaults } from '../../src/common/faults.js';
import { xxh64 } from '../../src/common/hash.js';
import { silentLogger } from '../../src/common/logger.js';
import { encodeAppend } from '../../src/conversation/command.js';
import { EventType } from '../../src/conversation/types.js';
import { FaultLedger, untrustedBy } from '../../src/node/fault-ledger.js';
import type { HansardNode as Node } from '../../src/node/node.js';
import { HansardNode } from '../../src/node/node.js';
import { partitionsOf } from '../../src/node/open.js';
import { type NodeSettings, nodeDefaults } from '../../src/node/options.js';
import { replaceLog } from '../../src/node/replace-log.js';
import { formatStore, openStore } from '../../src/store/store.js';
import type { Store } from '../../src/store/types.js';
import { createTransport } from '../../src/transport/transport.js';
import type { Transport } from '../../src/transport/types.js';
import { formatWal, openWal, type Wal } from '../../src/wal/index.js';
import { SimClock, SimRandom } from '../sim/sim-clock.js';
import { SimDisk } from '../sim/sim-disk.js';
import { SimKvFactory } from '../sim/sim-kv.js';
import { SimNetwork } from '../sim/sim-network.js';

const clusterId = 'c1'.repeat(16);

export interface Running {
  readonly node: Node;
  readonly wal: Wal;
  readonly store: Store;
  readonly transport: Transport;
  readonly fatal: unknown[];
  /** Of this node's disk; a test changes it. */
  readonly space: { isLow: boolean; isCritical: boolean; freeBytes: number; reserveBytes: number };
}

export interface ClusterOptions {
  readonly nodes: number;
  readonly partitions: number;
  /** As many as nodes where undefined. */
  readonly replicationFactor?: number;
  readonly settings?: Partial<NodeSettings>;
  /** Of one node, beside those of all. */
  readonly settingsOf?: (nodeId: number) => Partial<NodeSettings>;
  readonly cacheBytes?: number;
  /** Beyond it the log is cut behind who is away; four segments of 1 MiB at least. */
  readonly maxLogBytes?: number;
  readonly seed?: number;
  /** By node: the newest apply version that it knows, where it is another build than this one. */
  readonly applyVersions?: Readonly<Record<number, number>>;
}

export class Cluster {
  readonly clock = new SimClock();
  readonly random: SimRandom;
  readonly network: SimNetwork;
  readonly #members;
  readonly #folders;
  readonly running = new Map<number, Running>();
  #boots = 0;

  /** How busy the loop of a node is, 0 to 1. */
  readonly loopBusy = new Map<number, number>();

  private constructor(readonly options: ClusterOptions) {
    this.random = new SimRandom(options.seed ?? 1);
    this.network = new SimNetwork(this.clock, this.random.fork());
    this.#members = Array.from({ length: options.nodes }, (_, i) => ({
      nodeId: i + 1,
      peerAddress: `node${i + 1}:1`,
      clientAddress: `node${i + 1}:2`,
    }));
    const { clock } = this;
    this.#folders = this.#members.map(() => ({
      disk: new SimDisk({ clock, random: this.random.fork() }),
      database: new SimKvFactory({ clock, random: this.random.fork(), readMs: 0.2, writeMs: 1 }),
      faults: encodeFaults(noFaults),
    }));
  }

  static async start(options: ClusterOptions): Promise<Cluster> {
    const cluster = new Cluster(options);
    for (const { nodeId } of cluster.#members) await cluster.#format(nodeId);
    for (const { nodeId } of cluster.#members) await cluster.open(nodeId);
    return cluster;
  }

  /** Lets time pass until `promise` has settled. */
  async settled<T>(promise: Promise<T>, limitMs = 20_000): Promise<T> {
    let done = false;
    const mark = (): void => {
      done = true;
    };
    promise.then(mark, mark);
    if (!(await this.clock.until(() => done, limitMs))) throw new Error(`not settled within ${limitMs} ms`);
    return promise;
  }

  folder(nodeId: number) {
    const folder = this.#folders[nodeId - 1];
    if (folder === undefined) throw new Error(`no node ${nodeId}`);
    return folder;
  }

  get(nodeId: number): Running {
    const running = this.running.get(nodeId);
    if (running === undefined) throw new Error(`node ${nodeId} is down`);
    return running;
  }

  async #format(nodeId: number): Promise<void> {
    const { disk, database } = this.folder(nodeId);
    const device = disk.device();
    const storeId = storeIdOf(nodeId);
    const format = async (): Promise<void> => {
      const ids = { clusterId: new Uint8Array(16).fill(0xc1), storeId };
      await formatWal(device, { ...ids, random: this.random, segmentBytes: 1024 * 1024 });
      const kv = await database.open('db', { create: true });
      const partitions = partitionsOf({
        nodeId,
        members: this.#members,
        partitionCount: this.options.partitions,
        replicationFactor: this.options.replicationFactor ?? this.options.nodes,
      });
      await formatStore({ kv, clusterId, storeId, partitions });
      await kv.close();
    };
    await this.settled(format());
  }

  /** What the node's folder says of its faults. */
  ledger(nodeId: number): FaultLedger {
    const folder = this.folder(nodeId);
    return new FaultLedger(decodeFaults(folder.faults), async (bytes) => {
      folder.faults = Buffer.from(bytes);
    });
  }

  async openStore(nodeId: number, faults?: FaultLedger): Promise<Store> {
    const kv = await this.settled(this.folder(nodeId).database.open('db', { create: false }));
    const { clock } = this;
    const ids = { clusterId, storeId: storeIdOf(nodeId) };
    return this.settled(
      openStore({ kv, ...ids, clock, logger: silentLogger, untrusted: faults && untrustedBy(faults) }),
    );
  }

  async open(nodeId: number): Promise<Running> {
    const { clock, random, options } = this;
    const storeId = storeIdOf(nodeId);
    const faults = this.ledger(nodeId);
    const store = await this.openStore(nodeId, faults);
    const fatal: unknown[] = [];
    const space = { isLow: false, isCritical: false, freeBytes: 1e12, reserveBytes: 1e9 };
    let node: HansardNode | undefined;
    const openLog = (): Promise<Wal> =>
      openWal({
        device: this.folder(nodeId).disk.device(),
        clusterId: new Uint8Array(16).fill(0xc1),
        storeId,
        clock,
        segmentBytes: 1024 * 1024,
        cacheBytes: options.cacheBytes,
        maxLogBytes: options.maxLogBytes,
        onFailure: (error) => (node === undefined ? fatal.push(error) : node.fail(error)),
      });
    const wal = await this.settled(
      openLog().catch(async (error: unknown) => {
        if (!(error instanceof HansardError) || error.reason !== 'LOG_DAMAGED') throw error;
        const folder = this.folder(nodeId);
        const fresh = new SimDisk({ clock, random: random.fork() });
        const found = await replaceLog({
          clusterId: new Uint8Array(16).fill(0xc1),
          storeId,
          error,
          old: folder.disk.device(),
          fresh: fresh.device(),
          segmentBytes: 1024 * 1024,
          clock,
          random,
          logger: silentLogger,
          ledger: faults,
          store,
          hosted: store.hosted().map(({ partition }) => ({ partition, replicaId: nodeId })),
        });
        await faults.add(found);
        folder.disk = fresh;
        return openLog();
      }),
    );
    const identity = {
      clusterId,
      storeId,
      incarnation: 1,
      nodeId,
      bootId: (++this.#boots).toString(16).padStart(16, '0'),
      version: '0',
    };
    const pins = new Map<number, string>();
    const transport = createTransport({
      self: identity,
      peers: this.#members.map(({ nodeId: id, peerAddress }) => ({ nodeId: id, address: peerAddress })),
      network: this.network.node(nodeId, `node${nodeId}:1`),
      clock,
      random,
      pins: {
        getPinned: (id) => pins.get(id),
        pin: async (id, value) => {
          pins.set(id, value);
        },
      },
      logger: silentLogger,
    });
    node = new HansardNode({
      identity,
      nodes: this.#members,
      partitionCount: options.partitions,
      replicationFactor: options.replicationFactor ?? options.nodes,
      settings: { ...nodeDefaults, ...options.settings, ...options.settingsOf?.(nodeId) },
      clock,
      random,
      logger: silentLogger,
      wal,
      store,
      transport,
      space,
      loopMeters: {
        busyShare: () => this.loopBusy.get(nodeId) ?? 0,
        cpuShare: () => this.loopBusy.get(nodeId) ?? 0,
      },
      faults,
      applyVersion: options.applyVersions?.[nodeId],
      onFatal: (error) => fatal.push(error),
    });
    await this.settled(node.start());
    const running = { node, wal, store, transport, fatal, space };
    this.running.set(nodeId, running);
    return running;
  }

  async stop(nodeId: number, options?: { seal: boolean }): Promise<void> {
    const { node } = this.get(nodeId);
    await this.settled(node.stop(options));
    this.network.kill(nodeId);
    this.running.delete(nodeId);
  }

  async stopAll(): Promise<void> {
    for (const nodeId of [...this.running.keys()]) await this.stop(nodeId);
  }

  leaderOf(partition: number): Running | undefined {
    for (const running of this.running.values()) {
      if (running.node.replicas().some((replica) => replica.partition === partition && replica.isLeader))
        return running;
    }
    return undefined;
  }

  /**
   * Its first entry has applied: of two that stand at the same time the first one who leads is
   * deposed, and nobody knows what became of an append.
   */
  async led(partition = 0): Promise<Running> {
    const isLed = (): boolean => {
      const replicas = this.leaderOf(partition)?.node.replicas();
      const replica = replicas?.find((each) => each.partition === partition);
      return replica !== undefined && replica.store.appliedTerm === replica.term;
    };
    if (!(await this.clock.until(isLed, 20_000))) throw new Error('nobody leads');
    return this.leaderOf(partition) as Running;
  }
}

function storeIdOf(nodeId: number): string {
  return nodeId.toString(16).padStart(16, 'a');
}

export function append(channel: string, text: string): Uint8Array {
  const content = Buffer.from(text);
  const salt = Buffer.alloc(16, 7);
  const event = {
    type: EventType.messageCreated,
    content,
    contentXxh64: xxh64(content),
    salt,
    commitment: Buffer.alloc(32, 1),
  };
  return encodeAppend({ tenant: 'default', channel, events: [event] });
}
