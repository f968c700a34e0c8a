/**
 * Reads a second by level and preference: latest pages of 50 from three nodes as processes, one
 * client, a fixed number in flight; spread over channels, and all of one hot channel.
 *
 *     npm run bench -- reads [--seconds 4] [--in-flight 64] [--rounds 1] [--levels eventual,…] [--preferences nearest,…]
 */
import { Command } from 'commander';
import { connect } from '../src/client/index.js';
import type { ReadLevel, ReadPreference } from '../src/client/types.js';
import { closedLoop } from './harness/drive.js';
import { Hansard, nameOf } from './harness/hansard.js';
import { channelCount, fill, pageEvents } from './harness/load.js';
import { difference, usageOf } from './harness/measure.js';
import { number } from './harness/options.js';
import { randomOf } from './harness/payload.js';
import { count, loadAverage } from './harness/proc-figures.js';

const options = new Command('bench reads')
  .option('--seconds <n>', 'of each sample', number(0.1), 4)
  .option('--in-flight <n>', 'reads', number(1), 64)
  .option('--rounds <n>', 'through all of them', number(1), 1)
  .option('--levels <names>', '', 'linearizable,session,bounded,eventual')
  .option('--preferences <names>', '', 'primary,secondary,nearest')
  .parse()
  .opts<Record<'seconds' | 'inFlight' | 'rounds', number> & Record<'levels' | 'preferences', string>>();
const say = (text: string): void => void process.stdout.write(`${text}\n`);
const never = new AbortController().signal;
/** Of code and connections, before a sample, ms. */
const warmMs = 500;
const maxStalenessMs = 1_000;

interface Row {
  readonly level: ReadLevel;
  readonly preference: ReadPreference;
  readonly isHot: boolean;
}

async function measure(system: Hansard, { level, preference, isHot }: Row): Promise<void> {
  const client = connect(`hansard://${system.endpoints}`, { timeoutMs: 30_000 });
  const random = randomOf(7);
  const served = new Map<number, number>();
  const read = {
    level,
    preference,
    ...(level === 'bounded' ? { maxStalenessMs } : {}),
  };
  const call = async (): Promise<void> => {
    const channel = isHot ? 1 : Math.floor(random() * channelCount);
    const page = await client
      .channel(nameOf(channel))
      .list({ before: pageEvents, ...read })
      .page();
    if (page.events.length !== pageEvents) throw new Error(`a page of ${page.events.length} events`);
    served.set(page.servedBy.nodeId, (served.get(page.servedBy.nodeId) ?? 0) + 1);
  };
  const running = closedLoop(call, options.inFlight, 1);
  await new Promise((done) => setTimeout(done, warmMs));
  const groups = system.processes();
  const before = groups.map(usageOf);
  running.open();
  await Promise.race([new Promise((done) => setTimeout(done, 1000 * options.seconds)), running.failed]);
  const { latency, units, seconds } = await running.close();
  const cpuUs = groups.reduce((sum, group, i) => {
    const usage = before[i];
    return usage === undefined ? sum : sum + difference(usageOf(group), usage).cpuUs;
  }, 0);
  await running.stop();
  await client.close();
  const total = [...served.values()].reduce((sum, each) => sum + each, 0);
  const shares = groups.map((_, i) => Math.round((100 * (served.get(i + 1) ?? 0)) / total));
  const ms = (percent: number): string => (latency.getValueAtPercentile(percent) / 1000).toFixed(1);
  say(
    `${level.padEnd(12)} ${preference.padEnd(9)} ${isHot ? 'one channel ' : 'all channels'} ${count(units / seconds).padStart(7)} pages/s  p50 ${ms(50)} p99 ${ms(99)} ms  ` +
      `nodes ${(cpuUs / units).toFixed(0)} µs CPU a page  served by ${shares.join(', ')} %  (load average ${loadAverage()})`,
  );
}

const system = new Hansard();
try {
  await system.start(never);
  await fill(system, never);
  for (let round = 0; round < options.rounds; round++) {
    for (const isHot of [false, true])
      for (const level of options.levels.split(',') as ReadLevel[])
        for (const preference of options.preferences.split(',') as ReadPreference[])
          await measure(system, { level, preference, isHot });
  }
} finally {
  await system.stop();
}
process.exit();
