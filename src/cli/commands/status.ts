/** `hansard status`: nodes, partitions and leaders, as the node that answers knows them. */
import { type NodeScrub, ReplicaClient } from '../../client/replica.js';
import { HansardError } from '../../common/errors.js';
import type { ActionContext } from '../action.js';
import { ExitCode } from '../exit-codes.js';
import { count, type Output, printable } from '../output.js';
import { type ClientOptions, openSession } from '../session.js';
import {
  showSubscriptionStatus,
  subscriptionStatus,
  subscriptionStatusJson,
} from '../subscription-status.js';
import { formatTime } from '../times.js';

interface StatusOptions extends ClientOptions {
  readonly partitions?: boolean;
}

/** Exit code 3 where a partition has no leader. */
export async function status({ output, options }: ActionContext<StatusOptions>): Promise<ExitCode> {
  const session = await openSession(options);
  try {
    const cluster = await session.client.cluster();
    const leads = (nodeId: number) => cluster.partitions.filter((p) => p.leaderNodeId === nodeId).length;
    const leaderless = leads(0);
    const [scrubs, subscriptions] = await Promise.all([
      scrubsOf(cluster.nodes.filter((n) => n.state === 'connected')),
      subscriptionStatus(session, cluster, Date.now()),
    ]);
    const lastScrub = (nodeId: number): string => {
      const scrub = scrubs.get(nodeId);
      if (scrub === undefined) return 'unknown';
      return scrub.lastEndedUs === 0 ? 'never' : formatTime(scrub.lastEndedUs);
    };
    output.json({
      cluster_id: cluster.clusterId,
      incarnation: cluster.incarnation,
      answered_by: cluster.answeredByNodeId,
      version: cluster.version,
      partition_map_version: cluster.partitionMapVersion,
      leaderless,
      nodes: cluster.nodes.map((n) => ({
        node: n.nodeId,
        state: n.state,
        client_address: n.clientAddress,
        peer_address: n.peerAddress,
        store_id: n.storeId,
        leads: leads(n.nodeId),
        disk_full: n.diskFull,
        ...scrubJson(scrubs.get(n.nodeId)),
      })),
      pools: cluster.pools.map((p) => ({
        name: p.name,
        partition_count: p.partitionCount,
        replication_factor: p.replicationFactor,
      })),
      faults: cluster.faults.map((f) => ({
        partition: f.partition,
        node: f.nodeId,
        kind: f.kind,
        since: new Date(f.sinceTimeUs / 1000).toISOString(),
        reason: f.reason,
      })),
      refused: cluster.refused.map((each) => ({
        partition: each.partition,
        damaged_nodes: each.damagedNodeIds,
        channels: each.channels.map((one) => ({
          tenant: one.tenant,
          channel: one.channel,
          known_seq: one.knownSeq,
        })),
        more_channels: each.moreChannels,
      })),
      tenant: session.client.tenant,
      subscriptions: subscriptions?.map(subscriptionStatusJson) ?? null,
      ...(options.partitions ? { partitions: cluster.partitions.map(partitionJson) } : {}),
    });
    const c = output.colors;
    const pools = cluster.pools.map(
      (p) => `${p.partitionCount} partitions on ${p.replicationFactor} nodes each`,
    );
    output.line(
      `cluster ${cluster.clusterId}, ${pools.join(', ')}; answered by node ${cluster.answeredByNodeId}`,
    );
    output.table(
      [
        { title: 'NODE', align: 'right' },
        { title: 'STATE' },
        { title: 'CLIENTS' },
        { title: 'PEERS' },
        { title: 'LEADS', align: 'right' },
        { title: 'LAST SCRUB' },
        { title: 'FOUND', align: 'right' },
      ],
      cluster.nodes.map((n) => [
        n.nodeId,
        n.diskFull ? c.red('disk full') : n.state === 'connected' ? c.green(n.state) : c.red(n.state),
        n.clientAddress,
        n.peerAddress,
        leads(n.nodeId),
        lastScrub(n.nodeId),
        foundText(scrubs.get(n.nodeId)?.findings ?? 0, c),
      ]),
    );
    if (options.partitions)
      output.table(
        [
          { title: 'PARTITION', align: 'right' },
          { title: 'LEADER', align: 'right' },
          { title: 'TERM', align: 'right' },
          { title: 'COMMIT', align: 'right' },
          { title: 'APPLIED', align: 'right' },
          { title: 'REPLICAS' },
        ],
        cluster.partitions.map((p) => [
          p.partition,
          p.leaderNodeId === 0 ? c.red('none') : p.leaderNodeId,
          p.term,
          p.commitIndex,
          p.appliedIndex,
          p.replicas.map((r) => (r.learner ? `${r.nodeId} (learner)` : r.nodeId)).join(' '),
        ]),
      );
    showSubscriptionStatus(output, session.client.tenant, subscriptions);
    if (cluster.faults.length > 0) {
      output.line(c.red(`${cluster.faults.length} replicas are damaged:`));
      output.table(
        [
          { title: 'PARTITION', align: 'right' },
          { title: 'NODE', align: 'right' },
          { title: 'DAMAGED' },
          { title: 'SINCE' },
          { title: 'WHAT WAS FOUND' },
        ],
        cluster.faults
          .slice(0, faultsShown)
          .map((f) => [
            f.partition,
            f.nodeId,
            faultNames[f.kind],
            new Date(f.sinceTimeUs / 1000).toISOString(),
            f.reason,
          ]),
      );
    }
    for (const { reason } of cluster.refused) output.line(c.red(printable(reason)));
    if (cluster.refused.length > 0)
      output.note(
        'put back sound copies, or see docs/operations.md, "Damage on a majority" (hansard repair)',
      );
    if (leaderless > 0)
      output.line(c.red(`${leaderless} of ${cluster.partitions.length} partitions have no leader`));
    return leaderless > 0 ? ExitCode.unreachable : ExitCode.ok;
  } finally {
    await session.close();
  }
}

