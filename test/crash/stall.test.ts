/**
 * A disk that stands still: leadership is elsewhere within three seconds, and the
 * process ends after `disk_stall`. The disk is a tracer that holds every sync of the log.
 */
import { spawn } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { ProcessCluster, sleep, until } from '../cluster/harness.js';
import { append, Cluster } from '../node/cluster.js';
import { straceMissing } from './strace.js';

const movedWithinMs = 3_000;
const stallS = 5;

t.test('on a simulated disk', async (t) => {
  const cluster = await Cluster.start({ nodes: 3, partitions: 1 });
  const leader = await cluster.led();
  cluster.folder(leader.node.identity.nodeId).disk.stallNext(60_000);
  const deadline = { deadlineMs: cluster.clock.monotonicMs() + 30_000 };
  const appended = leader.node.propose(0, append('a', 'one'), deadline).catch(() => {});
  const movedAt = await cluster.clock.until(() => {
    const now = cluster.leaderOf(0);
    return now !== undefined && now !== leader;
  }, movedWithinMs);
  t.ok(movedAt, 'another leads in time');
  const { node } = await cluster.led();
  await cluster.settled(node.propose(0, append('a', 'two'), deadline));
  t.pass('and takes appends');
  await cluster.clock.run(5_000);
  t.not(cluster.leaderOf(0), leader, 'it does not come back while the disk stands');
  t.ok(
    (await cluster.clock.until(() => cluster.leaderOf(0) === leader, 120_000)) ||
      leader.node.identity.nodeId !== 1,
    'it may lead again afterwards',
  );
  await cluster.settled(appended);
  await cluster.stopAll();
});

t.test('on a real one', { skip: straceMissing() ?? false }, async (t) => {
  const cluster = await ProcessCluster.start(t, { partitions: 3, args: ['--disk-stall', `${stallS}s`] });
  const client = cluster.connect();
  const channel = client.channel('a');
  await channel.append({ role: 'user', text: 'before' });
  const leader = await cluster.leaderOf('a');
  const logFolder = join(leader.dir, 'log');
  const files = readdirSync(logFolder).flatMap((name) => ['-P', join(logFolder, name)]);
  const pid = leader.process.child.pid as number;
  const hold = `inject=fdatasync:delay_enter=${60 * 1_000_000}`;
  const args = [
    '-f',
    '-qq',
    '-o',
    '/dev/null',
    '-p',
    String(pid),
    '-e',
    'trace=fdatasync',
    '-e',
    hold,
    ...files,
  ];
  const tracer = spawn('strace', args, { stdio: 'ignore' });
  t.teardown(() => tracer.kill('SIGKILL'));
  const isTraced = (): boolean => tracerOf(pid) !== 0;
  await until('the tracer holds it', isTraced);
  await sleep(200);
  const startMs = performance.now();
  const next = cluster.connect({ nodes: cluster.others(leader) });
  const appended = next.channel('a').append({ role: 'user', text: 'meanwhile' });
  appended.catch(() => {});
  const after = await cluster.leaderOf('a', leader);
  const movedMs = performance.now() - startMs;
  await appended;
  const appendMs = performance.now() - startMs;
  t.comment(`led by another after ${Math.round(movedMs)} ms, appended after ${Math.round(appendMs)} ms`);
  t.not(after, leader);
  t.ok(movedMs < movedWithinMs, 'leadership moved in time', {
    skip: movedMs >= movedWithinMs && cluster.starved,
  });
  // Dead, and not yet buried: that is the tracer's part, which waits for the end of its delay.
  await until('it is dead', () => /^State:\s+[ZX]/m.test(readStatus(pid)) || readStatus(pid) === '');
  t.comment(
    `the process ended after ${Math.round(performance.now() - startMs)} ms, disk_stall was ${stallS} s`,
  );
  await new Promise((resolve) => tracer.once('exit', resolve).kill('SIGKILL'));
  t.equal((await leader.process.end()).signal, 'SIGKILL', 'its watchdog ended it');
  cluster.startNode(leader);
  await leader.ready();
  const texts: string[] = [];
  for await (const event of channel.list({ after: 100 }))
    texts.push(Buffer.from(event.contentBytes).toString('latin1'));
  t.equal(texts.filter((text) => text.includes('before')).length, 1);
  t.equal(texts.filter((text) => text.includes('meanwhile')).length, 1, 'nothing is lost or doubled');
});

/** 0: nobody. */
function tracerOf(pid: number): number {
  return Number(/TracerPid:\s+(\d+)/.exec(readStatus(pid))?.[1] ?? 0);
}
function readStatus(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/status`, 'latin1');
  } catch {
    return '';
  }
}
