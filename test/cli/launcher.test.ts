/** The launcher: what it finds after every kind of interruption, and that it stops only what is its own. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import {
  clusterDown,
  clusterStatus,
  clusterUp,
  type LauncherHooks,
  lastError,
  type UpOptions,
} from '../../cluster/launcher.js';
import { clusterToml, nodesOf, stateFileOf } from '../../cluster/layout.js';
import { readRecord, signal, stateOf } from '../../cluster/processes.js';
import { parseClusterFile } from '../../src/cli/cluster-file.js';
import { defaultPartitions } from '../../src/common/limits.js';
import { freeBase } from '../support/free-ports.js';
import { patienceMs, until } from '../support/until.js';

const root = mkdtempSync(join(tmpdir(), 'hansard-launcher-'));
const used: string[] = [];
t.teardown(async () => {
  delete process.env.FAKE_NODE;
  for (const dir of used) await clusterDown(dir, 0).catch(() => {});
  rmSync(root, { recursive: true, force: true });
});

const notes: string[] = [];
const formatted: string[] = [];
const hooks: LauncherHooks = {
  async initNode({ dir, clusterFile, nodeId }) {
    const cluster = await parseClusterFile(clusterFile, readFileSync(clusterFile, 'utf8'));
    if (existsSync(dir)) throw new Error(`${dir} is there already`);
    mkdirSync(dir);
    writeFileSync(join(dir, 'IDENTITY'), `${cluster.clusterId} ${nodeId}`);
    formatted.push(dir);
  },
  mainScript: fileURLToPath(new URL('../support/launched-fake.js', import.meta.url)),
  note: (text) => notes.push(text),
};

async function options(
  name: string,
  misbehaviour = '',
): Promise<UpOptions & { dir: string; basePort: number }> {
  process.env.FAKE_NODE = misbehaviour;
  const dir = join(root, name);
  used.push(dir);
  return { dir, nodes: 2, partitions: 4, basePort: await freeBase(), timeoutMs: patienceMs };
}

t.test('up makes and starts, up again resumes what is down, down stops', async (t) => {
  const up = await options('normal');
  const nodes = await clusterUp(up, hooks);
  t.match(nodes, [
    {
      nodeId: 1,
      ready: true,
      leads: 2,
      clientAddress: `127.0.0.1:${up.basePort}`,
      peerAddress: `127.0.0.1:${up.basePort + 2}`,
    },
    { nodeId: 2, ready: true, httpAddress: `127.0.0.1:${up.basePort + 5}` },
  ]);
  const pids = nodes.map((node) => node.pid);
  t.same(
    (await clusterUp(up, hooks)).map((node) => node.pid),
    pids,
    'a second up starts nothing',
  );
  const record = readRecord(nodes[0]?.recordFile ?? '');
  t.ok(record !== undefined && signal(record, 'SIGKILL'));
  while (record !== undefined && stateOf(record) === 'running')
    await new Promise((done) => setTimeout(done, 10));
  // A busy machine may let a probe wait in vain.
  const states = await until('the other is ready', async () => {
    const now = await clusterStatus(up.dir);
    return now[1]?.ready === true && now;
  });
  t.match(states, [{ process: 'stale', ready: false, problem: 'ended unexpectedly' }, { ready: true }]);
  const resumed = await clusterUp({ dir: up.dir }, hooks);
  t.not(resumed[0]?.pid, pids[0]);
  t.equal(resumed[1]?.pid, pids[1]);
  t.match(notes.join('\n'), /node 1 was not running any more/);
  t.match(await clusterDown(up.dir), [{ result: 'stopped' }, { result: 'stopped' }]);
  t.match(await clusterDown(up.dir), [{ result: 'not running' }, { result: 'not running' }]);
  t.match(await clusterStatus(up.dir), [{ process: 'none', problem: 'down' }, {}]);
  await t.rejects(clusterUp({ ...up, nodes: 3 }, hooks), /was made with 2/);
  await t.rejects(clusterUp({ ...up, basePort: 9999 }, hooks), /--base-port 9999/);
});

t.test('a half-finished making is made again; a foreign folder is left alone', async (t) => {
  const up = await options('half');
  const state = {
    version: 1,
    state: 'formatting',
    clusterId: '00',
    nodes: 2,
    basePort: up.basePort,
    partitions: 4,
  };
  mkdirSync(join(up.dir, 'node-1'), { recursive: true });
  writeFileSync(stateFileOf(up.dir), JSON.stringify(state));
  formatted.length = 0;
  await clusterUp(up, hooks);
  t.equal(formatted.length, 2);
  t.match(notes.join('\n'), /interrupted while/);
  await clusterDown(up.dir);
  const foreign = await options('foreign');
  mkdirSync(foreign.dir);
  writeFileSync(join(foreign.dir, 'thesis.doc'), 'x');
  await t.rejects(clusterUp(foreign, hooks), /holds thesis\.doc/);
  t.equal(readFileSync(join(foreign.dir, 'thesis.doc'), 'utf8'), 'x');
  await t.rejects(clusterStatus(join(root, 'nowhere')), /there is no cluster/);
});

t.test('a taken port is named, and nothing is made', async (t) => {
  const up = await options('taken');
  const server = createServer();
  server.listen(up.basePort + 3, '127.0.0.1');
  await once(server, 'listening');
  await t.rejects(clusterUp(up, hooks), new RegExp(`port ${up.basePort + 3}, which node 2 needs`));
  t.notOk(existsSync(stateFileOf(up.dir)));
  server.close();
});

t.test('a node that ends, or never gets ready, is told with its reason', async (t) => {
  await t.rejects(
    clusterUp(await options('ends', 'ends'), hooks),
    /node 1 ended while starting: error: the folder is on fire|node 2 ended/,
  );
  // The user's mistake stays the user's: INTERNAL would ask for a report of a defect.
  await t.rejects(clusterUp(await options('refuses', 'refuses'), hooks), {
    reason: 'INVALID_SETTINGS',
    message: /four segments/,
  });
  await t.rejects(clusterUp(await options('fails', 'fails'), hooks), {
    reason: 'STORE_DAMAGED',
    message: /ended/,
  });
  // The next life, of the same folder and log, ends without a word: the one before spoke for itself alone.
  const refused = await options('refused', 'refuses');
  await t.rejects(clusterUp(refused, hooks), { reason: 'INVALID_SETTINGS', message: /ended/ });
  // It is told as soon as one has ended; the other would go on in the next attempt, and end with what it has to say.
  await until('both have ended', async () =>
    (await clusterStatus(refused.dir)).every((node) => node.process !== 'running'),
  );
  process.env.FAKE_NODE = 'dies';
  await t.rejects(clusterUp(refused, hooks), { reason: 'INTERNAL', message: /starting: Killed; its log/ });
  const never = await options('never', 'never');
  await t.rejects(
    clusterUp({ ...never, timeoutMs: 1_000 }, hooks),
    /not ready after 1 s: node 1 \(.*node 2 \(/,
  );
  // What was started stays up; under load it answers only later.
  await until('both say what they lack', async () =>
    (await clusterStatus(never.dir)).every(({ problem }) => /4 of 4 partitions have no leader/.test(problem)),
  );
});

t.test(
  "a node's last word: of its own life, however long the log, and where the log was cut meanwhile",
  async (t) => {
    const dir = t.testdir();
    const [node] = nodesOf(dir, 1, 5000);
    if (node === undefined) throw new Error('there is one');
    const said = (log: string, logFrom: number): string => {
      mkdirSync(join(node.logFile, '..'), { recursive: true });
      mkdirSync(join(node.recordFile, '..'), { recursive: true });
      writeFileSync(node.logFile, log);
      writeFileSync(node.recordFile, JSON.stringify({ pid: 1, startTime: '1', logFrom }));
      return lastError(node);
    };
    const before = 'error: the life before\n';
    t.equal(said(before, before.length), 'it left no word');
    t.equal(said(`${before}error: ours\nand more\n`, before.length), 'error: ours');
    t.equal(said('error: ours\n', before.length), 'error: ours', 'what was before its words is gone');
    t.equal(said(`${before}${'é'.repeat(100_000)}\nerror: ours\n`, before.length), 'error: ours');
    t.equal(said(`${before}${'long '.repeat(100_000)}`, before.length).length, 500);
  },
);

t.test('down kills what does not listen, and never another process that has the number now', async (t) => {
  const up = await options('deaf', 'deaf');
  const nodes = await clusterUp(up, hooks);
  t.match(await clusterDown(up.dir, 300), [{ result: 'killed' }, { result: 'killed' }]);
  const bystander: ChildProcess = spawn(process.execPath, ['-e', 'setTimeout(() => {}, 600000)'], {
    stdio: 'ignore',
  });
  const file = nodes[0]?.recordFile ?? '';
  writeFileSync(file, JSON.stringify({ pid: bystander.pid, startTime: '12345', command: [], startedAt: '' }));
  t.match(await clusterStatus(up.dir), [{ process: 'stale' }, {}]);
  t.match(await clusterDown(up.dir, 300), [{ result: 'not running' }, {}]);
  t.equal(bystander.exitCode, null);
  bystander.kill('SIGKILL');
  await once(bystander, 'exit');
});

t.test('one launcher at a time; the lock of a dead one is taken over', async (t) => {
  const up = await options('locked');
  mkdirSync(up.dir);
  writeFileSync(join(up.dir, 'launcher.lock'), String(process.pid));
  await t.rejects(clusterUp(up, hooks), /another launcher/);
  writeFileSync(join(up.dir, 'launcher.lock'), '999999999');
  t.equal((await clusterUp(up, hooks)).length, 2);
  await clusterDown(up.dir);
});

t.test('cluster files', async (t) => {
  const state = {
    version: 1,
    state: 'ready',
    clusterId: 'ab'.repeat(16),
    nodes: 3,
    basePort: 5000,
    partitions: 8,
  } as const;
  const made = await parseClusterFile('c.toml', clusterToml(state, nodesOf('/x', 3, 5000)));
  t.match(made, {
    clusterId: state.clusterId,
    partitions: 8,
    replicationFactor: 3,
    nodes: [{ nodeId: 1, clientAddress: '127.0.0.1:5000', peerAddress: '127.0.0.1:5003' }, {}, {}],
  });
  const json = {
    cluster_id: '0f9b3c1e-0000-4000-8000-123456789ABC',
    nodes: [{ node: 7, client_address: 'a:1', peer_address: 'a:2' }],
  };
  t.match(await parseClusterFile('c.json', JSON.stringify(json)), {
    clusterId: '0f9b3c1e000040008000123456789abc',
    partitions: defaultPartitions,
    replicationFactor: 1,
  });
  const bad: [unknown, RegExp][] = [
    [{ ...json, cluster_id: 'x' }, /cluster_id: must be 16 bytes/],
    [{ ...json, nodes: [] }, /nodes/],
    [{ ...json, nodez: 1 }, /nodez/],
    [{ ...json, replication_factor: 3 }, /more than the 1 nodes/],
    [{ ...json, nodes: [...json.nodes, ...json.nodes] }, /node 7 is there twice/],
    [
      { ...json, nodes: [{ node: 1, client_address: 'a', peer_address: 'a:2' }] },
      /nodes\.0\.client_address: must be host:port/,
    ],
  ];
  for (const [value, problem] of bad)
    await t.rejects(parseClusterFile('c.json', JSON.stringify(value)), problem);
  await t.rejects(parseClusterFile('c.toml', 'a = '), /cluster file c\.toml/);
});
