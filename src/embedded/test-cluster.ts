/**
 * Several nodes in this process, with faults to switch on. Each node reaches
 * each other one through a wire of its own, so that cutting it hits real
 * connections; clients reach every node that is up.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Client, type ClientOptions, connect } from '../client/index.js';
import { HansardError } from '../common/errors.js';
import { clusterIdBytes, randomHexId } from '../common/hex-ids.js';
import type { Logger } from '../common/logger.js';
import { initNode } from '../node/open.js';
import { realRandom } from '../node/real-env.js';
import type { SettingName } from '../node/settings-table.js';
import { embeddedDefaults, segmentBytes } from './open.js';
import { freePorts, loopback, withFreePorts } from './ports.js';
import { type Door, runNode } from './running.js';
import { Wire } from './wire.js';

export interface TestClusterOptions {
  /** Default 3, at most 9. */
  readonly nodes?: number;
  /** Default 8. */
  readonly partitions?: number;
  readonly settings?: Readonly<Partial<Record<SettingName, string>>>;
  readonly logger?: Logger;
  /** How long to wait until every partition has a leader, ms; default 30,000. */
  readonly timeoutMs?: number;
}

/** Nodes are numbered from 1. */
export interface TestCluster {
  readonly nodes: number;
  /** host:port of every node, comma-separated. */
  readonly endpoint: string;
  /** A client of all nodes, or of one alone to begin with; closed with the cluster. */
  connect(tenant?: string, options?: ClientOptions & { readonly node?: number }): Client;
  /** Which node leads the partition of the channel, as those see it that are up and not isolated. */
  leaderOf(channel: string, tenant?: string): number | undefined;
  /** Ends a node as a crash does: nothing handed away, nothing sealed. */
  kill(node: number): Promise<void>;
  /** Starts a node that was killed, from its folder; resolves when it knows all leaders. */
  restart(node: number): Promise<void>;
  /** Cuts a node off from the others; clients still reach it. */
  isolate(node: number): void;
  /** Mends what `isolate` cut: of one node, or of all. */
  heal(node?: number): void;
  /** Resolves when every node that is up knows a leader of every partition. */
  ready(timeoutMs?: number): Promise<void>;
  close(): Promise<void>;
}

/**
 * Starts nodes in temporary folders; resolves when all know a leader of every partition.
 * @example
 * const cluster = await testCluster({ nodes: 3 });
 * const channel = cluster.connect().channel('greetings');
 * await cluster.kill(cluster.leaderOf('greetings') ?? 1);
 * await channel.append({ role: 'user', text: 'still there' });
 * await cluster.close();
 */
export async function testCluster(options: TestClusterOptions = {}): Promise<TestCluster> {
  return await withFreePorts(async () => {
    const cluster = new Cluster(options);
    try {
      await cluster.start();
    } catch (error) {
      await cluster.close();
      throw error;
    }
    return cluster;
  });
}

interface Slot {
  readonly nodeId: number;
  readonly dir: string;
  readonly clientAddress: string;
  readonly peerAddress: string;
  /** To each other node. */
  readonly wires: Map<number, Wire>;
  isIsolated: boolean;
  door: Door | undefined;
}

class Cluster implements TestCluster {
  readonly nodes: number;
  readonly #options: TestClusterOptions;
  readonly #root = mkdtempSync(join(tmpdir(), 'hansard-cluster-'));
  readonly #clients = new Set<Client>();
  #slots: Slot[] = [];
  #closing: Promise<void> | undefined;

  constructor(options: TestClusterOptions) {
    this.#options = options;
    this.nodes = options.nodes ?? 3;
    if (!(Number.isInteger(this.nodes) && this.nodes >= 1 && this.nodes <= 9))
      throw new RangeError(`nodes: 1 to 9, not ${options.nodes}`);
  }

