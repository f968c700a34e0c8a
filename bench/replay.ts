/**
 * What a start takes between the reading of the log and the last entry applied, without a door: CPU of the main thread and of
 * all, and the wait for the collector. One start a run; to be run several times, for two builds in turn.
 *
 *     npm run bench -- recovery --dir FOLDER --fill-only --batch 1
 *     node dist/bench/replay.js FOLDER [OTHER/dist]
 */
import { PerformanceObserver } from 'node:perf_hooks';
import { pathToFileURL } from 'node:url';
import { type LogFields, type Logger, silentLogger } from '../src/common/logger.js';
import { difference, usageOf } from './harness/measure.js';
import { count, loadAverage } from './harness/proc-figures.js';

const [dir, other] = process.argv.slice(2);
if (dir === undefined) throw new Error('the folder of a node is missing');
const dist = new URL('../', other === undefined ? import.meta.url : `${pathToFileURL(other)}/bench/`);
const { openNode } = (await import(`${dist}src/node/open.js`)) as typeof import('../src/node/open.js');
const { resolveSettings } = (await import(
  `${dist}src/node/settings.js`
)) as typeof import('../src/node/settings.js');

const self = { name: 'node', pid: process.pid };
let collectingMs = 0;
new PerformanceObserver((list) => {
  for (const { duration } of list.getEntries()) collectingMs += duration;
}).observe({ entryTypes: ['gc'] });

const { settings } = await resolveSettings({ flags: { dir } });
let before = usageOf(self);
let collectedMs = 0;
const logger: Logger = { ...silentLogger, info: look, child: () => logger };
await openNode({
  dir,
  settings,
  peerAddress: '127.0.0.1:0',
  version: 'bench',
  logger,
  onFatal: (error) => {
    throw error;
  },
});

function look(fields: LogFields, message: string): void {
  if (message === 'log replayed') {
    before = usageOf(self);
    collectedMs = collectingMs;
  }
  if (message !== 'log applied') return;
  const { mainUs, cpuUs } = difference(usageOf(self), before);
  const { events, durationMs } = fields as { events: number; durationMs: number };
  const each = (us: number): string =>
    `${(us / 1000).toFixed(0)} ms (${(us / events).toFixed(2)} µs a message)`;
  process.stdout.write(
    `${count(events)} messages in ${durationMs} ms: ${each(mainUs)} of the main thread, ${each(cpuUs)} of all, ` +
      `${(collectingMs - collectedMs).toFixed(0)} ms in the collector (load average ${loadAverage()})\n`,
  );
  // As by a crash: the folder is as full for the next run.
  process.kill(process.pid, 'SIGKILL');
}
