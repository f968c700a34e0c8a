/**
 * The scrubber in nodes with real files: silent beside writers, comparing every
 * partition at one index; and what was damaged under a running or a stopped node
 * it finds, and the nodes mend.
 */
import { createHash, randomBytes } from 'node:crypto';
import { closeSync, openSync, readdirSync, readFileSync, readSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { xxh64 } from '../../src/common/hash.js';
import { partitionOf } from '../../src/common/partitioning.js';
import type { StoredEvent } from '../../src/conversation/types.js';
import { inspectSegment } from '../../src/inspect/segment.js';
import type { ScrubStatus } from '../../src/node/scrubber.js';
import { readUnit, writeUnit } from '../../src/store/block.js';
import { kindRange, RowKind } from '../../src/store/keys.js';
import { databasePath, levelKvFactory } from '../../src/store/level-kv.js';
import { readLevelTable } from '../../src/store/level-table-file.js';
import { openRow, rowWriter, sealRow } from '../../src/store/rows.js';
import { hansard } from '../support/command.js';
import { LocalCluster, type LocalNode } from '../support/local-cluster.js';
import { standstill, until } from '../support/until.js';

t.setTimeout(600_000);

const partitions = 4;
const saltBytes = 16;

async function on(cluster: LocalCluster, ...argv: string[]) {
  const endpoint = cluster.nodes.map((node) => node.clientAddress).join(',');
  return await hansard([...argv, '--endpoint', endpoint]);
}

/** A whole pass of one node. */
async function pass(node: LocalNode): Promise<ScrubStatus> {
  const scrubber = node.door?.running.node.scrubber;
  if (scrubber === undefined) throw new Error(`node ${node.id} is down`);
  scrubber.scrubNow(0);
  return await until('the pass has ended', () => {
    const status = scrubber.status();
    return status.state !== 'working' && status;
  });
}

/** A place within the value of a row: not in a head of a row, by which LevelDB finds its way. Undefined: none of that kind. */
function withinAValue(table: Buffer, kind: RowKind): number | undefined {
  for (const item of readLevelTable(table)) {
    const rows = item.kind === 'block' ? item.rows : [];
    const row = rows.findLast(({ key, value }) => key[0] === kind && (value?.length ?? 0) > 32);
    if (row?.value !== undefined) return table.indexOf(row.value) + (row.value.length >> 1);
  }
  return undefined;
}

/** What kind of block it is of which rows follow where those of deleted channels would be: whoever looks for them meets it. */
function besideEnded(table: Buffer): number | undefined {
  for (const item of readLevelTable(table))
    if (item.kind === 'block' && item.rows.some(({ key }) => (key[0] as number) > RowKind.ended))
      return item.end - 5;
  return undefined;
}

/** Changes a byte in the middle of a file that a node has open. */
function flip(path: string, at: number): void {
  const file = openSync(path, 'r+');
  const byte = Buffer.alloc(1);
  readSync(file, byte, 0, 1, at);
  byte[0] = (byte[0] as number) ^ 0x20;
  writeSync(file, byte, 0, 1, at);
  closeSync(file);
}

/** Another word in the first event of the partition's first block, with every checksum made anew. */
async function forge(node: LocalNode, channel: string): Promise<number> {
  const partition = partitionOf('default', channel, partitions);
  const kv = await levelKvFactory().open(databasePath(node.dir), { create: false });
  try {
    for (let generation = 1; generation < 10; generation++) {
      const iterator = kv.iterator(kindRange(RowKind.block, { partition, generation }));
      const [row] = await iterator.next(1);
      await iterator.close();
      if (row === undefined) continue;
      const batch = kv.batch();
      batch.put(row[0], forged(row[0], row[1]));
      await batch.write();
      return partition;
    }
    throw new Error(`partition ${partition} has no block on node ${node.id}`);
  } finally {
    await kv.close();
  }
}

function forged(key: Uint8Array, row: Uint8Array): Buffer {
  const events = openRow(key, row, 'a block', (reader) => readUnit(reader));
  const changed = events.map((event, i): StoredEvent => {
    if (i !== 0) return event;
    const { contentBytes, contentOffset, contentLength } = event;
    const content = Buffer.from(contentBytes.subarray(contentOffset, contentOffset + contentLength));
    content.write('X', content.length - 1);
    const header = Buffer.from(
      event.bytes.subarray(event.headerOffset, event.headerOffset + event.headerLength),
    );
    header.writeBigUInt64LE(xxh64(content.subarray(saltBytes)), 10);
    createHash('sha256').update(content).digest().copy(header, 18);
    return { ...event, bytes: header, headerOffset: 0, contentBytes: content, contentOffset: 0 };
  });
  const writer = rowWriter(row.length);
  writeUnit(writer, changed, true);
  return sealRow(key, writer);
}

t.test('what is damaged is found beside writers, and becomes sound', async (t) => {
  const settings = { checkpointAge: '1s' };
  const cluster = await LocalCluster.format({ partitions, settings, segmentBytes: 1024 * 1024 });
  t.teardown(() => cluster.end());
  await cluster.startAll();
  const client = cluster.connect();
  const texts = Array.from({ length: 100 }, (_, i) => ({
    role: 'user' as const,
    text: `line ${i} of words W`,
  }));
  for (let round = 0; round < 6; round++)
    for (const name of ['a', 'b', 'c', 'd']) await client.channel(name).append(texts);
  // In blocks so large that they lie in value files.
  const dense = () => ({ role: 'user' as const, text: randomBytes(1_500).toString('base64') });
  for (let n = 0; n < 20; n++) await client.channel('large').append([dense(), dense(), dense()]);
  let isWriting = true;
  let written = 0;
  const writer = (async () => {
    while (isWriting) {
      const { seq } = await client.channel('written').append({ role: 'user', text: `${written}` });
      written++;
      if (seq !== written) t.fail(`append ${written} has seq ${seq}`);
    }
  })();
  const faults = (node: LocalNode) =>
    node.door?.running.node.faults().filter(({ nodeId }) => nodeId === node.id) ?? [];
  /** Each replica is at work again: between the end of its fault and that there is a moment. */
  const sound = (node: LocalNode) =>
    until(`node ${node.id} is sound`, () => {
      const held = node.door?.running.node.replicas() ?? [];
      return faults(node).length === 0 && held.length === partitions;
    });

  await t.test('a healthy cluster: all of it read, every partition compared, nothing found', async (t) => {
    const sum = (all: readonly ScrubStatus[], of: (status: ScrubStatus) => number | undefined) =>
      all.reduce((total, status) => total + (of(status) ?? 0), 0);
    // Again where leadership moved between two passes, and a partition was compared twice or not at all.
    const all = await until(
      'all is sealed, and each partition compared, also the one that is written to',
      async () => {
        const each = await Promise.all(cluster.nodes.map(pass));
        t.same(
          each.flatMap(({ findings }) => findings),
          [],
        );
        const isRead = each.every((status) => (status.pass?.bytes ?? 0) > 20_000);
        const compared = sum(each, (status) => status.pass?.compared);
        const notCompared = sum(each, (status) => status.pass?.notCompared);
        return isRead && compared === partitions && notCompared === 0 && each;
      },
    );
    for (const status of all) t.equal(status.pass?.step, 2 + partitions);
    const told = await on(cluster, 'scrub', '--json');
    t.equal(told.code, 0, told.out + told.err);
    t.match(JSON.parse(told.out), { nodes: [{ node: 1, finding_count: 0 }, { node: 2 }, { node: 3 }] });
    t.match((await on(cluster, 'scrub', '--status')).out, /NODE +SCRUBBER/);
    const status = JSON.parse((await on(cluster, 'status', '--json')).out) as { nodes: object[] };
    for (const node of status.nodes) t.match(node, { last_scrub: /^20\d\d-/, scrub_findings: 0 });
    t.match((await on(cluster, 'status')).out, /LAST SCRUB +FOUND/);
  });

  await t.test('a pass that is asked for again, as nobody knew whether it was, is one', async (t) => {
    const { scrubber } = cluster.node(2).door?.running.node ?? {};
    const bytes = () => scrubber?.status().bytes ?? 0;
    const before = bytes();
    scrubber?.scrubNow(0);
    const status = await pass(cluster.node(2));
    t.equal(bytes() - before, status.pass?.bytes);
    t.ok((status.pass?.bytes ?? 0) > 20_000);
  });

  const three = cluster.node(3);
  await t.test('a replica that holds something else, with right checksums', async (t) => {
    await cluster.stop(three);
    const partition = await forge(three, 'a');
    await cluster.start(three);
    await cluster.ready();
    const found = await until('it is found', async () => {
      const all = await Promise.all(cluster.nodes.map(pass));
      return all.flatMap(({ findings }) => findings).find(({ kind }) => kind === 'digest');
    });
    t.match(found, { partition, problem: /node 3 has digest .* a majority has/ });
    await until('it was mended', () => (three.door?.running.node.repaired ?? 0) > 0);
    await sound(three);
    t.equal((await on(cluster, 'verify')).code, 0, 'and so says verify');
  });

  /** In the newest table in which there is such a place, under the node that was started just now. */
  const flipUnder = async (t: Test, placeIn: (table: Buffer) => number | undefined): Promise<string> => {
    await cluster.stop(three);
    await cluster.start(three);
    await cluster.ready();
    const db = databasePath(three.dir);
    const tables = (): string[] =>
      readdirSync(db)
        .filter((name) => name.endsWith('.ldb'))
        .sort();
    // Within a row's value: beside the damaged node runs this test, and LevelDB, which verifies nothing when it compacts, ends
    // the process where heads of rows are damaged (test/store/compaction.test.ts).
    await standstill(() => tables().reduce((sum, name) => sum + Number.parseInt(name, 10), 0));
    const placeOf = (name: string) => placeIn(readFileSync(join(db, name)));
    const table = tables().findLast((name) => placeOf(name) !== undefined) as string;
    flip(join(db, table), placeOf(table) as number);
    const { findings } = await pass(three);
    const found = findings.filter(({ kind }) => kind === 'database').map(({ problem }) => problem);
    t.ok(
      found.some((problem) => problem.startsWith(`${table}, byte`)),
      found.join('; '),
    );
    return table;
  };
  const becomesSound = async (t: Test): Promise<void> => {
    await until('it was mended', () => (three.door?.running.node.repaired ?? 0) > 0);
    await sound(three);
    const verified = await on(cluster, 'verify');
    t.equal(verified.code, 0, verified.out + three.errors.join('; '));
    t.equal(three.failure, undefined, 'the node lives on');
  };

  await t.test("a byte of the database's own record under a running node", async (t) => {
    await flipUnder(t, (table) => withinAValue(table, RowKind.format));
    await becomesSound(t);
    await cluster.stop(three);
    await cluster.start(three);
    await cluster.ready();
    const aside = readdirSync(three.dir).filter((name) => name.includes('damaged'));
    t.same(aside, [], 'the next start finds it sound');
    t.equal((await on(cluster, 'verify')).code, 0);
  });

  await t.test('a byte of a table under a running node', async (t) => {
    const table = await flipUnder(t, (table) => withinAValue(table, RowKind.channel));
    await becomesSound(t);
    const { code, out } = await on(cluster, 'scrub', '--status');
    t.equal(code, 1, 'the status shows it');
    t.match(out, table);
  });

  await t.test('a block that LevelDB can not decode, near all that comes anew', async (t) => {
    await flipUnder(t, besideEnded);
    const failure = await until('the node ends', () => three.failure);
    t.match(failure, { reason: 'STORE_DAMAGED', message: /the next start moves it aside/ });
    await cluster.stop(three);
    await cluster.start(three);
    await cluster.ready();
    await sound(three);
    t.equal((await on(cluster, 'verify')).code, 0);
    const aside = readdirSync(three.dir).filter((name) => name.includes('damaged'));
    t.same(aside, ['db.damaged-1']);
  });

  await t.test('a byte of the log under a running node', async (t) => {
    const log = join(three.dir, 'log');
    const held = three.door?.running.wal.extent().segments[0] as number;
    const path = join(log, `log-${String(held).padStart(16, '0')}.seg`);
    const batches = [...inspectSegment(readFileSync(path), held, { full: false })].filter(
      ({ what }) => what === 'batch',
    );
    t.ok(batches.length > 1);
    flip(path, (batches[0]?.offset ?? 0) + 30);
    const { findings } = await pass(three);
    const found = findings.find(({ kind }) => kind === 'log');
    // The segment may have been given up meanwhile: then nothing was lost.
    if (three.door?.running.wal.extent().segments.includes(held))
      t.match(found, { problem: `segment ${held}, byte ${batches[0]?.offset}` });
  });

  isWriting = false;
  await writer;
  t.ok(written > 100);
  t.equal((await client.channel('written').info()).headSeq, written, 'the writer lost nothing');
});

t.test('a pass goes on where it was after a restart, and waits between its steps', async (t) => {
  const cluster = await LocalCluster.format({ nodes: 1, partitions });
  t.teardown(() => cluster.end());
  const node = cluster.node(1);
  await cluster.startAll();
  t.match(node.door?.running.node.scrubber.status(), { state: 'waiting', pass: undefined, lastEndedUs: 0 });
  const { pass: ended } = await pass(node);
  t.match(ended, { compared: partitions, findings: 0 }, 'alone it has nobody to differ from');
  await cluster.stop(node);
  await cluster.start(node);
  await cluster.ready();
  t.equal(node.door?.running.node.scrubber.status().lastEndedUs, ended?.endedUs);
});
