/** What says nothing new leaves with whatever does, or with the next heartbeats. */
import t from 'tap';
import { Heartbeats } from '../../src/node/heartbeats.js';
import { MessageType, message } from '../../src/raft/types.js';

const leader = 2;
const acknowledgement = (index: number, term = 1) =>
  Object.assign(message(MessageType.MsgAppResp, 20), { from: 10, term, index });

function flushed(heartbeats: Heartbeats, answersToo = false): string[] {
  const left: string[] = [];
  heartbeats.flush(answersToo, (_to, kind, beats) => {
    for (const { partition, commit } of beats) left.push(`${kind} ${partition}: ${commit}`);
  });
  return left;
}

t.test('an acknowledgement of what was acknowledged before waits, and is not lost', (t) => {
  const heartbeats = new Heartbeats();
  heartbeats.takes(leader, 0, acknowledgement(7));
  t.same(flushed(heartbeats), ['acknowledgements 0: 7'], 'what is new leaves with its turn');
  heartbeats.takes(leader, 0, acknowledgement(7));
  t.same(flushed(heartbeats), [], 'a commit index that came alone is answered by nothing new');
  heartbeats.takes(leader, 1, acknowledgement(3));
  t.same(
    flushed(heartbeats),
    ['acknowledgements 1: 3', 'acknowledgements 0: 7'],
    'another partition has news',
  );
  heartbeats.takes(leader, 0, acknowledgement(7));
  t.same(flushed(heartbeats, true), ['acknowledgements 0: 7'], 'at the latest with the heartbeats');
  t.end();
});

t.test('it is news to another term, to another peer, and after the link broke', (t) => {
  const heartbeats = new Heartbeats();
  heartbeats.takes(leader, 0, acknowledgement(7));
  flushed(heartbeats);
  heartbeats.takes(leader, 0, acknowledgement(7, 2));
  t.same(flushed(heartbeats), ['acknowledgements 0: 7'], 'its leader was elected anew and knows nothing');
  heartbeats.takes(3, 0, acknowledgement(7, 2));
  t.same(flushed(heartbeats), ['acknowledgements 0: 7']);
  heartbeats.linkUp(leader);
  heartbeats.takes(leader, 0, acknowledgement(7, 2));
  t.same(flushed(heartbeats), ['acknowledgements 0: 7'], 'the last one may never have come there');
  t.end();
});
