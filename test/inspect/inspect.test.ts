/** Files of a real node, looked into whole and damaged: every byte is told, or said to be damaged. */
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { crc32c } from '../../src/common/crc32c.js';
import { partitionOf } from '../../src/common/partitioning.js';
import { open } from '../../src/embedded/index.js';
import { type FoundFile, findFiles, inspectFile } from '../../src/inspect/files.js';
import type { Item } from '../../src/inspect/item.js';
import { levelKvFactory } from '../../src/store/level-kv.js';
import { readLevelLog } from '../../src/store/level-log-file.js';
import { checkLevelTable, readLevelTable } from '../../src/store/level-table-file.js';
import { hansard } from '../support/command.js';

t.setTimeout(600_000);

const root = mkdtempSync(join(tmpdir(), 'hansard-inspect-'));
t.teardown(() => rmSync(root, { recursive: true, force: true }));
const dir = join(root, 'node');
const partitions = 2;

async function inspectAll(path: string, full = false): Promise<{ file: FoundFile; items: Item[] }[]> {
  const all: { file: FoundFile; items: Item[] }[] = [];
  for (const file of await findFiles(path)) {
    const items = await inspectFile(file, { full });
    if (items !== undefined) all.push({ file, items: [...items] });
  }
  return all;
}

/** Rewrites LevelDB's log into tables, as its own compactions do. */
async function intoTables(dbPath: string): Promise<void> {
  const small = levelKvFactory({ writeBufferBytes: 64 * 1024, tableBytes: 1024 * 1024 });
  for (let i = 0; i < 2; i++) await (await small.open(dbPath, { create: false })).close();
}

t.before(async () => {
  const node = await open({ dir, partitions });
  const client = node.connect();
  const texts = Array.from({ length: 100 }, (_, i) => ({
    role: 'user' as const,
    text: `line ${i} of many words`,
  }));
  for (let round = 0; round < 8; round++) {
    await client.channel('long one').append(texts);
    await client.channel(`short/${round}`).append({ role: 'user', text: `hello ${round}`, key: `k${round}` });
  }
  await client.channel('short/3').delete();
  await node.close();
});

t.test('a sound folder: everything is told, nothing is wrong', async (t) => {
  await intoTables(join(dir, 'db'));
  const all = await inspectAll(dir, true);
  const items = all.flatMap((each) => each.items);
  t.same(
    items.filter((item) => item.problem !== undefined),
    [],
    'no problem',
  );
  const kinds = new Set(all.map(({ file }) => file.kind));
  for (const kind of ['segment', 'identity', 'table', 'manifest', 'current'])
    t.ok(kinds.has(kind as FoundFile['kind']), kind);
  t.match(items.find((item) => item.what === 'identity')?.fields, {
    node_id: 1,
    partition_count: partitions,
  });
  const appended = items
    .filter((item) => item.what === 'entry' && item.fields.type === 'commands')
    .flatMap((item) => item.fields.commands as { kind: string; channel?: string; events?: number }[])
    .filter(({ kind, channel }) => kind === 'append' && channel === 'long one');
  t.equal(
    appended.reduce((sum, { events }) => sum + (events ?? 0), 0),
    800,
    'all events are in entries',
  );
  const rows = items.filter((item) => item.what === 'row' && item.fields.kind === 'channel');
  t.ok(rows.some((row) => row.fields.channel === 'long one' && row.fields.tenant === 'default'));
  for (const { file, items } of all) {
    let at = 0;
    for (const item of items.filter(({ what }) => what === 'batch' || what === 'header')) {
      t.equal(item.offset, at, `${file.path}: nothing is left out before ${item.offset}`);
      at = item.end ?? 0;
    }
  }
});

t.test('the command: text, JSON lines, a search for a channel, exit codes', async (t) => {
  const any = await hansard(['inspect', 'any', dir]);
  t.equal(any.code, 0, any.err);
  t.match(any.out, /IDENTITY {2}identity/);
  t.match(any.out, /batch {2}number \d+/);
  const json = await hansard(['inspect', 'log', '--json', '--full', join(dir, 'log')]);
  const lines = json.out
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as { what: string });
  t.same(
    [...new Set(lines.map(({ what }) => what))].sort(),
    ['batch', 'empty', 'end', 'entry', 'header', 'reused'].filter((what) =>
      lines.some((line) => line.what === what),
    ),
  );
  const found = await hansard(['inspect', 'key', '--json', '--channel', 'long one', join(dir, 'db')]);
  const rows = found.out
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as { kind: string; partition: number });
  t.ok(rows.some(({ kind }) => kind === 'block') && rows.some(({ kind }) => kind === 'channel'));
  t.same(
    [...new Set(rows.map(({ partition }) => partition))],
    [partitionOf('default', 'long one', partitions)],
  );
  t.equal((await hansard(['inspect', 'key', join(dir, 'db')])).code, 2, 'which rows must be said');
  t.equal((await hansard(['inspect', 'log', join(dir, 'nowhere')])).code, 2);
  const clusterFile = join(root, 'cluster.toml');
  writeFileSync(
    clusterFile,
    'cluster_id = "00112233445566778899aabbccddeeff"\n[[nodes]]\nnode = 1\nclient_address = "127.0.0.1:1"\npeer_address = "127.0.0.1:2"\n',
  );
  t.match(
    (await hansard(['inspect', 'any', clusterFile])).out,
    /cluster_id 00112233445566778899aabbccddeeff/,
  );
});

