/** Damage of every kind, on the simulated disk: found and named, never silent, never taken for absence. */
import fc from 'fast-check';
import t, { type Test } from 'tap';
import type { HansardError } from '../../src/common/errors.js';
import type { Entry } from '../../src/common/log-types.js';
import { formatWal, type GroupWrite, type Wal, type WalOptions } from '../../src/wal/index.js';
import { SimClock, SimRandom } from '../sim/sim-clock.js';
import { SimDisk } from '../sim/sim-disk.js';
import { contents, entry, identity, open, refused, settleOn } from './harness.js';

const segmentBytes = 64 * 1024;

class Machine {
  readonly clock = new SimClock();
  readonly random: SimRandom;
  disk: SimDisk;
  failures: Error[] = [];
  constructor(seed: number) {
    this.random = new SimRandom(seed);
    this.disk = new SimDisk({ clock: this.clock, random: this.random.fork() });
  }
  settle<T>(promise: Promise<T>): Promise<T> {
    return settleOn(this.clock, promise);
  }
  async format(): Promise<void> {
    await this.settle(formatWal(this.disk.device(), { ...identity, segmentBytes, random: this.random }));
  }
  open(options: Partial<WalOptions> = {}, disk = this.disk): Promise<Wal> {
    return this.settle(
      open(disk.device(), {
        segmentBytes,
        clock: this.clock,
        closeAfterMs: 5,
        onFailure: (error) => this.failures.push(error),
        ...options,
      }),
    );
  }
  write(wal: Wal, ...writes: GroupWrite[]): Promise<void> {
    return this.settle(new Promise((resolve) => wal.write(writes, resolve)));
  }
  /** All that a log holds, for comparison. */
  async state(wal: Wal): Promise<unknown> {
    const groups = [];
    for (const group of wal.groups()) {
      const { partition, replicaId, hardState } = group;
      const entries = await this.settle(contents(group));
      groups.push({ partition, replicaId, hardState, first: group.firstIndex(), entries });
    }
    return groups;
  }
}

/** A log of several segments, all groups in each; the last batch is a closing one. */
async function filled(seed: number): Promise<{ machine: Machine; state: unknown }> {
  const machine = new Machine(seed);
  await machine.format();
  const wal = await machine.open();
  for (const partition of [0, 1]) wal.addGroup(partition, partition + 1);
  for (let index = 1; index <= 14; index++) {
    await machine.write(
      wal,
      ...[0, 1].map((partition) => ({
        partition,
        hardState: { term: Math.ceil(index / 5), vote: 1, commit: index - 1 },
        entries: [entry(partition, Math.ceil(index / 5), index, `${partition}-${index}`.padEnd(4500, '.'))],
      })),
    );
  }
  const state = await machine.state(wal);
  await machine.settle(wal.close());
  return { machine, state };
}

t.test('a flipped bit anywhere is found, or changes nothing', async (t) => {
  const { machine, state } = await filled(1);
  const segments = machine.disk.segments();
  const counts = { damaged: 0, harmless: 0 };
  const tried = new SimRandom(2);
  for (let i = 0; i < 500; i++) {
    const { segment, bytes } = segments[tried.u32() % segments.length] as { segment: number; bytes: number };
    const offset = tried.u32() % bytes;
    const disk = machine.disk.clone();
    disk.flip(segment, offset, 1 << (tried.u32() % 8));
    try {
      const wal = await machine.open({}, disk);
      const found = await machine.state(wal);
      if (JSON.stringify(found) !== JSON.stringify(state)) {
        t.same(found, state, `flip in segment ${segment} at ${offset} went unnoticed`);
        return;
      }
      counts.harmless++;
    } catch (error) {
      if ((error as HansardError).reason !== 'LOG_DAMAGED') throw error;
      counts.damaged++;
    }
  }
  t.ok(counts.damaged > 150, `${counts.damaged} of ${counts.damaged + counts.harmless} found`);
});

t.test('a lost sector in the middle is damage, however the batch after it looks', async (t) => {
  const { machine } = await filled(3);
  const [first] = machine.disk.segments();
  const bytes = machine.disk.bytes(first?.segment ?? 0);
  bytes.fill(0, 3 * 4096, 4 * 4096);
  const error = await refused(t, machine.open(), 'LOG_DAMAGED');
  t.equal(error?.fields.segment, first?.segment);
  t.type(error?.fields.offset, 'number');
});

