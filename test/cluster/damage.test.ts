/** A stopped node's files are damaged; it starts, and becomes sound by itself while clients go on. */
import {
  closeSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  statSync,
  unlinkSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { disorderTable } from '../flips/damages.js';
import { differingCopies } from './direct.js';
import { mainScript, ProcessCluster, run, type TestNode, until } from './harness.js';
import { faults, readAll, Writer } from './workload.js';

t.setTimeout(600_000);

const partitions = 4;

/** The number of damaged replicas by kind; undefined: it does not say. */
async function told(node: TestNode): Promise<Map<string, number> | undefined> {
  const page = await fetch(`http://${node.httpAddress}/metrics`, { signal: AbortSignal.timeout(2_000) })
    .then((response) => response.text())
    .catch(() => undefined);
  if (page === undefined) return undefined;
  const counts = new Map<string, number>();
  for (const [, kind, count] of page.matchAll(/^hansard_replica_faults\{kind="([^"]+)"\} (\d+)$/gm))
    counts.set(kind as string, Number(count));
  return counts;
}

async function becomesSound(t: Test, node: TestNode, found: RegExp): Promise<void> {
  await until(`node ${node.id} is sound`, async () => {
    if (!node.isUp) throw new Error(`node ${node.id} ended: ${node.process.tail()}`);
    const counts = await told(node);
    return counts !== undefined && counts.size > 0 && [...counts.values()].every((count) => count === 0);
  });
  t.match(node.process.stdout + node.process.stderr, found, 'and it said what was wrong');
}

/** The first log segment that holds batches, with where its batches end. */
function usedSegment(node: TestNode): { path: string; used: number } {
  const folder = join(node.dir, 'log');
  for (const name of readdirSync(folder).sort()) {
    const bytes = readFileSync(join(folder, name));
    if (bytes.toString('latin1', 0, 8) !== 'HANSARDL') continue;
    let used = bytes.length;
    while (used > 4096 && bytes.subarray(used - 4096, used).every((byte) => byte === 0)) used -= 4096;
    if (used >= 8 * 4096) return { path: join(folder, name), used };
  }
  throw new Error('no segment is in use');
}

function flip(path: string, at: number, count = 1): void {
  const file = openSync(path, 'r+');
  const bytes = Buffer.alloc(count);
  readSync(file, bytes, 0, count, at);
  for (let i = 0; i < count; i++) bytes[i] = (bytes[i] as number) ^ 0x10;
  writeSync(file, bytes, 0, count, at);
  closeSync(file);
}

const harms: readonly { name: string; crash: boolean; do: (node: TestNode) => void; found: RegExp }[] = [
  {
    name: 'CURRENT is missing',
    crash: false,
    do: (node) => unlinkSync(join(node.dir, 'db', 'CURRENT')),
    found: /lost its file CURRENT.*is moved aside|is moved aside/,
  },
  {
    name: 'a flip in the middle of the log',
    crash: true,
    do: (node) => {
      const { path, used } = usedSegment(node);
      flip(path, Math.floor(used / 2 / 4096) * 4096 + 100);
    },
    found: /a fresh one takes its place/,
  },
  {
    name: "a page in the middle of the log's is gone, directories and all",
    crash: true,
    do: (node) => {
      const { path, used } = usedSegment(node);
      const at = Math.floor(used / 2 / 4096) * 4096;
      for (let i = 0; i < 2; i++) flip(path, at + i * 4096, 4096);
    },
    found: /a fresh one takes its place/,
  },
];

t.test('damage to the files of one node', async (t) => {
  const args = ['--checkpoint-age', '1s'];
  const cluster = await ProcessCluster.start(t, { partitions, args });
  const client = cluster.connect();
  const writers = Array.from(
    { length: 4 },
    (_, i) => new Writer(client, `kept/${i}`, { inFlight: 2, pauseMs: 20 }),
  );
  const harmed = cluster.node(3);
  for (const { name, crash, do: harm, found } of harms) {
    const before = writers.map((writer) => writer.acknowledged);
    await until('appends go on', () =>
      writers.every((writer, i) => writer.acknowledged > (before[i] ?? 0) + 20),
    );
    if (crash) await harmed.kill();
    else await harmed.stop();
    harm(harmed);
    cluster.startNode(harmed);
    await becomesSound(t, harmed, found);
    t.pass(name);
  }
  await cluster.ready();
  for (const writer of writers) {
    await writer.stop();
    t.strictSame(faults(writer, await readAll(client, writer.name)), [], writer.name);
    t.same(await differingCopies(cluster.nodes, writer.name, writer.highestSeq), [], 'the same everywhere');
  }
  const aside = readdirSync(harmed.dir).filter((name) => name.includes('damaged'));
  t.same(aside.sort(), ['db.damaged-1', 'log.damaged-2', 'log.damaged-3'], 'what was damaged is kept');
});

/** A cluster with writers, and its third node stopped when LevelDB has three tables that overlap: the next start makes the fourth, and compacts them. */
async function aboutToCompact(t: Test) {
  const cluster = await ProcessCluster.start(t, { partitions, args: ['--checkpoint-age', '1s'] });
  const client = cluster.connect();
  const writers = Array.from(
    { length: 4 },
    (_, i) => new Writer(client, `kept/${i}`, { inFlight: 2, pauseMs: 20 }),
  );
  const harmed = cluster.node(3);
  for (let tables = 1; ; tables++) {
    const before = writers.map((writer) => writer.acknowledged);
    await until('appends go on', () =>
      writers.every((writer, i) => writer.acknowledged > (before[i] ?? 0) + 20),
    );
    await harmed.stop();
    if (tables === 3) break;
    cluster.startNode(harmed);
    await harmed.ready();
  }
  const db = join(harmed.dir, 'db');
  const bytesOf = (name: string): number => statSync(join(db, name)).size;
  const names = readdirSync(db).filter((name) => name.endsWith('.ldb'));
  const table = names.sort((a, b) => bytesOf(b) - bytesOf(a))[0] as string;
  /** Nothing was lost, and all have the same. */
  const end = async (): Promise<void> => {
    for (const writer of writers) {
      await writer.stop();
      t.strictSame(faults(writer, await readAll(client, writer.name)), [], writer.name);
      t.same(await differingCopies(cluster.nodes, writer.name, writer.highestSeq), [], 'the same everywhere');
    }
  };
  return { cluster, harmed, table, path: join(db, table), end };
}

t.test('a table of one node on which LevelDB ends the process whenever it compacts', async (t) => {
  const { cluster, harmed, table, path, end } = await aboutToCompact(t);
  disorderTable(path);
  for (const life of ['first', 'second']) {
    cluster.startNode(harmed);
    t.match(await harmed.process.end(), { signal: 'SIGABRT' }, `LevelDB ends the ${life} process`);
  }
  const repair = run(mainScript, ['repair', harmed.dir]);
  t.match(await repair.end(), { signal: null }, 'it does not end a look at the folder');
  t.match(repair.stdout + repair.stderr, `${table} is damaged at byte`);
  cluster.startNode(harmed);
  await becomesSound(t, harmed, new RegExp(`${table} is damaged at byte .*is moved aside`));
  await end();
  const aside = readdirSync(harmed.dir).filter((name) => name.includes('damaged'));
  t.same(aside, ['db.damaged-1']);
});