  async start(): Promise<void> {
    const ports = await freePorts(2 * this.nodes);
    this.#slots = Array.from({ length: this.nodes }, (_, i) => ({
      nodeId: i + 1,
      dir: join(this.#root, `node-${i + 1}`),
      clientAddress: `${loopback}:${ports[2 * i]}`,
      peerAddress: `${loopback}:${ports[2 * i + 1]}`,
      wires: new Map(),
      isIsolated: false,
      door: undefined,
    }));
    const clusterId = randomHexId(realRandom, clusterIdBytes);
    await Promise.all(this.#slots.map((slot) => this.#make(slot, clusterId)));
    const opened = await Promise.allSettled(this.#slots.map((slot) => this.#open(slot)));
    const failed = opened.find((result) => result.status === 'rejected');
    if (failed !== undefined) throw failed.reason;
    await this.ready();
  }

  get endpoint(): string {
    return this.#slots.map((slot) => slot.clientAddress).join(',');
  }

  connect(tenant = '', options: ClientOptions & { readonly node?: number } = {}): Client {
    const { node, ...clientOptions } = options;
    const endpoint = node === undefined ? this.endpoint : this.#slot(node).clientAddress;
    const client = connect(`hansard://${endpoint}/${tenant}`, clientOptions);
    this.#clients.add(client);
    return client;
  }

  leaderOf(channel: string, tenant = ''): number | undefined {
    for (const slot of this.#slots) {
      if (slot.door === undefined || slot.isIsolated) continue;
      const { node } = slot.door.running;
      const partition = node.partitionOf(tenant, channel);
      const leader = node.cluster().partitions.find((p) => p.partition === partition)?.leader;
      if (leader !== undefined && this.#slot(leader).door !== undefined) return leader;
    }
    return undefined;
  }

  async kill(node: number): Promise<void> {
    const slot = this.#slot(node);
    const door = slot.door;
    slot.door = undefined;
    await door?.halt();
  }

  async restart(node: number): Promise<void> {
    const slot = this.#slot(node);
    if (slot.door !== undefined) await this.kill(node);
    await this.#open(slot);
    await slot.door?.ready(this.#timeoutMs());
  }

  isolate(node: number): void {
    this.#slot(node).isIsolated = true;
    this.#setWires();
  }

  heal(node?: number): void {
    for (const slot of node === undefined ? this.#slots : [this.#slot(node)]) slot.isIsolated = false;
    this.#setWires();
  }

  async ready(timeoutMs = this.#timeoutMs()): Promise<void> {
    await Promise.all(this.#slots.map((slot) => slot.door?.ready(timeoutMs)));
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    await Promise.all([...this.#clients].map((client) => client.close()));
    const ended = await Promise.allSettled(this.#slots.map((slot) => this.kill(slot.nodeId)));
    for (const slot of this.#slots) for (const wire of slot.wires.values()) await wire.close();
    rmSync(this.#root, { recursive: true, force: true });
    const failed = ended.find((result) => result.status === 'rejected');
    if (failed !== undefined) throw failed.reason;
  }

  /** In each folder the others' addresses are the near ends of this node's own wires. */
  async #make(slot: Slot, clusterId: string): Promise<void> {
    for (const other of this.#slots) {
      if (other === slot) continue;
      const wire = await Wire.to(Number(other.peerAddress.slice(loopback.length + 1)));
      slot.wires.set(other.nodeId, wire);
      this.#requireOwnPort(wire);
    }
    await initNode({
      dir: slot.dir,
      clusterId,
      nodeId: slot.nodeId,
      partitionCount: this.#options.partitions ?? embeddedDefaults.partitions,
      replicationFactor: Math.min(3, this.nodes),
      members: this.#slots.map((other) => ({
        nodeId: other.nodeId,
        clientAddress: other.clientAddress,
        peerAddress: slot.wires.get(other.nodeId)?.address ?? other.peerAddress,
      })),
      segmentBytes,
    });
  }

  /** The ports of nodes are free until those listen: a wire may get one, and would be taken for that node. */
  #requireOwnPort({ address }: Wire): void {
    if (!this.#slots.some((slot) => slot.clientAddress === address || slot.peerAddress === address)) return;
    throw new HansardError('ADDRESS_IN_USE', `a wire got a node's port: ${address}`, { address });
  }

  async #open(slot: Slot): Promise<void> {
    const { dir, clientAddress, peerAddress } = slot;
    const { settings, logger } = this.#options;
    slot.door = await runNode({ dir, clientAddress, peerAddress, settings, logger });
  }

  #setWires(): void {
    for (const slot of this.#slots)
      for (const [other, wire] of slot.wires) wire.isCut = slot.isIsolated || this.#slot(other).isIsolated;
  }

  #slot(node: number): Slot {
    const slot = this.#slots[node - 1];
    if (slot === undefined) throw new RangeError(`no node ${node}: 1 to ${this.#slots.length}`);
    return slot;
  }

  #timeoutMs(): number {
    return this.#options.timeoutMs ?? embeddedDefaults.readyTimeoutMs;
  }
}
