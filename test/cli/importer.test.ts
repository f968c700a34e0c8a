/** The importer against a partition that counts: order, resuming, refusals. */
import t from 'tap';
import type { ImportedChannel } from '../../src/cli/channel-record.js';
import type { ImportedMessage } from '../../src/cli/import-line.js';
import {
  type ImportAck,
  type ImportAppendOptions,
  Importer,
  type ImportProducer,
  type ImportTarget,
  importLimits,
  type MadeChannel,
} from '../../src/cli/importer.js';
import type { NewMessage } from '../../src/client/types.js';
import { HansardError } from '../../src/common/errors.js';

const consumed = { counter_consumed: 'true' };

/** Channels of P partitions; each producer's counters are dense, answers come late and out of order. */
class FakeCluster implements ImportTarget {
  readonly channels = new Map<string, NewMessage[]>();
  readonly made = new Map<string, MadeChannel['channel']>();
  /** Of names that were used before: 1 where there is none. */
  readonly firstSeqs = new Map<string, number>();
  readonly sealed = new Set<string>();
  readonly counters = new Map<string, number>();
  readonly batches: number[] = [];
  failAfter = Number.POSITIVE_INFINITY;
  largestInFlight = 0;
  #inFlight = 0;
  partitionOf(channel: string): number {
    return channel.charCodeAt(channel.length - 1) % 4;
  }
  async makeChannel(record: ImportedChannel): Promise<MadeChannel> {
    await new Promise((done) => setTimeout(done, Math.random() * 3));
    const old = this.made.get(record.channel);
    if (old !== undefined) return { made: false, channel: old };
    const channel = { ...record, firstSeq: this.firstSeqs.get(record.channel) ?? 1 };
    this.made.set(record.channel, channel);
    return { made: true, channel };
  }
  async sealChannel(name: string, events: number): Promise<boolean> {
    if (!this.made.has(name) || (this.channels.get(name)?.length ?? 0) !== events) return false;
    this.sealed.add(name);
    return true;
  }
  async openProducer(name: string, channel: string): Promise<ImportProducer> {
    const id = `${name}@${this.partitionOf(channel)}`;
    await new Promise((done) => setTimeout(done, 5));
    return {
      nextCounter: (this.counters.get(id) ?? 0) + 1,
      append: (to, messages, options) => this.#append(id, to, messages, options),
    };
  }
  #append(
    id: string,
    channel: string,
    messages: readonly NewMessage[],
    { counter, condition }: ImportAppendOptions,
  ): Promise<ImportAck> {
    if (--this.failAfter < 0) return Promise.reject(new HansardError('NO_QUORUM', 'gone'));
    if (counter !== (this.counters.get(id) ?? 0) + 1)
      return Promise.reject(new HansardError('PRODUCER_GAP', `${counter}`));
    if (this.sealed.has(channel))
      return Promise.reject(new HansardError('CHANNEL_SEALED', 'it is sealed', consumed));
    const log = this.channels.get(channel) ?? [];
    const base = (this.firstSeqs.get(channel) ?? 1) - 1;
    this.counters.set(id, (this.counters.get(id) ?? 0) + messages.length);
    this.batches.push(messages.length);
    if (
      condition !== undefined &&
      'expectedHeadSeq' in condition &&
      condition.expectedHeadSeq !== base + log.length
    )
      return Promise.reject(new HansardError('CONDITION_FAILED', `head is ${base + log.length}`, consumed));
    const taken = messages.find(
      (m) => m.messageId !== undefined && log.some((old) => old.messageId === m.messageId),
    );
    if (taken !== undefined)
      return Promise.reject(new HansardError('MESSAGE_ID_EXISTS', `${taken.messageId} is taken`, consumed));
    const seqs = messages.map((_, i) => base + log.length + i + 1);
    log.push(...messages);
    this.channels.set(channel, log);
    this.#inFlight++;
    this.largestInFlight = Math.max(this.largestInFlight, this.#inFlight);
    return new Promise((done) =>
      setTimeout(() => {
        this.#inFlight--;
        done({ seqs, checksums: messages.map(() => 7n), duplicate: false });
      }, Math.random() * 3),
    );
  }
}

function messages(count: number, channels: number): ImportedMessage[] {
  return Array.from({ length: count }, (_, i) => ({
    line: i + 1,
    channel: `c${Math.floor(i / 7) % channels}`,
    message: { text: String(i) },
    sizeBytes: 100,
    exported: undefined,
  }));
}

async function run(cluster: FakeCluster, list: readonly ImportedMessage[], maxBytesInFlight = 5_000) {
  const acks = new Map<string, number>();
  const importer = new Importer(cluster, {
    producerName: 'import:x',
    maxBytesInFlight,
    onAck: (m, seq) => acks.set(`${m.channel}/${seq}`, m.line),
  });
  let failure: unknown;
  try {
    for (const m of list) await importer.add(m);
    await importer.finish();
  } catch (error) {
    failure = error;
    await importer.settle();
  }
  return { importer, acks, failure };
}

