import assert from 'node:assert/strict';
import fc from 'fast-check';
import t from 'tap';
import type { AppendInput } from '../../src/conversation/append-command.js';
import { applyEntry } from '../../src/conversation/apply.js';
import {
  encodeAppendMany,
  encodeCreateChannel,
  encodeDeleteChannel,
  encodeExpireProducers,
  encodeOpenProducer,
  encodeSealChannel,
  encodeUndeleteChannel,
  encodeUpdateChannel,
} from '../../src/conversation/command.js';
import { decodeEntry } from '../../src/conversation/decoded-entry.js';
import type { ChannelState, ProducerState } from '../../src/conversation/types.js';
import type { FindQuery } from '../../src/store/find-channels.js';
import { matches } from '../../src/store/terms.js';
import type { PartitionStore } from '../../src/store/types.js';
import { madeAppend, madeEntry, madeEvent } from '../conversation/make.js';
import { ModelState } from '../conversation/model-state.js';
import { applyTo, formatted, opened, plain, rejectsWith, seededRandom, simDisk, whileDying } from './help.js';

t.setTimeout(600_000);

const everything = { fromSeq: 1, toSeq: Number.MAX_SAFE_INTEGER, maxEvents: 1e9, maxBytes: 1e12 };

/** A field that is not there and one that is undefined say the same. */
function defined(value: object): object {
  return Object.fromEntries(Object.entries(value).filter(([, field]) => field !== undefined));
}

/** Applies to the store and to the model; both must answer the same. */
class Pair {
  readonly model = new ModelState();
  timeUs = 1_700_000_000_000_000;
  constructor(public store: PartitionStore) {}

  apply(commands: Uint8Array[]) {
    this.timeUs += 1_000_000;
    const data = madeEntry(commands, this.timeUs);
    const index = this.store.appliedIndex + 1;
    const expected = applyEntry(this.model, { index, term: 1, data });
    const got = applyTo(this.store, Buffer.from(data));
    assert.deepStrictEqual(got.answers.map(answerOf), expected.answers.map(answerOf));
    return got.answers;
  }

