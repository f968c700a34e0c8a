import { chmodSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import t, { type Test } from 'tap';
import { HansardError, type Reason } from '../../src/common/errors.js';
import { encodeFaults, type FaultRecord, noFaults } from '../../src/common/faults.js';
import { xxh64 } from '../../src/common/hash.js';
import { checkUnchanged, type InitOptions, initDirectory, openDirectory } from '../../src/node/directory.js';
import { writeFaults } from '../../src/node/faults-file.js';
import { decodeIdentity, encodeIdentity, type Identity } from '../../src/node/identity-file.js';
import { raiseIncarnation } from '../../src/node/restore.js';
import { realRandom } from '../support/real-env.js';

const members = [1, 2, 3].map((nodeId) => ({
  nodeId,
  peerAddress: `127.0.0.1:${7000 + nodeId}`,
  clientAddress: `node-${nodeId}.example:${8000 + nodeId}`,
}));

function options(dir: string, changes: Partial<InitOptions> = {}): InitOptions {
  return {
    dir,
    clusterId: 'ab'.repeat(16),
    nodeId: 2,
    partitionCount: 64,
    replicationFactor: 3,
    members,
    random: realRandom,
    formatLog: async (path) => writeFileSync(join(path, 'segment'), 'log'),
    formatDb: async (path) => writeFileSync(join(path, 'CURRENT'), 'db'),
    ...changes,
  };
}

async function fails(t: Test, work: Promise<unknown>, reason: Reason, message: RegExp, what: string) {
  await t.rejects(work, { name: 'HansardError', reason, message }, what);
}

t.test('what init makes, open finds', async (t) => {
  const dir = join(t.testdir({}), 'deep/below/node-2');
  const made = await initDirectory(options(dir));
  t.match(made.identity, { nodeId: 2, incarnation: 1, partitionCount: 64, replicationFactor: 3, members });
  t.match(made.identity.storeId, /^[0-9a-f]{16}$/);
  t.same(await openDirectory(dir), made);
  t.same(readdirSync(dir).sort(), ['FAULTS', 'IDENTITY', 'db', 'log'], 'no marker, no draft is left');
  t.same(readdirSync(made.dbPath), ['CURRENT']);
  const other = await initDirectory(options(join(t.testdirName, 'other')));
  t.not(other.identity.storeId, made.identity.storeId, 'each store has an id of its own');
  await fails(t, initDirectory(options(dir)), 'DIRECTORY_NOT_EMPTY', /already/, 'a second init');
  t.same(await openDirectory(dir), made, 'which changed nothing');
});

t.test(
  'what another process changed before the folder was locked is not taken for what it was',
  async (t) => {
    // What it was told of its disk in its last moment would be forgotten with the next record of faults.
    const dir = join(t.testdir({}), 'node-2');
    await initDirectory(options(dir));
    const read = await openDirectory(dir);
    await checkUnchanged(read);
    const { number } = read.faults as FaultRecord;
    await writeFaults(dir, read.identity, encodeFaults({ ...noFaults, number: number + 1 }));
    await fails(t, checkUnchanged(read), 'DIRECTORY_IN_USE', /changed while.*start again/, 'a newer record');
    const again = await openDirectory(dir);
    await checkUnchanged(again);
    await raiseIncarnation([dir], 2);
    await fails(t, checkUnchanged(again), 'DIRECTORY_IN_USE', /start again/, 'another incarnation');
    const path = join(dir, 'IDENTITY');
    const whole = readFileSync(path);
    writeFileSync(path, Buffer.concat([whole.subarray(0, -1), Buffer.of(0)]));
    // Not as damage: that of the database it would be taken for, and set aside.
    await fails(t, checkUnchanged(again), 'DIRECTORY_IN_USE', /start again/, 'what can not be read any more');
    writeFileSync(path, whole);
    rmSync(join(dir, 'FAULTS'));
    await fails(
      t,
      checkUnchanged(await openDirectory(dir).then((now) => ({ ...now, faults: again.faults }))),
      'DIRECTORY_IN_USE',
      /start again/,
      'none any more',
    );
  },
);

t.test(
  'an incarnation that all folders have already is refused; a run that was cut short goes on',
  async (t) => {
    const dirs = [1, 2, 3].map((nodeId) => join(t.testdir({}), `node-${nodeId}`));
    for (const [i, dir] of dirs.entries())
      await initDirectory(options(dir, { nodeId: i + 1, incarnation: 2 }));
    const one = dirs.slice(0, 1);
    const words = /incarnation 2 already, nothing was changed.*--incarnation 3 or higher/;
    await fails(t, raiseIncarnation(dirs, 2), 'INVALID_SETTINGS', words, 'of all');
    await fails(t, raiseIncarnation(one, 2), 'INVALID_SETTINGS', words, 'of one');
    await raiseIncarnation(one, 3);
    const { folders } = await raiseIncarnation(dirs, 3);
    t.same(
      folders.map(({ before }) => before),
      [3, 2, 2],
    );
    for (const dir of dirs) t.equal((await openDirectory(dir)).identity.incarnation, 3);
  },
);

t.test('a folder that is not provably this node’s own is not opened', async (t) => {
  const dir = t.testdir({ empty: {}, photos: { 'a.jpg': '' }, file: 'x' });
  await fails(t, openDirectory(join(dir, 'none')), 'REPLICA_LOST', /does not exist.*hansard init/, 'missing');
  await fails(t, openDirectory(join(dir, 'empty')), 'REPLICA_LOST', /is empty.*hansard init/, 'empty');
  await fails(t, openDirectory(join(dir, 'photos')), 'REPLICA_LOST', /other files/, 'of another program');
  await fails(t, openDirectory(join(dir, 'file')), 'INVALID_SETTINGS', /is a file/, 'a file');
  await fails(t, openDirectory(join(dir, 'file/below')), 'INVALID_SETTINGS', /is a file/, 'below a file');
  const long = join(dir, 'x'.repeat(300));
  await fails(t, openDirectory(long), 'INVALID_SETTINGS', /no usable path/, 'a name that is too long');
  for (const [missing, reason] of [
    ['db', 'STORE_DAMAGED'],
    ['log', 'LOG_DAMAGED'],
    ['IDENTITY', 'STORE_DAMAGED'],
  ] as const) {
    const part = join(dir, `without-${missing}`);
    await initDirectory(options(part));
    rmSync(join(part, missing), { recursive: true });
    await fails(t, openDirectory(part), reason, /deleted or not copied/, `without ${missing}`);
    await fails(
      t,
      initDirectory(options(part)),
      'DIRECTORY_NOT_EMPTY',
      /nothing was changed/,
      'nor formatted',
    );
  }
});

t.test('init refuses what it must not overwrite, and settings that make no cluster', async (t) => {
  const dir = t.testdir({ photos: { 'a.jpg': '' }, file: 'x' });
  await fails(t, initDirectory(options(join(dir, 'photos'))), 'DIRECTORY_NOT_EMPTY', /a\.jpg/, 'not empty');
  await fails(t, initDirectory(options(join(dir, 'file'))), 'INVALID_SETTINGS', /is a file/, 'a file');
  t.same(readdirSync(join(dir, 'photos')), ['a.jpg']);
  const wrong: [Partial<InitOptions>, RegExp][] = [
    [{ clusterId: 'xyz' }, /cluster id/],
    [{ nodeId: 9 }, /not among the members/],
    [{ nodeId: 0 }, /node id 0/],
    [{ partitionCount: 0 }, /partitions/],
    [{ partitionCount: 1.5 }, /partitions/],
    [{ replicationFactor: 4 }, /replication factor 4 with 3 nodes/],
    [{ members: [...members, members[0]!] }, /twice/],
    [{ members: members.map((member) => ({ ...member, peerAddress: 'nowhere' })) }, /host:port/],
  ];
  for (const [changes, message] of wrong) {
    const target = join(dir, 'new');
    await fails(t, initDirectory(options(target, changes)), 'INVALID_SETTINGS', message, String(message));
    await fails(t, openDirectory(target), 'REPLICA_LOST', /does not exist/, 'nothing was made');
  }
});

t.test('an init that was cut off says so, wherever it was', async (t) => {
  const dir = t.testdir({});
  const crash = async () => {
    throw new Error('power is gone');
  };
  for (const [i, changes] of [{ formatDb: crash }, { formatLog: crash }].entries()) {
    const part = join(dir, `part-${i}`);
    await t.rejects(initDirectory(options(part, changes)), /power is gone/);
    await fails(t, openDirectory(part), 'DIRECTORY_UNFINISHED', /delete it/, 'not opened');
    await fails(t, initDirectory(options(part)), 'DIRECTORY_UNFINISHED', /delete it/, 'not overwritten');
  }
  const marked = join(dir, 'marked');
  mkdirSync(marked);
  writeFileSync(join(marked, 'INIT-UNDER-WAY'), '');
  await fails(t, openDirectory(marked), 'DIRECTORY_UNFINISHED', /delete it/, 'a marker alone is not opened');
  const made = await initDirectory(options(marked));
  t.same(await openDirectory(marked), made, 'but formatted');
  writeFileSync(join(marked, 'INIT-UNDER-WAY'), '');
  t.same(await openDirectory(marked), made, 'a marker beside IDENTITY: init was complete');
  t.notOk(readdirSync(marked).includes('INIT-UNDER-WAY'));
  renameSync(join(marked, 'IDENTITY'), join(marked, 'IDENTITY.new'));
  writeFileSync(join(marked, 'INIT-UNDER-WAY'), '');
  await fails(t, openDirectory(marked), 'DIRECTORY_UNFINISHED', /delete it/, 'before the rename');
});

t.test('a damaged IDENTITY is damage, a newer one is newer', async (t) => {
  const dir = join(t.testdir({}), 'node');
  await initDirectory(options(dir));
  const path = join(dir, 'IDENTITY');
  const whole = readFileSync(path);
  for (let at = 0; at < whole.length; at++) {
    const bytes = Buffer.from(whole);
    bytes[at]! ^= 0x10;
    if (reasonOf(bytes) !== 'STORE_DAMAGED') t.fail(`a flipped bit in byte ${at} is not seen`);
    if (reasonOf(whole.subarray(0, at)) !== 'STORE_DAMAGED') t.fail(`cut at ${at} is not seen`);
  }
  writeFileSync(path, whole.subarray(0, 20));
  await fails(t, openDirectory(dir), 'STORE_DAMAGED', /IDENTITY is damaged/, 'cut');
  writeFileSync(path, '');
  await fails(t, openDirectory(dir), 'STORE_DAMAGED', /IDENTITY is damaged/, 'empty');
  writeFileSync(path, Buffer.alloc(2 * 1024 * 1024));
  await fails(t, openDirectory(dir), 'STORE_DAMAGED', /too many/, 'endless');
  const newer = Buffer.concat([whole.subarray(0, 8), Buffer.from([2, 0]), Buffer.alloc(50)]);
  const checksum = Buffer.alloc(8);
  checksum.writeBigUInt64LE(xxh64(newer));
  writeFileSync(path, Buffer.concat([newer, checksum]));
  await fails(t, openDirectory(dir), 'FORMAT_TOO_NEW', /version 2/, 'newer');
});

t.test('IDENTITY of version 1 is read back for ever', async (t) => {
  const golden =
    '48414e534152440a0100abababababababababababababababab0200000001020304050607080300000000000000' +
    '40000000010001020000000b686f73743a373030303132096e6f64653a38303031';
  const identity: Identity = {
    clusterId: 'ab'.repeat(16),
    nodeId: 2,
    storeId: '0102030405060708',
    incarnation: 3,
    partitionCount: 64,
    replicationFactor: 1,
    members: [{ nodeId: 2, peerAddress: 'host:700012', clientAddress: 'node:8001' }],
  };
  const bytes = encodeIdentity(identity);
  t.equal(bytes.subarray(0, -8).toString('hex'), golden);
  t.same(decodeIdentity(bytes, 'x'), identity);
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 80 }), (noise) => {
      const body = Buffer.concat([bytes.subarray(0, 10), noise]);
      const checksum = Buffer.alloc(8);
      checksum.writeBigUInt64LE(xxh64(body));
      const reason = reasonOf(Buffer.concat([body, checksum]));
      return reason === 'STORE_DAMAGED' || reason === undefined;
    }),
  );
});

t.test(
  'a folder without permission',
  { skip: process.getuid?.() === 0 ? 'root may do anything' : false },
  async (t) => {
    const dir = join(t.testdir({ locked: {} }), 'node');
    await initDirectory(options(dir));
    chmodSync(dir, 0o500);
    await fails(t, openDirectory(dir), 'INVALID_SETTINGS', /no permission/, 'read-only');
    chmodSync(dir, 0o700);
    chmodSync(join(t.testdirName, 'locked'), 0o500);
    const below = initDirectory(options(join(t.testdirName, 'locked/node')));
    await fails(t, below, 'INVALID_SETTINGS', /no permission/, 'init');
    chmodSync(join(t.testdirName, 'locked'), 0o700);
  },
);

function reasonOf(bytes: Uint8Array): Reason | undefined {
  try {
    decodeIdentity(bytes, 'IDENTITY');
    return undefined;
  } catch (error) {
    if (error instanceof HansardError) return error.reason;
    throw error;
  }
}
