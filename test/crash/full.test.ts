/**
 * A disk that is almost full: appends are refused in time, what makes room works,
 * leadership goes where there is room, and all of it comes back by itself.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, statfsSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { connect, type HansardError } from '../../src/client/index.js';
import { silentLogger } from '../../src/common/logger.js';
import {
  encodeAppendMany,
  encodeCreateChannel,
  encodeDeleteChannel,
} from '../../src/conversation/command.js';
import { encodeCreateSubscription } from '../../src/conversation/subscription-command.js';
import { DiskSpace } from '../../src/node/disk-space.js';
import { initNode } from '../../src/node/open.js';
import { mainScript, patienceMs, run, until } from '../cluster/harness.js';
import { append, Cluster } from '../node/cluster.js';
import { SimClock } from '../sim/sim-clock.js';
import { freePorts } from '../support/free-ports.js';

t.setTimeout(600_000);

const MiB = 1024 * 1024;

t.test('below the reserve it is low, a good bit above it there is room again', async (t) => {
  const clock = new SimClock();
  const said: string[] = [];
  const note = (_fields: unknown, text?: string): void => void said.push(text ?? '');
  let free: number | Error = 1000;
  let asked = 0;
  const space = new DiskSpace({
    reserveBytes: 400,
    clock,
    logger: { ...silentLogger, warn: note, error: note, info: note } as never,
    async free() {
      asked++;
      if (free instanceof Error) throw free;
      return free;
    },
  });
  await space.start();
  const after = async (bytes: number | Error) => {
    free = bytes;
    await clock.run(1_500);
    return [space.isLow, space.isCritical];
  };
  t.same([space.isLow, space.isCritical], [false, false]);
  t.same(await after(400), [false, false], 'the reserve itself is enough');
  t.same(await after(399), [true, false]);
  t.same(await after(199), [true, true]);
  t.same(await after(401), [true, false], 'a little more is not enough');
  t.same(await after(new Error('EIO')), [true, false], 'what is not known stays as it was');
  t.same(await after(450), [false, false]);
  t.equal(said.length, 3, 'it is said once each time');
  space.stop();
  const before = asked;
  await clock.run(5_000);
  t.equal(asked, before, 'and nothing is asked after its end');
});

const soon = (cluster: Cluster): { deadlineMs: number } => ({
  deadlineMs: cluster.clock.monotonicMs() + 3_000,
});

/** What comes of an append at whoever leads. */
async function tryOn(cluster: Cluster, command: Uint8Array): Promise<string> {
  const { node } = await cluster.led();
  return cluster.settled(
    node.propose(0, command, soon(cluster)).then(
      () => 'ok',
      (error: HansardError) => `${error.reason}${error.retryDelayMs === undefined ? '' : ' retry'}`,
    ),
  );
}
const channel = { tenant: 'default', channel: 'a', requestId: '' };
const deletion = encodeDeleteChannel({ ...channel, allowMissing: true });
const creation = encodeCreateChannel({ ...channel, title: '', class: '', labels: [], participants: [] });
const subscribing = encodeCreateSubscription({
  tenant: 'default',
  name: 'w',
  requestId: '',
  selector: { channels: [], prefix: '', label: undefined, types: [] },
  settings: {
    description: '',
    ackDeadlineMs: 1_000,
    maxDeliveries: 0,
    retryDelayMs: 0,
    maxPendingChannels: 1,
    paused: false,
  },
  fromTimeUs: 0,
  places: new Map(),
});

t.test('a node alone refuses what takes room, and nothing else', async (t) => {
  const cluster = await Cluster.start({ nodes: 1, partitions: 1 });
  t.equal(await tryOn(cluster, append('a', 'one')), 'ok');
  const { space, node } = cluster.get(1);
  space.isLow = true;
  t.equal(await tryOn(cluster, append('a', 'two')), 'DISK_FULL retry');
  t.equal(await tryOn(cluster, creation), 'DISK_FULL retry');
  const several = encodeAppendMany('default', '', [append('a', 'two'), append('b', 'two')]);
  t.equal(await tryOn(cluster, several), 'DISK_FULL retry', 'nor several channels at once');
  t.equal(await tryOn(cluster, subscribing), 'DISK_FULL retry');
  t.equal(await tryOn(cluster, deletion), 'ok', 'a deletion works');
  t.equal(node.cluster().nodes[0]?.diskFull, true, 'the status tells');
  space.isLow = false;
  t.equal(await tryOn(cluster, append('a', 'three')), 'ok', 'it goes on by itself');
  await cluster.stopAll();
});

