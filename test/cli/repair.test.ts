/**
 * Damage on a majority of a partition's replicas: the cluster refuses, `hansard repair`
 * tells what each choice would lose, and carries out one; what it kept is there, byte by
 * byte, and whoever relied on what is gone hears of it.
 */
import { spawnSync } from 'node:child_process';
import { cpSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t, { type Test } from 'tap';
import type { Client } from '../../src/client/index.js';
import { silentLogger } from '../../src/common/logger.js';
import { openDirectory } from '../../src/node/directory.js';
import { carryOut } from '../../src/node/trust/carry-out.js';
import { standingsOf } from '../../src/node/trust/standing.js';
import { RowKind } from '../../src/store/keys.js';
import { databasePath, levelKvFactory } from '../../src/store/level-kv.js';
import { hansard } from '../support/command.js';
import { LocalCluster, type LocalNode, type LocalOptions } from '../support/local-cluster.js';
import { until } from '../support/until.js';

t.setTimeout(600_000);

const opening = fileURLToPath(new URL('../store/aborting-child.js', import.meta.url));

const settings = { diskReserve: '0B', checkpointAge: '1h' };
const options = { partitions: 2, segmentBytes: 1024 * 1024, settings };
const channels = ['a', 'b', 'c', 'd', 'e', 'f'];

/** What was acknowledged, by channel. */
class Book {
  readonly texts = new Map(channels.map((name) => [name, [] as string[]]));
  token: Uint8Array = new Uint8Array(0);

  async write(client: Client, rounds: number): Promise<void> {
    for (let round = 0; round < rounds; round++) {
      for (const [name, texts] of this.texts) {
        const text = `${name} ${texts.length + 1} ${'x'.repeat(50)}`;
        this.token = (await client.channel(name).append({ role: 'user', text })).commitToken;
        texts.push(text);
      }
    }
  }

  /** How many of each channel's first events are there; a wrong one fails the test. */
  async kept(t: Test, client: Client): Promise<Map<string, number>> {
    const kept = new Map<string, number>();
    for (const [name, texts] of this.texts) {
      const found: string[] = [];
      for await (const event of client.channel(name).list({ level: 'linearizable', after: 1_000 })) {
        const part = event.message?.parts?.[0];
        found.push(part?.type === 'text' ? part.text : '');
      }
      t.strictSame(found, texts.slice(0, found.length), `${name}: what is there is what was written`);
      kept.set(name, found.length);
    }
    return kept;
  }
}

/** A cluster with something in the book. */
async function written(
  t: Test,
  rounds: number,
  more: Partial<LocalOptions> = {},
): Promise<{ readonly cluster: LocalCluster; readonly book: Book }> {
  const cluster = await LocalCluster.format({ ...options, ...more });
  t.teardown(() => cluster.end());
  await cluster.startAll();
  const book = new Book();
  await book.write(cluster.connect(), rounds);
  return { cluster, book };
}

/** At a part of what was ever written to the log of a stopped node: damaged, with sound batches behind, or cut off there. */
function damageLog({ dir }: LocalNode, part: number, how: 'damage' | 'cut' = 'damage'): void {
  const folder = join(dir, 'log');
  for (const name of readdirSync(folder).sort()) {
    const bytes = readFileSync(join(folder, name));
    let used = bytes.length;
    while (used > 4096 && bytes.subarray(used - 4096, used).every((byte) => byte === 0)) used -= 4096;
    if (used < 16 * 4096) continue;
    const at = Math.floor((used * part) / 4096) * 4096;
    if (how === 'damage') bytes.fill(0xee, at, at + 2 * 4096);
    else bytes.fill(0, at);
    writeFileSync(join(folder, name), bytes);
    return;
  }
  throw new Error('no segment is in use');
}

/** All replicas are back, sound, and alike. */
async function becomesWhole(t: Test, cluster: LocalCluster): Promise<void> {
  await cluster.ready();
  await until('all replicas are back', () =>
    cluster.nodes.every(({ door }) => {
      const node = door?.running.node;
      const view = node?.cluster();
      return (
        node?.faults().length === 0 &&
        view?.partitions.every(({ replicas }) => replicas.filter(({ learner }) => !learner).length === 3)
      );
    }),
  );
  const verified = await hansard([
    'verify',
    '--endpoint',
    cluster.nodes.map((node) => node.clientAddress).join(','),
  ]);
  t.equal(verified.code, 0, verified.out + verified.err);
}

/** A plan's standings; when they are asked for, another process tries to open a database. */
class Asking extends Map<number, string> {
  told = '';
  constructor(
    standings: ReadonlyMap<number, string>,
    readonly path: string,
  ) {
    super(standings);
  }
  override get(node: number): string | undefined {
    this.told ||= spawnSync(process.execPath, [opening, this.path], { encoding: 'utf8' }).stdout;
    return super.get(node);
  }
}

/** A repair that ends when the others are given up, and the trusted one does not lead yet. */
async function interrupted(t: Test, dirs: readonly string[]): Promise<void> {
  const trusted = { replicaId: 1, nodeId: 1 };
  const fresh = { term: 9, nextReplicaId: 4, changes: 1 };
  const bogus = { tenant: 'default', channel: 'a', firstSeq: 1, lastSeq: 2, problem: 'none' };
  const choice = { partition: 0, trusted, fresh, lostEvents: [bogus] };
  const standings = new Asking(await standingsOf(dirs, silentLogger), databasePath(dirs[2] as string));
  const plan = { choices: [choice], incarnation: 2, standings };
  await t.rejects(carryOut(dirs, plan, silentLogger), { message: /than the plan told/ });
  t.match(standings.told, /^DIRECTORY_IN_USE /, 'nobody gets between the comparison and the change');
  // It has changed the folders: the same plan is of before.
  const after = await standingsOf(dirs, silentLogger);
  await t.rejects(carryOut(dirs, plan, silentLogger), { message: /has changed since the plan/ });
  t.strictSame(await standingsOf(dirs, silentLogger), after, 'and nothing was changed');
}

/** As on three machines, of which each has but its own folder. */
async function repairOneByOne(t: Test, cluster: LocalCluster, choice: readonly string[]): Promise<void> {
  const files = new Map<string, string>();
  for (const { dir } of cluster.nodes) {
    const told = await hansard(['repair', '--json', dir]);
    files.set(dir, `${dir}.json`);
    writeFileSync(`${dir}.json`, told.out);
  }
  const incarnations = new Set<string>();
  const commandOn = (dir: string, trust: readonly string[]): string[] => {
    const others = [...files].filter(([of]) => of !== dir).map(([, file]) => file);
    return ['repair', dir, '--with', ...others, '--trust', ...trust];
  };
  const told = async (command: string[]): Promise<string> => {
    const { out, err } = await hansard([...command, '--dry-run']);
    return /incarnation becomes (\d+)/.exec(out)?.[1] ?? err;
  };
  for (const { dir } of cluster.nodes) incarnations.add(await told(commandOn(dir, choice)));
  t.equal(incarnations.size, 1, 'who decides the same comes to the same incarnation');
  const [incarnation = ''] = incarnations;
  for (const other of [['1'], ['0=1', '1=3'], ['0=3']]) {
    const otherwise = commandOn(cluster.node(1).dir, other);
    t.not(await told(otherwise), incarnation, `${other} is another decision`);
    const refused = await hansard([...otherwise, '--incarnation', incarnation, '--accept-loss']);
    t.match(refused, { code: 2, err: /lead to incarnation/ });
  }
  for (const { dir } of cluster.nodes) {
    const command = [...commandOn(dir, choice), '--incarnation', incarnation, '--accept-loss'];
    const done = await hansard(command);
    t.match(done, { code: 0, out: new RegExp(`incarnation ${incarnation}$`, 'm') }, done.err);
    const again = await hansard(command);
    t.match(again, { code: 0 }, `as if it had been interrupted: ${again.err}`);
    t.equal((await openDirectory(dir)).identity.incarnation, Number(incarnation));
  }
}

interface Plan {
  refused: {
    partition: number;
    choices: { node: number; lost_events: { channel: string; firstSeq: number; lastSeq: number }[] }[];
  }[];
}

t.test('two of three logs are damaged, the third replica lags', async (t) => {
  const { cluster, book } = await written(t, 15);
  const dirs = cluster.nodes.map(({ dir }) => dir);
  await cluster.stop(cluster.node(3), 'halt');
  await book.write(cluster.connect(), 15);
  for (const node of cluster.nodes) await cluster.stop(node, 'halt');
  t.match(
    await hansard(['repair', ...dirs]),
    { code: 0, err: /start them/ },
    'nothing is to be repaired yet',
  );

  damageLog(cluster.node(1), 0.8);
  damageLog(cluster.node(2), 0.3);
  for (const node of cluster.nodes) await cluster.start(node);
  const three = cluster.node(3);
  await until('node 3 says so', () => three.door?.running.node.refusals().length === 2);
  const told = await hansard(['status', '--endpoint', three.clientAddress]);
  t.equal(told.code, 3);
  t.match(told.out, /partition 0 is refused.*nodes 1, 2 are damaged.*default\/a behind seq 1\d/);
  t.ok(
    three.errors.some((line) => /partition 0 is refused/.test(line)),
    'and in its log',
  );
  const refusal = await hansard([
    ...['read', 'a', '--level', 'linearizable', '--timeout', '5'],
    ...['--endpoint', three.clientAddress],
  ]);
  t.match(refusal, { code: 3, err: /default\/a behind seq \d/ }, 'and to who asks');
  await cluster.stop(three, 'halt');
  const alone = ['repair', three.dir, '--trust', '3', '--missing', '1', '2', '--accept-loss'];
  t.match(
    await hansard(alone),
    { code: 6, err: /node 1 .*, node 2 .*nothing is repaired while/ },
    'they run',
  );
  for (const node of cluster.nodes) await cluster.stop(node, 'halt');
  const copies = join(cluster.root, 'copies');
  for (const { dir, id } of cluster.nodes) cpSync(dir, join(copies, String(id)), { recursive: true });

  const shown = await hansard(['repair', ...dirs]);
  t.equal(shown.code, 7);
  t.match(shown.out, /partition 0 can elect no leader/);
  t.match(shown.out, /if node 1 is trusted/);
  const plan = JSON.parse((await hansard(['repair', '--json', ...dirs])).out) as Plan;
  t.equal(plan.refused.length, 2);
  const trust = plan.refused.map(({ partition, choices }) => `${partition}=${choices[0]?.node}`);
  t.match(await hansard(['repair', ...dirs, '--trust', ...trust]), { code: 2, err: /--accept-loss/ });
  t.match(await hansard(['repair', ...dirs, '--trust', ...trust, '--dry-run']), {
    code: 0,
    err: /nothing was changed/,
  });
  t.match(await hansard(['repair', ...dirs.slice(0, 2), '--trust', '1']), { code: 2, err: /--missing 3/ });
  t.match(await hansard(['repair', ...dirs, '--trust', '9=1']), { code: 2, err: /partition 9/ });

  for (const [name, choice] of [
    ['the furthest', trust],
    ['the one that lags', ['3']],
  ] as const) {
    await t.test(`trusted: ${name}`, async (t) => {
      for (const { dir, id } of cluster.nodes) {
        rmSync(dir, { recursive: true });
        cpSync(join(copies, String(id)), dir, { recursive: true });
      }
      if (name === 'the furthest') {
        await interrupted(t, dirs);
        const done = await hansard(['repair', ...dirs, '--trust', ...choice, '--accept-loss']);
        t.match(done, { code: 0, out: /incarnation 3/ }, done.err);
      } else await repairOneByOne(t, cluster, choice);
      for (const node of cluster.nodes) await cluster.start(node);
      await becomesWhole(t, cluster);
      const after = cluster.connect();
      const kept = await book.kept(t, after);
      for (const { choices } of plan.refused) {
        const node = name === 'the furthest' ? choices[0]?.node : 3;
        for (const lost of choices.find((one) => one.node === node)?.lost_events ?? [])
          t.equal(kept.get(lost.channel), lost.firstSeq - 1, `${lost.channel} is lost as it was said`);
      }
      const counts = [...kept.values()];
      t.ok(
        counts.every((count) => (name === 'the furthest' ? count > 15 : count === 15)),
        `kept ${counts}`,
      );
      const withOld = after.channel('a').list({ level: 'session', commitTokens: [book.token] });
      await t.rejects(withOld.page(), { name: 'HansardError', message: /incarnation 1/ });
      const { seq } = await after.channel('a').append({ role: 'user', text: 'goes on' });
      t.equal(seq, (kept.get('a') ?? 0) + 1);
      for (const node of cluster.nodes) await cluster.stop(node);
    });
  }
});

t.test('the only replica: its log is damaged, then its state', async (t) => {
  const { cluster, book } = await written(t, 20, { nodes: 1 });
  const node = cluster.node(1);
  await cluster.stop(node, 'halt');
  damageLog(node, 0.5);
  await t.rejects(cluster.start(node), { name: 'HansardError', message: /the log is damaged/ });
  t.match(await hansard(['repair', node.dir]), { code: 7, out: /if node 1 is trusted/ });
  t.match(await hansard(['repair', node.dir, '--trust', '1', '--accept-loss']), { code: 0 });
  await cluster.start(node);
  await cluster.ready();
  const kept = await book.kept(t, cluster.connect());
  t.ok(
    [...kept.values()].every((count) => count > 0 && count < 20),
    `kept ${[...kept.values()]}`,
  );
  await cluster.stop(node);

  const kv = await levelKvFactory().open(join(node.dir, 'db'), { create: false });
  const rows = kv.iterator({ gte: Buffer.of(RowKind.block), lt: Buffer.of(RowKind.block + 1) });
  const [row] = await rows.next(1);
  await rows.close();
  const [key, value] = row as [Uint8Array, Uint8Array];
  const batch = kv.batch();
  batch.put(key, Buffer.concat([value.subarray(0, -1), Buffer.of((value.at(-1) as number) ^ 1)]));
  await batch.write();
  await kv.close();

  const plan = JSON.parse((await hansard(['repair', '--json', node.dir])).out) as {
    refused: { choices: { lost_or_unknown: string[] }[] }[];
  };
  const said = plan.refused[0]?.choices[0]?.lost_or_unknown[0] ?? '';
  const [, name = '', from = '0', to = '0'] = /^default\/(\w), events (\d+) to (\d+): /.exec(said) ?? [];
  t.ok(Number(to) > 0, said);
  t.match(await hansard(['repair', node.dir, '--trust', '1', '--accept-loss']), {
    code: 0,
    out: /incarnation 3/,
  });
  await cluster.start(node);
  await cluster.ready();
  const client = cluster.connect();
  let seq = 0;
  for await (const event of client.channel(name).list({ level: 'linearizable', after: 1_000 })) {
    seq++;
    const isLost = seq >= Number(from) && seq <= Number(to);
    const part = event.message?.parts?.[0];
    const text = part?.type === 'text' ? part.text : '';
    t.equal(event.seq, seq);
    t.equal(event.erased, isLost);
    t.equal(text, isLost ? '' : book.texts.get(name)?.[seq - 1], `event ${seq} of ${name}`);
  }
  t.equal(seq, kept.get(name), 'seqs stay dense');
  t.match(await client.channel(name).append({ role: 'user', text: 'goes on' }), { seq: seq + 1 });
  const verified = await hansard(['verify', '--endpoint', node.clientAddress]);
  t.equal(verified.code, 0, verified.out + verified.err);
});

t.test('the end of a log is gone without a trace, and its partitions are repaired one by one', async (t) => {
  const { cluster, book } = await written(t, 20, { nodes: 1 });
  const node = cluster.node(1);
  await cluster.stop(node);
  damageLog(node, 0.5, 'cut');
  await t.rejects(cluster.start(node), { name: 'HansardError', message: /log/ });
  const first = await hansard(['repair', node.dir, '--trust', '0=1', '--accept-loss']);
  t.match(first, { code: 7, out: /1 partitions go on/ }, 'the other stays refused');
  const shown = await hansard(['repair', node.dir]);
  t.notMatch(shown.out, /partition 0 can elect no leader/, 'what was trusted is sound');
  t.match(shown.out, /partition 1 can elect no leader/);
  const both = ['repair', node.dir, '--trust', '0=1', '1=1', '--accept-loss'];
  const second = await hansard(both);
  t.match(second, { code: 0, out: /1 partitions go on/, err: /partition 0 needs no repair/ }, 'goes on');
  t.match(await hansard(both), { code: 0, err: /partition 1 needs no repair/ }, 'all is done');
  await cluster.start(node);
  await cluster.ready();
  t.strictSame(node.door?.running.node.faults(), []);
  t.strictSame(
    [...(await book.kept(t, cluster.connect())).values()],
    channels.map(() => 20),
  );
});

t.test('one replica of each: one node is repaired, and nothing is done to another', async (t) => {
  const { cluster, book } = await written(t, 20, { partitions: 4, nodes: 2, replicationFactor: 1 });
  const [one, two] = [cluster.node(1), cluster.node(2)];
  await cluster.stop(one);
  await cluster.stop(two);
  damageLog(one, 0.5, 'cut');
  // Of which a database doesn't open; it can be put back.
  const current = join(two.dir, 'db', 'CURRENT');
  renameSync(current, join(two.dir, 'CURRENT'));
  await t.rejects(cluster.start(one), { name: 'HansardError', message: /log/ });
  await t.rejects(cluster.start(two), { name: 'HansardError', message: /CURRENT/ });
  const before = readdirSync(two.dir);
  const shown = await hansard(['repair', '--json', one.dir, two.dir]);
  const plan = JSON.parse(shown.out) as Plan;
  const named = plan.refused
    .filter(({ choices }) => choices.some(({ node }) => node === 1))
    .map(({ partition }) => `${partition}=1`);
  t.ok(named.length > 0 && named.length < plan.refused.length, `both have some: ${named}`);
  const repaired = await hansard(['repair', one.dir, two.dir, '--trust', ...named, '--accept-loss']);
  t.match(repaired, { code: 7, out: /partitions go on/ }, repaired.err);
  t.strictSame(readdirSync(two.dir), before, 'its database is where it was');
  renameSync(join(two.dir, 'CURRENT'), current);
  await cluster.startAll();
  t.strictSame(
    [...(await book.kept(t, cluster.connect())).values()],
    channels.map(() => 20),
  );
});

t.test('a change of members since the last checkpoint: its configuration counts', async (t) => {
  const { cluster, book } = await written(t, 2, { partitions: 1, nodes: 4 });
  const view = () => cluster.node(1).door?.running.node.cluster().partitions[0]?.replicas ?? [];
  const nodesOf = () =>
    view()
      .filter(({ learner }) => !learner)
      .map(({ nodeId }) => nodeId);
  const from = nodesOf().find((id) => id !== 1) as number;
  const to = [1, 2, 3, 4].find((id) => !nodesOf().includes(id)) as number;
  const endpoint = cluster.node(1).clientAddress;
  const moved = await hansard([
    'partition',
    'replace',
    '0',
    '--replica',
    String(from),
    '--node',
    String(to),
    '--endpoint',
    endpoint,
  ]);
  t.equal(moved.code, 0, moved.err);
  await until('it is there', () => nodesOf().includes(to) && !nodesOf().includes(from));
  await book.write(cluster.connect(), 3);
  for (const node of cluster.nodes) await cluster.stop(node, 'halt');
  const { found } = JSON.parse((await hansard(['repair', '--json', cluster.node(1).dir])).out) as {
    found: { replicas: { confState: { voters: number[] }; sealed: { index: number } }[] }[];
  };
  const [replica] = found[0]?.replicas ?? [];
  t.ok(replica?.confState.voters.includes(5), JSON.stringify(replica));
  t.notOk(replica?.confState.voters.includes(from));
});
