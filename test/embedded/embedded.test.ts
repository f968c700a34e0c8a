/** Nodes in this process: one that keeps its folder, three with faults. */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { open, testCluster } from '../../src/index.js';
import { patienceMs } from '../support/until.js';

t.test('one node: a temporary folder goes, a given one stays with what was acknowledged', async (t) => {
  const node = await open();
  const channel = node.connect('', { timeoutMs: patienceMs }).channel('greetings');
  t.match(await channel.append({ role: 'user', text: 'hello' }), { seq: 1 });
  t.match((await channel.list().page()).events, [{ seq: 1, message: { parts: [{ text: 'hello' }] } }]);
  await node.close();
  await node.close();
  t.notOk(existsSync(node.dir));

  const root = mkdtempSync(join(tmpdir(), 'hansard-embedded-'));
  t.teardown(() => rmSync(root, { recursive: true, force: true }));
  const dir = join(root, 'kept');
  const first = await open({ dir, partitions: 2 });
  await first.connect('acme').channel('c').append({ role: 'user', text: 'kept' });
  const refused = await open({ dir }).catch((error: unknown) => error);
  t.match(refused, { reason: 'DIRECTORY_IN_USE' });
  await first.close();
  const second = await open({ dir });
  t.equal(second.endpoint, first.endpoint);
  t.match((await second.connect('acme').channel('c').get(1)).message, { parts: [{ text: 'kept' }] });
  await second.close();
});

t.test('three nodes: a killed leader loses nothing, an isolated one serves no stale read', async (t) => {
  const cluster = await testCluster({ partitions: 4 });
  t.teardown(() => cluster.close());
  const channel = cluster.connect('', { timeoutMs: patienceMs }).channel('c');
  await channel.append({ role: 'user', text: 'one' });
  const killed = cluster.leaderOf('c') ?? 0;
  t.ok(killed > 0);
  await cluster.kill(killed);
  await channel.append({ role: 'user', text: 'two' });
  t.not(cluster.leaderOf('c'), killed);
  await cluster.restart(killed);

  const isolated = cluster.leaderOf('c') ?? 0;
  const alone = cluster.connect('', { node: isolated, timeoutMs: patienceMs, transport: 'unary' });
  await alone.channel('c').info();
  cluster.isolate(isolated);
  await channel.append({ role: 'user', text: 'three' });
  t.not(cluster.leaderOf('c'), isolated);
  cluster.heal();
  await cluster.ready();
  const fresh = cluster
    .connect('', { node: isolated, timeoutMs: patienceMs, readLevel: 'linearizable' })
    .channel('c');
  const words = ['one', 'two', 'three'];
  const { events } = await fresh.list({ after: 10 }).page();
  t.same(
    events.map((event) => [event.seq, Buffer.from(event.contentBytes).includes(words[event.seq - 1] ?? '-')]),
    words.map((_, i) => [i + 1, true]),
  );
  await cluster.close();
  t.throws(() => cluster.isolate(4), RangeError);
});

t.test('the import alone loads neither LevelDB nor the server', (t) => {
  const entry = fileURLToPath(new URL('../../src/index.js', import.meta.url));
  const script = `
    import { createRequire } from 'node:module';
    await import(${JSON.stringify(entry)});
    const loaded = Object.keys(createRequire(import.meta.url).cache);
    console.log(loaded.filter((file) => /node_modules.(classic-level|level|abstract-level|zod|pino)./.test(file)).length,
      process.report.getReport().sharedObjects.filter((file) => /classic-level/.test(file)).length);`;
  const said = execFileSync(process.execPath, ['--input-type=module', '-e', script], {
    encoding: 'utf8',
    env: { PATH: process.env.PATH },
  });
  t.equal(said.trim(), '0 0');
  t.end();
});
