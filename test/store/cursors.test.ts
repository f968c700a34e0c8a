/** Read cursors in the state: forward alone, the same on every replica, through checkpoints, restarts and snapshots. */
import t from 'tap';
import { applyEntry } from '../../src/conversation/apply.js';
import { encodeDeleteChannel, encodeMoveCursor } from '../../src/conversation/command.js';
import { encodeReportDelivery, type ReportDeliveryInput } from '../../src/conversation/delivery-command.js';
import type { ReadCursor } from '../../src/conversation/types.js';
import { nameKey, RowKind } from '../../src/store/keys.js';
import type { PartitionStore, Store } from '../../src/store/types.js';
import { madeAppend, madeEntry } from '../conversation/make.js';
import { ModelState } from '../conversation/model-state.js';
import { applyTo, formatted, handleOf, opened, rejectsWith, seededRandom, simDisk } from './help.js';

t.setTimeout(600_000);

const timeUs = 1_700_000_000_000_000;
const move = (channel: string, reader: string, seq: number, mayGoBack = false) =>
  encodeMoveCursor({ tenant: 'default', channel, reader, seq, mayGoBack });

const report = (
  channel: string,
  recipient: string,
  upToSeq: number,
  more: Partial<ReportDeliveryInput> = {},
) =>
  encodeReportDelivery({
    tenant: 'default',
    channel,
    recipient,
    upToSeq,
    failed: [],
    recovered: [],
    ...more,
  });
const failure = (seq: number, attempts = 1, reason = 'away') => ({ seq, attempts, reason });

t.test('a report of deliveries takes nothing back', async (t) => {
  const store = await opened(await formatted(simDisk(), [0], 512, { applyVersion: 4 }));
  const partition = store.partition(0);
  const apply = (...commands: Uint8Array[]) => applyTo(partition, madeEntry(commands, timeUs)).answers.at(-1);
  const seqs = async () =>
    (await partition.readCursor('default', 'c', 'ann', 'delivery'))?.failed?.map((each) => [
      each.seq,
      each.attempts,
    ]);
  t.match(apply(report('c', 'ann', 0)), { kind: 'refused', reason: 'CHANNEL_NOT_FOUND' });
  apply(madeAppend('c', ['1', '2', '3', '4', '5', '6']), move('c', 'ann', 6));
  const two = report('c', 'ann', 4, { failed: [failure(4), failure(2)] });
  t.match(apply(two), { kind: 'cursor', cursor: { seq: 4, failed: [failure(2), failure(4)] }, headSeq: 6 });
  t.equal(partition.meta.cursorCount, 2, 'beside the read cursor of the same name');
  t.match(apply(report('c', 'ann', 3)), { cursor: { seq: 4 } }, 'a late one');
  t.match(apply(report('c', 'ann', 0, { failed: [failure(1)] })), { cursor: { seq: 4 } });
  t.same(
    await seqs(),
    [
      [2, 1],
      [4, 1],
    ],
    'what was delivered does not fail any more',
  );
  apply(report('c', 'ann', 5, { recovered: [2], failed: [failure(4, 3, 'gone')] }));
  t.same(await seqs(), [[4, 3]]);
  apply(two);
  t.same(await seqs(), [[4, 3]], 'sent again: neither the attempts go back nor what has recovered');
  for (const wrong of [
    report('c', 'ann', 7),
    report('c', 'ann', 5, { failed: [failure(6)] }),
    report('c', 'ann', 6, { failed: [failure(0)] }),
    report('c', 'ann', 6, { failed: [failure(6, 0)] }),
    report('c', 'ann', 6, { failed: [failure(6, 1, 'x'.repeat(257))] }),
    report('c', 'ann', 6, { recovered: Array.from({ length: 101 }, () => 1) }),
    report('c', '', 6),
    report('c', 'x'.repeat(129), 6),
  ])
    t.match(apply(wrong), { kind: 'refused', reason: 'INVALID_ARGUMENT' });
  apply(
    madeAppend(
      'c',
      Array.from({ length: 200 }, () => 'x'),
    ),
  );
  const many = (from: number, count: number) => Array.from({ length: count }, (_, i) => failure(from + i));
  apply(report('c', 'ann', 100, { failed: many(6, 90) }));
  const over = report('c', 'ann', 200, { failed: many(101, 10) });
  t.match(apply(over), { kind: 'refused', reason: 'TOO_MANY_FAILED_DELIVERIES' });
  t.equal((await seqs())?.length, 91, 'all or nothing');
  const named = { tenant: 'default', channel: 'c', requestId: '', allowMissing: false, permanent: true };
  apply(encodeDeleteChannel(named));
  apply(madeAppend('c', ['7']));
  t.match(
    apply(report('c', 'ann', 0)),
    { cursor: { seq: 206, failed: [] }, headSeq: 207 },
    'of the earlier life of the name nothing can fail',
  );
  const list = (kind: 'read' | 'delivery') =>
    partition.listCursors({ tenant: 'default', channel: 'c', after: '', limit: 9, kind });
  apply(report('c', '\0bob', 207));
  t.same(
    (await list('delivery')).map(({ reader }) => reader),
    ['\0bob', 'ann'],
  );
  t.same(
    (await list('read')).map(({ reader }) => reader),
    ['ann'],
  );
  t.equal(
    Buffer.from(report('c', 'ann', 300, { failed: [failure(4, 2, 'no')], recovered: [5] })).toString('hex'),
    '1b' + '0764656661756c74' + '0163' + '03616e6e' + 'ac02' + '01' + '0402026e6f' + '01' + '05',
  );
  await store.close();
  const old = await opened(await formatted(simDisk(), [0], 512, { applyVersion: 3 }));
  const [, refused] = applyTo(
    old.partition(0),
    madeEntry([madeAppend('c', ['1']), report('c', 'ann', 1)]),
  ).answers;
  t.match(refused, { kind: 'refused', reason: 'NOT_IMPLEMENTED' }, 'not before apply version 4');
  await old.close();
});

