/**
 * Folders and ports that a node must not start with: it ends with the reason,
 * in words, and touches nothing.
 */
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  renameSync,
  rmSync,
  symlinkSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import type { Reason } from '../../src/common/errors.js';
import { mainScript, ProcessCluster, type Running, run, type TestNode, until } from './harness.js';
import { faults, readAll, Writer } from './workload.js';

t.setTimeout(240_000);

/** It ends by itself, with that reason and nothing of a stack trace on the last line. */
async function refusal(
  t: Test,
  name: string,
  running: Running,
  reason: Reason,
  words: RegExp,
  exitCode = 6,
): Promise<void> {
  const { code } = await running.end();
  const last = lastWord(running);
  t.match(last, words, `${name}: it says so`);
  t.match(last, reason, `${name}: ${reason}`);
  t.equal(code, exitCode, `${name}: exit code`);
  t.notMatch(running.stderr, /^ +at .*\.js:\d/m, `${name}: no stack trace for what is no defect`);
}

function lastWord(running: Running): string {
  return (
    running.stderr
      .trimEnd()
      .split('\n')
      .reverse()
      .find((line) => /error/i.test(line)) ?? running.tail()
  );
}

interface Case {
  readonly name: string;
  /** Makes the folder from a copy of node 3's. */
  readonly make: (dir: string) => void;
  readonly reason: Reason;
  readonly words: RegExp;
  readonly exitCode: number;
}

t.test('a node starts on its own folder only', async (t) => {
  const cluster = await ProcessCluster.start(t);
  const client = cluster.connect();
  const writer = new Writer(client, 'kept', { inFlight: 8, pauseMs: 10 });
  await until('appends go on', () => writer.acknowledged > 50);
  const [one, two, three] = cluster.nodes as [TestNode, TestNode, TestNode];
  await three.stop();
  const aside = `${three.dir}.aside`;
  renameSync(three.dir, aside);
  const without = (part: string) => (dir: string) => {
    cpSync(aside, dir, { recursive: true });
    rmSync(join(dir, part), { recursive: true });
  };
  const emptied = (part: string) => (dir: string) => {
    without(part)(dir);
    mkdirSync(join(dir, part));
  };
  const cases: Case[] = [
    { name: 'gone', make: () => {}, reason: 'REPLICA_LOST', words: /does not exist/, exitCode: 6 },
    {
      name: 'empty',
      make: (dir) => mkdirSync(dir),
      reason: 'REPLICA_LOST',
      words: /is empty.*hansard init/,
      exitCode: 6,
    },
    { name: 'no log', make: without('log'), reason: 'LOG_DAMAGED', words: /log is missing/, exitCode: 7 },
    {
      name: 'no database',
      make: without('db'),
      reason: 'STORE_DAMAGED',
      words: /db is missing/,
      exitCode: 7,
    },
    {
      name: 'no IDENTITY',
      make: without('IDENTITY'),
      reason: 'STORE_DAMAGED',
      words: /no IDENTITY/,
      exitCode: 7,
    },
    { name: 'log emptied', make: emptied('log'), reason: 'REPLICA_LOST', words: /no segment/, exitCode: 6 },
    {
      name: 'database emptied',
      make: emptied('db'),
      reason: 'REPLICA_LOST',
      words: /no database/,
      exitCode: 6,
    },
    {
      name: "another node's log",
      make: (dir) => {
        without('log')(dir);
        cpSync(join(two.dir, 'log'), join(dir, 'log'), { recursive: true });
      },
      reason: 'REPLICA_LOST',
      words: /log belongs to store/,
      exitCode: 6,
    },
    {
      name: "another node's folder",
      make: (dir) => cpSync(two.dir, dir, { recursive: true }),
      reason: 'REPLICA_LOST',
      words: /folder of node 2.*address given is that of node 3/,
      exitCode: 6,
    },
    {
      name: 'the folder of a process that runs',
      make: (dir) => symlinkSync(one.dir, dir),
      reason: 'DIRECTORY_IN_USE',
      words: /another process has/,
      exitCode: 6,
    },
  ];
  await Promise.all(
    cases.map(async ({ name, make, reason, words, exitCode }, i) => {
      const dir = join(cluster.root, `case-${i}`);
      make(dir);
      // Node 3's place, except where the folder's own addresses are the point.
      const place = ['--client-address', three.clientAddress, '--peer-address', three.peerAddress];
      const running = run(mainScript, [
        'start',
        '--dir',
        dir,
        '--http-address',
        'off',
        ...(name.includes('runs') ? [] : place),
      ]);
      await refusal(t, name, running, reason, words, exitCode);
      if (name === 'gone') t.notOk(existsSync(dir), 'nothing was made');
      if (name === 'empty') t.same(readdirSync(dir), [], 'nothing was made in it');
    }),
  );

  // Its identity is right, its promises are gone: only its peers can know.
  await cluster.init(three);
  await refusal(t, 'made anew', cluster.startNode(three), 'REPLICA_LOST', /store/);
  rmSync(three.dir, { recursive: true });
  renameSync(aside, three.dir);
  cluster.startNode(three);
  await three.ready();
  for (const node of [one, two]) t.ok((await node.readiness())?.ready, `node ${node.id} went on`);
  await writer.stop();
  t.same(faults(writer, await readAll(client, writer.name)), [], 'a writer noticed nothing of all this');
  t.same(writer.errors, []);
});

t.test('ports and permissions', async (t) => {
  const cluster = await ProcessCluster.format(t, { nodes: 1, partitions: 4 });
  const [node] = cluster.nodes as [TestNode];
  for (const address of [node.clientAddress, node.peerAddress, node.httpAddress]) {
    const server = createServer();
    const port = Number(address.split(':')[1]);
    await new Promise<void>((resolve) => server.listen(port, '127.0.0.1', resolve));
    await refusal(t, address, cluster.startNode(node), 'ADDRESS_IN_USE', new RegExp(address));
    await new Promise((resolve) => server.close(resolve));
  }
  cluster.startNode(node);
  await node.ready();
  t.same(await node.stop(), { code: 0, signal: null }, 'and starts when the ports are free');

  const isRoot = process.getuid?.() === 0;
  await t.test('a folder without permission', { skip: isRoot && 'root may write anywhere' }, async (t) => {
    chmodSync(node.dir, 0o500);
    await refusal(t, 'folder', cluster.startNode(node), 'INVALID_SETTINGS', /permission/, 2);
    chmodSync(node.dir, 0o700);
  });
});
