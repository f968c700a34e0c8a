/**
 * Recipients at work while processes are killed: every event of a channel is handed out in order, and what was reported
 * as delivered or failed stays so, whichever node is asked.
 */
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { ProcessCluster, patienceMs, until } from './harness.js';

t.setTimeout(600_000);

const range = (from: number, to: number) => Array.from({ length: to - from + 1 }, (_, i) => from + i);

t.test(
  'a recipient and the leader are killed by turns: nothing is passed over, nothing reported is lost',
  async (t) => {
    const cluster = await ProcessCluster.start(t, { partitions: 1 });
    const client = cluster.connect({ timeoutMs: patienceMs });
    const channel = client.channel('room');
    await channel.append({ text: '1' });
    const dir = mkdtempSync(join(tmpdir(), 'hansard-delivery-'));
    t.teardown(() => rmSync(dir, { recursive: true, force: true }));
    const file = join(dir, 'handed-out');
    writeFileSync(file, '');
    const handedOut = (): number[] => readFileSync(file, 'utf8').split('\n').filter(Boolean).map(Number);
    const endpoint = cluster.nodes.map((node) => node.clientAddress).join(',');
    const script = fileURLToPath(new URL('./recipient.js', import.meta.url));
    const begin = () => {
      const child = fork(script, [`hansard://${endpoint}/`, 'room', 'ann', file]);
      t.teardown(() => child.kill('SIGKILL'));
      return child;
    };
    let recipient = begin();
    let sent = 1;
    const append = async (count: number): Promise<void> => {
      for (; count > 0; count--) await channel.append({ text: `${++sent}` });
    };
    for (const round of [1, 2]) {
      await append(40);
      await until('the recipient goes on', () => handedOut().includes(sent - 20), 60_000);
      const ended = once(recipient, 'exit');
      recipient.kill('SIGKILL');
      await ended;
      const leader = await cluster.leaderOf('room');
      await leader.kill();
      recipient = begin();
      await append(20);
      cluster.startNode(leader);
      await cluster.ready();
      t.pass(`round ${round}`);
    }
    const told = async () =>
      (await channel.deliveries({ recipient: 'ann', level: 'linearizable' })).deliveries[0];
    await until('all is reported', async () => (await told())?.pendingEvents === 0, 60_000);
    const seen = handedOut();
    const firsts = [...new Set(seen)];
    t.same(firsts, range(1, sent), 'each for the first time in its turn');
    const back = seen.filter((seq, i) => i > 0 && seq <= (seen[i - 1] as number));
    t.ok(back.length <= 2, `it went back ${back.length} times: as often as it was killed, at most`);
    // recipient.ts fails what can be divided by ten.
    const failed = range(1, sent).filter((seq) => seq % 10 === 0);
    t.match(await told(), {
      upToSeq: sent,
      failed: failed.map((seq) => ({ seq, attempts: 2, reason: 'by ten' })),
    });
    for (const node of cluster.nodes) {
      const alone = cluster.connect({ nodes: [node] });
      for (const [seq, state] of [
        [10, 'failed'],
        [11, 'delivered'],
      ] as const) {
        const page = await alone
          .channel('room')
          .deliveries({ seq, recipient: 'ann', preference: 'nearest', timeoutMs: patienceMs });
        t.match(page.deliveries[0], { state }, `event ${seq} as node ${node.id} tells it`);
      }
    }
  },
);