t.test('leadership goes where there is room, and appends go on', async (t) => {
  const cluster = await Cluster.start({ nodes: 3, partitions: 1 });
  const before = await cluster.led();
  before.space.isLow = true;
  const moved = await cluster.clock.until(() => {
    const leader = cluster.leaderOf(0);
    return leader !== undefined && leader !== before;
  }, 10_000);
  t.ok(moved, 'another leads');
  t.equal(await tryOn(cluster, append('a', 'one')), 'ok');
  const seen = (await cluster.led()).node.cluster().nodes.filter((node) => node.diskFull);
  t.same(
    seen.map(({ nodeId }) => nodeId),
    [before.node.identity.nodeId],
    'the leader knows whose disk it is',
  );
  await cluster.clock.run(10_000);
  t.not(cluster.leaderOf(0), before, 'it does not come back meanwhile');
  await cluster.stopAll();
});

t.test('with all disks low deletions and changes of members still work', async (t) => {
  const cluster = await Cluster.start({ nodes: 3, partitions: 1 });
  await tryOn(cluster, append('a', 'one'));
  for (const { space } of cluster.running.values()) space.isLow = true;
  await cluster.clock.run(3_000);
  t.equal(await tryOn(cluster, append('a', 'two')), 'DISK_FULL retry');
  t.equal(await tryOn(cluster, deletion), 'ok');
  const leader = await cluster.led();
  const other = leader.node
    .replicas()[0]
    ?.members.find(({ nodeId }) => nodeId !== leader.node.identity.nodeId);
  const change = leader.node.changeReplicas(0, [{ kind: 'remove', replicaId: other?.replicaId ?? 0 }], {
    deadlineMs: leader.node.monotonicMs() + 5_000,
    force: false,
  });
  t.ok((await cluster.settled(change)).done, 'a member is removed');
  for (const { space } of cluster.running.values()) space.isLow = false;
  await cluster.clock.run(3_000);
  t.equal(await tryOn(cluster, append('a', 'three')), 'ok');
  await cluster.stopAll();
});

t.test('a leader with room refuses where a majority has none', async (t) => {
  const cluster = await Cluster.start({ nodes: 3, partitions: 1 });
  const leader = await cluster.led();
  for (const running of cluster.running.values()) running.space.isLow = running !== leader;
  await cluster.clock.run(3_000);
  t.equal(cluster.leaderOf(0), leader);
  t.equal(await tryOn(cluster, append('a', 'one')), 'DISK_FULL retry');
  for (const { space } of cluster.running.values()) space.isLow = false;
  await cluster.clock.run(3_000);
  t.equal(await tryOn(cluster, append('a', 'two')), 'ok');
  await cluster.stopAll();
});

t.test('a follower with nothing left takes nothing in, and catches up once it has room', async (t) => {
  const cluster = await Cluster.start({ nodes: 3, partitions: 1 });
  const leader = await cluster.led();
  const follower = [...cluster.running.values()].find((running) => running !== leader);
  if (follower === undefined) throw new Error('nobody follows');
  follower.space.isLow = follower.space.isCritical = true;
  await cluster.clock.run(1_500);
  const log = follower.wal.group(0);
  const before = log?.lastIndex() ?? 0;
  for (let i = 0; i < 20; i++) t.equal(await tryOn(cluster, append('a', `text ${i}`)), 'ok');
  await cluster.clock.run(1_000);
  t.equal(log?.lastIndex(), before, 'its log has not grown');
  follower.space.isLow = follower.space.isCritical = false;
  t.ok(await cluster.clock.until(() => (log?.lastIndex() ?? 0) >= before + 20, 10_000), 'it has caught up');
  t.same(follower.fatal, []);
  await cluster.stopAll();
});

