/** What `hansard inspect` prints of rows whose lists are no plain arrays in memory. */
import t from 'tap';
import { encodeOpenProducer } from '../../src/conversation/command.js';
import { describeRow } from '../../src/store/describe-row.js';
import { changeKey, producerKey } from '../../src/store/keys.js';
import { madeAppend, madeEntry, madeEvent } from '../conversation/make.js';
import { applyTo, formatted, handleOf, opened, simDisk } from './help.js';

t.test('a producer with its last answers, a part of the change list with its changes', async (t) => {
  const disk = await formatted(simDisk(), [0]);
  const store = await opened(disk);
  const partition = store.partition(0);
  const [made] = applyTo(partition, madeEntry([encodeOpenProducer('default', 'importer')])).answers;
  const id = made?.kind === 'producer' ? made.producerId : 0;
  const append = (channel: string, firstCounter: number, count: number, mustNotExist = false) =>
    madeAppend(
      channel,
      Array.from({ length: count }, (_, n) => madeEvent(`text ${n}`)),
      {
        producer: { id, firstCounter },
        ...(mustNotExist ? { condition: { kind: 'mustNotExist' as const } } : {}),
      },
    );
  applyTo(partition, madeEntry([append('a', 1, 2), append('b', 3, 1), append('a', 4, 1)]));
  applyTo(partition, madeEntry([append('a', 5, 1, true)]));
  await partition.checkpoint();
  await store.close();
  const kv = handleOf(disk);
  const place = { partition: 0, generation: 1 };
  const shown = async (key: Buffer) => describeRow(key, await kv.get(key)).value;
  t.match(await shown(producerKey(place, id)), {
    name: 'importer',
    last_counter: 5,
    answers: [
      { first_counter: 1, last_counter: 2, answer: { kind: 'appended', first_seq: 1, count: 2 } },
      { first_counter: 3, last_counter: 3, answer: { kind: 'appended', first_seq: 1, count: 1 } },
      { first_counter: 4, last_counter: 4, answer: { kind: 'appended', first_seq: 3, count: 1 } },
      { first_counter: 5, last_counter: 5, answer: { kind: 'refused', reason: 'CONDITION_FAILED' } },
    ],
  });
  t.match(await shown(changeKey(place, 2)), {
    changes: [
      { channel: 'a', first_seq: 1, last_seq: 2 },
      { channel: 'b', first_seq: 1, last_seq: 1 },
      { channel: 'a', first_seq: 3, last_seq: 3 },
    ],
  });
  await kv.close();
});
