/**
 * More at once than nodes get through in seconds: how soon all of it is answered, and how often the
 * client sent each. The nodes are made slow: they stand still (SIGSTOP) for most of each tenth of a second.
 *
 *     node dist/bench/overload.js [--nodes 1] [--batches 1000] [--size 64] [--slow 10] [--seconds 120]
 *
 * `--slow 10`: they run a tenth of the time. `--seconds` is what each append has; what got no answer then is told.
 */
import { parseArgs } from 'node:util';
import { HansardError } from '../src/client/index.js';
import { ProcessCluster, sleep } from '../test/cluster/harness.js';
import { untilSignal } from './harness/leftovers.js';
import { chatTexts } from './harness/payload.js';

const { values } = parseArgs({
  options: {
    nodes: { type: 'string', default: '1' },
    batches: { type: 'string', default: '1000' },
    size: { type: 'string', default: '64' },
    slow: { type: 'string', default: '10' },
    seconds: { type: 'string', default: '120' },
  },
});
const [nodes, batches, size, slow, seconds] = (['nodes', 'batches', 'size', 'slow', 'seconds'] as const).map(
  (name) => Number(values[name]),
) as [number, number, number, number, number];
const partitions = 24;
const periodMs = 100;

const ending = untilSignal((name) => process.stderr.write(`${name}: ending\n`));

const counted = /^hansard_calls_total\{method="[^"]*AppendMessages",outcome="([^"]*)"\} (\d+)$/gm;

/** Appends that have come to the nodes, copies too, by what became of them. */
async function arrived(cluster: ProcessCluster): Promise<Map<string, number>> {
  const counts = new Map<string, number>();
  for (const { httpAddress } of cluster.nodes) {
    const page = await (await fetch(`http://${httpAddress}/metrics`)).text();
    for (const [, outcome = '', count] of page.matchAll(counted))
      counts.set(outcome, (counts.get(outcome) ?? 0) + Number(count));
  }
  return counts;
}

/** All nodes together, so that none takes another for dead. */
async function slowDown(cluster: ProcessCluster, until: () => boolean): Promise<void> {
  while (!until()) {
    for (const node of cluster.nodes) node.pause();
    await sleep(periodMs * (1 - 1 / slow));
    for (const node of cluster.nodes) node.resume();
    await sleep(periodMs / slow);
  }
}

async function overload(cluster: ProcessCluster): Promise<void> {
  const client = cluster.connect({ timeoutMs: seconds * 1_000 });
  const channels = Array.from({ length: batches }, (_, i) => client.channel(`overload/${i}`));
  await Promise.all(channels.slice(0, 4 * partitions).map((channel) => channel.append({ text: 'first' })));
  const before = await arrived(cluster);
  const texts = chatTexts(size, 200);
  const batch = texts.map((text) => ({ role: 'user' as const, text }));
  const begun = performance.now();
  const passed = (): number => (performance.now() - begun) / 1_000;
  const answeredAt: number[] = [];
  const failed = new Map<string, number>();
  let left = batches;
  const isOver = (): boolean => left === 0 || ending.aborted;
  for (const channel of channels) {
    channel
      .append(batch)
      .then(
        () => answeredAt.push(passed()),
        (error: unknown) => {
          const reason = error instanceof HansardError ? error.reason : String(error);
          failed.set(reason, (failed.get(reason) ?? 0) + 1);
        },
      )
      .finally(() => left--);
  }
  const looks = (async () => {
    while (!isOver()) {
      await sleep(5_000);
      process.stderr.write(`${passed().toFixed(0)} s: ${answeredAt.length} of ${batches} answered\n`);
    }
  })();
  await slowDown(cluster, isOver);
  await looks;
  const [first = Number.NaN, last = Number.NaN] = [answeredAt[0], answeredAt.at(-1)];
  const copies = [...(await arrived(cluster))].map(([outcome, count]) => [
    outcome,
    count - (before.get(outcome) ?? 0),
  ]);
  process.stdout.write(
    `${answeredAt.length} of ${batches} appends of ${size} messages answered, the first after ${first.toFixed(1)} s, the last after ${last.toFixed(1)} s; failed: ${JSON.stringify(Object.fromEntries(failed))}\nappends that came to the nodes: ${JSON.stringify(Object.fromEntries(copies))}\n`,
  );
}

let end: () => unknown = () => {};
try {
  const owner = {
    teardown: (fn: () => unknown) => {
      end = fn;
    },
  };
  const cluster = await ProcessCluster.start(owner as Parameters<typeof ProcessCluster.start>[0], {
    nodes,
    partitions,
  });
  await overload(cluster);
} finally {
  await end();
}