  async same(): Promise<void> {
    this.model.check();
    assert.deepStrictEqual(defined(this.store.meta), defined(this.model.meta));
    for (const channel of this.model.channels.values()) {
      const found = await this.store.channelByName(channel.tenant, channel.name);
      if (channel.deletedTimeUs !== undefined) {
        assert.equal(found, undefined, `${channel.name} is deleted`);
        const kept = this.store.channel(channel.tenant, channel.name);
        assert.deepStrictEqual(
          kept && defined(kept),
          defined(channel),
          `what may come back of ${channel.name}`,
        );
      } else assert.deepStrictEqual(found && defined(found), defined(channel), `fields of ${channel.name}`);
      const expected = this.model.events.get(channel.id) ?? [];
      for (const reverse of [false, true]) {
        const page = await this.store.events(channel, { ...everything, reverse });
        assert.deepStrictEqual(page.map(plain), expected, `events of ${channel.name}`);
      }
    }
    for (const [key, seq] of this.model.messageIds) {
      const [id, text] = split(key);
      assert.equal(await this.store.seqOfMessageId(id, text), seq);
      assert.equal(this.store.messageId(id, text), seq);
    }
    for (const [key, record] of this.model.keys) {
      if (record.commitTimeUs < this.model.meta.keyHorizonUs) continue;
      const [id, text] = split(key);
      const found = this.store.key(id, text);
      assert.deepStrictEqual(found && { ...found, contentDigest: [...found.contentDigest] }, {
        ...record,
        contentDigest: [...record.contentDigest],
      });
    }
    for (const producer of this.model.producers.values()) {
      const stored = this.store.producer(producer.id) as ProducerState;
      assert.deepStrictEqual(
        { ...stored, answers: [...stored.answers] },
        { ...producer, answers: [...producer.answers] },
        `producer ${producer.id}`,
      );
    }
    for (const [place, kept] of this.model.deleted) {
      const name = place.slice('default/'.length);
      assert.equal(await this.store.channelByName('default', name), undefined);
      assert.deepStrictEqual(this.store.deletedChannel('default', name), kept, `what is kept of ${name}`);
    }
    for (const filter of filters) {
      for (const order of ['name', 'activity'] as const) {
        const found = await this.find({ ...filter, order });
        assert.deepStrictEqual(found, this.#expected(filter, order), `${JSON.stringify(filter)} by ${order}`);
        // In pages of two.
        const paged: string[] = [];
        let after: FindQuery['after'];
        for (;;) {
          const page = await this.store.findChannels({ ...everyChannel, ...filter, order, after, limit: 2 });
          paged.push(...page.map((channel) => channel.name));
          const last = page.at(-1);
          if (page.length < 2 || last === undefined) break;
          after = { timeUs: last.activityTimeUs, name: last.name };
        }
        assert.deepStrictEqual(paged, found, 'the same in pages');
      }
    }
    const names = await this.store.listChannels({
      tenant: 'default',
      prefix: '',
      after: undefined,
      limit: 1e6,
    });
    assert.deepStrictEqual(
      names.map((channel) => channel.name),
      [...this.model.channels.values()]
        .filter((channel) => channel.tenant === 'default' && channel.deletedTimeUs === undefined)
        .map((channel) => channel.name)
        .sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b))),
    );
    await this.#sameDeleted();
  }

  /** What may be brought back, in pages of two. */
  async #sameDeleted(): Promise<void> {
    const found: string[] = [];
    for (let after: string | undefined; ; after = found.at(-1)) {
      const page = await this.store.listDeleted({ tenant: 'default', prefix: '', after, limit: 2 });
      found.push(...page.map((channel) => channel.name));
      if (page.length < 2) break;
    }
    assert.deepStrictEqual(
      found,
      (this.model.meta.trash ?? [])
        .map(({ name }) => name)
        .sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b))),
    );
  }

  async find(query: Partial<FindQuery>): Promise<string[]> {
    return (await this.store.findChannels({ ...everyChannel, ...query })).map((channel) => channel.name);
  }

  #expected(
    filter: Pick<FindQuery, 'label' | 'participant' | 'prefix'>,
    order: 'name' | 'activity',
  ): string[] {
    const bytewise = (a: string, b: string) => Buffer.compare(Buffer.from(a), Buffer.from(b));
    return [...this.model.channels.values()]
      .filter((c) => c.deletedTimeUs === undefined)
      .filter((c) => c.tenant === 'default' && c.name.startsWith(filter.prefix) && matches(c, filter))
      .sort(
        (a, b) => (order === 'name' ? 0 : b.activityTimeUs - a.activityTimeUs) || bytewise(a.name, b.name),
      )
      .map((channel) => channel.name);
  }
}

const everyChannel: FindQuery = {
  tenant: 'default',
  prefix: '',
  order: 'name',
  after: undefined,
  limit: 1e6,
  scanMax: 1e6,
};
const filters: Pick<FindQuery, 'label' | 'participant' | 'prefix'>[] = [
  { prefix: '' },
  { prefix: 'channel 1' },
  { prefix: '', label: ['a', 'b'] },
  { prefix: 'channel', label: ['a', 'c'] },
  { prefix: '', participant: 'p' },
  { prefix: 'channel ', participant: 'q', label: ['a', 'b'] },
];

function answerOf(answer: unknown): unknown {
  return JSON.parse(JSON.stringify(answer));
}

function split(key: string): [number, string] {
  const at = key.indexOf('/');
  return [Number(key.slice(0, at)), key.slice(at + 1)];
}

t.test('apply, checkpoint, reopen, read', async (t) => {
  const disk = await formatted(simDisk());
  let store = await opened(disk);
  const pair = new Pair(store.partition(0));
  for (let i = 0; i < 40; i++) {
    pair.apply([
      madeAppend(`room/${i % 3}`, [`message ${i}`, madeEvent('x'.repeat(i * 7), { messageId: `id-${i}` })]),
    ]);
  }
  await pair.same();
  const before = await pair.store.digest();
  await pair.store.checkpoint();
  t.equal(pair.store.sealedIndex, 40);
  t.equal(pair.store.tailBytes, 0);
  t.equal(await pair.store.digest(), before, 'sealing changes nothing that is seen');
  await pair.same();
  await store.close();
  store = await opened(disk);
  pair.store = store.partition(0);
  t.equal(pair.store.appliedIndex, 40);
  t.equal(pair.store.appliedTerm, 1);
  t.strictSame(pair.store.confState.voters, [1, 2, 3]);
  t.equal(await pair.store.digest(), before);
  await pair.same();
  pair.apply([madeAppend('room/1', ['after the reopening'])]);
  await pair.same();
  await store.close();
});

