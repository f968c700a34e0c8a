/** `npm start` as a newcomer meets it: the good way, and each thing that can be in the way. */
import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { clusterDown, clusterStatus } from '../../cluster/launcher.js';
import { samplePendingOf, stateFileOf } from '../../cluster/layout.js';
import { freeBase } from '../support/free-ports.js';
import { mainScript, until } from './harness.js';

const root = fileURLToPath(new URL('../../..', import.meta.url));
const folder = mkdtempSync(join(tmpdir(), 'hansard-first-'));
const timeout = 240_000;
const used: string[] = [];
const started: ChildProcess[] = [];
t.setTimeout(600_000);
t.teardown(async () => {
  for (const child of started) if (child.exitCode === null && child.pid) signalGroup(child, 'SIGKILL');
  for (const dir of used) await clusterDown(dir, 1_000).catch(() => {});
  rmSync(folder, { recursive: true, force: true });
});

function signalGroup(child: ChildProcess, name: NodeJS.Signals): void {
  try {
    process.kill(-(child.pid ?? 0), name);
  } catch {
    // Gone already.
  }
}

const bin = join(folder, 'bin');
mkdirSync(bin);
writeFileSync(join(bin, 'npx'), `#!/bin/sh\nshift\nexec ${process.execPath} ${mainScript} "$@"\n`);
chmodSync(join(bin, 'npx'), 0o755);
const env = {
  ...Object.fromEntries(
    Object.entries(process.env).filter(([name]) => !/^(NODE_OPTIONS|TAP|_TAPJS|HANSARD|npm_)/.test(name)),
  ),
  UV_THREADPOOL_SIZE: '16',
  // npx itself costs a second or two each time, and is npm's.
  PATH: `${bin}${delimiter}${process.env.PATH}`,
};

interface Start {
  readonly child: ChildProcess;
  said(): string;
  /** Exit code, and what was said. */
  readonly ended: Promise<{ code: number | null; said: string }>;
}

/** `npm start`, in a process group of its own as a terminal gives it. */
function npmStart(dir: string, args: readonly string[]): Start {
  used.push(dir);
  // The test runner puts its hooks into every child's NODE_OPTIONS at the spawn itself.
  const given = ['-u', 'NODE_OPTIONS', 'npm', 'start', '--silent', '--', ...args];
  const child = spawn('/usr/bin/env', given, {
    cwd: root,
    env: { ...env, HANSARD_DIR: dir },
    detached: true,
  });
  started.push(child);
  let said = '';
  for (const stream of [child.stdout, child.stderr])
    stream.setEncoding('utf8').on('data', (text: string) => {
      said += text;
    });
  const ended = once(child, 'close').then(([code]) => ({ code: code as number | null, said }));
  return { child, said: () => said, ended };
}

/** One line of cause and one of cure; both may follow notes. */
function problemOf(said: string): { cause: string; cure: string } {
  const lines = said.trimEnd().split('\n').slice(-2);
  return {
    cause: /^error: (.*)$/.exec(lines[0] ?? '')?.[1] ?? '',
    cure: /^cure: {2}(.*)$/.exec(lines[1] ?? '')?.[1] ?? '',
  };
}