t.test('damage is attributed where a directory can still be read', async (t) => {
  const machine = new Machine(5);
  await machine.format();
  const wal = await machine.open();
  for (const partition of [0, 1, 2]) wal.addGroup(partition, partition + 1);
  const at = new Map<number, number>();
  for (const partition of [0, 1, 2]) {
    at.set(partition, wal.stats().bytesWritten);
    const hardState = { term: 1, vote: 1, commit: 0 };
    await machine.write(wal, { partition, hardState, entries: [entry(partition, 1, 1, 'x'.repeat(9000))] });
  }
  await machine.settle(wal.close());
  const [file] = machine.disk.segments();
  const segment = file?.segment ?? 0;
  // Partition 1's batch: its payload, then its directory in front, then both directories.
  const offset = at.get(1) ?? 0;
  const batchBytes = (at.get(2) ?? 0) - offset;

  const payload = machine.disk.clone();
  payload.flip(segment, offset + 5000);
  const attributed = await refused(t, machine.open({}, payload), 'LOG_DAMAGED');
  t.same(attributed?.fields, { segment, offset, kind: 'log-damaged', partitions: '1' });

  const front = machine.disk.clone();
  front.flip(segment, offset + 30);
  const behind = await refused(t, machine.open({}, front), 'LOG_DAMAGED');
  t.same(
    behind?.fields,
    { segment, offset, kind: 'log-damaged', partitions: '1' },
    'by the directory at the end',
  );

  front.flip(segment, offset + batchBytes - 40);
  const unknown = await refused(t, machine.open({}, front), 'LOG_DAMAGED');
  t.same(unknown?.fields, { segment, offset, kind: 'term-or-vote-lost', partitions: 'all' });
});

t.test('a segment that is gone is damage', async (t) => {
  const { machine, state } = await filled(7);
  let refusals = 0;
  for (const { segment } of machine.disk.segments()) {
    const disk = machine.disk.clone();
    disk.lose(segment);
    try {
      t.same(await machine.state(await machine.open({}, disk)), state, `segment ${segment} held nothing`);
    } catch (error) {
      t.equal((error as HansardError).reason, 'LOG_DAMAGED');
      refusals++;
    }
  }
  t.ok(refusals >= 2);
});

t.test('a torn tail is cut, and said', async (t) => {
  const machine = new Machine(11);
  await machine.format();
  const wal = await machine.open({ closeAfterMs: 10_000 });
  wal.addGroup(0, 1);
  await machine.write(wal, { partition: 0, entries: [entry(0, 1, 1, 'kept')] });
  const { bytesWritten } = wal.stats();
  await machine.write(wal, { partition: 0, entries: [entry(0, 1, 2, 'torn'.repeat(3000))] });
  machine.disk.crash();
  const [file] = machine.disk.segments();
  machine.disk.flip(file?.segment ?? 0, bytesWritten + 6000);
  const again = await machine.open();
  t.equal(again.stats().replay.tornTail, true);
  t.equal(again.group(0)?.lastIndex(), 1);
  // What is left of it never comes back, whatever is written over it.
  await machine.write(again, { partition: 0, entries: [entry(0, 2, 2, 'new')] });
  machine.disk.losePower();
  const third = await machine.open();
  t.equal(third.group(0)?.term(2), 2);
});

t.test(
  'a failed sync ends the log: no callback, one failure, and the next start relies on nothing unsynced',
  async (t) => {
    for (let seed = 1; seed <= 40; seed++) {
      const machine = new Machine(seed);
      await machine.format();
      const wal = await machine.open();
      wal.addGroup(0, 1);
      await machine.write(wal, { partition: 0, entries: [entry(0, 1, 1, 'a')] });
      machine.disk.failNext('sync');
      let called = 0;
      for (const index of [2, 3])
        wal.write([{ partition: 0, entries: [entry(0, 1, index, 'b')] }], () => called++);
      await machine.clock.run(50);
      t.equal(called, 0);
      t.same(
        machine.failures.map((error) => (error as HansardError).reason),
        ['DISK_FAILED'],
      );
      // The pages read back clean, so the next life finds the batch and shows it …
      machine.disk.crash();
      const again = await machine.open();
      const found = await machine.state(again);
      // … and so must every life after it, also if the power goes at once.
      machine.disk.losePower();
      t.same(await machine.state(await machine.open()), found);
    }
  },
);

t.test('a full disk is a warning while the next segment is ready, then ends the log', async (t) => {
  const machine = new Machine(1);
  await machine.format();
  const wal = await machine.open();
  wal.addGroup(0, 1);
  machine.disk.capacityBytes = 3 * segmentBytes;
  let index = 0;
  for (let i = 0; i < 30 && machine.failures.length === 0; i++) {
    const next = index + 1;
    wal.write([{ partition: 0, entries: [entry(0, 1, next, Buffer.alloc(8000, i))] }], () => {
      index = next;
    });
    await machine.clock.run(20);
  }
  t.match(machine.failures, [{ reason: 'DISK_FAILED', fields: { errno: 'ENOSPC' } }]);
  t.ok(index >= 10, `${index} were written before`);
  machine.disk.crash();
  machine.disk.capacityBytes = Number.POSITIVE_INFINITY;
  t.equal((await machine.open()).group(0)?.lastIndex(), index);
});