const step = fc.oneof(
  {
    weight: 12,
    arbitrary: fc.record({
      do: fc.constant('append' as const),
      channel: fc.nat(5),
      count: fc.integer({ min: 1, max: 12 }),
      size: fc.nat(900),
      keyed: fc.boolean(),
      named: fc.boolean(),
      producer: fc.nat(3),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant('producer' as const),
      name: fc.constantFrom('', 'importer', 'other'),
    }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('create' as const), channel: fc.nat(8) }) },
  {
    weight: 3,
    arbitrary: fc.record({
      do: fc.constant('delete' as const),
      channel: fc.nat(5),
      again: fc.boolean(),
      permanent: fc.boolean(),
    }),
  },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('undelete' as const), channel: fc.nat(5) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('seal' as const), channel: fc.nat(8) }) },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant('many' as const),
      channels: fc.uniqueArray(fc.nat(6), { minLength: 1, maxLength: 4 }),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      do: fc.constant('update' as const),
      channel: fc.nat(8),
      label: fc.constantFrom('', 'b', 'c'),
      participants: fc.array(fc.constantFrom('p', 'q'), { maxLength: 2 }),
    }),
  },
  { weight: 1, arbitrary: fc.constant({ do: 'expire' as const }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('age' as const), hours: fc.constantFrom(1, 30, 49) }) },
  { weight: 3, arbitrary: fc.constant({ do: 'checkpoint' as const }) },
  { weight: 3, arbitrary: fc.constant({ do: 'checkpoint-behind' as const }) },
  { weight: 1, arbitrary: fc.constant({ do: 'reopen' as const }) },
);

/** Runs steps; what is applied between does not depend on checkpoints and reopenings. */
class Run {
  #random = 1;
  #counters = new Map<number, number>();
  #behind: Promise<void>[] = [];
  constructor(
    readonly pair: Pair,
    readonly reopen: () => Promise<PartitionStore>,
  ) {}

