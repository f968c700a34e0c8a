/** Doors over one state: nodes of which any may die at any time, and clients of them. */
import t from 'tap';
import { type Api, startApi } from '../../src/api/server.js';
import { defaultTailLimits } from '../../src/api/tails.js';
import { type Client, connect } from '../../src/client/index.js';
import type { NodeId } from '../../src/common/ids.js';
import { silentLogger } from '../../src/common/logger.js';
import type { ClusterView } from '../../src/node/types.js';
import { FakeNode } from '../api/fake-node.js';
import { patienceMs } from '../support/until.js';

/** Several doors over one state. */
export class Doors {
  readonly nodes: Door[] = [];
  constructor(count: number) {
    for (let i = 1; i <= count; i++) this.nodes.push(new Door(i, this));
  }
  get endpoints(): string {
    return this.nodes.map((node) => node.address).join();
  }
  lead(nodeId: NodeId): void {
    for (const node of this.nodes) node.leader = nodeId;
  }
}

export class Door extends FakeNode {
  address = '127.0.0.1:0';
  api: Api | undefined;
  constructor(
    nodeId: NodeId,
    readonly all: Doors,
  ) {
    super(nodeId);
    const first = all.nodes[0];
    if (first !== undefined) this.partitions = first.partitions;
  }
  async open(streams = 100): Promise<void> {
    this.api = await startApi(this, {
      address: this.address,
      insecure: false,
      logger: silentLogger,
      hooks: { onFatal: (error) => t.fail(`fatal: ${error}`) },
      tailLimits: { ...defaultTailLimits, streams },
    });
    this.address = this.api.address;
  }
  /** As a killed process: every connection breaks. */
  async kill(): Promise<void> {
    await this.api?.stop(0);
    this.api = undefined;
  }
  override addressOf(node: NodeId): string | undefined {
    return this.all.nodes[node - 1]?.address;
  }
  override cluster(): ClusterView {
    const view = super.cluster();
    const nodes = this.all.nodes.map(({ identity, address }) => ({
      nodeId: identity.nodeId,
      clientAddress: address,
      peerAddress: '',
      connected: true,
      storeId: identity.storeId,
      applyVersion: 2,
      diskFull: false,
    }));
    const replicas = nodes.map(({ nodeId }) => ({ replicaId: Number(nodeId), nodeId, learner: false }));
    return { ...view, nodes, partitions: view.partitions.map((each) => ({ ...each, replicas })) };
  }
}

export async function start(
  t: { teardown(fn: () => unknown): void },
  count: number,
): Promise<{ doors: Doors; client: Client; writer: Client }> {
  const doors = new Doors(count);
  for (const node of doors.nodes) await node.open();
  const client = connect(`hansard://${doors.endpoints}/acme`, { timeoutMs: patienceMs });
  // What is written goes by a door of its own that never dies.
  const own = new Doors(1);
  const [writing] = own.nodes as [Door];
  writing.partitions = (doors.nodes[0] as Door).partitions;
  await writing.open();
  const writer = connect(`hansard://${own.endpoints}/acme`, { timeoutMs: patienceMs });
  t.teardown(async () => {
    await client.close();
    await writer.close();
    for (const node of [...doors.nodes, writing]) await node.kill();
  });
  return { doors, client, writer };
}
