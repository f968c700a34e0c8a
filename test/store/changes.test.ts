/** Following a partition by its change list: every event once, in order, from any place, wherever it lies. */
import t from 'tap';
import { silentLogger } from '../../src/common/logger.js';
import { encodeDeleteChannel } from '../../src/conversation/command.js';
import { readChanges } from '../../src/store/change-rows.js';
import type { ChangePlace } from '../../src/store/changes.js';
import { changesRange, RowKind } from '../../src/store/keys.js';
import { openRow } from '../../src/store/rows.js';
import { openStore } from '../../src/store/store.js';
import type { PartitionStore, Store } from '../../src/store/types.js';
import { madeAppend, madeEntry } from '../conversation/make.js';
import {
  applyTo,
  formatted,
  handleOf,
  ids,
  opened,
  rejectsWith,
  seededRandom,
  simDisk,
  TurnClock,
} from './help.js';

t.setTimeout(600_000);

const timeUs = 1_700_000_000_000_000;
const start: ChangePlace = { index: 0, events: 0 };
const all = () => true;

interface Line {
  readonly index: number;
  readonly name: string;
  readonly seq: number;
}

/** Follows from `from` to the end by pages of `maxEvents`. */
async function follow(
  partition: PartitionStore,
  from: ChangePlace,
  maxEvents: number,
  wants: (tenant: string, name: string) => boolean = all,
  until?: number,
): Promise<{ lines: Line[]; places: ChangePlace[] }> {
  const lines: Line[] = [];
  const places = [from];
  for (let after = from; ; ) {
    const page = await partition.changes({ after, maxEvents, wants, until });
    let count = 0;
    for (const { index, channel, firstSeq, lastSeq } of page.changes) {
      count += lastSeq - firstSeq + 1;
      for (let seq = firstSeq; seq <= lastSeq; seq++) lines.push({ index, name: channel.name, seq });
    }
    if (count > maxEvents) throw new Error('a page is larger than asked for');
    after = page.next;
    places.push(after);
    if (page.atEnd) return { lines, places };
  }
}

const exportTo = async (from: Store, to: Store): Promise<void> => {
  const snapshot = await from.exportSnapshot(0);
  if (snapshot === undefined) throw new Error('nothing sealed');
  const install = await to.beginInstall(0, snapshot.manifest);
  for (let at = snapshot.start; !install.isComplete; ) {
    const { chunk, next } = await snapshot.read(at, 4096);
    await install.add(chunk);
    at = next;
  }
  await install.finish();
  await snapshot.close();
};

t.test('from any place, with any page size, wherever checkpoints, restarts and snapshots fall', async (t) => {
  for (let seed = 1; seed <= 6; seed++) {
    const random = seededRandom(seed);
    const below = (n: number) => random.u32() % n;
    const disk = await formatted(simDisk(seed));
    let store = await opened(disk);
    const model: Line[] = [];
    const heads = new Map<string, number>();
    for (let n = 0; n < 150; n++) {
      const commands: Uint8Array[] = [];
      const index = store.partition(0).appliedIndex + 1;
      for (let c = below(5); c > 0; c--) {
        const name = `channel ${below(6)}`;
        if (below(25) === 0 && (heads.get(name) ?? 0) > 0) {
          const named = {
            tenant: 'default',
            channel: name,
            requestId: '',
            allowMissing: true,
            permanent: below(2) === 0,
          };
          commands.push(encodeDeleteChannel(named));
          continue;
        }
        const texts = Array.from({ length: 1 + below(4) }, (_, i) => `text ${i}`);
        commands.push(madeAppend(name, texts));
        for (const _ of texts) {
          heads.set(name, (heads.get(name) ?? 0) + 1);
          model.push({ index, name, seq: heads.get(name) as number });
        }
      }
      applyTo(store.partition(0), madeEntry(commands, timeUs + n));
      if (below(15) === 0) {
        const sealing = store.checkpoint([0]);
        if (below(2) === 0) {
          // Meanwhile the tail is frozen.
          t.same((await follow(store.partition(0), start, 7)).lines, model);
        }
        await sealing;
      }
      if (below(40) === 0) {
        await store.checkpoint([0]);
        await store.close();
        store = await opened(disk);
      }
      if (below(50) === 0) {
        await store.checkpoint([0]);
        const other = await formatted(simDisk(seed + 100 + n));
        const to = await opened(other);
        await exportTo(store, to);
        t.same((await follow(to.partition(0), start, 50)).lines, model, 'a snapshot brings the list');
        await to.close();
      }
    }
    const partition = store.partition(0);
    const { lines, places } = await follow(partition, start, 3);
    t.same(lines, model, `seed ${seed}`);
    for (let i = 0; i < 10; i++) {
      const place = places[below(places.length)] as ChangePlace;
      const before = (await follow(partition, start, 1 + below(9), all, place.index)).lines.length;
      const rest = (await follow(partition, place, 1 + below(9))).lines;
      t.same(rest, model.slice(before + place.events), 'a place is exact');
    }
    const wants = (_tenant: string, name: string) => name === 'channel 2';
    const some = await follow(partition, start, 2, wants);
    t.same(
      some.lines,
      model.filter(({ name }) => name === 'channel 2'),
    );
    t.same(some.places.at(-1), { index: partition.appliedIndex, events: 0 });
    await store.close();
  }
});

