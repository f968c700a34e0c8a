/** `hansard verify`: every channel on every replica, read and compared. */
import type { ClusterInfo } from '../../client/index.js';
import { parseTarget } from '../../client/index.js';
import { ReplicaClient } from '../../client/replica.js';
import { HansardError } from '../../common/errors.js';
import { defaultTenant, partitionOf } from '../../common/partitioning.js';
import type { ActionContext, CommonOptions } from '../action.js';
import { ExitCode } from '../exit-codes.js';
import { bytesText, count, durationText, type Output, printable } from '../output.js';
import { Progress } from '../progress.js';
import { openSession } from '../session.js';
import { cures, type Finding, type FindingKind, findingJson, findingText } from '../verify/finding.js';
import { Throttle, VerifiedNode } from '../verify/replica.js';
import { Verifier, type VerifyOptions, type VerifySummary, type VerifyTarget } from '../verify/verifier.js';

interface VerifyCommandOptions extends CommonOptions {
  readonly endpoint: string;
  readonly tenant?: string;
  readonly prefix?: string;
  readonly channel?: string;
  /** MiB a second. */
  readonly rate?: number;
  readonly parallel: number;
  /** Seconds. */
  readonly lag: number;
  readonly patience: number;
  readonly digests: boolean;
  readonly timeout: number;
}

/** Of more findings --json keeps the count alone. */
const findingsMax = 10_000;
const MiB = 1024 * 1024;

/** Exit code 1 where anything is wrong or was not verified. */
export async function verify({ output, options }: ActionContext<VerifyCommandOptions>): Promise<ExitCode> {
  const scope = scopeOf(options);
  const cluster = await readMap(options, scope.tenant);
  const clients = cluster.nodes.map((node) => new ReplicaClient(node.clientAddress));
  const findings = new Findings(output);
  const verifier = new Verifier(targetOf(cluster, clients, options, scope), scope, (finding) =>
    findings.add(finding),
  );
  const { summary } = verifier;
  const progress = new Progress({
    stream: output.stderr,
    label: 'verifying',
    enabled: !output.isJson,
    read: () => ({
      bytes: summary.bytes,
      totalBytes: undefined,
      messages: summary.events,
      note: `${summary.partitionsDone} of ${summary.partitions} partitions`,
    }),
  });
  try {
    await verifier.run();
  } finally {
    progress.stop();
    for (const client of clients) client.close();
  }
  const { channel, tenant } = scope;
  if (channel !== undefined && summary.channels === 0 && summary.findings === 0) {
    throw new HansardError('CHANNEL_NOT_FOUND', `no replica has a channel ${channel} of tenant ${tenant}`, {
      tenant,
      channel,
    });
  }
  findings.end(summary, progress.seconds, scope);
  return summary.findings === 0 ? ExitCode.ok : ExitCode.failed;
}

function scopeOf(options: VerifyCommandOptions): VerifyOptions {
  const { channel, prefix, parallel, digests } = options;
  const named = options.tenant ?? parseTarget(options.endpoint).tenant;
  const isPart = named !== '' || channel !== undefined || prefix !== undefined;
  const tenant = named === '' && (channel !== undefined || prefix !== undefined) ? defaultTenant : named;
  // The digest is of a whole replica: it says nothing of a part.
  return { tenant, prefix: prefix ?? '', channel, parallel, digests: digests && !isPart };
}

async function readMap({ endpoint, timeout }: VerifyCommandOptions, tenant: string): Promise<ClusterInfo> {
  const session = openSession({ endpoint, timeout, tenant: tenant === '' ? defaultTenant : tenant });
  try {
    return await session.client.cluster();
  } finally {
    await session.close();
  }
}

function targetOf(
  cluster: ClusterInfo,
  clients: readonly ReplicaClient[],
  { lag, patience, rate }: VerifyCommandOptions,
  { tenant, channel }: VerifyOptions,
): VerifyTarget {
  const partitionCount = cluster.pools[0]?.partitionCount ?? 0;
  const bytesPerSecond = rate === undefined ? undefined : rate * MiB;
  const limits = { patienceMs: patience * 1000, lagMs: lag * 1000, bytesPerSecond };
  const throttle = new Throttle(bytesPerSecond);
  const nodes = new Map(
    cluster.nodes.map(({ nodeId, clientAddress }, i) => [
      nodeId,
      new VerifiedNode(nodeId, clientAddress, clients[i] as ReplicaClient, limits, throttle),
    ]),
  );
  const wanted =
    channel === undefined
      ? Array.from({ length: partitionCount }, (_, partition) => partition)
      : [partitionOf(tenant, channel, partitionCount)];
  const partitions = wanted.map((partition) => {
    const known = cluster.partitions.find((each) => each.partition === partition);
    return { partition, nodeIds: known?.replicas.map(({ nodeId }) => nodeId) ?? [] };
  });
  return { nodes, partitions };
}

/** Told as they are found; with --json at the end, in one document. */
class Findings {
  readonly #kept: Finding[] = [];
  readonly #kinds = new Set<FindingKind>();

  constructor(readonly output: Output) {}

  add(finding: Finding): void {
    this.#kinds.add(finding.kind);
    if (this.output.isJson) {
      if (this.#kept.length < findingsMax) this.#kept.push(finding);
      return;
    }
    // The progress line is on the same terminal.
    const clear = this.output.stderr.isTTY === true ? '\r\u001b[K' : '';
    if (clear !== '') this.output.stderr.write(clear);
    this.output.line(`${this.output.colors.red('wrong:')} ${printable(findingText(finding))}`);
  }

  end(summary: VerifySummary, seconds: number, scope: VerifyOptions): void {
    const { output } = this;
    output.json({
      sound: summary.findings === 0,
      partitions: summary.partitions,
      replicas: summary.replicas,
      channels: summary.channels,
      events_read: summary.events,
      bytes_read: summary.bytes,
      digests_equal: summary.digestsEqual,
      digests_skipped: summary.digestsSkipped,
      seconds: Number(seconds.toFixed(3)),
      finding_count: summary.findings,
      findings: this.#kept.map(findingJson),
    });
    for (const kind of this.#kinds) output.line(`${output.colors.bold('cure:')}  ${kind}: ${cures[kind]}`);
    const { partitions, replicas, channels, events, bytes } = summary;
    output.line(
      `${count(channels)} channels in ${count(partitions)} partitions on ${count(replicas)} replicas: ` +
        `${count(events)} events read, ${bytesText(bytes)}, ${durationText(seconds)}`,
    );
    if (scope.digests) {
      output.line(
        `digests of whole replicas: equal in ${summary.digestsEqual} partitions` +
          (summary.digestsSkipped === 0
            ? ''
            : `; ${summary.digestsSkipped} were written to all the time, and not compared`),
      );
    }
    output.line(
      summary.findings === 0
        ? output.colors.green('sound')
        : output.colors.red(`${count(summary.findings)} findings`),
    );
  }
}