function expected(list: readonly ImportedMessage[]): Map<string, string[]> {
  const channels = new Map<string, string[]>();
  for (const m of list) channels.set(m.channel, [...(channels.get(m.channel) ?? []), m.message.text ?? '']);
  return channels;
}
const texts = (cluster: FakeCluster) =>
  new Map([...cluster.channels].map(([name, log]) => [name, log.map((m) => m.text ?? '')]));

t.test('every channel gets its messages once, in order; every one is acknowledged', async (t) => {
  const cluster = new FakeCluster();
  const list = messages(2_000, 9);
  const { importer, acks, failure } = await run(cluster, list);
  t.equal(failure, undefined);
  t.same(texts(cluster), expected(list));
  t.equal(importer.added, 2_000);
  t.equal(acks.size, 2_000);
  t.equal(importer.channels, 9);
  t.ok(cluster.largestInFlight > 4, 'many are under way');
  t.ok(cluster.batches.some((n) => n > 1) && cluster.batches.every((n) => n <= importLimits.batchMessages));
});

t.test('a rerun adds nothing; after a failure it goes on where the partition stands', async (t) => {
  const cluster = new FakeCluster();
  const list = messages(1_000, 9);
  cluster.failAfter = 40;
  const broken = await run(cluster, list);
  t.match(broken.failure, { reason: 'NO_QUORUM' });
  t.ok(broken.importer.added > 0 && broken.importer.added < 1_000);
  cluster.failAfter = Number.POSITIVE_INFINITY;
  const resumed = await run(cluster, list);
  t.equal(resumed.failure, undefined);
  t.equal(resumed.importer.before + resumed.importer.added, 1_000);
  t.equal(resumed.importer.before, broken.importer.added);
  t.same(texts(cluster), expected(list));
  const again = await run(cluster, list);
  t.equal(again.importer.before, 1_000);
  t.equal(again.importer.added, 0);
  t.same(texts(cluster), expected(list));
});

t.test('a message that may be refused travels alone and takes no other with it', async (t) => {
  const cluster = new FakeCluster();
  const list = messages(100, 1).map((m, i) =>
    i % 10 === 5 ? { ...m, message: { ...m.message, messageId: `id-${i % 20}` } } : m,
  );
  const { importer } = await run(cluster, list);
  t.equal(importer.refused, 8, 'ids 5 and 15 are there once each');
  t.equal(importer.added, 92);
  t.match(importer.refusals[0], { line: 26, reason: 'MESSAGE_ID_EXISTS' });
});

t.test('an export is loaded in its own appends, with its seqs, into empty channels alone', async (t) => {
  const cluster = new FakeCluster();
  const sizes = [1, 3, 1, 2];
  const list: ImportedMessage[] = [];
  for (const size of sizes)
    for (let i = 0; i < size; i++)
      list.push({
        line: list.length + 1,
        channel: 'c',
        message: { text: 'x' },
        sizeBytes: 10,
        exported: { seq: list.length + 1, checksum: '0'.repeat(16), batchPosition: i, refersBySeq: false },
      });
  const { failure } = await run(cluster, list);
  t.equal(failure, undefined);
  t.same(cluster.batches, sizes);
  const occupied = new FakeCluster();
  occupied.channels.set('c', [{ text: 'old' }]);
  const refused = await run(occupied, list);
  t.match(refused.failure, { reason: 'CONDITION_FAILED', message: /line 1: channel c .* empty/ });
  for (const missing of [0, 1, 2, 3, 4]) {
    const torn = await run(new FakeCluster(), list.toSpliced(missing, 1));
    t.match(torn.failure, { reason: 'CONDITION_FAILED' }, `without line ${missing + 1}`);
  }
});

t.test('an export of appends that were repeats by key in part is loaded with its seqs', async (t) => {
  const cluster = new FakeCluster();
  // One whole append, then five of which only these places were new.
  const places = [0, 1, 2, 1, 0, 2, 1, 2];
  const list: ImportedMessage[] = places.map((batchPosition, i) => ({
    line: i + 1,
    channel: 'c',
    message: { text: String(i) },
    sizeBytes: 10,
    exported: { seq: i + 1, checksum: '0'.repeat(16), batchPosition, refersBySeq: false },
  }));
  const { failure } = await run(cluster, list);
  t.equal(failure, undefined);
  t.same(texts(cluster), expected(list));
  t.same(cluster.batches, [3, 1, 1, 3]);
});

