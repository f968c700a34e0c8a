/**
 * How long nobody can write after a fault, by default settings: three nodes as
 * real processes, one SDK client that keeps writing to every partition, and a
 * fault that hits the leader of a part of them.
 *
 *     node dist/bench/failover.js [--rounds 20] [--partitions 16] [--faults kill,stop,cut] [--json] [--trace]
 *     node dist/bench/failover.js --quiet-minutes 30 [--in-flight 256]
 *
 * `kill`: kill -9. `stop`: SIGSTOP. `cut`: the node is reached by nobody, and
 * nobody is told (needs network namespaces). Counted is, per partition that the
 * node led, the time from the fault to the first answer to a write; `first` is
 * the first of them in a round, `all` the last. `--trace` prints what the other
 * nodes logged in rounds that took longer than the target. The second form counts elections
 * while nothing is broken and the nodes have all the load that they can take; what nodes hand
 * over to one another is told apart from what followers began.
 */
import { readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import type { Client } from '../src/client/index.js';
import type { PartitionInfo } from '../src/client/types.js';
import { ProcessCluster, sleep, type TestNode, until } from '../test/cluster/harness.js';
import { openNetwork, partition, type TestNetwork } from '../test/cluster/network.js';
import { untilSignal } from './harness/leftovers.js';
import { machineTimes, stealPercent } from './harness/measure.js';
import { median } from './harness/stats.js';

const faultNames = ['kill', 'stop', 'cut'] as const;
type FaultName = (typeof faultNames)[number];
const targetsMs: Readonly<Record<FaultName, number>> = { kill: 500, stop: 3_000, cut: 3_000 };

/** Between two writes to a partition: what an answer can be late by. */
const writePauseMs = 5;
/** Answers that were on their way when the fault came are not the next leader's. */
const afterglowMs = 10;
/** A fault that costs longer is a defect; the round ends as failed. */
const patienceMs = 30_000;
const restMs = 1_000;

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '20' },
    partitions: { type: 'string', default: '16' },
    faults: { type: 'string', default: faultNames.join(',') },
    'quiet-minutes': { type: 'string', default: '0' },
    'in-flight': { type: 'string', default: '256' },
    json: { type: 'boolean', default: false },
    trace: { type: 'boolean', default: false },
    help: { type: 'boolean', short: 'h', default: false },
  },
});
if (values.help) {
  console.log(`node dist/bench/failover.js [--rounds 20] [--partitions 16] [--faults ${faultNames.join(',')}] [--json] [--trace]
node dist/bench/failover.js --quiet-minutes 30 [--in-flight 256]

The first measures, per kind of fault, the time until somebody accepts a write again; --trace prints what the other
nodes logged in rounds above the target. The second counts elections under full load while nothing is broken.`);
  process.exit(0);
}
const rounds = Number(values.rounds);
const partitionCount = Number(values.partitions);
const quietMinutes = Number(values['quiet-minutes']);
const nodes = 3;

const ending = untilSignal((name) => process.stderr.write(`${name}: ending\n`));

/** A channel of each partition. */
function channelsOf(cluster: ProcessCluster): string[] {
  const found: string[] = [];
  for (let n = 0, left = partitionCount; left > 0; n++) {
    const name = `failover/${n}`;
    const at = cluster.partitionOf(name);
    if (found[at] !== undefined) continue;
    found[at] = name;
    left--;
  }
  return found;
}

/** Writes to every partition, one at a time each, and notes when each was last answered. */
class Writers {
  /** Calls that wait for the next answer of a partition, from a moment on. */
  readonly #awaited = new Map<number, { readonly fromMs: number; readonly tell: (atMs: number) => void }>();
  readonly #done: Promise<unknown>;
  #stopped = false;
  acknowledged = 0;
  failed = 0;

  constructor(client: Client, channels: readonly string[]) {
    this.#done = Promise.all(channels.map((name, i) => this.#write(client, name, i)));
  }

