/** `hansard cluster up | down | status`: the launcher's face. */
import { fileURLToPath } from 'node:url';
import {
  clusterDown,
  clusterStatus,
  clusterUp,
  endpointsOf,
  type LauncherHooks,
  type NodeStatus,
} from '../../../cluster/launcher.js';
import type { ActionContext, CommonOptions } from '../action.js';
import { ExitCode } from '../exit-codes.js';
import type { Output } from '../output.js';
import { initFromClusterFile } from './init.js';

interface DirOptions extends CommonOptions {
  readonly dir: string;
}
interface UpCommandOptions extends DirOptions {
  readonly nodes?: number;
  readonly basePort?: number;
  readonly partitions?: number;
  readonly timeout?: number;
  readonly startArg: readonly string[];
}

export function launcherHooks(note: (text: string) => void): LauncherHooks {
  return {
    initNode: ({ dir, clusterFile, nodeId }) => initFromClusterFile(dir, clusterFile, nodeId),
    mainScript: fileURLToPath(new URL('../main.js', import.meta.url)),
    note,
  };
}

export async function up({ output, options }: ActionContext<UpCommandOptions>): Promise<undefined> {
  const hooks = launcherHooks((text) => output.note(text));
  const nodes = await clusterUp(
    {
      dir: options.dir,
      nodes: options.nodes,
      basePort: options.basePort,
      partitions: options.partitions,
      startArgs: options.startArg,
      ...(options.timeout === undefined ? {} : { timeoutMs: options.timeout * 1000 }),
    },
    hooks,
  );
  showNodes(output, nodes);
  output.json({ endpoint: endpointsOf(nodes), nodes: nodes.map(nodeJson) });
  output.note(
    `\nready. Connect with:  --endpoint ${endpointsOf(nodes)}\nstop with:            hansard cluster down --dir ${options.dir}`,
  );
}

export async function down({ output, options }: ActionContext<DirOptions>): Promise<undefined> {
  const results = await clusterDown(options.dir);
  output.table(
    [{ title: 'NODE', align: 'right' }, { title: 'PID', align: 'right' }, { title: 'RESULT' }],
    results.map((r) => [r.nodeId, r.pid ?? '-', r.result]),
  );
  output.json({ nodes: results.map((r) => ({ node: r.nodeId, pid: r.pid ?? null, result: r.result })) });
}

/** Exit code 3 unless every node is ready. */
export async function status({ output, options }: ActionContext<DirOptions>): Promise<ExitCode> {
  const nodes = await clusterStatus(options.dir);
  showNodes(output, nodes);
  output.json({ endpoint: endpointsOf(nodes), nodes: nodes.map(nodeJson) });
  const allReady = nodes.every((node) => node.ready);
  if (!allReady) output.note(`\nstart what is down with: hansard cluster up --dir ${options.dir}`);
  return allReady ? ExitCode.ok : ExitCode.unreachable;
}

export function showNodes(output: Output, nodes: readonly NodeStatus[]): void {
  const c = output.colors;
  output.table(
    [
      { title: 'NODE', align: 'right' },
      { title: 'PID', align: 'right' },
      { title: 'STATE' },
      { title: 'CLIENTS' },
      { title: 'PEERS' },
      { title: 'METRICS' },
      { title: 'LEADS', align: 'right' },
    ],
    nodes.map((node) => [
      node.nodeId,
      node.process === 'running' ? (node.pid ?? '-') : '-',
      node.ready
        ? c.green('ready')
        : node.process === 'running'
          ? c.yellow(node.problem)
          : c.red(node.problem),
      node.clientAddress,
      node.peerAddress,
      node.httpAddress,
      node.leads === undefined ? '-' : `${node.leads}/${node.partitions}`,
    ]),
  );
}

export function nodeJson(node: NodeStatus): Record<string, unknown> {
  return {
    node: node.nodeId,
    pid: node.process === 'running' ? (node.pid ?? null) : null,
    state: node.ready ? 'ready' : node.process === 'running' ? 'not ready' : 'down',
    problem: node.problem,
    client_address: node.clientAddress,
    peer_address: node.peerAddress,
    http_address: node.httpAddress,
    leads: node.leads ?? null,
    partitions: node.partitions ?? null,
    dir: node.dir,
    log: node.logFile,
  };
}
