/** Nodes of this process with real folders, logs and LevelDB, started and stopped one by one: cheaper than processes of their own. */
import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Client, connect } from '../../src/client/index.js';
import { HansardError } from '../../src/common/errors.js';
import type { Logger } from '../../src/common/logger.js';
import { type Door, runNode } from '../../src/embedded/running.js';
import { initNode } from '../../src/node/open.js';
import type { SettingName } from '../../src/node/settings-table.js';
import { freePorts } from './free-ports.js';
import { patienceMs } from './until.js';

const MiB = 1024 * 1024;

export interface LocalOptions {
  readonly nodes?: number;
  readonly partitions: number;
  /** Three, or as many as there are nodes. */
  readonly replicationFactor?: number;
  readonly settings?: Readonly<Partial<Record<SettingName, string>>>;
  readonly segmentBytes?: number;
}

export interface LocalNode {
  readonly id: number;
  readonly dir: string;
  readonly clientAddress: string;
  readonly peerAddress: string;
  door: Door | undefined;
  /** What ended it by itself. */
  failure: unknown;
  /** Lines of its log that are errors, of this life. */
  errors: string[];
}

export class LocalCluster {
  readonly #clients = new Set<Client>();
  private constructor(
    readonly root: string,
    readonly clusterId: string,
    readonly nodes: readonly LocalNode[],
    readonly options: LocalOptions,
  ) {}

  static async format(options: LocalOptions): Promise<LocalCluster> {
    const root = mkdtempSync(join(tmpdir(), 'hansard-local-'));
    const count = options.nodes ?? 3;
    const ports = await freePorts(2 * count);
    const nodes = Array.from(
      { length: count },
      (_, i): LocalNode => ({
        id: i + 1,
        dir: join(root, `node-${i + 1}`),
        clientAddress: `127.0.0.1:${ports[2 * i]}`,
        peerAddress: `127.0.0.1:${ports[2 * i + 1]}`,
        door: undefined,
        failure: undefined,
        errors: [],
      }),
    );
    const cluster = new LocalCluster(root, randomBytes(16).toString('hex'), nodes, options);
    for (const node of nodes) await cluster.init(node);
    return cluster;
  }

  async init(node: LocalNode, clusterId = this.clusterId): Promise<void> {
    await initNode({
      dir: node.dir,
      clusterId,
      nodeId: node.id,
      partitionCount: this.options.partitions,
      replicationFactor: this.options.replicationFactor ?? Math.min(3, this.nodes.length),
      members: this.nodes.map(({ id, clientAddress, peerAddress }) => ({
        nodeId: id,
        clientAddress,
        peerAddress,
      })),
      segmentBytes: this.options.segmentBytes ?? 4 * MiB,
    });
  }

  node(id: number): LocalNode {
    return this.nodes[id - 1] as LocalNode;
  }

  /** Rejects with what it refuses for. */
  async start(node: LocalNode): Promise<Door> {
    const { dir, clientAddress, peerAddress } = node;
    node.failure = undefined;
    node.errors = [];
    const note = (fields: Readonly<Record<string, unknown>>, text: string): void => {
      node.errors.push(
        `${text} ${JSON.stringify(fields, (_name, value: unknown) => (value instanceof Error ? value.message : value))}`,
      );
    };
    const silent = (): void => {};
    const logger: Logger = { debug: silent, info: silent, warn: silent, error: note, child: () => logger };
    const settings = {
      logSegment: `${(this.options.segmentBytes ?? 4 * MiB) / 1024}KiB`,
      ...this.options.settings,
    };
    const onFailure = (error: unknown): void => {
      node.failure = error;
    };
    node.door = await runNode({ dir, clientAddress, peerAddress, settings, logger, onFailure });
    return node.door;
  }

  async startAll(): Promise<void> {
    await Promise.all(this.nodes.map((node) => this.start(node)));
    await this.ready();
  }

  async ready(nodes = this.nodes, timeoutMs = patienceMs): Promise<void> {
    await Promise.all(nodes.map((node) => node.door?.ready(timeoutMs)));
  }

  /** `halt`: as a crash would leave it, but for what the kernel has. */
  async stop(node: LocalNode, how: 'stop' | 'halt' = 'stop'): Promise<void> {
    const { door } = node;
    node.door = undefined;
    if (door === undefined) return;
    try {
      await (how === 'stop' ? door.stop() : door.halt());
    } catch (error) {
      // It had failed before, and said so.
      if (node.failure === undefined || !(error instanceof HansardError)) throw error;
    }
  }

  connect(nodes: readonly LocalNode[] = this.nodes, tenant = ''): Client {
    const client = connect(`hansard://${nodes.map((node) => node.clientAddress).join(',')}/${tenant}`, {
      timeoutMs: patienceMs,
    });
    this.#clients.add(client);
    return client;
  }

  async end(): Promise<void> {
    await Promise.all([...this.#clients].map((client) => client.close()));
    await Promise.allSettled(this.nodes.map((node) => this.stop(node, 'halt')));
    rmSync(this.root, { recursive: true, force: true });
  }
}
