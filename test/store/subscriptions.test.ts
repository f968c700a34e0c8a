/** Durable subscriptions in the store: the same as in the model through checkpoints, restarts and snapshots. */
import t from 'tap';
import { applyEntry } from '../../src/conversation/apply.js';
import {
  encodeCreateSubscription,
  encodeDeleteSubscription,
  encodeStep,
  type StepOp,
} from '../../src/conversation/subscription-command.js';
import { describeRow } from '../../src/store/describe-row.js';
import { nameKey, RowKind } from '../../src/store/keys.js';
import type { Store } from '../../src/store/types.js';
import { madeAppend, madeEntry } from '../conversation/make.js';
import { ModelState } from '../conversation/model-state.js';
import { applyTo, formatted, handleOf, opened, rejectsWith, seededRandom, simDisk } from './help.js';

t.setTimeout(600_000);

const timeUs = 1_700_000_000_000_000;
const version = { applyVersion: 4 };
const create = (name: string) =>
  encodeCreateSubscription({
    tenant: 'default',
    name,
    requestId: '',
    selector: { channels: ['a'], prefix: 'p', label: ['k', 'v'], types: [1] },
    settings: {
      description: 'd',
      ackDeadlineMs: 1_000,
      maxDeliveries: 1,
      retryDelayMs: 0,
      maxPendingChannels: 10,
      paused: false,
    },
    fromTimeUs: 0,
    places: new Map([[0, Uint8Array.of(0, 1, 0)]]),
  });