t.test('a reset voids what is queued and on its way, also across a restart', async (t) => {
  for (const delayMs of [0, 0.05, 0.2, 0.5, 1, 5]) {
    const machine = new Machine(21);
    await machine.format();
    const wal = await machine.open();
    const group = wal.addGroup(0, 1);
    const done: number[] = [];
    const put = (index: number): void =>
      wal.write(
        [{ partition: 0, hardState: { term: 2, vote: 0, commit: 0 }, entries: [entry(0, 1, index, 'old')] }],
        () => done.push(index),
      );
    put(1);
    await machine.clock.run(delayMs);
    put(2);
    group.reset(50, 3);
    t.equal(group.lastIndex(), 50);
    wal.write([{ partition: 0, entries: [entry(0, 4, 51, 'new')] }], () => done.push(51));
    await machine.clock.run(20);
    t.same(done, [1, 2, 51], 'callbacks keep their order');
    const expected = [{ term: 4, index: 51, text: 'new' }];
    t.same(await machine.settle(contents(group)), expected);
    machine.disk.losePower();
    const again = await machine.open();
    t.same(again.group(0)?.hardState, { term: 2, vote: 0, commit: 50 });
    t.same(await machine.settle(contents(again.group(0) as NonNullable<typeof group>)), expected);
  }
});

t.test('fill gives up entries that were replaced meanwhile', async (t) => {
  const machine = new Machine(31);
  await machine.format();
  const wal = await machine.open({ cacheBytes: 0 });
  const group = wal.addGroup(0, 1);
  await machine.write(wal, { partition: 0, entries: [1, 2, 3].map((i) => entry(0, 1, i, `old ${i}`)) });
  const stale = group.entries(1, 4, 1000);
  t.ok(stale.every(({ data }) => data === undefined));
  const filling = group.fill(stale);
  group.compact(1, 1);
  t.equal(await machine.settle(filling), false);
  const kept = group.entries(2, 4, 1000);
  t.equal(await machine.settle(group.fill(kept)), true);
  await machine.write(wal, { partition: 0, entries: [entry(0, 2, 2, 'new')] });
  t.equal(await machine.settle(group.fill(stale)), false);
  const rotten = group.entries(2, 3, 1000);
  const { segment } = machine.disk.segments()[0] as { segment: number };
  const at = machine.disk.bytes(segment).indexOf('new');
  machine.disk.flip(segment, at);
  await refused(t, machine.settle(group.fill(rotten)), 'LOG_DAMAGED');
});

t.test('any sequence of writes comes back as raft would have it', async (t: Test) => {
  const op = fc.record({
    partition: fc.nat({ max: 3 }),
    back: fc.nat({ max: 3 }),
    newTerm: fc.boolean(),
    sizes: fc.array(fc.nat({ max: 3000 }), { maxLength: 5 }),
    restart: fc.nat({ max: 9 }),
  });
  await fc.assert(
    fc.asyncProperty(fc.array(op, { maxLength: 60 }), async (ops) => {
      const machine = new Machine(41);
      await machine.format();
      let wal = await machine.open();
      const model = new Map<number, { term: number; entries: Entry[] }>();
      for (const { partition, back, newTerm, sizes, restart } of ops) {
        const state = model.get(partition) ?? { term: 1, entries: [] };
        model.set(partition, state);
        if (wal.group(partition) === undefined) wal.addGroup(partition, 1);
        if (newTerm) state.term++;
        const from = Math.max(1, state.entries.length + 1 - back);
        const entries = sizes.map((size, i) =>
          entry(partition, state.term, from + i, Buffer.alloc(size, size)),
        );
        if (entries.length > 0) state.entries.splice(from - 1, state.entries.length, ...entries);
        wal.write([{ partition, hardState: { term: state.term, vote: 0, commit: 0 }, entries }], () => {});
        if (restart === 0) {
          await machine.settle(wal.close());
          wal = await machine.open();
        }
      }
      await machine.settle(wal.close());
      wal = await machine.open();
      for (const [partition, { term, entries }] of model) {
        const group = wal.group(partition);
        if (group === undefined) return false;
        const found = await machine.settle(contents(group));
        if (group.hardState.term !== term || found.length !== entries.length) return false;
        const same = (e: Entry, i: number): boolean =>
          found[i]?.term === e.term && found[i]?.text === Buffer.from(e.data as Uint8Array).toString();
        if (!entries.every(same)) return false;
      }
      return true;
    }),
    { numRuns: 40 },
  );
  t.pass();
});
