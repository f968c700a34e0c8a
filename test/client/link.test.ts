/** The way to one node: when it says that nobody is there. */
import t from 'tap';
import { openLink } from '../../src/client/link.js';
import { methods } from '../../src/client/requests.js';
import type { Outcome } from '../../src/client/rpc-errors.js';
import { FakeCluster } from './fake-cluster.js';

/** Below what a link waits for the next try after a failure that it had before it was asked. */
const atOnceMs = 150;
const nothing = new Uint8Array(0);

for (const transport of ['exchange', 'unary'] as const)
  t.test(`${transport}: a node that died is told of at once: failover waits for it`, async (t) => {
    const tookMs: number[] = [];
    // The best of several: a busy machine may make any of them late.
    for (let i = 0; i < 5; i++) {
      const cluster = new FakeCluster();
      await cluster.start(1);
      const link = openLink(transport, cluster.url.replace('hansard://', '').replace(/\/.*/, ''));
      const ask = (): Promise<Outcome> =>
        new Promise((done) => {
          const timeoutMs = 2_000;
          const { getCluster: method } = methods;
          link.send({ method, prefix: nothing, producerId: 0, counter: 0, body: nothing, timeoutMs, done });
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
