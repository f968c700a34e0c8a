/** One node in this process. */
import { existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Client, type ClientOptions, connect } from '../client/index.js';
import { clusterIdBytes, randomHexId } from '../common/hex-ids.js';
import type { Logger } from '../common/logger.js';
import { initNode } from '../node/open.js';
import { realRandom } from '../node/real-env.js';
import type { SettingName } from '../node/settings-table.js';
import { freePorts, loopback, withFreePorts } from './ports.js';
import { runNode } from './running.js';

export interface OpenOptions {
  /** The node's folder; made where it is absent or empty, and kept. Without it: a temporary one that goes with `close`. */
  readonly dir?: string;
  /** Port for clients, of a folder that is made; a free one where absent. A made folder keeps its port. */
  readonly port?: number;
  /** Of a folder that is made, fixed then; default 8. */
  readonly partitions?: number;
  /** As in docs/settings.md, in camelCase: `{ tailLimit: '64MiB' }`. Smaller by default than a server's. */
  readonly settings?: Readonly<Partial<Record<SettingName, string>>>;
  readonly logger?: Logger;
  /** The node can't go on (its disk failed …). Default: thrown as an uncaught exception. */
  readonly onFailure?: (error: unknown) => void;
  /** How long to wait until every partition has a leader, ms; default 30,000. */
  readonly timeoutMs?: number;
}

export interface EmbeddedNode {
  readonly dir: string;
  /** host:port for clients, of this process or any other of this machine. */
  readonly endpoint: string;
  /** A client of this node; closed with it. */
  connect(tenant?: string, options?: ClientOptions): Client;
  /** Seals what is in memory, releases the folder; closes the clients. */
  close(): Promise<void>;
}

export const embeddedDefaults = Object.freeze({ partitions: 8, readyTimeoutMs: 30_000 });
/** 64 MiB segments are most of a small node's first start. */
export const segmentBytes = 4 * 1024 * 1024;

/**
 * Opens a node in this process, making its folder where there is none.
 * @example
 * const node = await open();                        // in a temporary folder
 * const client = node.connect();
 * await client.channel('greetings').append({ role: 'user', text: 'hello' });
 * await node.close();
 */
export async function open(options: OpenOptions = {}): Promise<EmbeddedNode> {
  // A folder that is given keeps its ports; only for one that goes again others can be taken.
  if (options.dir !== undefined || options.port !== undefined) return await openOnce(options);
  return await withFreePorts(() => openOnce(options));
}

async function openOnce(options: OpenOptions): Promise<EmbeddedNode> {
  const dir = options.dir ?? mkdtempSync(join(tmpdir(), 'hansard-'));
  const isTemporary = options.dir === undefined;
  const removeOwn = (): void => {
    if (isTemporary) rmSync(dir, { recursive: true, force: true });
  };
  try {
    if (!existsSync(dir) || readdirSync(dir).length === 0) await makeFolder(dir, options);
    const { openDirectory } = await import('../node/directory.js');
    const { identity } = await openDirectory(dir);
    const self = identity.members.find(({ nodeId }) => nodeId === identity.nodeId);
    const endpoint = self?.clientAddress ?? `${loopback}:0`;
    const { settings, logger, onFailure } = options;
    const peerAddress = self?.peerAddress ?? `${loopback}:0`;
    const door = await runNode({ dir, clientAddress: endpoint, peerAddress, settings, logger, onFailure });
    const clients = new Set<Client>();
    const close = async (): Promise<void> => {
      await Promise.all([...clients].map((client) => client.close()));
      await door.stop().finally(removeOwn);
    };
    try {
      await door.ready(options.timeoutMs ?? embeddedDefaults.readyTimeoutMs);
    } catch (error) {
      await close();
      throw error;
    }
    let closing: Promise<void> | undefined;
    return {
      dir,
      endpoint,
      connect(tenant = '', clientOptions = {}) {
        const client = connect(`hansard://${endpoint}/${tenant}`, clientOptions);
        clients.add(client);
        return client;
      },
      close: () => (closing ??= close()),
    };
  } catch (error) {
    removeOwn();
    throw error;
  }
}

async function makeFolder(dir: string, options: OpenOptions): Promise<void> {
  const [clientPort, peerPort] = await freePorts(2);
  await initNode({
    dir,
    clusterId: randomHexId(realRandom, clusterIdBytes),
    nodeId: 1,
    partitionCount: options.partitions ?? embeddedDefaults.partitions,
    replicationFactor: 1,
    members: [
      {
        nodeId: 1,
        clientAddress: `${loopback}:${options.port ?? clientPort}`,
        peerAddress: `${loopback}:${peerPort}`,
      },
    ],
    segmentBytes,
  });
}
