/**
 * Copies of a cluster: its folders, taken while it was stopped, put back and raised to
 * the next incarnation; and an export of all tenants, loaded into an empty cluster.
 */
import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import type { Client } from '../../src/client/index.js';
import { partitionOf } from '../../src/common/partitioning.js';
import { applyLimits } from '../../src/conversation/apply-limits.js';
import { hansard } from '../support/command.js';
import { LocalCluster } from '../support/local-cluster.js';

t.setTimeout(600_000);

const root = mkdtempSync(join(tmpdir(), 'hansard-copies-'));
t.teardown(() => rmSync(root, { recursive: true, force: true }));
const options = { partitions: 4, segmentBytes: 1024 * 1024, settings: { diskReserve: '0B' } };

async function textsOf(client: Client, channel: string): Promise<string[]> {
  const texts: string[] = [];
  for await (const event of client.channel(channel).list({ after: 1_000 })) {
    const part = event.message?.parts?.[0];
    texts.push(part?.type === 'text' ? part.text : '');
  }
  return texts;
}

t.test(
  'folders of a stopped cluster, copied and put back: what was there then, and tokens of later fail',
  async (t) => {
    const cluster = await LocalCluster.format(options);
    t.teardown(() => cluster.end());
    const dirs = cluster.nodes.map(({ dir }) => dir);
    await cluster.startAll();
    const first = cluster.connect();
    for (const text of ['one', 'two', 'three']) await first.channel('kept').append({ role: 'user', text });
    for (const node of cluster.nodes) await cluster.stop(node);
    const copies = dirs.map((dir) => `${dir}.copy`);
    for (const [i, dir] of dirs.entries()) cpSync(dir, copies[i] as string, { recursive: true });
    t.equal((await hansard(['inspect', 'any', ...copies])).code, 0, 'the copies are sound');

    await cluster.startAll();
    const later = await first.channel('kept').append({ role: 'user', text: 'lost with the restore' });
    const { commitToken } = later;
    t.ok(commitToken.length > 0);
    const inUse = await hansard(['restore', ...dirs]);
    t.match(inUse, { code: 6, err: /another process/ }, 'not under running nodes');
    for (const node of cluster.nodes) await cluster.stop(node);

    for (const [i, dir] of dirs.entries()) {
      rmSync(dir, { recursive: true });
      cpSync(copies[i] as string, dir, { recursive: true });
    }
    t.match(
      await hansard(['restore', dirs[0] as string]),
      { code: 2, err: /nodes 2, 3.*--incarnation 2/ },
      'a part needs the number',
    );
    t.match(await hansard(['restore', dirs[0] as string, dirs[0] as string]), {
      code: 2,
      err: /both of node 1/,
    });
    t.equal((await hansard(['restore', '--incarnation', '2', dirs[0] as string])).code, 0);
    const rest = await hansard(['restore', '--json', ...dirs, '--incarnation', '2']);
    t.match(JSON.parse(rest.out), {
      incarnation: 2,
      folders: [{ incarnation_before: 2 }, { incarnation_before: 1 }, { incarnation_before: 1 }],
      missing_nodes: [],
    });
    t.equal((await hansard(['inspect', 'any', dirs[0] as string])).code, 0);

    await cluster.startAll();
    const client = cluster.connect();
    t.same(await textsOf(client, 'kept'), ['one', 'two', 'three'], 'as it was when it was copied');
    t.equal((await client.cluster()).incarnation, 2);
    const withOld = client.channel('kept').list({ level: 'session', commitTokens: [commitToken] });
    await t.rejects(withOld.page(), { name: 'HansardError', message: /incarnation 1/ });
    t.match(await client.channel('kept').append({ role: 'user', text: 'four' }), { seq: 4 });
    const { code } = await hansard([
      'verify',
      '--endpoint',
      cluster.nodes.map((n) => n.clientAddress).join(','),
    ]);
    t.equal(code, 0);

    await t.test('a node that was forgotten is not talked to', async (t) => {
      const three = cluster.node(3);
      await cluster.stop(three);
      rmSync(three.dir, { recursive: true });
      cpSync(copies[2] as string, three.dir, { recursive: true });
      const door = await cluster.start(three);
      await new Promise((resolve) => setTimeout(resolve, 500));
      t.ok(door.running.transport.peers().every(({ connected }) => !connected));
      t.match(
        await client.channel('kept').append({ role: 'user', text: 'five' }),
        { seq: 5 },
        'the others go on',
      );
    });
  },
);

