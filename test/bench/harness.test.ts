/** The harness itself, against systems whose behaviour is known. */
import t from 'tap';
import { closedLoop, openLoop } from '../../bench/harness/drive.js';
import { zipfOf } from '../../bench/harness/load.js';
import { machineTimes, stealPercent } from '../../bench/harness/measure.js';
import { randomOf } from '../../bench/harness/payload.js';
import { notes, type Report } from '../../bench/harness/report.js';
import { type Measured, measureRounds, orderOf } from '../../bench/harness/rounds.js';
import { type Sample, sample } from '../../bench/harness/sample.js';
import { ratiosOf, ratiosToBest, summariesOf } from '../../bench/harness/stats.js';
import type { Item, System } from '../../bench/harness/system.js';
import { workloadsOf } from '../../bench/harness/workloads.js';

const sleep = (ms: number): Promise<void> => new Promise((done) => setTimeout(done, ms));

class Fake implements System {
  readonly name: string = 'fake';
  readonly version = '0';
  readonly durability = 'none';
  appended = 0;
  start(): Promise<void> {
    return Promise.resolve();
  }
  stop(): Promise<void> {
    return Promise.resolve();
  }
  processes(): [] {
    return [];
  }
  async append(_item: Item): Promise<void> {
    this.appended++;
    await sleep(1);
  }
}

const quiet = { seconds: 0.5, warmupSeconds: 0.1, round: 0, signal: new AbortController().signal };

function made(values: Partial<Sample> & Pick<Sample, 'system' | 'round'>): Sample {
  return {
    workload: 'single-1',
    perSecond: 100,
    p50Ms: 1,
    p99Ms: 2,
    latency: [],
    overTime: [],
    units: 100,
    seconds: 1,
    cpuUs: {},
    mainThreadUs: {},
    memoryMiB: {},
    diskBytes: 0,
    counters: {},
    otherCores: 0,
    stealPercent: 0,
    ...values,
  };
}

const [single1] = workloadsOf(['single-1']);
if (single1 === undefined) throw new Error('single-1 is gone');

t.test('a closed loop counts what ends within its window, and nothing else', async (t) => {
  let calls = 0;
  const running = closedLoop(
    async () => {
      calls++;
      await sleep(20);
    },
    4,
    10,
  );
  await sleep(100);
  const before = calls;
  running.open();
  await sleep(300);
  const interval = await running.close();
  const within = calls - before;
  await running.stop();
  await sleep(50);
  t.equal(interval.latency.totalCount * 10, interval.units, 'ten units a call');
  t.ok(Math.abs(interval.units / 10 - within) <= 4, 'but for those in flight at either end');
  t.ok(interval.latency.minNonZeroValue >= 15_000, 'and each took its time');
  t.equal(running.failed instanceof Promise, true);
});

t.test('a window goes on until anything is done in it', async (t) => {
  const system = new Fake();
  system.append = () => sleep(900);
  const found = await sample(system, single1, { ...quiet, seconds: 0.2 });
  t.ok(found !== undefined && found.units >= 1 && found.seconds >= 0.6, 'and its length is what it was');
  t.ok(found !== undefined && Math.abs(found.perSecond - found.units / found.seconds) < 1e-9);
});

t.test('a call that fails ends the sample', async (t) => {
  const system = new Fake();
  system.append = () => (system.appended++ < 5 ? sleep(1) : Promise.reject(new Error('full')));
  await t.rejects(sample(system, single1, quiet), { message: 'full' });
  // Those that go on meanwhile are ended before the next sample.
  const slow = new Fake();
  let underWay = 0;
  slow.append = async () => {
    underWay++;
    await sleep(slow.appended++ === 0 ? 20 : 200);
    underWay--;
    if (slow.appended >= 1 && underWay === 7) throw new Error('full');
  };
  const [single8] = workloadsOf(['single-8']);
  if (single8 === undefined) throw new Error('no single-8');
  await t.rejects(sample(slow, single8, quiet), { message: 'full' });
  t.equal(underWay, 0);
});

t.test('a signal ends the sample though a call never returns', async (t) => {
  const system = new Fake();
  const ending = new AbortController();
  system.append = () => new Promise(() => {});
  const running = sample(system, single1, { ...quiet, seconds: 60, signal: ending.signal });
  setTimeout(() => ending.abort(), 50);
  await t.rejects(running, { message: 'interrupted' });
});