async function copied(from: Store): Promise<Store> {
  const to = await opened(await formatted(simDisk(99), [0], 512, version));
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

const shown = (store: Store) => store.partition(0).subscriptionsOf('default');

t.test('equal to the model wherever checkpoints, restarts and snapshots fall', async (t) => {
  for (let seed = 1; seed <= 4; seed++) {
    const random = seededRandom(seed);
    const below = (n: number) => random.u32() % n;
    const disk = await formatted(simDisk(seed), [0], 512, version);
    let store = await opened(disk, seed % 2 === 0 ? 1024 : undefined);
    const model = new ModelState(0, version);
    // Never sealed: its digest must be the same.
    const plain = await opened(await formatted(simDisk(seed + 50), [0], 512, version));
    for (let n = 1; n <= 150; n++) {
      const name = ['x', 'y', 'ä'][below(3)] as string;
      const state = model.subscription('default', name);
      const channel = ['a', 'b'][below(2)] as string;
      const pending = state?.channels.get(channel);
      const lease = pending?.lease?.number ?? 0;
      const head = pending?.to ?? 0;
      const ops: StepOp[] = [
        {
          kind: 'take',
          partition: 0,
          place: Uint8Array.of(0, below(99), 0),
          ranges: [{ channel, firstSeq: head + 1, lastSeq: head + 2, sinceUs: timeUs }],
        },
        { kind: 'lease', channel, consumer: 'ann', toSeq: (pending?.acked ?? 0) + 1 },
        { kind: 'ack', channel, lease, seq: (pending?.acked ?? 0) + 1, nextUs: timeUs },
        { kind: 'nack', channel, lease, delayMs: 0, counted: true, error: 'e' },
        { kind: 'bury', channel, seq: (pending?.acked ?? 0) + 1 },
      ];
      const step = (one: StepOp) =>
        encodeStep({
          tenant: 'default',
          name,
          uid: state?.uid ?? '',
          version: state?.version ?? 0,
          ops: [one],
        });
      const kind = below(12);
      const command =
        state === undefined
          ? create(name)
          : kind === 0
            ? encodeDeleteSubscription({ tenant: 'default', name, expected: undefined })
            : kind === 1
              ? madeAppend('c', ['x'])
              : step(ops[below(ops.length)] as StepOp);
      const data = madeEntry([command], timeUs + n);
      const answers = [store.partition(0), plain.partition(0)].map((one) =>
        structuredClone(applyTo(one, data).answers),
      );
      const expected = structuredClone(applyEntry(model, { index: n, term: 1, data }).answers);
      t.same(answers, [expected, expected]);
      if (below(10) === 0) {
        const sealing = store.checkpoint([0]);
        // Changes go on while it is sealed: what it holds must not follow them.
        if (state !== undefined && below(2) === 0) t.ok(shown(store).length > 0 || kind === 0);
        await sealing;
      }
      if (below(30) === 0) {
        const before = await plain.partition(0).digest();
        await store.checkpoint([0]);
        await store.close();
        store = await opened(disk);
        t.equal(await store.partition(0).digest(), before, 'it is opened as it was closed');
      }
    }
    const ofModel = [...model.subscriptions.values()].sort((a, b) => (a.name < b.name ? -1 : 1));
    t.same(shown(store), ofModel, `seed ${seed}`);
    const digest = await plain.partition(0).digest();
    t.equal(await store.partition(0).digest(), digest, 'digests do not tell what is sealed');
    await store.checkpoint([0]);
    const copy = await copied(store);
    t.equal(await copy.partition(0).digest(), digest, 'a snapshot brings them');
    t.same(shown(copy), ofModel);
    for (const one of [store, plain, copy]) await one.close();
  }
});

t.test('what changes while a checkpoint or a digest runs is not in it', async (t) => {
  const disk = await formatted(simDisk(), [0], 512, version);
  const store = await opened(disk);
  const partition = store.partition(0);
  const apply = (command: Uint8Array) => applyTo(partition, madeEntry([command], timeUs));
  apply(create('x'));
  const digest = await partition.digest();
  const { uid } = partition.subscriptionNow('default', 'x') ?? { uid: '' };
  const take = (v: number): Uint8Array =>
    encodeStep({
      tenant: 'default',
      name: 'x',
      uid,
      version: v,
      ops: [
        {
          kind: 'take',
          partition: 0,
          place: Uint8Array.of(0, v, 0),
          ranges: [{ channel: 'a', firstSeq: v, lastSeq: v, sinceUs: timeUs }],
        },
      ],
    });
  const running = partition.digestAt();
  apply(take(1));
  t.equal((await running).digest, digest);
  const sealing = store.checkpoint([0]);
  apply(take(2));
  await sealing;
  await store.close();
  const again = await opened(disk);
  const { appliedIndex } = again.partition(0);
  t.match(
    again.partition(0).subscriptionNow('default', 'x'),
    { version: appliedIndex },
    'as of the checkpoint',
  );
  await again.close();
});

t.test('a lost row is noticed at open; a row can be shown', async (t) => {
  const disk = await formatted(simDisk(), [0], 512, version);
  const store = await opened(disk);
  applyTo(store.partition(0), madeEntry([create('x')], timeUs));
  await store.checkpoint([0]);
  await store.close();
  const key = nameKey(RowKind.subscription, { partition: 0, generation: 1 }, Buffer.from('default\0x'));
  const kv = handleOf(disk);
  const row = await kv.get(key);
  await kv.close();
  t.match(describeRow(key, row), {
    kind: 'subscription',
    place: { tenant: 'default', subscription: 'x' },
    value: { revision: 1, selector: { prefix: 'p', label: 'k=v' }, settings: { description: 'd' } },
  });
  t.equal(
    Buffer.from(row ?? [])
      .subarray(9)
      .toString('hex'),
    // Uid, request id, selector, settings, two times, revision and version, start, next lease, places, lists, counts.
    '137330303030303630613234313831653430303000' +
      '01016101700101' +
      '6b01760101' +
      '0164e80701000a00' +
      '00401e18240a060000401e18240a0600' +
      '0101' +
      '0000000000000000' +
      '8080f9c0c1c48203' +
      '010003000100' +
      '0000' +
      '0000000000401e18240a0600',
    'the bytes that are written down',
  );
  disk.rows.apply([[key.toString('latin1'), undefined]]);
  await rejectsWith(t, opened(disk), 'STORE_DAMAGED');
});