t.test('all tenants into a folder, and into an empty cluster', async (t) => {
  const [from, to] = [
    await LocalCluster.format(options),
    await LocalCluster.format({ ...options, nodes: 1 }),
  ];
  t.teardown(() => Promise.all([from.end(), to.end()]));
  await Promise.all([from.startAll(), to.startAll()]);
  const tenants = ['acme', 'default', 'other-1'];
  const made = { prefix: 'c', label: { key: 'k', value: 'v' }, ackDeadlineMs: 12_000, maxDeliveries: 0 };
  await from.connect(from.nodes, 'acme').subscription('w').create(made);
  for (const tenant of tenants) {
    const client = from.connect(from.nodes, tenant);
    await client.createChannel('empty', { title: `of ${tenant}` });
    await client.channel('ended').append({ role: 'user', text: 'the last word' });
    await client.channel('ended').seal();
    for (let i = 0; i < 30; i++)
      await client.channel(`c${i % 3}`).append({ role: 'user', text: `${tenant} ${i}` });
  }
  const endpoint = (cluster: LocalCluster) => cluster.nodes.map((node) => node.clientAddress).join(',');
  const folder = join(root, 'backup');
  const exported = await hansard(['export', '--all', folder, '--json', '--endpoint', endpoint(from)]);
  t.match(JSON.parse(exported.out), { tenants: 3, channels: 15, events: 93, subscriptions: 1 }, exported.err);
  t.match(JSON.parse(readFileSync(join(folder, 'EXPORT.json'), 'utf8')), {
    format: 'hansard-export',
    version: 1,
    cluster_id: from.clusterId,
    incarnation: 1,
  });
  t.match(await hansard(['export', '--all', folder, '--endpoint', endpoint(from)]), {
    code: 6,
    err: /not empty/,
  });

  for (let round = 0; round < 2; round++) {
    const imported = await hansard(['import', '--all', folder, '--endpoint', endpoint(to)]);
    t.equal(imported.code, 0, imported.err);
    t.match(imported.out, round === 0 ? /acme: 1 durable subscriptions made, 0/ : /acme: 0 .* made, 1 were/);
  }
  const { selector, settings } = await to.connect(to.nodes, 'acme').subscription('w').info();
  t.same(selector, { prefix: 'c', label: made.label });
  t.match(settings, { ackDeadlineMs: 12_000, maxDeliveries: 0, paused: true });
  const ofAcme = ['--tenant', 'acme', '--endpoint', endpoint(to)];
  t.match(JSON.parse((await hansard(['status', '--json', ...ofAcme])).out), {
    tenant: 'acme',
    subscriptions: [{ subscription: 'w', stands_still: false, consumers: 0, pending_events: 0 }],
  });
  t.match(
    (await hansard(['status', ...ofAcme])).out,
    /\nw +no-consumers.*1 durable subscriptions of tenant acme\n/s,
  );
  for (const tenant of tenants) {
    const [a, b] = [from.connect(from.nodes, tenant), to.connect(to.nodes, tenant)];
    for (const channel of ['c0', 'c1', 'c2'])
      t.same(await textsOf(b, channel), await textsOf(a, channel), `${tenant}/${channel}`);
    t.same(await textsOf(b, 'ended'), ['the last word']);
    t.ok((await b.channel('ended').info()).sealTimeUs > 0, 'sealed here, too');
    await t.rejects(b.channel('ended').append({ role: 'user', text: 'more' }), {
      name: 'HansardError',
      message: /sealed/,
    });
    t.equal((await b.channel('c0').info()).sealTimeUs, 0);
    t.equal((await b.channel('empty').info()).title, `of ${tenant}`);
  }

  const manifest = join(folder, 'EXPORT.json');
  const whole = readFileSync(manifest, 'utf8');

  await t.test('a durable subscription that is refused is told, and takes no other with it', async (t) => {
    const client = to.connect(to.nodes, 'acme');
    const partition = (await client.subscription('w').info()).partition;
    const { partitionCount } = (await client.cluster()).pools[0] as { partitionCount: number };
    const names = Array.from({ length: 100 * partitionCount }, (_, i) => `x${i}`);
    const inIt = names.filter((name) => partitionOf('acme', name, partitionCount) === partition);
    const elsewhere = names.find((name) => !inIt.includes(name)) as string;
    const full = inIt.slice(0, applyLimits.subscriptionsPerPartition - 1);
    await Promise.all(full.map((name) => client.subscription(name).create()));
    const tooMany = inIt[full.length] as string;
    const { tenants: listed } = JSON.parse(whole);
    const [record] = listed[0].subscriptions;
    const of = (subscription: string) => ({ ...record, subscription });
    const subscriptions = [{ subscription: 'formless' }, of(tooMany), of('w'), of(elsewhere)];
    writeFileSync(
      manifest,
      JSON.stringify({
        ...JSON.parse(whole),
        tenants: [{ ...listed[0], subscriptions }, ...listed.slice(1)],
      }),
    );
    const imported = await hansard(['import', '--all', folder, '--json', '--endpoint', endpoint(to)]);
    t.equal(imported.code, 1);
    t.match(imported.err, /number 1 of the export was not made.*INVALID_ARGUMENT/);
    t.match(imported.err, new RegExp(`${tooMany} was not made.*TOO_MANY_SUBSCRIPTIONS`));
    t.match(imported.out, /"subscriptions_made": ?1,\s*"subscriptions_kept": ?1/);
    t.match(
      await client.subscription(elsewhere).info(),
      { settings: { paused: true } },
      'behind it in the list',
    );
    t.match(imported.out, /other-1/, 'the other tenants came, too');
    writeFileSync(manifest, whole);
  });
  const refused = async (what: string, code: number, words: RegExp) => {
    const { code: got, err } = await hansard(['import', '--all', folder, '--endpoint', endpoint(to)]);
    t.equal(got, code, what);
    t.match(err, words, what);
  };
  writeFileSync(manifest, whole.replace('"version": 1', '"version": 2'));
  await refused('a newer format', 6, /version 2/);
  writeFileSync(manifest, whole.replace('acme.jsonl.gz', '../acme.jsonl.gz'));
  await refused('a file elsewhere', 2, /\.\.\/acme/);
  writeFileSync(manifest, whole);
  const file = join(folder, 'acme.jsonl.gz');
  const bytes = readFileSync(file);
  bytes[bytes.length - 12] = (bytes[bytes.length - 12] as number) ^ 1;
  writeFileSync(file, bytes);
  await refused('a flipped byte', 7, /not what was exported/);
  rmSync(file);
  await refused('a file that is gone', 2, /acme/);
  rmSync(manifest);
  await refused('an export that was interrupted', 2, /no whole export/);
  t.notOk(existsSync(manifest));
});