/** Flips one bit of a byte of a copy of the file. */
function flipped(path: string, at: number): string {
  const copy = join(root, 'damaged', path.slice(path.lastIndexOf('/') + 1));
  cpSync(path, copy);
  const bytes = readFileSync(copy);
  bytes[at] = (bytes[at] as number) ^ 0x10;
  writeFileSync(copy, bytes);
  return copy;
}

t.test('a flipped byte is told with its place, and what is behind it is read', async (t) => {
  for (const { file, items } of await inspectAll(dir)) {
    const batches = items.filter((item) => item.what === 'batch');
    const middle = batches[Math.floor(batches.length / 2)];
    if (file.kind === 'segment' && middle?.offset !== undefined && batches.length > 4) {
      const copy = flipped(file.path, middle.offset + 100);
      const [damaged] = await inspectAll(copy);
      const wrong = damaged?.items.filter((item) => item.problem !== undefined) ?? [];
      t.match(wrong, [{ what: 'damage', offset: middle.offset, end: middle.end }], 'the batch, and no other');
      t.equal(damaged?.items.filter((item) => item.what === 'batch').length, batches.length - 1);
      t.equal((await hansard(['inspect', 'log', copy])).code, 7);
    }
    if (file.kind === 'table') {
      const blocks = items.filter((item) => item.what === 'table block');
      const block = blocks[Math.floor(blocks.length / 2)] as Item;
      const [damaged] = await inspectAll(flipped(file.path, (block.offset ?? 0) + 20));
      t.match(
        damaged?.items.filter((item) => item.problem !== undefined),
        [{ what: 'damage', offset: block.offset }],
      );
      t.equal(damaged?.items.filter((item) => item.what === 'table block').length, blocks.length - 1);
      // Its index gone, the blocks are found by their checksums.
      const [blind] = await inspectAll(flipped(file.path, file.bytes - 3));
      t.equal(
        blind?.items.filter((item) => item.what === 'table block').length,
        blocks.length,
        'without a footer',
      );
      t.match(
        blind?.items.filter((item) => item.problem !== undefined),
        [{ problem: /magic/ }],
      );
    }
    if (file.kind === 'identity') {
      const [damaged] = await inspectAll(flipped(file.path, 20));
      t.match(damaged?.items, [{ what: 'damage', problem: /checksum/ }]);
    }
  }
});

t.test('every byte of a table and of LevelDB’s log is covered by a check', async (t) => {
  const tables = readdirSync(join(dir, 'db')).filter((name) => name.endsWith('.ldb'));
  const bytes = readFileSync(join(dir, 'db', tables.at(-1) as string));
  t.equal(checkLevelTable(bytes), undefined, 'sound');
  t.equal([...readLevelTable(bytes)].filter((item) => item.kind === 'damage').length, 0);
  const missed: number[] = [];
  const step = Math.max(1, Math.floor(bytes.length / 400));
  const last = bytes.length - 48;
  for (let at = 0; at < bytes.length; at += at < last ? step : 1) {
    bytes[at] = (bytes[at] as number) ^ 0x04;
    // Between the footer's two handles and its magic there is room that nobody reads.
    if (checkLevelTable(bytes) === undefined && at < last) missed.push(at);
    bytes[at] = (bytes[at] as number) ^ 0x04;
  }
  t.same(missed, []);
});

t.test('the readers of LevelDB’s files never throw on garbage', async (t) => {
  let seed = 7;
  const random = (): number => {
    seed = (Math.imul(seed, 1_103_515_245) + 12_345) >>> 0;
    return seed >>> 8;
  };
  for (let i = 0; i < 200; i++) {
    const bytes = Buffer.from(Array.from({ length: random() % 3000 }, () => random() & 0xff));
    const covered = [...readLevelLog(bytes)].reduce((end, item) => Math.max(end, item.end), 0);
    if (covered > bytes.length) t.fail(`behind the end: ${covered}`);
    for (const item of readLevelTable(bytes)) if (item.kind === 'block') t.fail('a block in garbage');
  }
  t.equal(crc32c(Buffer.from('123456789')), 0xe3069283, 'the checksum of CRC-32C’s own example');
});