  /** When the first answer of the partition came after `fromMs`. */
  next(at: number, fromMs: number): Promise<number> {
    return new Promise((tell) => this.#awaited.set(at, { fromMs, tell }));
  }
  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#done;
  }

  async #write(client: Client, name: string, at: number): Promise<void> {
    const channel = client.channel(name);
    for (let n = 0; !this.#stopped; n++) {
      try {
        await channel.append({ role: 'user', text: `message ${n}` }, { timeoutMs: patienceMs });
        this.acknowledged++;
        const now = performance.now();
        const awaited = this.#awaited.get(at);
        if (awaited !== undefined && now >= awaited.fromMs) {
          this.#awaited.delete(at);
          awaited.tell(now);
        }
      } catch {
        this.failed++;
      }
      await sleep(writePauseMs);
    }
  }
}

interface Round {
  readonly fault: FaultName;
  readonly node: number;
  readonly firstMs: number;
  readonly allMs: number;
  readonly eachMs: readonly number[];
}

async function partitionsOf(client: Client): Promise<readonly PartitionInfo[]> {
  return (await client.cluster({ timeoutMs: 5_000 })).partitions;
}

async function leaders(client: Client): Promise<{ node: number; term: number }[]> {
  const partitions = await partitionsOf(client);
  return partitions.map(({ leaderNodeId, term }) => ({ node: leaderNodeId, term }));
}

/** Whom balancing would have lead leads, everywhere: nothing is handed over from here on. */
async function balanced(client: Client): Promise<void> {
  await until('the best ranked replicas lead', async () => {
    const partitions = await partitionsOf(client);
    const isDone = partitions.every(
      // They come in the order in which they should lead.
      ({ replicas, leaderNodeId }) => replicas[0]?.nodeId === leaderNodeId,
    );
    if (!isDone) await sleep(restMs);
    return isDone;
  });
}

type Elections = Record<'silence' | 'gone' | 'handover', number>;

/** Since the nodes' starts, of all together. */
async function electionsOf(cluster: ProcessCluster): Promise<Elections> {
  const sums: Elections = { silence: 0, gone: 0, handover: 0 };
  for (const { httpAddress } of cluster.nodes) {
    const page = await (await fetch(`http://${httpAddress}/metrics`)).text();
    for (const cause of Object.keys(sums) as (keyof Elections)[]) {
      const count = new RegExp(`^hansard_elections_total\\{cause="${cause}"\\} (\\d+)$`, 'm').exec(page)?.[1];
      if (count === undefined) throw new Error(`${httpAddress} does not count elections`);
      sums[cause] += Number(count);
    }
  }
  return sums;
}

async function breakNode(fault: FaultName, node: TestNode, network: TestNetwork): Promise<number> {
  if (fault === 'cut') {
    const others = [1, 2, 3].filter((id) => id !== node.id);
    // Each of its directions is a command of some ms: the time counts from the first on.
    const begun = performance.now();
    await Promise.all([network.cutFromClients?.(node.id), partition(network, [node.id], others)]);
    return begun;
  }
  const begun = performance.now();
  node.process.signal(fault === 'kill' ? 'SIGKILL' : 'SIGSTOP');
  return begun;
}

async function mend(fault: FaultName, node: TestNode, cluster: ProcessCluster): Promise<void> {
  if (fault === 'stop') node.resume();
  else if (fault === 'cut') await cluster.network?.heal();
  else {
    await node.process.end();
    cluster.startNode(node);
  }
  await cluster.ready();
}

