/**
 * The database of format 1 as it was released: read back for ever. To make one
 * for a new format: GOLDEN=write node dist/test/store/golden.test.js
 */
import { readFile, writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { encodeCreateChannel, encodeOpenProducer } from '../../src/conversation/command.js';
import { RowKind } from '../../src/store/keys.js';
import { madeAppend, madeEntry, madeEvent } from '../conversation/make.js';
import type { SimKvDisk } from '../sim/sim-kv.js';
import { applyTo, formatted, opened, plain, simDisk } from './help.js';

const file = fileURLToPath(new URL('../../../test/store/golden/store-v1.json', import.meta.url));

interface Golden {
  digest: string;
  /** First and last content of "a room". */
  texts: [string, string];
  rows: [key: string, value: string][];
}

/** Some of everything, the same each time. */
async function build(): Promise<{ disk: SimKvDisk; digest: string }> {
  const disk = await formatted(simDisk(), [3], 4096);
  const store = await opened(disk);
  const partition = store.partition(3);
  const timeUs = 1_700_000_000_000_000;
  const opened3 = applyTo(partition, madeEntry([encodeOpenProducer('default', 'importer')], timeUs))
    .answers[0];
  const id = opened3?.kind === 'producer' ? opened3.producerId : 0;
  applyTo(
    partition,
    madeEntry(
      [
        encodeCreateChannel({
          tenant: 'default',
          channel: 'described',
          requestId: 'request-1',
          title: 'Ein Titel',
          class: 'support',
          labels: [['color', 'grün']],
          participants: [{ id: 'p1', displayName: 'Ann', role: 'user' }],
        }),
      ],
      timeUs + 1,
    ),
  );
  for (let n = 0; n < 90; n++) {
    const event = madeEvent(`text ${n} ${'and so on '.repeat(n)}`, { key: `key-${n}`, messageId: `id-${n}` });
    const producer = { id, firstCounter: n + 1 };
    applyTo(partition, madeEntry([madeAppend('a room', [event], { producer })], timeUs + 1000 * n));
    if (n % 30 === 29) await partition.checkpoint();
  }
  // A refusal among the producer's answers.
  const refused = madeAppend('a room', [madeEvent('late')], {
    producer: { id, firstCounter: 91 },
    condition: { kind: 'mustNotExist' },
  });
  applyTo(partition, madeEntry([refused], timeUs + 1_000_000));
  await partition.checkpoint();
  await store.putFact('peer 2', Buffer.from('store-2'));
  const digest = await partition.digest();
  await store.close();
  return { disk, digest };
}

t.test('the database of format 1', async (t) => {
  if (process.env.GOLDEN === 'write') {
    const { disk, digest } = await build();
    const rows = [...disk.rows.map]
      .map(([key, value]): [string, string] => [
        Buffer.from(key, 'latin1').toString('hex'),
        Buffer.from(value).toString('hex'),
      ])
      .sort();
    const texts: Golden['texts'] = ['text 0 ', `text 89 ${'and so on '.repeat(89)}`];
    await writeFile(file, `${JSON.stringify({ digest, texts, rows }, undefined, 1)}\n`);
  }
  const golden = JSON.parse(await readFile(file, 'utf8')) as Golden;
  const disk = simDisk();
  disk.rows.apply(
    golden.rows.map(([key, value]) => [
      Buffer.from(key, 'hex').toString('latin1'),
      Buffer.from(value, 'hex'),
    ]),
  );
  const store = await opened(disk);
  const partition = store.partition(3);
  t.equal(await partition.digest(), golden.digest, 'reads back to the same state');
  t.equal(Buffer.from(store.getFact('peer 2') ?? []).toString(), 'store-2');
  const channel = await partition.channelByName('default', 'a room');
  t.equal(channel?.headSeq, 90);
  if (channel === undefined) return;
  const range = { fromSeq: 1, toSeq: 90, reverse: false, maxEvents: 100, maxBytes: 1e9 };
  const contents = (await partition.events(channel, range)).map((event) =>
    Buffer.from(plain(event).content, 'hex').subarray(16).toString(),
  );
  t.strictSame([contents[0], contents.at(-1)], golden.texts);
  t.match(partition.producerByName('default', 'importer'), {
    lastCounter: 91,
    answers: Array.from({ length: 90 }, (_, n) => ({ answer: { kind: 'appended', firstSeq: n + 1 } })),
  });
  t.match(partition.producerByName('default', 'importer')?.answers[90], {
    answer: { kind: 'refused', reason: 'CONDITION_FAILED' },
  });
  t.equal(await partition.seqOfMessageId(channel.id, 'id-44'), 45);
  t.equal(partition.key(channel.id, 'key-44')?.seq, 45);
  await store.close();

  // What compression does not touch is written today as it was then.
  const { disk: today, digest } = await build();
  t.equal(digest, golden.digest);
  const plainKinds: number[] = [
    RowKind.channel,
    RowKind.channelName,
    RowKind.producer,
    RowKind.keyRun,
    RowKind.messageIdRun,
  ];
  for (const [key, value] of golden.rows) {
    if (!plainKinds.includes(Number.parseInt(key.slice(0, 2), 16))) continue;
    const now = today.rows.map.get(Buffer.from(key, 'hex').toString('latin1'));
    t.equal(now && Buffer.from(now).toString('hex'), value, `row ${key.slice(0, 20)}`);
  }
});
