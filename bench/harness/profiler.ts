/**
 * Loaded into a node by `--import`: SIGUSR2 begins a CPU profile of its main
 * thread, the next one ends and writes it, with the loop's delay, to HANSARD_PROFILE_DIR.
 */
import { writeFileSync } from 'node:fs';
import { Session } from 'node:inspector';
import { join } from 'node:path';
import { monitorEventLoopDelay, performance } from 'node:perf_hooks';
import { isMainThread } from 'node:worker_threads';

const dir = process.env.HANSARD_PROFILE_DIR;
/** Samples every so many µs. */
const intervalUs = 200;

if (isMainThread && dir !== undefined) {
  let session: Session | undefined;
  let number = 0;
  const delay = monitorEventLoopDelay({ resolution: 1 });
  let utilization = performance.eventLoopUtilization();
  process.on('SIGUSR2', () => {
    if (session === undefined) {
      session = new Session();
      session.connect();
      session.post('Profiler.enable');
      session.post('Profiler.setSamplingInterval', { interval: intervalUs });
      session.post('Profiler.start');
      delay.enable();
      delay.reset();
      utilization = performance.eventLoopUtilization();
      return;
    }
    const ending = session;
    session = undefined;
    const { utilization: busy } = performance.eventLoopUtilization(utilization);
    ending.post('Profiler.stop', (error, result) => {
      ending.disconnect();
      if (error !== null) return;
      const name = join(dir, `${process.pid}-${++number}`);
      writeFileSync(`${name}.cpuprofile`, JSON.stringify(result.profile));
      const p = (value: number): number => delay.percentile(value) / 1e6;
      writeFileSync(
        `${name}.json`,
        JSON.stringify({ busy, delayMs: { p50: p(50), p99: p(99), max: delay.max / 1e6 } }),
      );
    });
  });
}