/** More of them fill no screen; --json has all. */
const faultsShown = 50;

const faultNames = Object.freeze({
  unspecified: 'unknown',
  'state-damaged': 'state (fetches it anew)',
  'log-damaged': 'log (catches up)',
  'term-or-vote-lost': 'votes (is being replaced)',
});

type Cluster = Awaited<ReturnType<Awaited<ReturnType<typeof openSession>>['client']['cluster']>>;

function partitionJson(p: Cluster['partitions'][number]): Record<string, unknown> {
  return {
    partition: p.partition,
    leader: p.leaderNodeId,
    term: p.term,
    commit_index: p.commitIndex,
    applied_index: p.appliedIndex,
    replicas: p.replicas.map((r) => ({ replica_id: r.replicaId, node: r.nodeId, learner: r.learner })),
  };
}

/** A node that hangs must not hold up what is known of the others. */
const scrubTimeoutMs = 1_000;

/** Each node knows its own scrubber alone. */
async function scrubsOf(nodes: Cluster['nodes']): Promise<Map<number, NodeScrub>> {
  const scrubs = new Map<number, NodeScrub>();
  await Promise.all(
    nodes.map(async ({ nodeId, clientAddress }) => {
      const client = new ReplicaClient(clientAddress);
      try {
        scrubs.set(nodeId, await client.scrub(false, 0, scrubTimeoutMs));
      } catch (error) {
        // Not told, and shown so.
        if (!(error instanceof HansardError)) throw error;
      } finally {
        client.close();
      }
    }),
  );
  return scrubs;
}

function scrubJson(scrub: NodeScrub | undefined): Record<string, unknown> {
  if (scrub === undefined) return {};
  return {
    last_scrub: scrub.lastEndedUs === 0 ? null : formatTime(scrub.lastEndedUs),
    scrub_bytes: scrub.bytes,
    scrub_findings: scrub.findings,
  };
}

function foundText(findings: number, c: Output['colors']): string {
  return findings > 0 ? c.red(count(findings)) : '0';
}