t.test('a listing says as of which index it is', async (t) => {
  const store = await opened(await formatted(simDisk()));
  const partition = store.partition(0);
  applyTo(partition, madeEntry([madeAppend('a', ['1', '2'])]));
  await store.checkpoint([0]);
  const listing = partition.channelsAt({ tenant: 'default', prefix: '', after: undefined, limit: 9 });
  applyTo(partition, madeEntry([madeAppend('a', ['3']), madeAppend('b', ['1'])]));
  t.match(await listing, { appliedIndex: 1, channels: [{ name: 'a', headSeq: 2 }] });
  t.equal((await listing).channels.length, 1);
  await store.close();
});

t.test('the list is kept for its time, then a place before it is refused by name', async (t) => {
  const disk = await formatted(simDisk());
  const store = await opened(disk);
  const partition = store.partition(0);
  const week = 7 * 24 * 3_600_000_000;
  for (let n = 0; n < 5; n++) {
    applyTo(partition, madeEntry([madeAppend('a', [`${n}`])], timeUs + (n * week) / 2));
    await store.checkpoint([0]);
  }
  await rejectsWith(t, follow(partition, start, 9), 'TOKEN_TOO_OLD');
  const { lines } = await follow(partition, { index: 3, events: 0 }, 9);
  t.same(
    lines.map(({ seq }) => seq),
    [4, 5],
  );
  await store.close();
  const again = await opened(disk);
  await rejectsWith(t, follow(again.partition(0), { index: 1, events: 0 }, 9), 'TOKEN_TOO_OLD');
  await again.close();
});

t.test('rows that a checkpoint drops under a reader are too old, never damage', async (t) => {
  const disk = await formatted(simDisk());
  const kv = handleOf(disk);
  // What a batch changes is there to be read before the batch is synced.
  let visible: (() => void) | undefined;
  const batch = kv.batch.bind(kv);
  kv.batch = () => {
    const made = batch();
    const write = made.write.bind(made);
    made.write = async () => {
      await write();
      if (visible === undefined) return;
      visible();
      await new Promise((resolve) => setTimeout(resolve, 50));
    };
    return made;
  };
  const store = await openStore({ kv, ...ids, clock: new TurnClock(), logger: silentLogger });
  const partition = store.partition(0);
  const month = 30 * 24 * 3_600_000_000;
  for (let n = 0; n < 3; n++) {
    applyTo(partition, madeEntry([madeAppend('a', [`${n}`])], timeUs + n));
    await store.checkpoint([0]);
  }
  applyTo(partition, madeEntry([madeAppend('a', ['late'])], timeUs + month));
  const isVisible = new Promise<void>((resolve) => {
    visible = resolve;
  });
  const sealing = store.checkpoint([0]);
  await isVisible;
  await rejectsWith(t, follow(partition, start, 9), 'TOKEN_TOO_OLD');
  await sealing;
  t.equal((await follow(partition, { index: 3, events: 0 }, 9)).lines.length, 1);
  await store.close();
});

