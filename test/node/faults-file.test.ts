import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { ByteWriter } from '../../src/common/bytes.js';
import {
  decodeFaults,
  encodeFaults,
  type FaultRecord,
  noFaults,
  type ReplicaFault,
} from '../../src/common/faults.js';
import { xxh64 } from '../../src/common/hash.js';
import { FaultLedger } from '../../src/node/fault-ledger.js';
import { readFaults, writeFaults } from '../../src/node/faults-file.js';

const owner = { clusterId: 'c1'.repeat(16), storeId: '0123456789abcdef' };
const record: FaultRecord = {
  number: 7,
  logMove: 2,
  dbMove: 0,
  segments: { current: 41, next: 42 },
  gone: [
    { partition: 2, replicaId: 7 },
    { partition: 9, replicaId: 2 ** 40 },
  ],
  faults: [
    {
      partition: 3,
      replicaId: 12,
      kind: 'log-damaged',
      sinceUs: 1_700_000_000_000_000,
      why: 'batch 9 of the log is lost: ünd mehr',
      generation: 4,
      floor: { term: 5, index: Number.MAX_SAFE_INTEGER },
    },
  ],
};

t.test('FAULTS comes back as it was written, or is said to be unreadable', async (t) => {
  const dir = t.testdir();
  t.equal(await readFaults(dir, owner), 'unreadable', 'missing');
  await writeFaults(dir, owner, encodeFaults(record));
  t.strictSame(await readFaults(dir, owner), record);
  const path = join(dir, 'FAULTS');
  const whole = readFileSync(path);
  t.equal(
    whole.toString('hex', 0, 34),
    '48414e53415244460100c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c10123456789abcdef',
    'whose it is',
  );
  for (let at = 0; at < whole.length; at++) {
    const flipped = Buffer.from(whole);
    flipped[at] = (flipped[at] as number) ^ 1;
    writeFileSync(path, flipped);
    if ((await readFaults(dir, owner)) !== 'unreadable') t.fail(`a flipped bit in byte ${at} is not seen`);
    writeFileSync(path, whole.subarray(0, at));
    if ((await readFaults(dir, owner)) !== 'unreadable') t.fail(`cut at ${at} is not seen`);
  }
  writeFileSync(path, whole);
  const foreign = await readFaults(dir, { ...owner, storeId: 'ffff456789abcdef' }).catch(
    (error: unknown) => error,
  );
  t.match(foreign, { reason: 'REPLICA_LOST' });
  await writeFaults(dir, owner, encodeFaults(noFaults));
  t.strictSame(await readFaults(dir, owner), noFaults);
  rmSync(path);
});

t.test('of the replicas that were here the latest counts, in whatever order they are found', async (t) => {
  const fault = (replicaId: number, partition = 0): ReplicaFault => ({
    ...(record.faults[0] as ReplicaFault),
    kind: 'term-or-vote-lost',
    partition,
    replicaId,
  });
  for (const found of [
    [fault(4), fault(6)],
    [fault(6), fault(4)],
  ]) {
    const ledger = FaultLedger.inMemory();
    await ledger.add([fault(5, 1), ...found]);
    t.strictSame(ledger.faults, [fault(6), fault(5, 1)], 'a vote that the sixth gave is not given again');
    await ledger.add([fault(4)]);
    t.equal(ledger.of(0, 'term-or-vote-lost')?.replicaId, 6);
    await ledger.add([{ ...fault(6), why: 'again' }]);
    t.match(ledger.of(0, 'term-or-vote-lost'), { replicaId: 6, why: 'again' });
  }
});

t.test('the record of version 1, which tells of no segments, is read', async (t) => {
  const writer = new ByteWriter(64).u16(1).u64(7).uvarint(2).uvarint(0).uvarint(0);
  const bytes = writer.u64big(xxh64(writer.view())).finish();
  t.strictSame(decodeFaults(bytes), { ...noFaults, number: 7, logMove: 2 });
});

t.test('of replicas that are gone the latest of each partition is kept', async (t) => {
  const written: FaultRecord[] = [];
  const ledger = new FaultLedger(noFaults, async (bytes) => void written.push(decodeFaults(bytes)));
  for (const [partition, replicaId] of [
    [4, 5],
    [1, 9],
    [4, 3],
    [1, 12],
  ] as const)
    await ledger.noteGone([{ partition, replicaId }]);
  t.strictSame(written.at(-1)?.gone, [
    { partition: 1, replicaId: 12 },
    { partition: 4, replicaId: 5 },
  ]);
  t.same([ledger.goneOf(1), ledger.goneOf(2), ledger.goneOf(4)], [12, 0, 5]);
});

t.test('a replica that lost its vote and was replaced is gone, in one write', async (t) => {
  const written: FaultRecord[] = [];
  const ledger = new FaultLedger(noFaults, async (bytes) => void written.push(decodeFaults(bytes)));
  const lost: ReplicaFault = {
    ...(record.faults[0] as ReplicaFault),
    kind: 'term-or-vote-lost',
    partition: 4,
    replicaId: 6,
  };
  await ledger.add([lost]);
  await ledger.replaced(4);
  t.match(written, [
    { faults: [{ replicaId: 6 }], gone: [] },
    { faults: [], gone: [{ partition: 4, replicaId: 6 }] },
  ]);
  await ledger.add([{ ...lost, kind: 'state-damaged' }]);
  await ledger.trusted(4);
  t.match(written.at(-1), { faults: [], gone: [] }, 'an operator says that it counts');
});

t.test(
  'what changes while a record is written shares the next write, and none is told before its own',
  async (t) => {
    const written: FaultRecord[] = [];
    const ends: (() => void)[] = [];
    const ledger = new FaultLedger(noFaults, (bytes) => {
      written.push(decodeFaults(bytes));
      return new Promise((resolve) => ends.push(resolve));
    });
    const told: number[] = [];
    const turns = async (): Promise<void> => {
      for (let i = 0; i < 10; i++) await Promise.resolve();
    };
    const note = (partition: number): void =>
      void ledger.noteGone([{ partition, replicaId: 1 }]).then(() => told.push(partition));
    note(0);
    await turns();
    for (let partition = 1; partition < 200; partition++) note(partition);
    await turns();
    t.equal(written.length, 1, 'one is under way');
    ends.shift()?.();
    await turns();
    t.same([written.length, written[1]?.gone.length, told], [2, 200, [0]]);
    ends.shift()?.();
    await turns();
    t.equal(told.length, 200);
  },
);

t.test('while none is gone, the record is one that programs before this one read', async (t) => {
  t.equal(encodeFaults(noFaults).readUInt16LE(0), 2);
  t.equal(encodeFaults({ ...noFaults, gone: [{ partition: 0, replicaId: 1 }] }).readUInt16LE(0), 3);
});