  async step(what: typeof step extends fc.Arbitrary<infer T> ? T : never): Promise<void> {
    const { pair } = this;
    switch (what.do) {
      case 'append': {
        const producers = [...pair.model.producers.keys()];
        const producerId = producers[what.producer] ?? 0;
        const first = (pair.model.producers.get(producerId)?.lastCounter ?? 0) + 1;
        const extra: Partial<AppendInput> =
          producerId === 0 ? {} : { producer: { id: producerId, firstCounter: first } };
        this.#counters.set(producerId, first);
        const events = Array.from({ length: what.count }, (_, i) => {
          const n = this.#random++;
          return madeEvent(`${n}:${'text '.repeat(what.size / 5)}`, {
            saltSeed: n,
            ...(what.keyed ? { key: `key-${(n * 7) % 200}` } : {}),
            ...(what.named && i % 2 === 0 ? { messageId: `message-${n}` } : {}),
          });
        });
        const command = madeAppend(`channel ${what.channel} ü`, events, extra);
        pair.apply([command]);
        if (what.size % 5 === 0) pair.apply([command]);
        return;
      }
      case 'producer':
        pair.apply([encodeOpenProducer('default', what.name)]);
        return;
      case 'create':
        pair.apply([
          encodeCreateChannel({
            tenant: 'default',
            channel: `channel ${what.channel} ü`,
            title: 'A title',
            labels: [['a', 'b']],
            class: 'support',
            participants: [{ id: 'p', displayName: 'P', role: 'user' }],
            requestId: `request ${this.#random++}`,
          } as never),
        ]);
        return;
      case 'delete': {
        const named = { tenant: 'default', channel: `channel ${what.channel} ü` };
        const { permanent } = what;
        const deletion = encodeDeleteChannel({ ...named, requestId: '', allowMissing: false, permanent });
        // Deleted and there again within one entry, too.
        pair.apply(what.again ? [deletion, madeAppend(named.channel, ['again']), deletion] : [deletion]);
        return;
      }
      case 'undelete':
      case 'seal': {
        const named = { tenant: 'default', channel: `channel ${what.channel} ü`, requestId: '' };
        pair.apply([what.do === 'seal' ? encodeSealChannel(named) : encodeUndeleteChannel(named)]);
        return;
      }
      case 'many': {
        const n = this.#random++;
        const appends = what.channels.map((channel) =>
          madeAppend(`channel ${channel} ü`, [madeEvent(`together ${n}`, { saltSeed: n })]),
        );
        const batch = encodeAppendMany('default', `batch ${n}`, appends);
        pair.apply([batch]);
        pair.apply([batch]);
        return;
      }
      case 'update':
        pair.apply([
          encodeUpdateChannel({
            tenant: 'default',
            channel: `channel ${what.channel} ü`,
            requestId: '',
            labels: what.label === '' ? [] : [['a', what.label]],
            participants: what.participants.map((id) => ({ id, displayName: '', role: '' })),
          }),
        ]);
        return;
      case 'expire': {
        pair.timeUs += 8 * 24 * 3_600_000_000;
        const idle = [...pair.model.producers.values()].map(({ id, lastActiveUs }) => ({ id, lastActiveUs }));
        pair.apply([encodeExpireProducers(idle)]);
        return;
      }
      case 'age':
        pair.timeUs += what.hours * 3_600_000_000;
        return;
      case 'checkpoint':
        await pair.store.checkpoint();
        return;
      case 'checkpoint-behind':
        // The next steps are applied and read while this one is built.
        this.#behind.push(pair.store.checkpoint());
        for (let i = 0; i < 3; i++) await new Promise((resolve) => setImmediate(resolve));
        return;
      case 'reopen':
        await this.settle();
        await pair.store.checkpoint();
        pair.store = await this.reopen();
        return;
    }
  }

  async settle(): Promise<void> {
    await Promise.all(this.#behind.splice(0));
  }
}

t.test('the store equals the model wherever checkpoints fall, and digests do not tell', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 5, maxLength: 60 }), async (steps) => {
      const disk = await formatted(simDisk());
      let store = await opened(disk, 40_000);
      const run = new Run(new Pair(store.partition(0)), async () => {
        await store.close();
        store = await opened(disk, 40_000);
        return store.partition(0);
      });
      const plainDisk = await formatted(simDisk());
      const plainStore = await opened(plainDisk);
      const plainRun = new Run(new Pair(plainStore.partition(0)), () => Promise.reject(new Error('no')));
      for (const what of steps) await run.step(what);
      await run.pair.same();
      await run.settle();
      await run.pair.same();
      for (const what of steps) {
        if (!/checkpoint|reopen/.test(what.do)) await plainRun.step(what);
      }
      const expected = await plainRun.pair.store.digest();
      if ((await run.pair.store.digest()) !== expected) throw new Error('digests differ');
      await run.pair.store.checkpoint();
      if ((await run.pair.store.digest()) !== expected) throw new Error('sealing changed the digest');
      await run.pair.same();
      await plainRun.pair.store.checkpoint();
      await plainRun.pair.same();
      assert.equal(await plainRun.pair.store.digest(), expected, 'whatever blocks the events are in');
      await store.close();
      await plainStore.close();
    }),
    { numRuns: 25, seed: Number(process.env.SEED ?? 7), endOnFailure: true },
  );
});

