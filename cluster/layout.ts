/** What a launcher's folder holds, and which ports its nodes have. */
import { join, resolve } from 'node:path';

export interface LaunchedNode {
  readonly nodeId: number;
  readonly dir: string;
  readonly clientAddress: string;
  readonly peerAddress: string;
  readonly httpAddress: string;
  readonly logFile: string;
  readonly recordFile: string;
}

/** cluster.json in the launcher's folder. */
export interface ClusterState {
  readonly version: 1;
  /**
   * `formatting`: node folders are being made; none was ever started, so all of
   * them may be made again. `ready`: they hold data, and are never touched.
   */
  readonly state: 'formatting' | 'ready';
  readonly clusterId: string;
  readonly nodes: number;
  readonly basePort: number;
  readonly partitions: number;
}

export const stateFileOf = (dir: string): string => join(resolve(dir), 'cluster.json');
export const clusterFileOf = (dir: string): string => join(resolve(dir), 'cluster.toml');
export const lockFileOf = (dir: string): string => join(resolve(dir), 'launcher.lock');

/** The process that shows a cluster in the foreground (`hansard cluster run`). */
export const foregroundFileOf = (dir: string): string => join(resolve(dir), 'run', 'foreground.json');
/** There from the making of a cluster until its sample is loaded, so that a loading that was cut off goes on. */
export const samplePendingOf = (dir: string): string => join(resolve(dir), 'sample-pending');

/**
 * Consecutive ports from the base: first all nodes' client ports, then their
 * peer ports, then their HTTP ports.
 */
export function nodesOf(dir: string, nodes: number, basePort: number): LaunchedNode[] {
  const root = resolve(dir);
  const at = (port: number) => `127.0.0.1:${port}`;
  return Array.from({ length: nodes }, (_, i) => ({
    nodeId: i + 1,
    dir: join(root, `node-${i + 1}`),
    clientAddress: at(basePort + i),
    peerAddress: at(basePort + nodes + i),
    httpAddress: at(basePort + 2 * nodes + i),
    logFile: join(root, 'logs', `node-${i + 1}.log`),
    recordFile: join(root, 'run', `node-${i + 1}.json`),
  }));
}

/** The cluster file that `hansard init` reads. */
export function clusterToml(state: ClusterState, nodes: readonly LaunchedNode[]): string {
  const lines = [
    '# Made by `hansard cluster up`; the nodes were formatted with it.',
    `cluster_id = "${state.clusterId}"`,
    `partitions = ${state.partitions}`,
    `replication_factor = ${Math.min(3, state.nodes)}`,
  ];
  for (const node of nodes) {
    lines.push(
      '',
      '[[nodes]]',
      `node = ${node.nodeId}`,
      `client_address = "${node.clientAddress}"`,
      `peer_address = "${node.peerAddress}"`,
    );
  }
  return `${lines.join('\n')}\n`;
}
