/** A damaged table on which LevelDB ends the process whenever it compacts: it does so twice, and not for ever. */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { refuseWhatAborts } from '../../src/store/level-aborts.js';
import { levelKvFactory } from '../../src/store/level-kv.js';
import { disorderTable, flipByte, spoilTable } from '../flips/damages.js';
import { rejectsWith } from './help.js';

const child = fileURLToPath(new URL('./aborting-child.js', import.meta.url));
const folder = mkdtempSync(join(tmpdir(), 'hansard-compaction-'));
t.teardown(() => rmSync(folder, { recursive: true, force: true }));
const keyOf = (n: number): Buffer => Buffer.from(`key ${String(n).padStart(6, '0')}`);
const tablesIn = (path: string): string[] => readdirSync(path).filter((name) => name.endsWith('.ldb'));

/** Tables that overlap, and rows enough for many blocks each. */
async function filled(name: string): Promise<string> {
  const path = join(folder, name);
  const kv = await levelKvFactory({ writeBufferBytes: 64 * 1024 }).open(path, { create: true });
  for (let round = 0; round < 6; round++) {
    const batch = kv.batch();
    for (let n = 0; n < 500; n++) batch.put(keyOf((n * 7 + round * 3) % 3_500), Buffer.alloc(300, n + round));
    await batch.write();
  }
  await kv.close();
  return path;
}

function largestTable(path: string): string {
  const bytesOf = (name: string): number => statSync(join(path, name)).size;
  return tablesIn(path).sort((a, b) => bytesOf(b) - bytesOf(a))[0] as string;
}

function damageOrder(path: string): string {
  const name = largestTable(path);
  disorderTable(join(path, name));
  return name;
}

/** As two processes leave it that were killed while LevelDB compacted. */
function endCompacting(path: string): void {
  for (const name of ['LOG', 'LOG.old'])
    writeFileSync(join(path, name), '2026/01/01-00:00:00.000000 7f Compacting 4@0 + 1@1 files\n');
}

t.test('the third start verifies the tables, and names the one', async (t) => {
  const path = await filled('damaged');
  const name = damageOrder(path);
  for (const life of ['first', 'second']) {
    const { signal, stdout } = spawnSync(process.execPath, [child, path], { encoding: 'utf8' });
    t.equal(signal, 'SIGABRT', `the ${life} process is ended by LevelDB: ${stdout}`);
  }
  for (const life of ['third', 'fourth']) {
    const { signal, stdout } = spawnSync(process.execPath, [child, path], { encoding: 'utf8' });
    t.equal(signal, null, `the ${life} process says it`);
    t.match(stdout, `STORE_DAMAGED HansardError: the database in ${path}: ${name} is damaged at byte`);
  }
});

t.test('what could not be compacted for damage the next start verifies', async (t) => {
  const path = await filled('spoilt');
  const name = largestTable(path);
  spoilTable(join(path, name));
  const { signal } = spawnSync(process.execPath, [child, path], { encoding: 'utf8' });
  t.equal(signal, null, 'LevelDB only takes no more writes');
  for (const life of ['second', 'third']) {
    const { stdout } = spawnSync(process.execPath, [child, path], { encoding: 'utf8' });
    const named = `STORE_DAMAGED HansardError: the database in ${path}: ${name} is damaged at byte`;
    t.match(stdout, named, `the ${life} process says it`);
  }
});

t.test('what ended in the midst of compacting by chance opens as ever', async (t) => {
  const path = await filled('sound');
  endCompacting(path);
  const { status, stdout } = spawnSync(process.execPath, [child, path], { encoding: 'utf8' });
  t.equal(status, 0);
  t.equal(stdout, '');
});

t.test('a table that a killed process had not finished is no damage', async (t) => {
  const path = await filled('unfinished');
  endCompacting(path);
  // Without its end, and in no MANIFEST: LevelDB removes it.
  const [name = ''] = tablesIn(path);
  const unfinished = join(path, '000999.ldb');
  writeFileSync(unfinished, readFileSync(join(path, name)).subarray(0, 50_000));
  const { status, stdout } = spawnSync(process.execPath, [child, path], { encoding: 'utf8' });
  t.equal(status, 0);
  t.equal(stdout, '');
  t.notOk(existsSync(unfinished));
});

t.test('of tables that MANIFEST can not tell nothing is said', async (t) => {
  const path = await filled('manifest');
  damageOrder(path);
  endCompacting(path);
  const [manifest = ''] = readdirSync(path).filter((name) => name.startsWith('MANIFEST-'));
  const file = join(path, manifest);
  const refused = () => refuseWhatAborts(path, async () => {});
  await rejectsWith(t, refused(), 'STORE_DAMAGED');
  flipByte(file, 20, 1);
  await t.resolves(refused(), 'a damaged one');
  rmSync(file);
  await t.resolves(refused(), 'none');
});

t.test('whoever has it open is not told of as damage', async (t) => {
  const path = await filled('open');
  const other = spawn(process.execPath, [child, path, 'stay'], { stdio: ['pipe', 'pipe', 'inherit'] });
  t.teardown(() => other.kill('SIGKILL'));
  await once(other.stdout, 'data');
  damageOrder(path);
  endCompacting(path);
  const opened = () => levelKvFactory().open(path, { create: false });
  await rejectsWith(t, opened(), 'DIRECTORY_IN_USE');
  renameSync(join(path, 'CURRENT'), join(folder, 'CURRENT'));
  // Nor that CURRENT is gone.
  await rejectsWith(t, opened(), 'DIRECTORY_IN_USE');
  other.kill('SIGKILL');
  await once(other, 'exit');
  await rejectsWith(t, opened(), 'STORE_DAMAGED');
  renameSync(join(folder, 'CURRENT'), join(path, 'CURRENT'));
  await rejectsWith(t, opened(), 'STORE_DAMAGED');
});

t.test('once alone is no reason to look', async (t) => {
  const path = await filled('once');
  damageOrder(path);
  writeFileSync(join(path, 'LOG'), '2026/01/01-00:00:00.000000 7f Compacting 4@0 + 1@1 files\n');
  await t.resolves(
    refuseWhatAborts(path, async () => {}),
    "damage that nobody meets is the scrubber's",
  );
});