t.test('pages across tail, frozen tail and blocks, while a checkpoint runs', async (t) => {
  const disk = await formatted(simDisk());
  const store = await opened(disk);
  const pair = new Pair(store.partition(0));
  const append = (n: number) => {
    for (let i = 0; i < n; i++) pair.apply([madeAppend('talk', [`text ${i} ${'.'.repeat(i % 90)}`])]);
  };
  append(60);
  await pair.store.checkpoint();
  append(25);
  disk.stall();
  const sealing = pair.store.checkpoint();
  append(15);
  for (let i = 0; i < 5; i++) await new Promise((resolve) => setImmediate(resolve));
  t.ok(pair.store.sealing);
  const channel = (await pair.store.channelByName('default', 'talk')) as ChannelState;
  t.equal(channel.headSeq, 100);
  const pages = async () => {
    const all = pair.model.events.get(channel.id) ?? [];
    const reads: Promise<void>[] = [];
    for (let from = 1; from <= 101; from += 7) {
      for (const size of [1, 6, 50]) {
        for (const reverse of [false, true]) {
          const to = Math.min(from + 40, 120);
          const wanted = all.slice(from - 1, to);
          const expected = reverse ? wanted.slice(-size) : wanted.slice(0, size);
          const range = { fromSeq: from, toSeq: to, maxEvents: size, maxBytes: 1e9, reverse };
          reads.push(
            pair.store.events(channel, range).then((page) => {
              t.strictSame(page.map(plain), expected, JSON.stringify(range));
            }),
          );
        }
      }
    }
    await Promise.all(reads);
  };
  await pages();
  // Reads that begin before the end of the checkpoint, and end after it.
  const reading = pages();
  disk.resume();
  await Promise.all([sealing, reading]);
  t.notOk(pair.store.sealing);
  await pages();
  const tiny = { fromSeq: 1, toSeq: 100, maxEvents: 50, maxBytes: 1 };
  t.equal((await pair.store.events(channel, { ...tiny, reverse: true })).length, 1, 'never empty');
  t.strictSame(await pair.store.events(channel, { ...tiny, fromSeq: 101, toSeq: 200, reverse: false }), []);
  const events = pair.model.events.get(channel.id) ?? [];
  for (const place of [0, 1, 17, 59, 60, 84, 85, 99]) {
    const { commitTimeUs, seq } = events[place] as { commitTimeUs: number; seq: number };
    t.equal(await pair.store.seqAtTime(channel, commitTimeUs), seq);
    t.equal(await pair.store.seqAtTime(channel, commitTimeUs - 1), seq);
    t.equal(await pair.store.seqAtTime(channel, commitTimeUs + 1), seq + 1);
  }
  await store.close();
});

t.test('a crash at each point of a checkpoint leaves what was before it or after it', async (t) => {
  for (const power of [false, true]) {
    let survived = 0;
    let lost = 0;
    for (let turns = 0; turns < 30; turns += 2) {
      const disk = await formatted(simDisk(turns + 1));
      const store = await opened(disk);
      const pair = new Pair(store.partition(0));
      for (let i = 0; i < 30; i++)
        pair.apply([madeAppend(`c${i % 5}`, [madeEvent(`one ${i}`, { key: `k${i}` })])]);
      await pair.store.checkpoint();
      const before = await pair.store.digest();
      for (let i = 0; i < 300; i++)
        pair.apply([
          madeAppend(`c${i % 9}`, [madeEvent(`two ${i} ${'-'.repeat(900)}`, { messageId: `m${i}` })]),
        ]);
      const after = await pair.store.digest();
      whileDying(pair.store.checkpoint());
      for (let i = 0; i < turns; i++) await new Promise((resolve) => setImmediate(resolve));
      if (power) disk.powerLoss();
      else disk.processDeath();
      const again = await opened(disk);
      const partition = again.partition(0);
      const digest = await partition.digest();
      t.equal(digest, partition.appliedIndex === 330 ? after : before);
      t.ok(partition.appliedIndex === 330 || partition.appliedIndex === 30);
      if (partition.appliedIndex === 330) survived++;
      else lost++;
      await again.close();
    }
    t.ok(survived > 0 && lost > 0, `both happened: ${survived} survived, ${lost} lost`);
  }
});