/** Channels of an export: a record each, and its messages; every third message is about the one before it. */
function exported(
  channels: readonly { name: string; firstSeq: number; count: number; title?: string; sealed?: boolean }[],
) {
  const lines: (ImportedChannel | ImportedMessage)[] = [];
  for (const { name, firstSeq, count, title = '', sealed = false } of channels) {
    const headSeq = firstSeq + count - 1;
    const line = lines.length + 1;
    const fields = { title, class: '', labels: {}, participants: [], sealed };
    lines.push({ line, channel: name, ...fields, firstSeq, headSeq });
    for (let i = 0; i < count; i++) {
      const seq = firstSeq + i;
      const message = { text: `${name}/${i}`, ...(i % 3 === 1 ? { targetSeq: seq - 1 } : {}) };
      const place = { seq, checksum: '0'.repeat(16), batchPosition: 0, refersBySeq: i === 2 };
      lines.push({ line: lines.length + 1, channel: name, message, sizeBytes: 10, exported: place });
    }
  }
  return lines;
}
async function load(cluster: FakeCluster, lines: readonly (ImportedChannel | ImportedMessage)[]) {
  const importer = new Importer(cluster, {
    producerName: 'import:x',
    maxBytesInFlight: 5_000,
    onAck: () => {},
  });
  let failure: unknown;
  try {
    for (const line of lines)
      if ('message' in line) await importer.add(line);
      else await importer.addChannel(line);
    await importer.finish();
    await importer.sealChannels();
  } catch (error) {
    failure = error;
    await importer.settle();
  }
  return { importer, failure };
}

t.test(
  'channels of an export come with their fields, the empty ones too, and begin where they can',
  async (t) => {
    const cluster = new FakeCluster();
    cluster.firstSeqs.set('used1', 21);
    const lines = exported([
      { name: 'empty0', firstSeq: 1, count: 0, title: 'nothing yet' },
      { name: 'plain0', firstSeq: 1, count: 5 },
      { name: 'again0', firstSeq: 8, count: 4 },
      { name: 'used1', firstSeq: 3, count: 4, title: 'deleted here before' },
      { name: 'empty1', firstSeq: 5, count: 0 },
    ]);
    const { importer, failure } = await load(cluster, lines);
    t.equal(failure, undefined);
    t.same([...cluster.made.keys()].sort(), ['again0', 'empty0', 'empty1', 'plain0', 'used1']);
    t.equal(cluster.made.get('empty0')?.title, 'nothing yet');
    t.match(importer, { added: 13, kept: 0, channels: 5, renumbered: 2, staleReferences: 2 });
    const targets = (name: string) => cluster.channels.get(name)?.map((m) => m.targetSeq);
    t.same(targets('plain0'), [undefined, 1, undefined, undefined, 4], 'seqs as they were');
    t.same(targets('again0'), [undefined, 1, undefined, undefined], 'what an event is about moves with it');
    t.same(targets('used1'), [undefined, 21, undefined, undefined]);

    const rerun = await load(cluster, lines);
    t.match(rerun.importer, { added: 0, before: 13, kept: 0, refused: 0 }, 'a rerun adds nothing');
    cluster.made.delete('plain0');
    const later = await load(cluster, lines);
    t.equal(later.failure, undefined);
    t.notOk(cluster.made.has('plain0'), 'nor does it make anew what was deleted since');
    cluster.made.set('empty0', {
      ...cluster.made.get('empty0'),
      title: 'changed since',
    } as MadeChannel['channel']);
    t.match((await load(cluster, lines)).importer, { kept: 1, added: 0 });
    t.equal(cluster.made.get('empty0')?.title, 'changed since');
  },
);

t.test('sealed channels are sealed behind their last event, and only as they were exported', async (t) => {
  const lines = exported([
    { name: 'ended0', firstSeq: 1, count: 7, sealed: true },
    { name: 'open0', firstSeq: 1, count: 2 },
    { name: 'empty1', firstSeq: 4, count: 0, sealed: true },
  ]);
  const cluster = new FakeCluster();
  cluster.failAfter = 5;
  t.match((await load(cluster, lines)).failure, { reason: 'NO_QUORUM' });
  t.same([...cluster.sealed], [], 'the rest of its events is still to come');
  cluster.failAfter = Number.POSITIVE_INFINITY;
  for (const added of [4, 0]) {
    const { importer, failure } = await load(cluster, lines);
    t.equal(failure, undefined);
    t.match(importer, { added, refused: 0, unsealed: 0 });
    t.same([...cluster.sealed].sort(), ['empty1', 'ended0']);
  }
  // Deleted since, and the name used again.
  cluster.sealed.clear();
  cluster.channels.set('ended0', [{ text: 'another life' }]);
  t.match((await load(cluster, lines)).importer, { added: 0, unsealed: 1 });
  t.same([...cluster.sealed], ['empty1']);
});

t.test('loading channels goes on after a failure, wherever it came', async (t) => {
  const lines = exported(
    Array.from({ length: 12 }, (_, i) => ({ name: `c${i % 4}${i}`, firstSeq: 1 + (i % 3), count: i % 5 })),
  );
  const total = lines.filter((line) => 'message' in line).length;
  for (const failAfter of [0, 1, 5, 11, 17]) {
    const cluster = new FakeCluster();
    cluster.failAfter = failAfter;
    const broken = await load(cluster, lines);
    t.match(broken.failure, { reason: 'NO_QUORUM' });
    cluster.failAfter = Number.POSITIVE_INFINITY;
    const resumed = await load(cluster, lines);
    t.equal(resumed.failure, undefined);
    t.equal(resumed.importer.before + resumed.importer.added, total, `broken after ${failAfter}`);
    t.equal([...cluster.channels.values()].flat().length, total);
    t.equal(cluster.made.size, 12);
  }
});