async function round(
  fault: FaultName,
  number: number,
  cluster: ProcessCluster,
  client: Client,
  writers: Writers,
): Promise<Round> {
  await balanced(client);
  const node = cluster.node((number % nodes) + 1);
  const led = (await leaders(client)).flatMap((each, i) => (each.node === node.id ? [i] : []));
  const begunAt = Date.now();
  const begun = await breakNode(fault, node, cluster.network as TestNetwork);
  const answers = led.map((at) => writers.next(at, begun + afterglowMs));
  const late = sleep(patienceMs).then(() => undefined);
  const found = await Promise.race([Promise.all(answers), late]);
  if (values.trace && performance.now() - begun > targetsMs[fault])
    for (const other of cluster.others(node)) printLog(other, begunAt);
  await mend(fault, node, cluster);
  if (found === undefined) throw new Error(`${fault} of node ${node.id}: no write within ${patienceMs} ms`);
  const eachMs = found.map((at) => at - begun).sort((a, b) => a - b);
  return {
    fault,
    node: node.id,
    firstMs: eachMs[0] ?? Number.NaN,
    allMs: eachMs.at(-1) ?? Number.NaN,
    eachMs,
  };
}

/** Lines of a node's log since then, with their time from there. */
function printLog(node: TestNode, sinceMs: number): void {
  for (const line of `${node.process.stdout}${node.process.stderr}`.split('\n')) {
    if (!line.startsWith('{')) continue;
    const { time, msg, partition, leader, term, reason } = JSON.parse(line) as Record<string, unknown>;
    const atMs = Number(typeof time === 'string' ? Date.parse(time) : time) - sinceMs;
    if (!(atMs >= 0)) continue;
    const told = { partition, leader, term, reason };
    process.stderr.write(`  ${atMs} ms, node ${node.id}: ${String(msg)} ${JSON.stringify(told)}\n`);
  }
}

function loadAverage(): string {
  try {
    return readFileSync('/proc/loadavg', 'utf8').split(' ').slice(0, 3).join(' ');
  } catch {
    return 'unknown';
  }
}

async function failovers(cluster: ProcessCluster, network: TestNetwork): Promise<void> {
  const client = cluster.connect();
  const writers = new Writers(client, channelsOf(cluster));
  const done: Round[] = [];
  const machine: Record<string, { stealPercent: number; load: string }> = {};
  for (const fault of values.faults.split(',') as FaultName[]) {
    if (!faultNames.includes(fault)) throw new Error(`no such fault: ${fault}`);
    if (fault === 'cut' && network.kind !== 'namespaces') {
      process.stderr.write('cut: skipped, it needs network namespaces\n');
      continue;
    }
    const before = machineTimes();
    for (let i = 0; i < rounds && !ending.aborted; i++) {
      const found = await round(fault, i, cluster, client, writers);
      done.push(found);
      process.stderr.write(
        `${fault} ${i + 1}/${rounds}: node ${found.node}, first ${found.firstMs.toFixed(0)} ms, all ${found.allMs.toFixed(0)} ms of ${found.eachMs.length}\n`,
      );
    }
    machine[fault] = { stealPercent: stealPercent(before, machineTimes()), load: loadAverage() };
  }
  await writers.stop();
  report(done, machine, writers);
}

function report(
  done: readonly Round[],
  machine: Readonly<Record<string, { stealPercent: number; load: string }>>,
  { acknowledged, failed }: Writers,
): void {
  if (values.json) {
    process.stdout.write(
      `${JSON.stringify({ rounds: done, machine, acknowledged, failed, targetsMs }, undefined, 2)}\n`,
    );
    return;
  }
  const lines = [
    '| fault | rounds | first: p50 | max | all: p50 | max | target | steal | load |',
    '| --- | --- | --- | --- | --- | --- | --- | --- | --- |',
  ];
  for (const fault of faultNames) {
    const of = done.filter((each) => each.fault === fault);
    if (of.length === 0) continue;
    const figures = [of.map((each) => each.firstMs), of.map((each) => each.allMs)].flatMap((ms) => [
      `${median(ms).toFixed(0)} ms`,
      `${Math.max(...ms).toFixed(0)} ms`,
    ]);
    const { stealPercent = 0, load = '' } = machine[fault] ?? {};
    lines.push(
      `| ${[fault, of.length, ...figures, `${targetsMs[fault]} ms`, `${stealPercent.toFixed(1)} %`, load].join(' | ')} |`,
    );
  }
  process.stdout.write(`${lines.join('\n')}\n${acknowledged} writes, ${failed} failed\n`);
}