t.test('what moves it and what does not', async (t) => {
  const store = await opened(await formatted(simDisk(), [0], 512, { applyVersion: 4 }));
  const partition = store.partition(0);
  const apply = (...commands: Uint8Array[]) => applyTo(partition, madeEntry(commands, timeUs)).answers.at(-1);
  t.match(apply(move('c', 'ann', 0)), { kind: 'refused', reason: 'CHANNEL_NOT_FOUND' });
  apply(madeAppend('c', ['1', '2', '3', '4']));
  t.match(apply(move('c', 'ann', 3)), { kind: 'cursor', cursor: { seq: 3, timeUs }, headSeq: 4 });
  t.match(apply(move('c', 'ann', 2)), { kind: 'cursor', cursor: { seq: 3 } }, 'a late one does nothing');
  t.match(apply(move('c', 'ann', 2, true)), { cursor: { seq: 2 } });
  t.match(apply(move('c', 'ann', 5)), {
    kind: 'refused',
    reason: 'INVALID_ARGUMENT',
    fields: { head_seq: 4 },
  });
  t.match(apply(move('c', '', 1)), { kind: 'refused', reason: 'INVALID_ARGUMENT' });
  t.match(apply(move('c', 'x'.repeat(129), 1)), { kind: 'refused', reason: 'INVALID_ARGUMENT' });
  t.match(apply(move('c', 'bob', 0)), { cursor: { seq: 0 } }, 'unread from the first event on');
  t.equal(partition.meta.cursorCount, 2);
  const named = { tenant: 'default', channel: 'c', requestId: '', allowMissing: false, permanent: true };
  apply(encodeDeleteChannel(named));
  t.match(apply(move('c', 'ann', 4)), { reason: 'CHANNEL_NOT_FOUND' });
  apply(madeAppend('c', ['5', '6']));
  t.match(
    await partition.readCursor('default', 'c', 'ann'),
    { seq: 2 },
    'it belongs to the name, as seqs do',
  );
  t.match(apply(move('c', 'ann', 6)), { cursor: { seq: 6 } });
  t.same(
    (await partition.listCursors({ tenant: 'default', channel: 'c', after: '', limit: 9 })).map((c) => [
      c.reader,
      c.seq,
    ]),
    [
      ['ann', 6],
      ['bob', 0],
    ],
  );
  await store.close();
  t.equal(
    Buffer.from(move('c', 'ann', 300, true)).toString('hex'),
    '14' + '0764656661756c74' + '0163' + '03616e6e' + 'ac02' + '01',
  );
  const old = await opened(await formatted(simDisk(), [0], 512, { applyVersion: 2 }));
  const refused = applyTo(old.partition(0), madeEntry([madeAppend('c', ['1']), move('c', 'ann', 1)]))
    .answers[1];
  t.match(refused, { kind: 'refused', reason: 'NOT_IMPLEMENTED' }, 'not before apply version 3');
  await old.close();
});

