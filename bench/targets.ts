/**
 * Hansard against itself, each row with its target: what stored messages, many channels, one
 * hot channel, time under load and idle partitions do to it. Rates that are compared are taken in turn,
 * windows of one run; a row passes by the median of its rounds.
 *
 *     npm run bench -- targets [--rows hot,channels,stored,open-loop,minutes,idle] [--rounds 5] [--json]
 *     npm run bench -- targets --rows stored --stored 10000000
 *     npm run bench -- targets --rows open-loop --minutes 10
 *     npm run bench -- targets --rows minutes --minutes 30
 */
import { Command } from 'commander';
import { Hansard } from './harness/hansard.js';
import { untilSignal } from './harness/leftovers.js';
import { channelCount, fill } from './harness/load.js';
import { difference, usageOf } from './harness/measure.js';
import { number } from './harness/options.js';
import { count, loadAverage } from './harness/proc-figures.js';
import { type Sample, sample, warmUp } from './harness/sample.js';
import { median } from './harness/stats.js';
import { pause } from './harness/system.js';
import { type Workload, wideChannels, workloadsOf } from './harness/workloads.js';

const rowNames = ['hot', 'channels', 'stored', 'open-loop', 'minutes', 'idle'] as const;
type RowName = (typeof rowNames)[number];

const command = new Command('bench targets')
  .option('--rows <names>', `of ${rowNames.join(', ')}`, rowNames.join(','))
  .option('--rounds <n>', 'of what is compared in turn', number(1), 5)
  .option('--seconds <n>', 'of a window', number(1), 5)
  .option('--warmup <n>', 'seconds of all calls mixed, each cluster, before anything counts', number(0), 30)
  .option(
    '--row-warmup <n>',
    'seconds of its own load before each window; 16 and more for channels: tails hold what the other load left',
    number(0),
    2,
  )
  .option('--in-flight <n>', 'single appends', number(1), 256)
  .option('--stored <n>', 'messages in the filled cluster', number(1), 10_000_000)
  .option('--minutes <n>', 'of the open loop, and of the long load', number(2), 10)
  .option('--partitions <n>', 'of the idle cluster', number(1), 1_024)
  .option('--idle-seconds <n>', 'that are counted, after half a minute of quiet', number(1), 30)
  .option('--json', 'one object a row instead of a table')
  .parse();
const options = command.opts<
  Record<
    | 'rounds'
    | 'seconds'
    | 'warmup'
    | 'rowWarmup'
    | 'inFlight'
    | 'stored'
    | 'minutes'
    | 'partitions'
    | 'idleSeconds',
    number
  > & { rows: string; json?: boolean }
>();
const say = (text: string): void => void process.stderr.write(`${text}\n`);
const signal = untilSignal((name) => say(`${name}: ending; once more to end at once`));
/** Between two lines that tell how far a long step is, ms. */
const progressMs = 10_000;
const quietMs = 30_000;

interface Target {
  readonly row: RowName;
  readonly what: string;
  readonly value: number;
  readonly target: string;
  readonly isMet: boolean;
  /** What it was made from. */
  readonly detail: string;
  readonly loadAverage: string;
}

const targets: Target[] = [];

function found(
  row: RowName,
  what: string,
  value: number,
  target: string,
  isMet: boolean,
  detail: string,
): void {
  const one = { row, what, value, target, isMet, detail, loadAverage: loadAverage() };
  targets.push(one);
  const line = `${row.padEnd(10)} ${what.padEnd(46)} ${value.toFixed(2).padStart(9)}  ${target.padEnd(18)} ${isMet ? 'met   ' : 'MISSED'}  ${detail} (load average ${one.loadAverage})`;
  process.stdout.write(`${options.json ? JSON.stringify(one) : line}\n`);
}

const workload = (name: string): Workload => {
  const [only] = workloadsOf([name]);
  if (only === undefined) throw new Error(`no workload ${name}`);
  return only;
};
const single = workload(`single-${options.inFlight}`);