/** Elections while nothing is broken, under full load. */
async function quiet(cluster: ProcessCluster): Promise<void> {
  const client = cluster.connect();
  await balanced(client);
  const load = cluster.connect({ timeoutMs: 60_000 });
  const channels = channelsOf(cluster).map((name) => load.channel(name));
  let [stopped, acknowledged, failed, sent] = [false, 0, 0, 0];
  const work = Array.from({ length: Number(values['in-flight']) }, async () => {
    while (!stopped) {
      const channel = channels[sent++ % channels.length];
      await channel
        ?.append({ role: 'user', text: 'x'.repeat(200) })
        .then(() => acknowledged++)
        .catch(() => failed++);
    }
  });
  const machine = machineTimes();
  const first = await leaders(client);
  const before = await electionsOf(cluster);
  let last = first;
  const begun = performance.now();
  const minutesGone = (): number => (performance.now() - begun) / 60_000;
  const changes: { partition: number; minute: number; from: string; to: string }[] = [];
  while (minutesGone() < quietMinutes && !ending.aborted) {
    await sleep(restMs);
    const now = await leaders(client);
    now.forEach((each, i) => {
      const was = last[i] as { node: number; term: number };
      if (each.term <= was.term) return;
      const change = {
        partition: i,
        minute: Number(minutesGone().toFixed(2)),
        from: `node ${was.node} in term ${was.term}`,
        to: `node ${each.node} in term ${each.term}`,
      };
      changes.push(change);
      process.stderr.write(`${JSON.stringify(change)}\n`);
    });
    // An answer of a node that is behind takes nothing back.
    last = now.map((each, i) => (each.term >= (last[i]?.term ?? 0) ? each : (last[i] as typeof each)));
  }
  stopped = true;
  await Promise.all(work);
  const after = await electionsOf(cluster);
  const result = {
    minutes: Number(minutesGone().toFixed(2)),
    elections: {
      silence: after.silence - before.silence,
      gone: after.gone - before.gone,
    },
    handedOver: after.handover - before.handover,
    termsBegun: last.reduce((sum, { term }, i) => sum + term - (first[i]?.term ?? 0), 0),
    acknowledged,
    failed,
    appendsPerSecond: Math.round(acknowledged / (minutesGone() * 60)),
    stealPercent: Number(stealPercent(machine, machineTimes()).toFixed(1)),
    load: loadAverage(),
    changes,
  };
  process.stdout.write(
    values.json
      ? `${JSON.stringify(result, undefined, 2)}\n`
      : `${result.minutes} minutes: ${result.elections.silence} elections begun in silence, ${result.elections.gone} for a leader that was gone, ${result.handedOver} leaderships handed over, ${result.termsBegun} terms; ${result.appendsPerSecond} appends/s (${failed} failed); steal ${result.stealPercent} %, load ${result.load}\n`,
  );
}

let end: () => unknown = () => {};
try {
  const { network, whyProxies } = await openNetwork(nodes);
  if (whyProxies !== '') process.stderr.write(`no namespaces: ${whyProxies}\n`);
  end = () => network.end();
  // Through proxies a dead node's address would still accept: then nothing stands in between.
  const between = network.kind === 'namespaces' ? { network } : {};
  const owner = {
    teardown: (fn: () => unknown) => {
      end = fn;
    },
  };
  const args = values.trace ? ['--log-level', 'debug'] : [];
  const options = { nodes, partitions: partitionCount, ...between, args };
  const cluster = await ProcessCluster.start(owner as Parameters<typeof ProcessCluster.start>[0], options);
  if (quietMinutes > 0) await quiet(cluster);
  else await failovers(cluster, network);
} finally {
  await end();
}
