/**
 * Folders and ports that a node must not start with: it ends with the reason,
 * in words, and touches nothing.
 */
import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { chmodSync, cpSync, mkdirSync, readdirSync, renameSync, rmSync, symlinkSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import type { Reason } from '../../src/common/errors.js';
import { differingCopies } from './direct.js';
import {
  mainScript,
  ProcessCluster,
  patienceMs,
  type Running,
  run,
  type TestNode,
  until,
} from './harness.js';
import { faults, readAll, Writer } from './workload.js';

t.setTimeout(600_000);

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
  const writer = new Writer(client, 'kept', { inFlight: 8, pauseMs: 40 });
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
  // Missing parts are tried in test/node/directory.test.ts.
  const cases: Case[] = [
    {
      name: 'empty',
      make: (dir) => mkdirSync(dir),
      reason: 'REPLICA_LOST',
      words: /is empty.*hansard init/,
      exitCode: 6,
    },
    { name: 'log emptied', make: emptied('log'), reason: 'REPLICA_LOST', words: /no segment/, exitCode: 6 },
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

/** Why no small file system can be mounted here; undefined: it is. */
function mountSmall(dir: string, size: string): string | undefined {
  mkdirSync(dir, { recursive: true });
  const { status, stderr, error } = spawnSync('mount', ['-t', 'tmpfs', '-o', `size=${size}`, 'tmpfs', dir], {
    encoding: 'utf8',
  });
  return status === 0 ? undefined : `no tmpfs: ${error?.message ?? stderr.trim()}`;
}

t.test('a full disk', async (t) => {
  // With a reserve it would refuse appends long before (test/crash/full.test.ts).
  const args = ['--checkpoint-age', '1s', '--disk-reserve', '0'];
  const cluster = await ProcessCluster.format(t, { partitions: 4, args });
  const three = cluster.node(3);
  const small = join(cluster.root, 'small');
  const problem = mountSmall(small, '24m');
  if (problem !== undefined) {
    t.pass('a full disk', { skip: problem });
    return;
  }
  t.teardown(() => spawnSync('umount', ['-l', small]));
  rmSync(three.dir, { recursive: true });
  await cluster.init(three, join(small, 'data'));
  symlinkSync(join(small, 'data'), three.dir);
  cluster.startAll();
  await cluster.ready();
  const client = cluster.connect();
  const channel = client.channel('filling');
  const sent: string[] = [];
  const append = async (): Promise<void> => {
    // Random, so that no compression makes room.
    const text = randomBytes(48 * 1024).toString('base64');
    const { seq } = await channel.append({ text }, { timeoutMs: patienceMs });
    sent[seq - 1] = text;
  };
  while (three.isUp && sent.length < 2_000) await Promise.all(Array.from({ length: 8 }, append));
  const { signal } = await three.process.end();
  t.equal(signal, 'SIGKILL', `ended by itself after ${sent.length} messages`);
  t.match(lastWord(three.process), /no space left|ENOSPC/i, 'says why');
  t.match(lastWord(three.process), /DISK_FAILED/);
  await append();
  t.pass('the others go on');

  await refusal(
    t,
    'restart on the full disk',
    cluster.startNode(three),
    'DISK_FAILED',
    /no space left|ENOSPC/i,
    7,
  );
  spawnSync('mount', ['-o', 'remount,size=512m', small]);
  cluster.startNode(three);
  await three.ready();
  await append();
  t.same(await differingCopies(cluster.nodes, 'filling', sent.length), [], 'with room it has all again');
});