t.test('partitions sealed together survive a power loss together or not at all', async (t) => {
  const outcomes = new Set<string>();
  for (let turns = 0; turns < 12; turns++) {
    const disk = await formatted(simDisk(turns + 1), [0, 1, 2]);
    const store = await opened(disk);
    for (let i = 0; i < 30; i++) {
      applyTo(store.partition(i % 2), madeEntry([madeAppend(`c${i}`, [`text ${i}`])]));
    }
    whileDying(store.checkpoint([0, 1, 2]));
    for (let i = 0; i < turns; i++) await new Promise((resolve) => setImmediate(resolve));
    disk.powerLoss();
    const again = await opened(disk);
    outcomes.add(
      again
        .partitions()
        .map((partition) => partition.appliedIndex)
        .join(),
    );
    await again.close();
  }
  t.strictSame([...outcomes].sort(), ['0,0,0', '15,15,0']);
});

t.test('a failed write ends all sealing; reads still see the frozen tail', async (t) => {
  const disk = await formatted(simDisk());
  const store = await opened(disk);
  const pair = new Pair(store.partition(0));
  pair.apply([madeAppend('c', ['one'])]);
  disk.failWrites = true;
  await rejectsWith(t, pair.store.checkpoint(), 'DISK_FAILED');
  disk.failWrites = false;
  pair.apply([madeAppend('c', ['two'])]);
  await pair.same();
  await rejectsWith(t, pair.store.checkpoint(), 'DISK_FAILED');
  await rejectsWith(t, store.putFact('a', Buffer.from('b')), 'DISK_FAILED');
  await store.close();
});

t.test('reads that overlap applying, freezing and sealing at random see one state each', async (t) => {
  let pages = 0;
  for (let seed = 1; seed <= 6; seed++) {
    const random = seededRandom(seed);
    const disk = await formatted(simDisk(seed, 6), [0, 1]);
    // With hardly any cache every read goes to the disk, slowly.
    const store = await opened(disk, seed % 2 === 0 ? 2_000 : 200_000);
    const pair = new Pair(store.partition(0));
    const turn = () => new Promise((resolve) => setImmediate(resolve));
    let done = false;
    const write = async () => {
      for (let i = 0; i < 250; i++) {
        const event = madeEvent(`${i} ${'.'.repeat(random.u32() % 200)}`, { messageId: `m${i}` });
        const data = [madeAppend(`c${random.u32() % 4}`, [event])];
        await pair.store.prefetch(decodeEntry(madeEntry(data)));
        pair.apply(data);
        for (let rest = random.u32() % 4; rest > 0; rest--) await turn();
      }
      done = true;
    };
    const seal = async () => {
      while (!done) {
        await store.checkpoint(random.u32() % 2 === 0 ? [0] : [0, 1]);
        await turn();
      }
    };
    const read = async () => {
      while (!done) {
        await turn();
        const channel = await pair.store.channelByName('default', `c${random.u32() % 4}`);
        if (channel === undefined) continue;
        const all = pair.model.events.get(channel.id) ?? [];
        const fromSeq = 1 + (random.u32() % channel.headSeq);
        const range = {
          fromSeq,
          toSeq: channel.headSeq,
          maxEvents: 40,
          maxBytes: 1e9,
          reverse: random.u32() % 2 === 0,
        };
        const page = await pair.store.events(channel, range);
        const wanted = all.slice(fromSeq - 1, channel.headSeq);
        assert.deepStrictEqual(page.map(plain), range.reverse ? wanted.slice(-40) : wanted.slice(0, 40));
        const some = all[random.u32() % channel.headSeq] as { seq: number; commitTimeUs: number };
        assert.equal(await pair.store.seqAtTime(channel, some.commitTimeUs), some.seq);
        const ids = [...pair.model.messageIds];
        const [key, seq] = ids[random.u32() % ids.length] as [string, number];
        const [id, text] = split(key);
        assert.equal(await pair.store.seqOfMessageId(id, text), seq);
        const before = pair.model.channels.size;
        const listed = await pair.store.listChannels({
          tenant: 'default',
          prefix: 'c',
          after: undefined,
          limit: 9,
        });
        assert.ok(listed.length >= before && listed.length <= pair.model.channels.size);
        pages++;
      }
    };
    await Promise.all([write(), seal(), read(), read(), read()]);
    await pair.same();
    await store.close();
  }
  t.ok(pages > 100, `${pages} pages`);
});
