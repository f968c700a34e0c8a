/** `hansard scrub`: every node reads all that it has, now, and compares replicas. */
import { parseTarget } from '../../client/index.js';
import { type NodeScrub, ReplicaClient } from '../../client/replica.js';
import { HansardError } from '../../common/errors.js';
import { defaultTenant } from '../../common/partitioning.js';
import type { ActionContext, CommonOptions } from '../action.js';
import { ExitCode } from '../exit-codes.js';
import { bytesText, count, type Output, printable } from '../output.js';
import { Progress } from '../progress.js';
import { openSession } from '../session.js';
import { formatTime } from '../times.js';

export interface ScrubCommandOptions extends CommonOptions {
  readonly endpoint: string;
  /** MiB a second and node. */
  readonly rate?: number;
  /** Only tell. */
  readonly status?: boolean;
  readonly node?: number;
  readonly timeout: number;
}

const MiB = 1024 * 1024;
const pollMs = 500;

/** A node as it answers, or why it does not. */
interface Scrubbed {
  readonly node: number;
  readonly client: ReplicaClient;
  /** Found before the pass began: not its own. */
  before: number;
  scrub: NodeScrub | undefined;
  error: HansardError | undefined;
}

/** Exit code 1 where anything was found or a node was not scrubbed. */
export async function scrub({ output, options }: ActionContext<ScrubCommandOptions>): Promise<ExitCode> {
  const nodes = await nodesOf(options);
  try {
    const timeoutMs = options.timeout * 1000;
    const rate = Math.round((options.rate ?? 0) * MiB);
    const ask = async (each: Scrubbed, start: boolean): Promise<void> => {
      if (each.error !== undefined) return;
      try {
        each.scrub = await each.client.scrub(start, rate, timeoutMs);
      } catch (error) {
        if (!(error instanceof HansardError)) throw error;
        each.error = error;
      }
    };
    const askAll = (start: boolean) => Promise.all(nodes.map((each) => ask(each, start)));
    await askAll(false);
    for (const each of nodes) each.before = each.scrub?.findings ?? 0;
    if (options.status !== true) {
      await askAll(true);
      await wait(output, nodes, () => askAll(false));
    }
    return report(output, nodes, options.status === true);
  } finally {
    for (const { client } of nodes) client.close();
  }
}

async function nodesOf({ endpoint, timeout, node }: ScrubCommandOptions): Promise<Scrubbed[]> {
  const tenant = parseTarget(endpoint).tenant === '' ? defaultTenant : '';
  const session = openSession({ endpoint, timeout, tenant });
  try {
    const cluster = await session.client.cluster();
    const wanted = cluster.nodes.filter(({ nodeId }) => node === undefined || nodeId === node);
    if (wanted.length === 0) {
      throw new HansardError('NODE_UNKNOWN', `the cluster has no node ${node}`, { node: node ?? 0 });
    }
    return wanted.map(({ nodeId, clientAddress }) => ({
      node: nodeId,
      client: new ReplicaClient(clientAddress),
      before: 0,
      scrub: undefined,
      error: undefined,
    }));
  } finally {
    await session.close();
  }
}

async function wait(
  output: Output,
  nodes: readonly Scrubbed[],
  askAll: () => Promise<unknown>,
): Promise<void> {
  const sum = (of: (scrub: NodeScrub) => number): number =>
    nodes.reduce((all, { scrub }) => all + (scrub === undefined ? 0 : of(scrub)), 0);
  const progress = new Progress({
    stream: output.stderr,
    label: 'scrubbing',
    enabled: !output.isJson,
    read: () => ({
      bytes: sum(({ pass }) => pass?.bytes ?? 0),
      totalBytes: undefined,
      messages: 0,
      note: `${sum(({ pass }) => pass?.step ?? 0)} of ${sum(({ pass }) => pass?.steps ?? 0)} steps`,
    }),
  });
  try {
    while (nodes.some(({ scrub, error }) => error === undefined && scrub?.state === 'working')) {
      await new Promise((resolve) => setTimeout(resolve, pollMs));
      await askAll();
    }
  } finally {
    progress.stop();
  }
}

function report(output: Output, nodes: readonly Scrubbed[], isStatus: boolean): ExitCode {
  const found = (each: Scrubbed): number =>
    isStatus ? (each.scrub?.findings ?? 0) : Math.max(0, (each.scrub?.findings ?? 0) - each.before);
  const newest = (each: Scrubbed) =>
    found(each) === 0 ? [] : (each.scrub?.newest ?? []).slice(-found(each));
  output.json({
    nodes: nodes.map((each) => ({
      node: each.node,
      ...(each.error === undefined ? {} : { error: each.error.reason, problem: each.error.message }),
      ...(each.scrub === undefined
        ? {}
        : {
            state: each.scrub.state,
            last_ended: each.scrub.lastEndedUs === 0 ? null : formatTime(each.scrub.lastEndedUs),
            steps_done: each.scrub.pass?.step ?? 0,
            steps: each.scrub.pass?.steps ?? 0,
            bytes: each.scrub.pass?.bytes ?? 0,
            compared: each.scrub.pass?.compared ?? 0,
            not_compared: each.scrub.pass?.notCompared ?? 0,
            finding_count: found(each),
            findings: newest(each).map(({ kind, partition, problem, atUs }) => ({
              kind,
              ...(partition === undefined ? {} : { partition }),
              problem,
              at: formatTime(atUs),
            })),
          }),
    })),
  });
  for (const each of nodes) {
    for (const { kind, partition, problem } of newest(each)) {
      const where = partition === undefined ? '' : `, partition ${partition}`;
      output.line(`${output.colors.red('wrong:')} node ${each.node}${where}: ${kind}: ${printable(problem)}`);
    }
  }
  output.table(
    [
      { title: 'NODE', align: 'right' },
      { title: 'SCRUBBER' },
      { title: 'STEPS', align: 'right' },
      { title: 'READ', align: 'right' },
      { title: 'COMPARED', align: 'right' },
      { title: 'FOUND', align: 'right' },
      { title: 'LAST PASS ENDED' },
    ],
    nodes.map((each) => row(output, each, found(each))),
  );
  const isDone = nodes.every((each) => each.error === undefined && found(each) === 0);
  return isDone ? ExitCode.ok : ExitCode.failed;
}

function row(output: Output, { node, scrub, error }: Scrubbed, found: number): (string | number)[] {
  const c = output.colors;
  if (scrub === undefined) return [node, c.red(printable(error?.message ?? 'no answer')), '', '', '', '', ''];
  const { pass } = scrub;
  const compared =
    pass === undefined ? '' : `${pass.compared}${pass.notCompared > 0 ? ` (${pass.notCompared} not)` : ''}`;
  return [
    node,
    error === undefined ? scrub.state : c.red(printable(error.message)),
    pass === undefined ? '' : `${pass.step}/${pass.steps}`,
    pass === undefined ? '' : bytesText(pass.bytes),
    compared,
    found > 0 ? c.red(count(found)) : c.green('0'),
    scrub.lastEndedUs === 0 ? 'never' : formatTime(scrub.lastEndedUs),
  ];
}
