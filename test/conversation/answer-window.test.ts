/** The ring of a producer's last answers says what a plain list of them would. */
import t from 'tap';
import { AnswerWindow } from '../../src/conversation/answer-window.js';
import type { AppendAnswer, ProducerAnswer } from '../../src/conversation/types.js';
import { seededRandom } from '../store/help.js';

type Random = ReturnType<typeof seededRandom>;

/** Mostly of the usual shape; every other kind now and then. */
function anyAnswer(random: Random, count: number): AppendAnswer {
  const kind = random.u32() % 8;
  if (kind === 0) return { kind: 'refused', reason: 'CONDITION_FAILED', message: 'no', fields: { n: count } };
  const seqs = kind === 1 ? Array.from({ length: count }, (_, i) => i * 3 + 1) : undefined;
  return {
    kind: 'appended',
    firstSeq: seqs === undefined ? random.u32() : 0,
    count,
    commitTimeUs: 1_700_000_000_000_000 + random.u32(),
    seqs,
    duplicate: kind === 2,
    channelUid: `uid-${random.u32() % 5}`,
  };
}

t.test('any mix of pushes, drops and copies', (t) => {
  const random = seededRandom(11);
  for (let round = 0; round < 40; round++) {
    const most = 1 + (random.u32() % 20);
    let window = new AnswerWindow();
    let list: ProducerAnswer[] = [];
    const kept: { window: AnswerWindow; list: readonly ProducerAnswer[] }[] = [];
    let counter = 1;
    for (let step = 0; step < 200; step++) {
      const what = random.u32() % 20;
      if (what === 0) {
        const count = random.u32() % (list.length + 1);
        window.drop(count);
        list = list.slice(count);
      } else if (what === 1) {
        kept.push({ window, list });
        window = window.clone();
      } else {
        if (list.length === most) {
          window.drop(1);
          list = list.slice(1);
        }
        const count = 1 + (random.u32() % 3);
        const digest = random.u32();
        const answer = anyAnswer(random, count);
        const lastCounter = counter + count - 1;
        window.push(counter, lastCounter, digest, answer);
        list = [...list, { firstCounter: counter, lastCounter, digest, answer }];
        counter += count;
      }
      const asked = counter - (random.u32() % 70);
      const expected = list.find(({ firstCounter }) => firstCounter === asked);
      if (JSON.stringify(window.find(asked)) !== JSON.stringify(expected))
        t.same(window.find(asked), expected);
    }
    kept.push({ window, list });
    for (const each of kept) {
      t.same([...each.window], each.list);
      t.equal(each.window.length, each.list.length);
      t.same([...AnswerWindow.of(each.list)], each.list);
      for (const [i, { answer, firstCounter }] of each.list.entries()) {
        const seqs = answer.kind === 'appended' ? (answer.seqs?.length ?? 0) : 0;
        if (each.window.seqsAt(i) !== seqs) t.equal(each.window.seqsAt(i), seqs);
        if (each.window.firstCounterAt(i) !== firstCounter)
          t.equal(each.window.firstCounterAt(i), firstCounter);
      }
    }
  }
  t.end();
});
