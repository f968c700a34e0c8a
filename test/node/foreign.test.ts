/**
 * Folders that a node must not work on, one by one, with real log and LevelDB files:
 * each is refused by its own reason, and not a byte of it has changed.
 */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import t from 'tap';
import { HansardError, type Reason, reasons } from '../../src/common/errors.js';
import { xxh64, xxh64Seeded } from '../../src/common/hash.js';
import { open } from '../../src/embedded/index.js';
import { formatKey } from '../../src/store/keys.js';
import { levelKvFactory } from '../../src/store/level-kv.js';

t.setTimeout(600_000);

const root = mkdtempSync(join(tmpdir(), 'hansard-foreign-'));
t.teardown(() => rmSync(root, { recursive: true, force: true }));
/** Two nodes of clusters of their own. */
const [own, other] = [join(root, 'own'), join(root, 'other')];

t.before(async () => {
  for (const dir of [own, other]) {
    // Three lives: format record and rows are in a table, in the log, in both.
    for (let life = 0; life < 3; life++) {
      const node = await open({ dir, partitions: 2 });
      await node
        .connect()
        .channel('kept')
        .append({ role: 'user', text: `of ${dir}, ${life}` });
      await node.close();
    }
  }
});

/** Of every file but LevelDB's diary and lock, which say nothing about data. */
function contents(dir: string): Map<string, string> {
  const all = new Map<string, string>();
  for (const entry of readdirSync(dir, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile() || /^(LOCK|LOG|LOG\.old)$/.test(entry.name)) continue;
    const path = join(entry.parentPath, entry.name);
    all.set(relative(dir, path), createHash('sha256').update(readFileSync(path)).digest('hex'));
  }
  return all;
}

function segments(dir: string): string[] {
  return readdirSync(join(dir, 'log'))
    .filter((name) => name.endsWith('.seg'))
    .sort()
    .map((name) => join(dir, 'log', name));
}

/** Raises the version of every segment's header and seals it anew: a later format. */
function newerLog(dir: string): void {
  for (const path of segments(dir)) {
    const bytes = readFileSync(path);
    if (bytes.toString('latin1', 0, 8) !== 'HANSARDL') continue;
    const length = bytes.readUInt32LE(12);
    bytes.writeUInt16LE(2, 8);
    bytes.writeBigUInt64LE(xxh64Seeded(bytes.subarray(0, length - 8), bytes.readBigUInt64LE(16)), length - 8);
    writeFileSync(path, bytes);
  }
}

function newerIdentity(dir: string): void {
  const path = join(dir, 'IDENTITY');
  const bytes = readFileSync(path);
  bytes.writeUInt16LE(9, 8);
  bytes.writeBigUInt64LE(xxh64(bytes.subarray(0, -8)), bytes.length - 8);
  writeFileSync(path, bytes);
}

async function newerDatabase(dir: string): Promise<void> {
  const kv = await levelKvFactory().open(join(dir, 'db'), { create: false });
  const key = formatKey();
  const row = Buffer.from((await kv.get(key)) as Uint8Array);
  row.writeUInt16LE(9, 9);
  row.writeBigUInt64LE(xxh64Seeded(row.subarray(9), xxh64Seeded(key, BigInt(row[0] as number))), 1);
  const batch = kv.batch();
  batch.put(key, row);
  await batch.write();
  await kv.close();
  // Into a table: until then the older record is what is found.
  await (await levelKvFactory().open(join(dir, 'db'), { create: false })).close();
  for (const name of readdirSync(join(dir, 'db'))
    .filter((name) => /\.ldb$/.test(name))
    .sort()
    .slice(0, -1)) {
    rmSync(join(dir, 'db', name));
  }
}

function from(part: string): (dir: string) => void {
  return (dir) => {
    rmSync(join(dir, part), { recursive: true });
    cpSync(join(other, part), join(dir, part), { recursive: true });
  };
}

function without(part: string): (dir: string) => void {
  return (dir) => rmSync(join(dir, part), { recursive: true });
}

interface Case {
  readonly name: string;
  readonly change: (dir: string) => void | Promise<void>;
  readonly reason: Reason;
  readonly words: RegExp;
}

