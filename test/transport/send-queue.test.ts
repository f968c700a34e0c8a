/** The queue of one peer against a model of it: two lists of messages. */
import fc from 'fast-check';
import t from 'tap';
import { messageHeaderBytes } from '../../src/transport/frame.js';
import { SendQueue } from '../../src/transport/send-queue.js';

const size = fc.oneof(
  fc.nat({ max: 20 }),
  fc.nat({ max: 3_000 }),
  fc.integer({ min: 60_000, max: 70_000 }),
  fc.constant(200_000),
);
const step = fc.oneof(
  { weight: 6, arbitrary: fc.record({ push: size, urgent: fc.boolean() }) },
  { weight: 2, arbitrary: fc.record({ take: fc.integer({ min: 1, max: 150_000 }) }) },
  { weight: 1, arbitrary: fc.constant({ clear: true }) },
);

function messagesIn(runs: readonly Uint8Array[]): Buffer[] {
  const bytes = Buffer.concat(runs);
  const messages: Buffer[] = [];
  let at = 0;
  while (at < bytes.length) {
    const end = at + messageHeaderBytes + bytes.readUInt32LE(at);
    messages.push(bytes.subarray(at + messageHeaderBytes, end));
    at = end;
  }
  return messages;
}

t.test('what is taken is what was pushed, urgent first, within the bounds', async (t) => {
  const bulkMax = 400_000;
  const urgentMax = 100_000;
  const cost = (message: Buffer): number => message.length + messageHeaderBytes;
  const sum = (list: Buffer[]): number => list.reduce((all, one) => all + cost(one), 0);
  fc.assert(
    fc.property(fc.array(step, { maxLength: 80 }), (steps) => {
      const queue = new SendQueue(bulkMax, urgentMax);
      const model = { urgent: [] as Buffer[], bulk: [] as Buffer[] };
      let mark = 0;
      for (const step of steps) {
        if ('push' in step) {
          mark = (mark + 1) % 256;
          const message = Buffer.alloc(step.push, mark);
          const list = step.urgent ? model.urgent : model.bulk;
          const fits = list.length === 0 || sum(list) + cost(message) <= (step.urgent ? urgentMax : bulkMax);
          if (queue.push(message, step.urgent) !== fits)
            throw new Error('taken where it does not fit, or not');
          if (fits) list.push(Buffer.from(message));
          message.fill(0xee);
        } else if ('take' in step) {
          const wanted: Buffer[] = [];
          let room = step.take;
          for (const list of [model.urgent, model.bulk]) {
            while (list.length > 0 && (wanted.length === 0 || cost(list[0]!) <= room)) {
              room -= cost(list[0]!);
              wanted.push(list.shift()!);
            }
            if (list.length > 0) break;
          }
          const { runs, count } = queue.take(step.take);
          const got = messagesIn(runs);
          if (count !== wanted.length || got.length !== count)
            throw new Error(`${count} of ${wanted.length}`);
          for (const [i, message] of got.entries()) {
            if (!message.equals(wanted[i]!)) throw new Error(`message ${i} is another one`);
          }
        } else {
          if (queue.clear() !== model.urgent.length + model.bulk.length) throw new Error('dropped');
          model.urgent = [];
          model.bulk = [];
        }
        if (queue.length !== model.urgent.length + model.bulk.length) throw new Error('length');
        if (queue.bytes !== sum(model.urgent) + sum(model.bulk)) throw new Error('bytes');
      }
    }),
    { numRuns: 1_000 },
  );
  t.pass('1,000 histories');
});
