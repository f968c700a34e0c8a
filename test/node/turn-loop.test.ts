/** In which order a turn does its work: nobody elsewhere waits for what can be done later. */
import t from 'tap';
import type { Clock } from '../../src/common/env.js';
import { TurnLoop } from '../../src/node/turn-loop.js';
import type { Replica } from '../../src/partition/replica.js';
import type { TurnOutput } from '../../src/partition/types.js';
import type { GroupWrite, Wal } from '../../src/wal/types.js';

/** A loop whose replicas each write something and apply something, which takes `applyMs`. */
function loopOf(applyMs: number) {
  const done: string[] = [];
  const turns: (() => void)[] = [];
  let nowMs = 0;
  const clock = {
    monotonicMs: () => nowMs,
    defer: (run: () => void) => void turns.push(run),
  } as unknown as Clock;
  const wal = { write: () => void done.push('log') } as unknown as Wal;
  const loop = new TurnLoop(
    clock,
    wal,
    { usedBytes: 0, limitBytes: 1, proposals: 0 },
    () => {},
    () => void done.push('messages'),
    () => false,
  );
  const replica = (name: string): Replica => {
    let hasToApply = true;
    const self = {
      isStirred: false,
      collect(output: TurnOutput) {
        if (!hasToApply) return;
        done.push(`visit ${name}`);
        output.persist(self as unknown as Replica, {} as GroupWrite);
        output.applies(self as unknown as Replica);
      },
      applyCommitted() {
        hasToApply = false;
        nowMs += applyMs;
        done.push(`apply ${name}`);
      },
    };
    return self as unknown as Replica;
  };
  return { loop, replica, done, turns };
}

t.test('what is committed is applied after the turn’s messages and entries have left', (t) => {
  const { loop, replica, done, turns } = loopOf(1);
  loop.stir(replica('a'));
  loop.stir(replica('b'));
  turns.shift()?.();
  t.same(done, ['visit a', 'visit b', 'log', 'messages', 'apply a', 'apply b']);
  t.same(turns, [], 'and that is all');
  t.end();
});

t.test('applying that takes long goes on in the next turn', (t) => {
  const { loop, replica, done, turns } = loopOf(4);
  for (const name of 'abcdefgh') loop.stir(replica(name));
  turns.shift()?.();
  const applied = () => done.filter((what) => what.startsWith('apply')).map((what) => what.slice(6));
  t.same(applied(), [...'abcd'], 'sockets and timers get theirs');
  turns.shift()?.();
  t.same(applied(), [...'abcdefgh'], 'nobody is forgotten');
  t.end();
});
