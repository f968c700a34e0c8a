/** `hansard init`: makes a node's folder. Nothing else ever does. */
import { randomBytes } from 'node:crypto';
import { HansardError } from '../../common/errors.js';
import { defaultPartitions } from '../../common/limits.js';
import { initNode } from '../../node/open.js';
import { settingsTable } from '../../node/settings-table.js';
import type { ActionContext, CommonOptions } from '../action.js';
import { type ClusterFile, readClusterFile } from '../cluster-file.js';

interface InitOptions extends CommonOptions {
  readonly dir: string;
  readonly clusterFile?: string;
  readonly node?: number;
  readonly clientAddress?: string;
  readonly peerAddress?: string;
  readonly partitions?: number;
}

export async function init({ output, options }: ActionContext<InitOptions>): Promise<undefined> {
  const cluster = options.clusterFile === undefined ? singleNode(options) : await clusterOf(options);
  const nodeId = options.clusterFile === undefined ? 1 : (options.node ?? 0);
  const { identity } = await formatNode(options.dir, cluster, nodeId);
  const self = cluster.nodes.find((node) => node.nodeId === nodeId);
  output.json({
    dir: options.dir,
    cluster_id: identity.clusterId,
    node: nodeId,
    store_id: identity.storeId,
    partitions: cluster.partitions,
    replication_factor: cluster.replicationFactor,
    nodes: cluster.nodes.length,
    client_address: self?.clientAddress,
    peer_address: self?.peerAddress,
  });
  output.line(
    `${options.dir}: node ${nodeId} of ${cluster.nodes.length}, cluster ${identity.clusterId}, ${cluster.partitions} partitions; clients connect to ${self?.clientAddress}`,
  );
  output.note(`start it with: hansard start --dir ${options.dir}`);
}

export async function initFromClusterFile(dir: string, clusterFile: string, nodeId: number): Promise<void> {
  await formatNode(dir, await readClusterFile(clusterFile), nodeId);
}

function formatNode(dir: string, cluster: ClusterFile, nodeId: number): ReturnType<typeof initNode> {
  if (!cluster.nodes.some((node) => node.nodeId === nodeId))
    throw new HansardError(
      'INVALID_SETTINGS',
      `node ${nodeId} is not in the cluster file; it has ${cluster.nodes.map((node) => node.nodeId).join(', ')}`,
      { setting: 'node' },
    );
  return initNode({
    dir,
    clusterId: cluster.clusterId,
    nodeId,
    partitionCount: cluster.partitions,
    replicationFactor: cluster.replicationFactor,
    members: cluster.nodes,
  });
}

async function clusterOf(options: InitOptions): Promise<ClusterFile> {
  const notTogether = (['clientAddress', 'peerAddress', 'partitions'] as const).find(
    (name) => options[name] !== undefined,
  );
  if (notTogether !== undefined)
    throw new HansardError(
      'INVALID_SETTINGS',
      `${notTogether} is in the cluster file already; leave the option out`,
      {
        setting: notTogether,
      },
    );
  if (options.node === undefined)
    throw new HansardError('INVALID_SETTINGS', '--cluster-file needs --node: which of its nodes is this?', {
      setting: 'node',
    });
  return await readClusterFile(options.clusterFile ?? '');
}

function singleNode(options: InitOptions): ClusterFile {
  if (options.node !== undefined && options.node !== 1)
    throw new HansardError(
      'INVALID_SETTINGS',
      '--node is for a cluster of several nodes: give --cluster-file',
      {
        setting: 'node',
      },
    );
  return {
    clusterId: randomBytes(16).toString('hex'),
    partitions: options.partitions ?? defaultPartitions,
    replicationFactor: 1,
    nodes: [
      {
        nodeId: 1,
        clientAddress: options.clientAddress ?? String(settingsTable.clientAddress.default),
        peerAddress: options.peerAddress ?? String(settingsTable.peerAddress.default),
      },
    ],
  };
}