const cursorsOf = async (partition: PartitionStore): Promise<ReadCursor[]> => {
  const all: ReadCursor[] = [];
  for (const channel of channels) {
    for (const kind of ['read', 'delivery'] as const) {
      for (let after = ''; ; ) {
        const page = await partition.listCursors({ tenant: 'default', channel, after, limit: 3, kind });
        all.push(...page);
        if (page.length < 3) break;
        after = (page.at(-1) as ReadCursor).reader;
      }
    }
  }
  return all;
};
const channels = ['a', 'a b', 'b'];

async function copied(from: Store): Promise<Store> {
  const to = await opened(await formatted(simDisk(99), [0], 512, { applyVersion: 4 }));
  const snapshot = await from.exportSnapshot(0);
  if (snapshot === undefined) throw new Error('nothing sealed');
  const install = await to.beginInstall(0, snapshot.manifest);
  for (let at = snapshot.start; !install.isComplete; ) {
    const { chunk, next } = await snapshot.read(at, 2048);
    await install.add(chunk);
    at = next;
  }
  await install.finish();
  await snapshot.close();
  return to;
}

t.test('equal to the model wherever checkpoints, restarts and snapshots fall', async (t) => {
  for (let seed = 1; seed <= 5; seed++) {
    const random = seededRandom(seed);
    const below = (n: number) => random.u32() % n;
    const disk = await formatted(simDisk(seed), [0], 512, { applyVersion: 4 });
    let store = await opened(disk, seed % 2 === 0 ? 1024 : undefined);
    const model = new ModelState(0, { applyVersion: 4 });
    // Never sealed: its digest must be the same.
    const plain = await opened(await formatted(simDisk(seed + 50), [0], 512, { applyVersion: 4 }));
    for (let n = 1; n <= 120; n++) {
      const channel = channels[below(3)] as string;
      const reader = ['ann', 'bob', 'ä', 'c d', 'e'][below(5)] as string;
      const reported = (): Uint8Array => {
        const upTo = below(30);
        const failed = Array.from({ length: below(3) }, () => failure(1 + below(upTo + 1), 1 + below(3)));
        return report(channel, reader, upTo, { failed, recovered: [below(20), below(20)] });
      };
      const command = [
        () => madeAppend(channel, ['x']),
        () => move(channel, reader, below(30), below(6) === 0),
        reported,
      ][below(3)]?.() as Uint8Array;
      const data = madeEntry([command], timeUs + n);
      const answers = [store.partition(0), plain.partition(0)].map((one) => applyTo(one, data).answers);
      const expected = applyEntry(model, { index: n, term: 1, data }).answers;
      t.same(answers, [expected, expected]);
      if (below(12) === 0) {
        const sealing = store.checkpoint([0]);
        if (below(2) === 0) t.equal((await cursorsOf(store.partition(0))).length, model.cursors.size);
        await sealing;
      }
      if (below(30) === 0) {
        await store.checkpoint([0]);
        await store.close();
        store = await opened(disk);
      }
    }
    const byName = (list: readonly ReadCursor[]) => list.map((c) => JSON.stringify(c)).sort();
    t.same(byName(await cursorsOf(store.partition(0))), byName([...model.cursors.values()]), `seed ${seed}`);
    for (const cursor of model.cursors.values()) {
      const kind = cursor.failed === undefined ? 'read' : 'delivery';
      t.same(await store.partition(0).readCursor('default', cursor.channel, cursor.reader, kind), cursor);
    }
    const digest = await plain.partition(0).digest();
    t.equal(await store.partition(0).digest(), digest, 'digests do not tell what is sealed');
    await store.checkpoint([0]);
    const copy = await copied(store);
    t.equal(await copy.partition(0).digest(), digest, 'a snapshot brings them');
    t.same(byName(await cursorsOf(copy.partition(0))), byName([...model.cursors.values()]));
    for (const one of [store, plain, copy]) await one.close();
  }
});

t.test('a lost row is noticed at open', async (t) => {
  const disk = await formatted(simDisk(), [0], 512, { applyVersion: 4 });
  const store = await opened(disk);
  applyTo(store.partition(0), madeEntry([madeAppend('c', ['1', '2']), move('c', 'ann', 2)], timeUs));
  await store.checkpoint([0]);
  await store.close();
  const key = nameKey(RowKind.cursor, { partition: 0, generation: 1 }, Buffer.from('default\0c\0ann'));
  const kv = handleOf(disk);
  const row = await kv.get(key);
  await kv.close();
  t.equal(
    Buffer.from(row ?? [])
      .subarray(9)
      .toString('hex'),
    '02' + '00401e18240a0600',
  );
  disk.rows.apply([[key.toString('latin1'), undefined]]);
  await rejectsWith(t, opened(disk), 'STORE_DAMAGED');
});
