/** The way to one node: when it says that nobody is there. */
import assert from 'node:assert/strict';
import { Server, ServerCredentials, type ServerDuplexStream, status } from '@grpc/grpc-js';
import * as fc from 'fast-check';
import t, { type Test } from 'tap';
import { CallsInFlight } from '../../src/client/calls-in-flight.js';
import { type Call, PlainCall } from '../../src/client/frames.js';
import { openLink } from '../../src/client/link.js';
import { methods } from '../../src/client/requests.js';
import type { Outcome } from '../../src/client/rpc-errors.js';
import { patienceMs } from '../support/until.js';
import { codec, FakeCluster } from './fake-cluster.js';

/** Below what a link waits for the next try after a failure that it had before it was asked. */
const atOnceMs = 150;
const nothing = new Uint8Array(0);
const same = (bytes: Buffer): Buffer => bytes;

for (const transport of ['exchange', 'unary'] as const)
  t.test(`${transport}: a node that died is told of at once: failover waits for it`, async (t) => {
    const tookMs: number[] = [];
    // The best of many: a busy machine may make any of them late.
    while (!tookMs.some((ms) => ms < atOnceMs) && tookMs.length < 60) {
      const cluster = new FakeCluster();
      await cluster.start(1);
      const link = openLink(transport, cluster.url.replace('hansard://', '').replace(/\/.*/, ''));
      const ask = (): Promise<Outcome> =>
        new Promise((done) => {
          link.send(new PlainCall(methods.getCluster, nothing, patienceMs, done));
        });
      t.match(await ask(), { ok: true });
      cluster.nodes[0]?.stop();
      // The first may learn of the broken connection, the second meets the refusal.
      const begun = performance.now();
      const outcomes = [await ask(), await ask()];
      tookMs.push(performance.now() - begun);
      t.match(outcomes[1], { ok: false, error: { reason: 'UNREACHABLE' }, inDoubt: false });
      t.ok(link.failedAtMs > 0, 'the link counts as failed');
      link.close();
      await cluster.stop();
    }
    t.ok(Math.min(...tookMs) < atOnceMs, `after ${tookMs.map(Math.round).join(', ')} ms`);
  });

/** Answers a frame's calls in as many frames as it has, all at once; then it goes on, ends, or breaks off with a status. */
async function answeringApart(t: Test, then: 'goes on' | 'ends' | 'breaks off'): Promise<string> {
  const server = new Server();
  const bytes = {
    requestSerialize: same,
    responseSerialize: same,
    requestDeserialize: same,
    responseDeserialize: same,
  };
  const path = '/hansard.v1.ExchangeService/Exchange';
  const requests = codec('hansard.v1.ExchangeRequest');
  const responses = codec('hansard.v1.ExchangeResponse');
  server.addService(
    { Exchange: { path, requestStream: true, responseStream: true, ...bytes } },
    {
      Exchange: (stream: ServerDuplexStream<Buffer, Buffer>) => {
        stream.on('data', (frame: Buffer) => {
          const { calls } = requests.deserialize(frame) as unknown as { calls: { id: string }[] };
          for (const { id } of calls)
            stream.write(responses.serialize({ answers: [{ id, response: Buffer.from(id) }] }));
          if (then === 'ends') stream.end();
          if (then === 'breaks off') stream.emit('error', { code: status.UNAVAILABLE, details: 'it goes' });
        });
        stream.on('end', () => stream.end());
      },
    },
  );
  const port = await new Promise<number>((resolve, reject) => {
    server.bindAsync('127.0.0.1:0', ServerCredentials.createInsecure(), (error, bound) =>
      error === null ? resolve(bound) : reject(error),
    );
  });
  t.teardown(() => server.forceShutdown());
  return `127.0.0.1:${port}`;
}

t.test('one frame is read in a turn: what its callers ask next leaves before the next is read', async (t) => {
  const link = openLink('exchange', await answeringApart(t, 'goes on'));
  t.teardown(() => link.close());
  let turns = 0;
  const turn = (): void => {
    turns++;
    next = setImmediate(turn);
  };
  let next = setImmediate(turn);
  t.teardown(() => clearImmediate(next));
  const ask = (): Promise<{ outcome: Outcome; turn: number }> =>
    new Promise((resolve) => {
      const done = (outcome: Outcome) => resolve({ outcome, turn: turns });
      link.send(new PlainCall(methods.getCluster, nothing, patienceMs, done));
    });
  await ask();
  const answers = await Promise.all(Array.from({ length: 40 }, ask));
  t.ok(answers.every(({ outcome }) => outcome.ok));
  const most = Math.max(...answers.map((one) => answers.filter((other) => other.turn === one.turn).length));
  // Where this process was held up for longer than a turn takes, all that waited was read at once.
  t.ok(most < 40, `${most} of 40 in one turn`);
});

for (const then of ['ends', 'breaks off'] as const)
  t.test(`frames that came before a stream ${then} are read, all of them`, async (t) => {
    const link = openLink('exchange', await answeringApart(t, then));
    t.teardown(() => link.close());
    const ask = (): Promise<Outcome> =>
      new Promise((done) => {
        link.send(new PlainCall(methods.getCluster, nothing, patienceMs, done));
      });
    const outcomes = await Promise.all(Array.from({ length: 40 }, ask));
    t.equal(outcomes.filter(({ ok }) => ok).length, 40);
  });

t.test(
  'calls in flight: taken out by id once, told as lost once by their time, whatever comes in between',
  async () => {
    const step = fc.oneof(
      { weight: 4, arbitrary: fc.record({ add: fc.integer({ min: 0, max: 50 }) }) },
      { weight: 3, arbitrary: fc.record({ take: fc.nat() }) },
      {
        weight: 1,
        arbitrary: fc.record({ lost: fc.integer({ min: 0, max: 80 }), isSilent: fc.boolean() }),
      },
    );
    fc.assert(
      fc.property(fc.array(step, { maxLength: 800, size: 'max' }), (steps) => {
        const calls = new CallsInFlight();
        const model = new Map<number, { call: Call; sentAtMs: number; isLost: boolean }>();
        for (const each of steps) {
          if ('add' in each) {
            const call = new PlainCall(methods.getCluster, nothing, 30, () => {});
            Object.defineProperty(call, 'patienceMs', { value: 5 });
            model.set(calls.nextId, { call, sentAtMs: each.add, isLost: false });
            calls.add(call, each.add);
          } else if ('take' in each) {
            const id = each.take % (calls.nextId + 1);
            assert.equal(calls.take(id), model.get(id)?.call);
            model.delete(id);
          } else {
            const waitMs = each.isSilent ? 5 : 30;
            const lost = [...model.values()].filter(
              ({ sentAtMs, isLost }) => !isLost && sentAtMs + waitMs < each.lost,
            );
            assert.deepEqual(
              calls.lost(each.lost, each.isSilent),
              lost.map(({ call }) => call),
            );
            for (const one of lost) one.isLost = true;
          }
          assert.equal(calls.size, model.size);
        }
        const left = [...model.values()].filter(({ isLost }) => !isLost).map(({ call }) => call);
        assert.deepEqual(calls.takeAll(), left);
        assert.equal(calls.size, 0);
      }),
      { numRuns: 30, endOnFailure: true },
    );
  },
);
