/** A consumer that keeps its place with its results: exactly once in effect, whoever is killed. */
import { type ChildProcess, execFile, spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import t from 'tap';
import { testCluster } from '../../src/index.js';
import { patienceMs, sleep } from '../support/until.js';

t.setTimeout(600_000);

const hasSqlite = spawnSync('python3', ['-c', 'import sqlite3']).status === 0;
const channels = Array.from({ length: 8 }, (_, i) => `order/${i}`);
const perChannel = 30;

/** What the consumer has stored, in the order in which it did. Never waits for python in this turn: the nodes are in this process. */
async function stored(file: string): Promise<[channel: string, seq: number, text: string][]> {
  const script = `
import json, sqlite3, sys
db = sqlite3.connect(sys.argv[1])
db.execute("PRAGMA busy_timeout = 20000")
try:
    print(json.dumps(db.execute("SELECT channel, seq, text FROM event ORDER BY rowid").fetchall()))
except sqlite3.OperationalError:
    print("[]")
`;
  const { stdout } = await promisify(execFile)('python3', ['-c', script, file]);
  return JSON.parse(stdout);
}

t.test(
  'each event is in the database once and in order, though consumers and nodes are killed',
  { skip: hasSqlite ? false : 'python3 with sqlite3 is not installed' },
  async (t) => {
    const folder = mkdtempSync(join(tmpdir(), 'hansard-consumer-'));
    // Checkpoints all the time: the consumer catches up from sealed lists, each node's cut elsewhere.
    const cluster = await testCluster({ nodes: 3, partitions: 4, settings: { checkpointAge: '1s' } });
    const file = join(folder, 'orders.db');
    let consumer: ChildProcess | undefined;
    const startConsumer = () => {
      const script = fileURLToPath(new URL('consumer.js', import.meta.url));
      consumer = spawn(process.execPath, [script, cluster.endpoint, file], {
        stdio: ['ignore', 'ignore', 'inherit'],
      });
    };
    const killConsumer = async () => {
      const ended = new Promise((resolve) => consumer?.once('exit', resolve));
      consumer?.kill('SIGKILL');
      await ended;
    };
    t.teardown(async () => {
      if (consumer?.exitCode === null && consumer.signalCode === null) await killConsumer();
      await cluster.close();
      rmSync(folder, { recursive: true, force: true });
    });
    const client = cluster.connect();
    let isWritten = false;
    const writing = (async () => {
      for (let i = 1; i <= perChannel; i++) {
        await Promise.all(
          channels.map((name) =>
            client.channel(name).append({ text: `${name} ${i}` }, { timeoutMs: patienceMs }),
          ),
        );
        await client.channel('elsewhere').append({ text: 'not wanted' }, { timeoutMs: patienceMs });
        await sleep(60);
      }
      isWritten = true;
    })();
    for (let round = 0; !isWritten || round < 3; round++) {
      const before = (await stored(file)).length;
      startConsumer();
      // In the midst of its work, as far as there is some.
      for (let i = 0; i < 12 && (await stored(file)).length === before; i++) await sleep(150);
      await sleep(20 * (round % 5));
      if (round % 3 === 1) {
        const node = 1 + (round % 3);
        await cluster.kill(node);
        await sleep(300);
        await killConsumer();
        await cluster.restart(node);
      } else await killConsumer();
    }
    await writing;
    startConsumer();
    const wanted = channels.length * perChannel;
    const untilMs = Date.now() + 90_000;
    while ((await stored(file)).length < wanted && Date.now() < untilMs) await sleep(500);
    // What would come twice comes now.
    await sleep(500);
    const rows = await stored(file);
    t.equal(rows.length, wanted, 'as many as were written');
    for (const name of channels) {
      const own = rows.filter(([channel]) => channel === name);
      t.same(
        own.map(([, seq, text]) => `${seq} ${text}`),
        Array.from({ length: perChannel }, (_, i) => `${i + 1} ${name} ${i + 1}`),
        name,
      );
    }
  },
);