t.test('the open loop omits nothing: a stall delays every call that was due in it', async (t) => {
  const stallMs = 300;
  const seen: string[] = [];
  // A machine that is busy itself stalls now and then: one run that it leaves alone is enough.
  const isRight = async (): Promise<boolean> => {
    let stallUntilMs = 0;
    let calls = 0;
    const running = openLoop(async () => {
      if (++calls === 100) stallUntilMs = performance.now() + stallMs;
      await sleep(Math.max(0, stallUntilMs - performance.now()));
    }, 500);
    running.open();
    await sleep(1_000);
    const { latency, units } = await running.close();
    await running.stop();
    const { totalCount } = latency;
    const p90Us = latency.getValueAtPercentile(90);
    seen.push(`${totalCount} calls, ${units} units, p90 ${p90Us} µs`);
    // One every 2 ms; but for those under way at either end. 150 of 500 were due while
    // nothing was answered, and half of them waited for more than half of it.
    return totalCount >= 490 && totalCount <= 650 && Math.abs(units - totalCount) < 50 && p90Us > 100_000;
  };
  for (let run = 0; run < 60; run++) if (await isRight()) return t.pass(`${seen.at(-1)}`);
  return t.fail(seen.join('; '));
});

t.test('the open loop gives up where nothing is answered', async (t) => {
  const running = openLoop(() => new Promise(() => {}), 5_000_000);
  await t.rejects(running.failed, /more than it bears/);
  let underWay = 0;
  const slow = openLoop(async () => {
    underWay++;
    await sleep(300);
    underWay--;
  }, 5_000_000);
  await t.rejects(slow.failed, /more than it bears/);
  await slow.stop();
  t.equal(underWay, 0, 'nothing is under way when it has stopped');
});

t.test('tails: every delivery is waited for; one that is missing or comes twice is told', async (t) => {
  class Chatty extends Fake {
    readers: ((text: string) => void)[] = [];
    lose = false;
    twice = false;
    override async append({ text }: Item): Promise<void> {
      for (const told of this.readers) setTimeout(() => told(text), 3);
      if (this.twice) setTimeout(() => this.readers[0]?.(text), 4);
      await sleep(1);
    }
    tail(_channel: number, told: (text: string) => void): Promise<{ stop(): Promise<void> }> {
      this.readers.push(told);
      return Promise.resolve({
        stop: () => {
          this.readers.splice(this.readers.indexOf(told), 1);
          return Promise.resolve();
        },
      });
    }
  }
  const [tail] = workloadsOf(['tail-5']);
  if (tail === undefined) throw new Error('no tail-5');
  const system = new Chatty();
  const found = await sample(system, tail, quiet);
  t.ok(found !== undefined && found.units >= 5 && found.p50Ms >= 2, 'delivered');
  t.equal(system.readers.length, 0, 'readers leave');
  system.twice = true;
  await t.rejects(sample(system, tail, quiet), /a reader got \d+ after \d+/);
  t.equal(await sample(new Fake(), tail, quiet), undefined, 'a system without readers has no such row');
});

t.test('rounds: row by row, each system first in turn, and its neighbour changes', (t) => {
  const systems = ['a', 'b', 'c'];
  const orders = [0, 1, 2, 3, 4, 5].map((round) => orderOf(systems, round, 0).join(''));
  t.strictSame(orders, ['abc', 'bac', 'cab', 'acb', 'bca', 'cba'], 'all orders of three');
  t.end();
});

t.test('rounds above the limit of stolen time are measured again, so often and no more', async (t) => {
  const stolen: Record<string, number[]> = { a: [0, 50, 0, 60, 60, 60], b: [20, 0, 0, 0, 0] };
  const into: Measured = { samples: [], discarded: [], rows: [] };
  const waits: number[] = [];
  await measureRounds(
    { systems: ['a', 'b', 'none'], workloads: [single1], rounds: 2, maxStealPercent: 10, retries: 2 },
    (system, _, round) =>
      Promise.resolve(
        system === 'none'
          ? undefined
          : made({ system, round, stealPercent: stolen[system]?.shift() ?? Number.NaN }),
      ),
    (_, percent) => {
      waits.push(percent);
      return Promise.resolve();
    },
    into,
  );
  // Round 1: b 20, a 50 (b not measured), both quiet. Round 2 (b first): a 60 three times, the last stays.
  t.strictSame(into.rows, [{ workload: 'single-1', repeated: 4, aboveLimit: 1 }]);
  t.strictSame(waits, [20, 50, 60, 60]);
  t.strictSame(
    into.samples.map(({ system, round, stealPercent }) => [system, round, stealPercent]),
    [
      ['a', 0, 0],
      ['b', 0, 0],
      ['b', 1, 0],
      ['a', 1, 60],
    ],
  );
  t.equal(into.discarded.length, 2 + 1 + 2 + 2);
});