const cases: readonly Case[] = [
  {
    name: 'empty',
    change: (dir) => {
      rmSync(dir, { recursive: true });
      mkdirSync(dir);
    },
    reason: 'REPLICA_LOST',
    words: /is empty/,
  },
  {
    name: 'of another program',
    change: (dir) => {
      rmSync(dir, { recursive: true });
      mkdirSync(dir);
      writeFileSync(join(dir, 'a.jpg'), '');
    },
    reason: 'REPLICA_LOST',
    words: /other files/,
  },
  { name: 'no IDENTITY', change: without('IDENTITY'), reason: 'STORE_DAMAGED', words: /no IDENTITY/ },
  { name: 'no log', change: without('log'), reason: 'LOG_DAMAGED', words: /log is missing/ },
  { name: 'no database', change: without('db'), reason: 'STORE_DAMAGED', words: /db is missing/ },
  {
    name: 'an init that was interrupted',
    change: (dir) => {
      without('IDENTITY')(dir);
      writeFileSync(join(dir, 'INIT-UNDER-WAY'), '');
    },
    reason: 'DIRECTORY_UNFINISHED',
    words: /init/,
  },
  {
    name: "another cluster's log",
    change: from('log'),
    reason: 'REPLICA_LOST',
    words: /log belongs to cluster/,
  },
  {
    name: "another cluster's database",
    change: from('db'),
    reason: 'REPLICA_LOST',
    words: /database belongs to another cluster/,
  },
  {
    name: "another cluster's IDENTITY",
    change: from('IDENTITY'),
    reason: 'REPLICA_LOST',
    words: /belongs to/,
  },
  {
    name: 'an IDENTITY of a later format',
    change: newerIdentity,
    reason: 'FORMAT_TOO_NEW',
    words: /version 9/,
  },
  { name: 'a log of a later format', change: newerLog, reason: 'FORMAT_TOO_NEW', words: /format 2/ },
  {
    name: 'a database of a later format',
    change: newerDatabase,
    reason: 'FORMAT_TOO_NEW',
    words: /format 9/,
  },
];

t.test('each is refused by name, and stays as it is', async (t) => {
  for (const { name, change, reason, words } of cases) {
    const dir = join(root, name.replaceAll(/[^a-zA-Z]/g, '-'));
    cpSync(own, dir, { recursive: true });
    await change(dir);
    const before = contents(dir);
    const error: unknown = await open({ dir }).then(
      async (node) => {
        await node.close();
        return undefined;
      },
      (refusal: unknown) => refusal,
    );
    if (!(error instanceof HansardError)) {
      // `open` makes a folder where there is none: init is its caller's wish.
      if (name === 'empty') continue;
      t.fail(`${name}: ${error instanceof Error ? error.stack : 'it started'}`);
      continue;
    }
    t.equal(error.reason, reason, name);
    t.match(error.message, words, name);
    t.ok(reasons[reason].cure.length > 20, `${name}: it says what to do`);
    t.same([...contents(dir)], [...before], `${name}: nothing was changed`);
  }
});

t.test('a folder that a process has open', async (t) => {
  const dir = join(root, 'in-use');
  cpSync(own, dir, { recursive: true });
  const node = await open({ dir });
  for (let i = 0; i < 5; i++) {
    await t.rejects(open({ dir }), { name: 'HansardError', message: /another process/ });
    await node.connect().channel('kept').append({ role: 'user', text: 'goes on' });
  }
  await node.close();
});

t.test('a file system that is read-only', async (t) => {
  const place = join(root, 'mounted');
  mkdirSync(place);
  const mount = (...args: string[]) => spawnSync('mount', args, { encoding: 'utf8' });
  const mounted =
    existsSync('/bin/mount') || existsSync('/usr/bin/mount')
      ? mount('-t', 'tmpfs', '-o', 'size=64m', 'tmpfs', place)
      : undefined;
  if (mounted?.status !== 0) {
    t.pass('a read-only file system', { skip: `no tmpfs: ${mounted?.stderr ?? 'no mount'}` });
    return;
  }
  t.teardown(() => spawnSync('umount', ['-l', place]));
  const dir = join(place, 'node');
  cpSync(own, dir, { recursive: true });
  mount('-o', 'remount,ro', place);
  t.throws(() => writeFileSync(join(dir, 'x'), ''), { code: 'EROFS' });
  await t.rejects(open({ dir }), { name: 'HansardError', message: /read-only file system/ });
  mount('-o', 'remount,rw', place);
  const node = await open({ dir });
  t.equal((await node.connect().channel('kept').info()).headSeq, 3, 'and starts when it can be written');
  await node.close();
  t.ok(statSync(dir).isDirectory());
});