t.test(
  'an interrupted first start, the next one, what it prints, Ctrl-C, and again',
  { timeout },
  async (t) => {
    const dir = join(folder, 'data');
    const base = await freeBase();
    const args = ['--base-port', `${base}`, '--partitions', '8'];

    const cut = npmStart(dir, args);
    await until('the making begins', () => existsSync(stateFileOf(dir)));
    signalGroup(cut.child, 'SIGINT');
    const early = await cut.ended;
    t.equal((await clusterStatus(dir)).filter((node) => node.process === 'running').length, 0, early.said);

    const start = npmStart(dir, args);
    await until('ready', () => {
      if (start.child.exitCode !== null) throw new Error(start.said());
      return /Try in another terminal.*docs\/cli\.md/s.test(start.said());
    });
    const said = start.said();
    t.match(said, /sample: 56 messages in 8 conversations/);
    t.match(said, new RegExp(`data in ${dir}`));
    const nodes = await clusterStatus(dir);
    for (const node of nodes)
      t.match(
        said,
        new RegExp(`${node.nodeId} +${node.pid} +ready +${node.clientAddress} +${node.peerAddress}`),
      );
    t.notOk(existsSync(samplePendingOf(dir)));

    const second = await npmStart(dir, []).ended;
    t.equal(second.code, 6);
    t.match(problemOf(second.said), {
      cause: /runs already \(pid \d+\)/,
      cure: /npx hansard status.*Ctrl-C/,
    });

    // All that it printed, as it stands, killing a node included.
    const advice = said.slice(said.indexOf('Try in another terminal'));
    const commands = advice.split('\n').filter((line) => line.startsWith('  '));
    t.equal(commands.length, 9);
    const pasted = spawnSync('/bin/sh', ['-exc', `unset NODE_OPTIONS\n${commands.join('\n')}`], {
      cwd: root,
      env,
      encoding: 'utf8',
      timeout: 150_000,
    });
    t.equal(pasted.status, 0, pasted.stdout + pasted.stderr);
    t.match(pasted.stdout, /Hello, Hansard.*Hello, Hansard/s, 'read before and after the kill');
    await until('the death is told', () => /node 3 ended \(/.test(start.said()));

    signalGroup(start.child, 'SIGINT');
    const ended = await start.ended;
    t.match(ended.said, /stopped; `npm start` goes on with the same data/);
    t.equal((await clusterStatus(dir)).filter((node) => node.process === 'running').length, 0);

    // As if the loading had been cut off: what is there is not loaded twice.
    writeFileSync(samplePendingOf(dir), '');
    const again = npmStart(dir, []);
    await until(
      'ready again',
      () => /Try in another terminal/.test(again.said()) || again.child.exitCode !== null,
    );
    const read = [
      mainScript,
      'read',
      'support/1042-late-parcel',
      '--json',
      '--endpoint',
      `127.0.0.1:${base}`,
    ];
    const page = JSON.parse(execFileSync(process.execPath, read, { env, encoding: 'utf8' }));
    t.equal((page as { head_seq: number }).head_seq, 9);
    signalGroup(again.child, 'SIGTERM');
    await again.ended;
    t.equal((await clusterStatus(dir)).filter((node) => node.process === 'running').length, 0);
  },
);

t.test(
  'a taken port, a folder that can not be written, one that holds other things',
  { timeout },
  async (t) => {
    const base = await freeBase();
    const server = createServer().listen(base + 4, '127.0.0.1');
    await once(server, 'listening');
    const taken = await npmStart(join(folder, 'taken'), ['--base-port', `${base}`]).ended;
    server.close();
    t.equal(taken.code, 6);
    t.match(problemOf(taken.said), {
      cause: new RegExp(`port ${base + 4}, which node 2 needs, is taken`),
      cure: new RegExp(`npm start -- --base-port ${base + 100}$`),
    });

    const below = join(folder, 'a-file');
    writeFileSync(below, '');
    const unwritable = [join(below, 'data')];
    if (process.getuid?.() !== 0) {
      const closed = join(folder, 'closed');
      mkdirSync(closed, { mode: 0o555 });
      unwritable.push(closed, join(closed, 'data'));
    }
    for (const dir of unwritable) {
      const { said, code } = await npmStart(dir, []).ended;
      t.equal(code, 2);
      t.match(problemOf(said), {
        cause: /can not be (made|written)/,
        cure: /HANSARD_DIR=~\/hansard-data npm start$/,
      });
    }

    const foreign = join(folder, 'foreign');
    mkdirSync(foreign);
    writeFileSync(join(foreign, 'thesis.doc'), 'x');
    const other = await npmStart(foreign, []).ended;
    t.match(problemOf(other.said), { cause: /holds thesis\.doc/, cure: /HANSARD_DIR=\.\/data-2 npm start$/ });
    t.equal(readFileSync(join(foreign, 'thesis.doc'), 'utf8'), 'x');
  },
);

t.test('an old Node is told before anything else is read', (t) => {
  const check = join(root, 'cluster/check-node.cjs');
  const as = (versions: string, platform = 'linux') =>
    spawnSync(
      process.execPath,
      [
        '-e',
        `Object.defineProperty(process, 'versions', { value: { node: '${versions}' } });
         Object.defineProperty(process, 'platform', { value: '${platform}' });
         require(${JSON.stringify(check)});`,
      ],
      { encoding: 'utf8', env },
    );
  for (const version of ['0.12.18', '18.20.4', '20.18.3']) {
    const { status, stderr } = as(version);
    t.equal(status, 1);
    t.match(problemOf(stderr), {
      cause: `this is Node ${version}; Hansard needs 20.19 or newer`,
      cure: /24/,
    });
  }
  for (const version of ['20.19.0', '24.0.0']) t.match(as(version), { status: 0, stderr: '' });
  t.match(problemOf(as('24.0.0', 'win32').stderr), { cause: /Windows/, cure: /WSL/ });
  t.notMatch(
    readFileSync(check, 'utf8'),
    /=>|\b(const|let|class|async|import)\b|`[^`\n]*\$\{|node:/,
    'ES5 only',
  );
  t.end();
});