t.test('ratios are formed within rounds, to each and to the best of the row', (t) => {
  const [tail] = workloadsOf(['tail-1']);
  if (tail === undefined) throw new Error('no tail-1');
  const rates = { us: [100, 200, 300], slow: [50, 50, 600], fast: [400, 100, 300] };
  const samples = Object.entries(rates).flatMap(([system, values]) =>
    values.flatMap((perSecond, round) => [
      made({ system, round, perSecond }),
      made({ system, round, workload: 'tail-1', p50Ms: perSecond }),
    ]),
  );
  const rows = [single1, tail];
  const summaries = summariesOf(samples);
  const ratios = ratiosOf(samples, rows, 'us');
  t.strictSame(ratios, [
    { workload: 'single-1', system: 'slow', min: 0.5, median: 2, max: 4 },
    { workload: 'single-1', system: 'fast', min: 0.25, median: 1, max: 2 },
    { workload: 'tail-1', system: 'slow', min: 0.25, median: 0.5, max: 2 },
    { workload: 'tail-1', system: 'fast', min: 0.5, median: 1, max: 4 },
  ]);
  t.strictSame(
    ratiosToBest(summaries, ratios, rows).map(({ workload, system }) => [workload, system]),
    [
      ['single-1', 'fast'],
      ['tail-1', 'slow'],
    ],
    'by rate, and by latency',
  );
  t.end();
});

t.test('stolen time is the share that the host took, and no load of the machine', (t) => {
  const before = machineTimes('cpu  100 0 50 800 50 0 0 0 0 0\ncpu0 1 2 3\n');
  const after = machineTimes('cpu  150 0 75 850 50 0 0 75 30 0\ncpu0 1 2 3\n');
  t.equal(stealPercent(before, after), 37.5);
  t.equal(after.busyUs - before.busyUs, 75 * 10_000);
  t.equal(stealPercent(before, before), 0);
  t.end();
});

t.test('rows whose samples differ in stolen time are warned of', (t) => {
  const report = {
    settings: { maxStealPercent: 10, retries: 3 },
    missing: ['skipped nats: no program'],
    incomplete: '',
    workloads: [single1],
    rows: [{ workload: 'single-1', repeated: 2, aboveLimit: 0 }],
    samples: [
      made({ system: 'us', round: 0, stealPercent: 1 }),
      made({ system: 'us', round: 1, stealPercent: 9 }),
    ],
  } as unknown as Report;
  const said = notes(report);
  t.match(said, [
    'skipped nats: no program',
    /repeated because the host took more than 10 %.*: 2 \(single-1 2\)/,
    /warning: single-1: its samples differ in stolen time by 8 points/,
  ]);
  t.end();
});

t.test('workloads by name, by beginning, by number', (t) => {
  const named = (...wanted: string[]): string[] => workloadsOf(wanted).map(({ name }) => name);
  t.strictSame(named('single'), ['single-1', 'single-64', 'single-256']);
  t.strictSame(named('single-1'), ['single-1'], 'a whole name is no beginning');
  t.strictSame(named('single-8', 'frames-2x3', 'open-1234'), ['single-8', 'frames-2x3', 'open-1234']);
  t.ok(named('standard').includes('tail-100') && named('further').includes('hot-256'));
  for (const wrong of ['', 'singles-8', 'single-0', 'single-8x2', 'frames-8', 'x'])
    t.throws(() => workloadsOf([wrong]), /no workload/);
  t.end();
});

t.test('Zipf: the first channel as often as its share says, the last ones as well', (t) => {
  const pick = zipfOf(1_000, randomOf(5));
  const counts = new Array<number>(1_000).fill(0);
  for (let i = 0; i < 100_000; i++) {
    const channel = pick();
    counts[channel] = (counts[channel] as number) + 1;
  }
  // The sum of 1/k to 1,000 is 7.485: the first is 13.4 % of all.
  t.ok(Math.abs((counts[0] as number) / 100_000 - 0.1336) < 0.01);
  t.ok(counts.slice(500).reduce((sum, n) => sum + n, 0) > 7_000, 'half of the channels have 9.3 %');
  t.end();
});
