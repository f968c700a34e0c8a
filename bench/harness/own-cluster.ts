/** Three nodes in this process, with their insides in reach: for counting what each part did. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Client, connect } from '../../src/client/index.js';
import { clusterIdBytes, randomHexId } from '../../src/common/hex-ids.js';
import { freePorts, loopback, withFreePorts } from '../../src/embedded/ports.js';
import { type Door, runNode } from '../../src/embedded/running.js';
import { initNode } from '../../src/node/open.js';
import { realRandom } from '../../src/node/real-env.js';

export interface OwnCluster {
  readonly doors: readonly Door[];
  readonly client: Client;
  close(): Promise<void>;
}

const readyMs = 60_000;
const callMs = 60_000;

export function ownCluster(partitionCount: number): Promise<OwnCluster> {
  return withFreePorts(async () => {
    const root = mkdtempSync(join(tmpdir(), 'hansard-smoke-'));
    const ports = await freePorts(6);
    const clusterId = randomHexId(realRandom, clusterIdBytes);
    const members = [0, 1, 2].map((i) => ({
      nodeId: i + 1,
      clientAddress: `${loopback}:${ports[2 * i]}`,
      peerAddress: `${loopback}:${ports[2 * i + 1]}`,
    }));
    const doors: Door[] = [];
    const close = async (): Promise<void> => {
      await Promise.all(doors.map((door) => door.halt()));
      rmSync(root, { recursive: true, force: true });
    };
    try {
      for (const { nodeId, clientAddress, peerAddress } of members) {
        const dir = join(root, `node-${nodeId}`);
        await initNode({ dir, clusterId, nodeId, partitionCount, replicationFactor: 3, members });
        doors.push(await runNode({ dir, clientAddress, peerAddress }));
      }
      await Promise.all(doors.map((door) => door.ready(readyMs)));
    } catch (error) {
      await close();
      throw error;
    }
    const endpoint = members.map(({ clientAddress }) => clientAddress).join(',');
    const client = connect(`hansard://${endpoint}/`, { timeoutMs: callMs });
    return {
      doors,
      client,
      async close() {
        await client.close();
        await close();
      },
    };
  });
}
