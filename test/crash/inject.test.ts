/**
 * Calls that fail. The process ends at once, with a last word that names what
 * failed, and the next start finds all that was acknowledged. No call is tried
 * again on the same file; only a segment made ahead may fail without harm.
 */
import { readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { connect } from '../../src/client/index.js';
import { initNode } from '../../src/node/open.js';
import { valueFileName } from '../../src/store/value-format.js';
import { mainScript, patienceMs, Running, until } from '../cluster/harness.js';
import { freePorts } from '../support/free-ports.js';
import { checkState } from './check.js';
import { noPromises, promisesAt } from './promises.js';
import { NodeProcess, scratchFolder } from './record.js';
import { readTree } from './recorder.js';
import { injectCommand, straceMissing, tracedEnv } from './strace.js';

interface Failure {
  readonly what: string;
  readonly call: string;
  /** As strace has it. */
  readonly how: string;
  /** Names below the node's folder. */
  readonly on: readonly string[];
  /** The last word holds all of it. */
  readonly word: readonly RegExp[];
}

const numbers = Array.from({ length: 60 }, (_, i) => i + 1);
const padded = (n: number, digits: number): string => String(n).padStart(digits, '0');
const segments = numbers.map((n) => `log/log-${padded(n, 16)}.seg`);
const drafts = segments.map((name) => `${name}.new`);
const databaseLogs = numbers.map((n) => `db/${padded(n, 6)}.log`);
const valueFiles = numbers.map((n) => `db/${valueFileName(n)}`);
const tables = numbers.map((n) => `db/${padded(n, 6)}.ldb`);

const failures: readonly Failure[] = [
  {
    what: 'a sync of the log',
    call: 'fdatasync',
    how: 'error=EIO:when=40',
    on: segments,
    word: [/the log's disk failed/, /EIO/, /fdatasync/, /log-\d+\.seg/],
  },
  {
    what: 'a write of the log, for want of room',
    call: 'pwrite64',
    how: 'error=ENOSPC:when=40',
    on: segments,
    word: [/the log's disk failed/, /ENOSPC/, /write/, /log-\d+\.seg/],
  },
  {
    what: 'a rename of a segment',
    call: 'rename',
    how: 'error=EIO:when=4',
    on: segments,
    word: [/the log's disk failed/, /EIO/, /rename/, /log-\d+\.seg/],
  },
  {
    what: "a sync of the log's folder",
    call: 'fsync',
    how: 'error=EIO:when=4',
    on: ['log'],
    word: [/the log's disk failed/, /EIO/, /fsync/, /\/log/],
  },
  {
    what: "a write of the database's log",
    call: 'write',
    how: 'error=ENOSPC:when=12',
    on: databaseLogs,
    word: [/a write to the database failed/, /No space left/, /\d+\.log/],
  },
  {
    what: "a sync of the database's log",
    call: 'fdatasync',
    how: 'error=EIO:when=4',
    on: databaseLogs,
    word: [/a write to the database failed/, /Input\/output error/, /\d+\.log/],
  },
  {
    what: 'a sync of a value file',
    call: 'fdatasync',
    how: 'error=EIO:when=3',
    on: valueFiles,
    word: [/a write to the database failed/, /EIO/, /fdatasync/, /values-\d+\.val/],
  },
  {
    what: 'a write of a value file, for want of room',
    call: 'pwrite64',
    how: 'error=ENOSPC:when=4',
    on: valueFiles,
    word: [/a write to the database failed/, /ENOSPC/, /values-\d+\.val/],
  },
  {
    what: 'a sync of a table that the database writes by itself',
    call: 'fdatasync',
    // Not those of its making.
    how: 'error=EIO:when=1',
    on: tables.slice(8),
    word: [/a write to the database failed/, /Input\/output error/, /\d+\.ldb/],
  },
  {
    what: "a sync of the database's folder",
    call: 'fsync',
    how: 'error=EIO:when=8',
    on: ['db'],
    word: [/a write to the database failed/, /EIO|Input\/output error/],
  },
  {
    what: 'room for the next segment',
    call: 'openat',
    how: 'error=ENOSPC:when=3+',
    on: drafts,
    word: [/the log's disk failed/, /ENOSPC/, /open/, /log-\d+\.seg\.new/],
  },
];

async function fails(t: Test, folder: string, failure: Failure, i: number): Promise<void> {
  const dir = join(folder, `node-${i}`);
  const markFile = join(folder, `marks-${i}`);
  const [client, peer] = await freePorts(2);
  const node = new NodeProcess(
    {
      dir,
      markFile,
      nodeId: 1,
      clusterId: 'c1'.repeat(16),
      members: [{ nodeId: 1, clientAddress: `127.0.0.1:${client}`, peerAddress: `127.0.0.1:${peer}` }],
      partitions: 4,
      init: true,
      appendFrom: 0,
    },
    injectCommand(
      failure.call,
      failure.how,
      failure.on.map((name) => join(dir, name)),
    ),
  );
  try {
    await node.until('it failed', () => node.isGone).catch(() => {});
  } finally {
    await node.kill();
  }
  const lastWord = node.output.trim().split('\n').at(-1) ?? '';
  t.match(lastWord, /^fatal /, `it ends by itself: ${lastWord}`);
  for (const part of failure.word) t.match(lastWord, part);
  const marks = readFileSync(markFile, 'utf8')
    .split('\n')
    .filter((text) => text !== '');
  const promises = promisesAt(
    marks.map((text) => ({ at: 0, text })),
    0,
    noPromises(),
  );
  t.ok(promises.acknowledged.size > 0, 'it had acknowledged appends');
  const verdict = await checkState(join(folder, `again-${i}`), readTree(dir), promises);
  t.equal(verdict.refused, undefined, 'it starts again');
  t.same(verdict.problems, [], 'with all that it had acknowledged');
}

t.test('a call that fails', { skip: straceMissing() ?? false }, async (t) => {
  const folder = scratchFolder();
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  for (const [i, failure] of failures.entries())
    await t.test(failure.what, (t) => fails(t, folder, failure, i));
});

/** A node of its own, of one segment after another, and a client of it. */
async function madeNode(t: Test) {
  const folder = scratchFolder();
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  const dir = join(folder, 'node');
  const [client, peer] = await freePorts(2);
  const member = { nodeId: 1, clientAddress: `127.0.0.1:${client}`, peerAddress: `127.0.0.1:${peer}` };
  await initNode({
    dir,
    clusterId: 'c1'.repeat(16),
    nodeId: 1,
    partitionCount: 1,
    replicationFactor: 1,
    members: [member],
    segmentBytes: 1024 * 1024,
  });
  const sdk = connect(`hansard://${member.clientAddress}`, { timeoutMs: patienceMs });
  t.teardown(() => sdk.close());
  const args = [
    'start',
    '--dir',
    dir,
    '--http-address',
    'off',
    '--log-format',
    'json',
    '--log-segment',
    '1MiB',
  ];
  const start = (place: readonly string[] = []) => {
    const node = new Running(mainScript, [...args, '--log-max', '8MiB'], tracedEnv, place);
    t.teardown(() => {
      node.signal('SIGKILL');
      return node.ended;
    });
    return node;
  };
  return { sdk, start, segments: segments.map((name) => join(dir, name)) };
}

async function lastWordOf(node: Running): Promise<Record<string, unknown>> {
  await node.ended;
  return JSON.parse(node.stderr.trim().split('\n').at(-1) ?? '') as Record<string, unknown>;
}

t.test('the last word of `hansard start`', { skip: straceMissing() ?? false }, async (t) => {
  const { sdk, start, segments } = await madeNode(t);
  const node = start(injectCommand('fdatasync', 'error=EIO:when=8', segments));
  const appends = (async () => {
    while (!node.isGone) {
      const text = { role: 'user', text: 'x'.repeat(2000) } as const;
      await sdk
        .channel('a')
        .append(text, { timeoutMs: 500 })
        .catch(() => {});
    }
  })();
  await until('it has ended', () => node.isGone);
  await appends;
  t.match(await lastWordOf(node), {
    msg: /^the node ends: the log's disk failed: EIO.*fdatasync.*log-\d+\.seg/,
    reason: 'DISK_FAILED',
    cure: /Check the disk/,
  });
});

t.test(
  'no room for the log while a durable subscription is at work: it goes on where it was, and misses nothing',
  { skip: straceMissing() ?? false },
  async (t) => {
    const { sdk, start, segments } = await madeNode(t);
    // Appends, steps that take and steps that acknowledge: any of them may be the one.
    const when = 100 + Math.floor(Math.random() * 50);
    t.comment(`write ${when} fails`);
    const node = start(injectCommand('pwrite64', `error=ENOSPC:when=${when}`, segments));
    const subscription = sdk.subscription('w');
    await subscription.create({ prefix: 'c', fromBeginning: true, retryDelayMs: 0 });
    const problems: string[] = [];
    const handled = new Map<string, number>();
    /** As the node has said: what is acknowledged stays so. */
    const acknowledged = new Map<string, number>();
    let acknowledgedInAll = 0;
    const worker = subscription.consume({
      maxBatch: 3,
      handler: ({ channel, event: { seq } }) => {
        const last = handled.get(channel) ?? 0;
        if (seq > last + 1) problems.push(`${channel} ${seq} came behind ${last}`);
        if (seq <= (acknowledged.get(channel) ?? 0)) problems.push(`${channel} ${seq} came again`);
        handled.set(channel, Math.max(seq, last));
      },
    });
    worker.done.catch((error) => problems.push(`the worker ended: ${error}`));
    const names = ['c1', 'c2', 'c3'];
    const append = (i: number) =>
      sdk
        .channel(names[i % names.length] as string)
        .append([{ text: `${i}` }, { text: 'more' }], { timeoutMs: 500 });
    const look = async (): Promise<void> => {
      for await (const { channel, acknowledgedSeq } of subscription.pending({ timeoutMs: 500 }))
        acknowledged.set(channel, acknowledgedSeq);
      acknowledgedInAll = (await subscription.info({ timeoutMs: 500 })).progress.acknowledged;
    };
    for (let i = 0; !node.isGone; i++) await Promise.all([append(i), look()]).catch(() => undefined);
    t.match(await lastWordOf(node), { msg: /ENOSPC.*write.*log-\d+\.seg/, reason: 'DISK_FAILED' });
    t.ok(acknowledgedInAll > 0, `${acknowledgedInAll} were acknowledged`);
    start();
    const { progress } = await subscription.info();
    t.ok(progress.acknowledged >= acknowledgedInAll, `${progress.acknowledged} are`);
    for (let i = 0; i < 6; i++)
      await sdk.channel(names[i % names.length] as string).append({ text: 'after' });
    for (const name of names) {
      const { headSeq } = await sdk.channel(name).info();
      await until(`all of ${name}`, () => handled.get(name) === headSeq || problems.length > 0);
    }
    t.same(problems, []);
    await worker.stop();
  },
);
