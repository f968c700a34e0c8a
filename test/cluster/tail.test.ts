/** Tails of real processes: while leaders are killed, every event comes once, in order; the command shows the same. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { clusterDown, clusterStatus, clusterUp, endpointsOf } from '../../cluster/launcher.js';
import { readRecord, signal, stateOf } from '../../cluster/processes.js';
import { launcherHooks } from '../../src/cli/commands/cluster.js';
import { connect, type Event, type TailUpdate } from '../../src/client/index.js';
import { freeBase } from '../support/free-ports.js';
import { patienceMs, sleep, until } from '../support/until.js';

t.setTimeout(600_000);
const main = fileURLToPath(new URL('../../src/cli/main.js', import.meta.url));
const hooks = launcherHooks(() => {});
const range = (from: number, to: number) => Array.from({ length: to - from + 1 }, (_, i) => from + i);

t.test('a tail through the death of leaders, and the command', async (t) => {
  const dir = mkdtempSync(join(tmpdir(), 'hansard-tail-'));
  const clusterDir = join(dir, 'cluster');
  const children: ChildProcess[] = [];
  t.teardown(async () => {
    for (const child of children) child.kill('SIGKILL');
    await clusterDown(clusterDir, 3_000);
    rmSync(dir, { recursive: true, force: true });
  });
  const up = { dir: clusterDir, timeoutMs: patienceMs };
  const nodes = await clusterUp({ ...up, nodes: 3, basePort: await freeBase(), partitions: 8 }, hooks);
  const endpoint = endpointsOf(nodes);
  const client = connect(`hansard://${endpoint}/default`);
  const reader = connect(`hansard://${endpoint}/default`);
  t.teardown(async () => {
    await client.close();
    await reader.close();
  });

  const command = spawn(
    process.execPath,
    [main, 'tail', 'talk', '--from-start', '--json', '--endpoint', endpoint],
    {
      stdio: ['ignore', 'pipe', 'pipe'],
    },
  );
  children.push(command);
  let shown = '';
  let notes = '';
  command.stdout.on('data', (chunk) => {
    shown += chunk;
  });
  command.stderr.on('data', (chunk) => {
    notes += chunk;
  });

  let isDone = false;
  let total = 0;
  /** How many events there will be in the end; known once the writer has stopped. */
  let end = Number.POSITIVE_INFINITY;
  const writing = (async () => {
    await sleep(300);
    const channel = client.channel('talk');
    while (!isDone) {
      const texts = range(total + 1, total + 4).map((n) => ({ text: `m${n}` }));
      await channel.append(texts, { timeoutMs: patienceMs });
      total += texts.length;
      await sleep(5);
    }
  })();
  const seen: { events: Event[]; updates: TailUpdate['kind'][] }[] = [];
  const tails = (['primary', 'secondary'] as const).map(async (preference) => {
    const mine = { events: [] as Event[], updates: [] as TailUpdate['kind'][] };
    seen.push(mine);
    for await (const update of reader.channel('talk').tail({ afterSeq: 0, preference }).updates()) {
      mine.updates.push(update.kind);
      if (update.kind === 'events') mine.events.push(...update.events);
      if (mine.events.length >= end) break;
    }
  });
  const caughtUp = async (): Promise<void> => {
    const target = total + 8;
    await until(`event ${target}`, () => seen.every(({ events }) => events.length >= target));
  };
  await until('both tails', () => seen.length === 2);
  for (let kill = 0; kill < 2; kill++) {
    await caughtUp();
    const { partitions } = await client.cluster();
    const partition = (await client.channel('talk').info()).partition;
    const leader = partitions.find((each) => each.partition === partition)?.leaderNodeId;
    const victim = (await clusterStatus(clusterDir)).find(({ nodeId }) => nodeId === leader);
    const record = readRecord(victim?.recordFile ?? '');
    t.ok(record !== undefined && signal(record, 'SIGKILL'), `node ${leader}, which leads, is killed`);
    await until('its end', () => stateOf(record) !== 'running');
    const before = total;
    const began = performance.now();
    await until('tails and writer to go on', () => seen.every(({ events }) => events.length > before + 8));
    t.comment(`both tails and the writer went on after ${Math.round(performance.now() - began)} ms`);
    await clusterUp(up, hooks);
  }
  await caughtUp();
  isDone = true;
  await writing;
  // One more, so that tails that stand at the head already see that it is over.
  end = ++total;
  await client.channel('talk').append({ text: `m${total}` });
  await Promise.all(tails);
  for (const { events } of seen) {
    t.same(
      events.map((event) => event.seq),
      range(1, total),
      'every seq once, in order',
    );
    t.ok(
      events.every((event) => {
        const part = event.message?.parts?.[0];
        return part?.type === 'text' && part.text === `m${event.seq}`;
      }),
      'each event is the one that was appended',
    );
  }
  t.ok(seen[0]?.updates.includes('interrupted'), 'the one at the leader was interrupted');
  await until('the command', () => shown.includes(`"seq":${total},`));
  command.kill('SIGINT');
  const [status] = (await once(command, 'close')) as [number | null];
  t.equal(status, 0, `Ctrl-C ends it cleanly: ${notes}`);
  t.same(
    shown
      .trimEnd()
      .split('\n')
      .map((line) => (JSON.parse(line) as { seq: number }).seq),
    range(1, total),
    'the command shows each event once',
  );
});
