/**
 * What checkpoints do to appends. One node as a process, loaded evenly; latency of single
 * appends at fixed times, once with checkpoints all the time and once without any, in turn.
 * With --overload: the rate before, during and after that many calls that wait at once.
 *
 *     npm run bench -- checkpoints [--rounds 5] [--seconds 6] [--warmup 30] [--rate 200] [--batches 60] [--against OTHER/dist/src/cli/main.js]
 *     npm run bench -- checkpoints --overload 50000 [--nodes 1]
 */
import { Command } from 'commander';
import { build } from 'hdr-histogram-js';
import { Hansard } from './harness/hansard.js';
import { number } from './harness/options.js';
import { chatTexts, randomOf } from './harness/payload.js';
import { count, loadAverage } from './harness/proc-figures.js';
import { median } from './harness/stats.js';

const options = new Command('bench checkpoints')
  .option('--rounds <n>', '', number(1), 5)
  .option('--seconds <n>', 'of a round', number(0.1), 6)
  .option('--warmup <n>', 'seconds of the same load, each system, before anything counts', number(0), 30)
  .option('--rate <n>', 'single appends a second, at fixed times', number(0.1), 200)
  .option('--batches <n>', 'a second, of 64 messages: what fills the tails', number(0), 60)
  .option('--channels <n>', '', number(1), 1000)
  .option('--against <main.js>', 'another build of the node, in turn with this one')
  .option('--overload <n>', 'calls at once', number(1))
  .option('--nodes <n>', 'of the overloaded cluster', number(1), 1)
  .parse()
  .opts<
    Record<'rounds' | 'seconds' | 'warmup' | 'rate' | 'batches' | 'channels' | 'nodes', number> & {
      overload?: number;
      against?: string;
    }
  >();
const say = (text: string): void => void process.stdout.write(`${text}\n`);
const seconds = options.seconds;
const channels = options.channels;
const texts = chatTexts(5_000, 200);
const random = randomOf(3);
const text = (): string => texts[Math.floor(random() * texts.length)] as string;
const channel = (): number => Math.floor(random() * channels);
const batchMessages = 64;
const never = new AbortController().signal;

if (options.overload === undefined) await beside();
else await overload(options.overload);
process.exit();

/** Two systems of a build: `with` and `without` checkpoints. */
function pairOf(build: string, mainScript?: string): Hansard[] {
  const node = { nodes: 1, mainScript };
  return [
    // 2 MiB: one checkpoint follows the other.
    new Hansard({ ...node, name: `${build}with checkpoints`, env: { HANSARD_CHECKPOINT_BYTES: '2MiB' } }),
    new Hansard({
      ...node,
      name: `${build}without`,
      env: { HANSARD_CHECKPOINT_BYTES: '1GiB', HANSARD_TAIL_LIMIT: '2GiB', HANSARD_CHECKPOINT_AGE: '60m' },
    }),
  ];
}

async function beside(): Promise<void> {
  const { against } = options;
  const pairs = against === undefined ? [pairOf('')] : [pairOf('this: '), pairOf('other: ', against)];
  const systems = pairs.flat();
  const p99s = new Map<string, number[]>(systems.map(({ name }) => [name, []]));
  try {
    for (const system of systems) {
      await system.start(never);
      // Code that is not compiled yet makes the slowest appends slower than any checkpoint does.
      await load(system, options.warmup, false);
    }
    for (let round = 0; round < options.rounds; round++) {
      for (const system of round % 2 === 0 ? systems : [...systems].reverse())
        p99s.get(system.name)?.push(await load(system, seconds, true));
    }
    for (const pair of pairs) {
      const [first, second] = pair.map(({ name }) => median(p99s.get(name) as number[])) as [number, number];
      say(
        `p99 ${pair[0]?.name} : without = ${(first / second).toFixed(2)} (medians ${first.toFixed(1)} and ${second.toFixed(1)} ms)`,
      );
    }
  } finally {
    for (const system of systems) await system.stop();
  }
}

/** Gives the p99 of the single appends, ms. */
async function load(system: Hansard, forSeconds: number, tell: boolean): Promise<number> {
  const latency = build({
    lowestDiscernibleValue: 1,
    highestTrackableValue: 60_000_000,
    numberOfSignificantValueDigits: 3,
  });
  const before = await system.counters();
  const under: Promise<unknown>[] = [];
  const started = performance.now();
  const singles = forSeconds * options.rate;
  const batches = forSeconds * options.batches;
  let [nextSingle, nextBatch] = [0, 0];
  while (nextSingle < singles) {
    const now = performance.now() - started;
    for (; nextBatch < batches && (nextBatch * 1000) / options.batches <= now; nextBatch++)
      under.push(system.appendBatch(channel(), Array.from({ length: batchMessages }, text)));
    for (; nextSingle < singles && (nextSingle * 1000) / options.rate <= now; nextSingle++) {
      // From when it was due: what waits for the loop counts.
      const dueMs = started + (nextSingle * 1000) / options.rate;
      under.push(
        system
          .append({ channel: channel(), text: text() })
          .then(() => latency.recordValue(Math.max(1, Math.round((performance.now() - dueMs) * 1000)))),
      );
    }
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
  await Promise.all(under);
  const after = await system.counters();
  const p = (percent: number): number => latency.getValueAtPercentile(percent) / 1000;
  if (tell) {
    const checkpoints = (after.checkpoints ?? 0) - (before.checkpoints ?? 0);
    say(
      `${system.name}: p50 ${p(50).toFixed(1)}, p99 ${p(99).toFixed(1)}, p99.9 ${p(99.9).toFixed(1)} ms; ${checkpoints} checkpoints in ${forSeconds} s, ` +
        `${count(options.rate + options.batches * batchMessages)} messages/s (load average ${loadAverage()})`,
    );
  }
  return p(99);
}

async function overload(calls: number): Promise<void> {
  const system = new Hansard({ nodes: options.nodes });
  try {
    await system.start(never);
    const steady = async (what: string, forSeconds: number): Promise<void> => {
      for (let second = 0; second < forSeconds; second++) {
        const before = await system.counters();
        const rate = await closedLoop(system, 1_000);
        const { checkpoints = 0 } = await system.counters();
        say(
          `${what}, second ${second + 1}: ${count(rate)} messages/s, ${checkpoints - (before.checkpoints ?? 0)} checkpoints (load average ${loadAverage()})`,
        );
      }
    };
    await steady('before', 6);
    const started = performance.now();
    let failed = 0;
    await Promise.all(
      Array.from({ length: calls }, () =>
        system.appendBatch(channel(), [text(), text(), text(), text()]).catch(() => {
          failed++;
        }),
      ),
    );
    const tookMs = performance.now() - started;
    say(
      `${count(calls)} appends of four at once: ${(tookMs / 1000).toFixed(1)} s, ${count((4 * calls * 1000) / tookMs)} messages/s, ${failed} failed`,
    );
    await steady('after', 10);
  } finally {
    await system.stop();
  }
}

/** Appends a second with 256 in flight. */
async function closedLoop(system: Hansard, ms: number): Promise<number> {
  const end = performance.now() + ms;
  let done = 0;
  const worker = async (): Promise<void> => {
    while (performance.now() < end) {
      await system.append({ channel: channel(), text: text() });
      done++;
    }
  };
  const started = performance.now();
  await Promise.all(Array.from({ length: 256 }, worker));
  return (done * 1000) / (performance.now() - started);
}