/** A small disk of its own, where that is allowed. */
const disk = mkdtempSync(join(tmpdir(), 'hansard-full-'));
const isMounted = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=64m', 'tmpfs', disk]).status === 0;
t.teardown(() => {
  if (isMounted) execFileSync('umount', ['-l', disk]);
  rmSync(disk, { recursive: true, force: true });
});
const skip = isMounted ? false : 'no file system can be mounted here';

t.test('a real node on a small disk', { skip }, async (t) => {
  const dir = join(disk, 'node');
  const [client, peer, http] = await freePorts(3);
  const at = (port: number | undefined): string => `127.0.0.1:${port}`;
  await initNode({
    dir,
    clusterId: 'c1'.repeat(16),
    nodeId: 1,
    partitionCount: 4,
    replicationFactor: 1,
    members: [{ nodeId: 1, clientAddress: at(client), peerAddress: at(peer) }],
    segmentBytes: MiB,
  });
  const args = ['start', '--dir', dir, '--http-address', at(http), '--log-format', 'json'];
  const sizes = ['--log-segment', '1MiB', '--log-max', '8MiB', '--disk-reserve', '16MiB'];
  const node = run(mainScript, [...args, ...sizes]);
  const sdk = connect(`hansard://${at(client)}`);
  t.teardown(() => sdk.close());
  t.teardown(async () => {
    node.signal('SIGKILL');
    await node.ended;
  });
  const metric = async (name: string): Promise<number> => {
    const page = await fetch(`http://${at(http)}/metrics`).then((answer) => answer.text());
    return Number(new RegExp(`^${name} (.*)$`, 'm').exec(page)?.[1]);
  };
  // What is refused is tried again until its time is up: only that has little of it.
  const tryAppend = (name: string, timeoutMs = patienceMs): Promise<string> =>
    sdk
      .channel(name)
      .append({ role: 'user', text: 'x'.repeat(1000) }, { timeoutMs })
      .then(
        () => 'ok',
        (error: HansardError) => error.reason,
      );
  await until('it is ready', () =>
    fetch(`http://${at(http)}/readyz`).then(
      ({ status }) => status === 200,
      () => false,
    ),
  );
  t.equal(await tryAppend('a'), 'ok');
  const subscription = sdk.subscription('w');
  await subscription.create({ prefix: '', fromBeginning: true, retryDelayMs: 100 });
  const handled: string[] = [];
  let isHeld = true;
  let release = () => {};
  const worker = subscription.consume({
    handler: async ({ channel, event }) => {
      handled.push(`${channel} ${event.seq}`);
      if (isHeld) await new Promise<void>((resolve) => (release = resolve));
    },
  });
  t.teardown(() => worker.stop({ timeoutMs: 10 }));
  await until('its first event', () => handled.length === 1);
  t.equal(await metric('hansard_disk_full'), 0);
  const ofIt = (name: string) =>
    metric(`hansard_subscription_${name}\\{tenant="default",subscription="w"\\}`);
  t.equal(await metric('hansard_consumers'), 1);
  t.equal(await ofIt('pending_events'), 1);
  t.ok((await ofIt('lag_seconds')) > 0);
  t.ok((await ofIt('last_progress_seconds')) > 0);
  t.equal(await ofIt('dead_letters'), 0);
  const ballast = join(disk, 'ballast');
  const { bavail, bsize } = statfsSync(disk);
  writeFileSync(ballast, Buffer.alloc(bavail * bsize - 12 * MiB));
  await until('it has noticed', async () => (await metric('hansard_disk_full')) === 1);
  t.equal(await tryAppend('a', 6_000), 'DISK_FULL');
  isHeld = false;
  release();
  await sdk.channel('a').delete();
  t.pass('a deletion works');
  t.equal((await sdk.cluster()).nodes[0]?.diskFull, true);
  t.ok(node.stdout.includes('almost full') || node.stderr.includes('almost full'), 'the log says so');
  rmSync(ballast);
  await until('appends go on', async () => (await tryAppend('b')) === 'ok');
  await until('what comes now', () => handled.includes('b 1'));
  await until('all of it done', async () => (await subscription.info()).progress.pendingEvents === 0);
  t.same([...new Set(handled)], ['a 1', 'b 1']);
  t.equal(await metric('hansard_disk_full'), 0);
  node.signal('SIGTERM');
  t.equal((await node.end()).code, 0);
});