async function take(
  system: Hansard,
  load: Workload,
  round: number,
  seconds = options.seconds,
): Promise<Sample> {
  const taken = await sample(system, load, { seconds, warmupSeconds: options.rowWarmup, round, signal });
  if (taken === undefined) throw new Error(`${load.name}: Hansard has no such call`);
  return taken;
}

async function withCluster<T>(work: (system: Hansard) => Promise<T>, partitions?: number): Promise<T> {
  const system = new Hansard(partitions === undefined ? {} : { partitions });
  try {
    await system.start(signal);
    return await work(system);
  } finally {
    await system.stop();
  }
}

/** Ready for rates to be compared. */
async function warm(system: Hansard): Promise<void> {
  await fill(system, signal);
  say(`warming up for ${options.warmup} s`);
  await warmUp(system, options.warmup, signal);
}

/** `[a, b]` of each round, in turn, whoever is first. */
async function inTurn(a: () => Promise<Sample>, b: () => Promise<Sample>): Promise<[number, number][]> {
  const rates: [number, number][] = [];
  for (let round = 0; round < options.rounds; round++) {
    const first = round % 2 === 0;
    const one = first ? await a() : await b();
    const other = first ? await b() : await a();
    const [left, right] = first ? [one, other] : [other, one];
    rates.push([left.perSecond, right.perSecond]);
    say(`round ${round + 1}: ${costOf(left)} against ${costOf(right)}`);
  }
  return rates;
}

function costOf({ perSecond, cpuUs }: Sample): string {
  const { client = 0, ...nodes } = cpuUs;
  const sum = Object.values(nodes).reduce((all, us) => all + us, 0);
  return `${count(perSecond)}/s at ${client.toFixed(0)} + ${sum.toFixed(0)} µs of CPU`;
}

function compared(row: RowName, what: string, rates: readonly [number, number][], least: number): void {
  const ratios = rates.map(([a, b]) => a / b);
  const value = median(ratios);
  const detail = `${count(median(rates.map(([a]) => a)))}/s against ${count(median(rates.map(([, b]) => b)))}/s; ratios ${ratios.map((r) => r.toFixed(2)).join(', ')}`;
  found(row, what, value, `at least ${least}`, value >= least, detail);
}

/** Against single appends over 1,000 channels, in the same cluster. */
async function againstSingle(
  system: Hansard,
  row: RowName,
  load: Workload,
  what: string,
  least: number,
): Promise<void> {
  const rates = await inTurn(
    () => take(system, load, 0),
    () => take(system, single, 0),
  );
  compared(row, `${what} against 1,000`, rates, least);
}

async function hot(system: Hansard): Promise<void> {
  await againstSingle(system, 'hot', workload(`hot-${options.inFlight}`), 'one hot channel', 0.5);
}

async function channels(system: Hansard): Promise<void> {
  const { first: firstChannel, count: wide } = wideChannels;
  say(`one message in each of ${count(wide)} channels`);
  await fill(system, signal, { firstChannel, channels: wide, perChannel: 1, progress: progressOf(wide) });
  const load = workload(`wide-${options.inFlight}`);
  await againstSingle(system, 'channels', load, `${count(wide)} channels`, 0.6);
}

async function stored(empty: Hansard): Promise<void> {
  await withCluster(async (full) => {
    const perChannel = Math.ceil(options.stored / channelCount);
    await fill(full, signal, { perChannel, progress: progressOf(options.stored) });
    say(`warming up for ${options.warmup} s`);
    await warmUp(full, options.warmup, signal);
    const rates = await inTurn(
      () => take(full, single, 0),
      () => take(empty, single, 0),
    );
    compared('stored', `${count(options.stored)} messages stored against none`, rates, 0.8);
  });
}

function progressOf(all: number): (messages: number) => void {
  let toldMs = performance.now();
  return (messages) => {
    if (performance.now() < toldMs + progressMs) return;
    toldMs = performance.now();
    say(`${count(messages)} of ${count(all)} messages`);
  };
}

const percentile = ({ latency }: Sample, wanted: number): number =>
  latency.find(([p]) => p === wanted)?.[1] ?? Number.NaN;

