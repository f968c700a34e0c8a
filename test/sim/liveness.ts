/**
 * A majority that works is enough, whatever the rest does: every partition has a leader
 * there and takes writes within bounded time.
 */
import { encodeAppend } from '../../src/conversation/command.js';
import type { HansardNode } from '../../src/node/node.js';
import type { SimCluster, SimNode } from './cluster.js';
import { textEvent } from './content.js';

/** Between two attempts; and what each has, simulated ms. */
const retryMs = 200;
const callMs = 2_000;

/** Problems found; `broken` is the node that is down or cut off. */
export async function checkLiveness(
  cluster: SimCluster,
  broken: SimNode,
  limitMs: number,
): Promise<string[]> {
  const problems: string[] = [];
  for (let partition = 0; partition < cluster.options.partitions; partition++) {
    const taken = await takesWrite(cluster, partition, broken, limitMs);
    if (!taken && cluster.violations.length === 0)
      problems.push(`liveness: partition ${partition} takes no write while node ${broken.nodeId} is away`);
  }
  return problems;
}

async function takesWrite(
  cluster: SimCluster,
  partition: number,
  broken: SimNode,
  limitMs: number,
): Promise<boolean> {
  const { clock } = cluster;
  const endMs = clock.monotonicMs() + limitMs;
  let isTaken = false;
  while (!isTaken && clock.monotonicMs() < endMs && cluster.violations.length === 0) {
    const leader = cluster.leaderOf(partition);
    if (leader !== undefined && leader !== broken.node) {
      append(leader, partition, channelOf(cluster, partition)).then(
        () => {
          isTaken = true;
        },
        // Asked again, of whoever leads then.
        () => undefined,
      );
    }
    await cluster.passUntil(() => isTaken, retryMs);
  }
  return isTaken;
}

function append(leader: HansardNode, partition: number, channel: string): Promise<unknown> {
  const command = encodeAppend({ tenant: 'default', channel, events: [textEvent('alive', 7)] });
  return leader.propose(partition, command, {
    deadlineMs: leader.monotonicMs() + callMs,
    producer: undefined,
  });
}

/** Nobody else's. */
function channelOf(cluster: SimCluster, partition: number): string {
  for (let i = 0; ; i++) {
    const name = `alive-${i}`;
    if (cluster.partitionOf(name) === partition) return name;
  }
}