t.test('a list with a gap that nobody can mend begins anew, and is whole from there on', async (t) => {
  // As `hansard repair` does with a replica that is trusted: its snapshots and digests would be refused for ever.
  for (const which of ['lost', 'flipped', 'none'] as const) {
    const disk = await formatted(simDisk());
    const store = await opened(disk);
    const partition = store.partition(0);
    for (let n = 0; n < 3; n++) {
      applyTo(partition, madeEntry([madeAppend('a', ['1', '2'])], timeUs + n));
      await store.checkpoint([0]);
    }
    let n = 0;
    disk.damage((key, value) => {
      if (key[0] !== RowKind.change || ++n !== 2 || which === 'none') return value;
      const flipped = Buffer.from(value);
      flipped[12] = (flipped[12] as number) ^ 4;
      return which === 'lost' ? undefined : flipped;
    });
    if (which !== 'none') await rejectsWith(t, partition.digest(), 'STORE_DAMAGED');
    t.equal(await store.giveUpBrokenChanges(0), which !== 'none', which);
    applyTo(partition, madeEntry([madeAppend('a', ['3'])], timeUs + 3));
    await store.checkpoint([0]);
    t.ok(await partition.digest());
    const snapshot = await store.exportSnapshot(0);
    if (snapshot === undefined) throw new Error('there is a snapshot');
    for (let at = snapshot.start, last = false; !last; ) ({ next: at, last } = await snapshot.read(at, 500));
    await snapshot.close();
    if (which === 'none') t.equal((await follow(partition, start, 9)).lines.length, 7);
    else {
      await rejectsWith(t, follow(partition, start, 9), 'TOKEN_TOO_OLD');
      t.equal((await follow(partition, { index: 3, events: 0 }, 9)).lines.length, 1);
    }
    await store.close();
    const again = await opened(disk);
    t.ok(await again.partition(0).digest(), 'also after a start');
    await again.close();
  }
});

t.test('a lost or flipped row is damage, never fewer changes; its bytes are as documented', async (t) => {
  const disk = await formatted(simDisk());
  const build = await opened(disk);
  for (let n = 0; n < 3; n++) {
    const commands = [madeAppend('a', ['1', '2']), madeAppend('ü', ['1'])];
    applyTo(build.partition(0), madeEntry(commands, timeUs + n));
    await build.checkpoint([0]);
  }
  await build.close();
  const kv = handleOf(disk);
  const range = changesRange({ partition: 0, generation: 1 }, 0);
  const iterator = kv.iterator(range);
  const rows = await iterator.next(10);
  await iterator.close();
  await kv.close();
  t.equal(rows.length, 3);
  const [key, row] = rows[1] as [Uint8Array, Uint8Array];
  t.equal(Buffer.from(key).toString('hex'), '290000000000010000000000000002');
  t.equal(
    Buffer.from(row).subarray(9).toString('hex'),
    '010201401e18240a0600020107' +
      '64656661756c740161' +
      '03' +
      '0207' +
      '64656661756c7402c3bc' +
      '02' +
      '020100020001' +
      '01',
  );
  t.match(openRow(key, row, 'it', readChanges), { fromIndex: 1, toIndex: 2, lastTimeUs: timeUs + 1 });
  const name = Buffer.from(key).toString('latin1');
  const whole = Buffer.from(row);
  for (const damage of ['lost', 'flipped'] as const) {
    if (damage === 'lost') disk.rows.apply([[name, undefined]]);
    else {
      const flipped = Buffer.from(whole);
      flipped[12] = (flipped[12] as number) ^ 4;
      disk.rows.apply([[name, flipped]]);
    }
    const store = await opened(disk);
    await rejectsWith(t, follow(store.partition(0), start, 9), 'STORE_DAMAGED');
    t.equal((await follow(store.partition(0), { index: 2, events: 0 }, 9)).lines.length, 3);
    await store.close();
  }
});