/** Half of what it takes at most, for minutes: latency from when each call was due. */
async function openLoop(system: Hansard): Promise<void> {
  const most: number[] = [];
  for (let round = 0; round < 3; round++) most.push((await take(system, single, round)).perSecond);
  const rate = Math.floor(median(most) / 2);
  const load = workload(`open-${rate}`);
  const samples: Sample[] = [];
  for (let minute = 0; minute < options.minutes; minute++) {
    const one = await take(system, load, minute, 60);
    samples.push(one);
    say(
      `minute ${minute + 1}: ${count(rate)}/s, p99 ${one.p99Ms.toFixed(1)} p99.9 ${percentile(one, 99.9).toFixed(1)} ms`,
    );
  }
  const p99s = samples.map(({ p99Ms }) => p99Ms);
  const about = `${count(rate)}/s of ${count(median(most))}/s; by minute ${p99s.map((ms) => ms.toFixed(1)).join(', ')}`;
  const p99 = median(p99s);
  found('open-loop', 'p99 at half of the most, ms', p99, 'under 20', p99 < 20, about);
  const p999s = samples.map((one) => percentile(one, 99.9));
  const p999 = median(p999s);
  found(
    'open-loop',
    'p99.9, ms',
    p999,
    'under 50',
    p999 < 50,
    `by minute ${p999s.map((ms) => ms.toFixed(1)).join(', ')}`,
  );
  const half = samples.length >> 1;
  const growth = median(p99s.slice(-half)) / median(p99s.slice(0, half));
  found(
    'open-loop',
    'p99 of the second half against the first',
    growth,
    'at most 1.5',
    growth <= 1.5,
    `${options.minutes} minutes`,
  );
}

async function minutes(system: Hansard): Promise<void> {
  const rates: number[] = [];
  for (let minute = 0; minute < options.minutes; minute++) {
    rates.push((await take(system, single, minute, 60)).perSecond);
    say(`minute ${minute + 1}: ${count(rates.at(-1) ?? 0)}/s`);
  }
  const value = (rates.at(-1) as number) / (rates[0] as number);
  found(
    'minutes',
    `minute ${options.minutes} of full load against the first`,
    value,
    'at least 0.8',
    value >= 0.8,
    `by minute ${rates.map(count).join(', ')} a second`,
  );
}

async function idle(): Promise<void> {
  await withCluster(async (system) => {
    say(`${count(options.partitions)} partitions, quiet for ${quietMs / 1000} s`);
    await pause(quietMs, signal);
    const groups = system.processes();
    const before = groups.map(usageOf);
    const startMs = performance.now();
    await pause(1_000 * options.idleSeconds, signal);
    const elapsedUs = 1_000 * (performance.now() - startMs);
    const shares = groups.map((group, i) => {
      const usage = before[i];
      return usage === undefined ? Number.NaN : (100 * difference(usageOf(group), usage).cpuUs) / elapsedUs;
    });
    const most = Math.max(...shares);
    found(
      'idle',
      `${count(options.partitions)} idle partitions: percent of a core, a node`,
      most,
      'under 2',
      most < 2,
      shares.map((share) => share.toFixed(1)).join(', '),
    );
  }, options.partitions);
}

const wanted = options.rows.split(',').map((name) => name.trim());
const unknown = wanted.find((name) => !rowNames.includes(name as RowName));
if (unknown !== undefined) command.error(`error: no row ${unknown}; there are ${rowNames.join(', ')}`);
const underLoad = { hot, channels, stored, 'open-loop': openLoop, minutes } as const;
const loaded = rowNames.filter(
  (name) => name in underLoad && wanted.includes(name),
) as (keyof typeof underLoad)[];
try {
  if (loaded.length > 0)
    await withCluster(async (system) => {
      await warm(system);
      for (const name of loaded) await underLoad[name](system);
    });
  if (wanted.includes('idle')) await idle();
} catch (error) {
  if (!signal.aborted) throw error;
  process.exitCode = 1;
}
say(`${targets.filter(({ isMet }) => isMet).length} of ${targets.length} targets met`);
await new Promise((done) => process.stdout.write('', done));
process.exit();
