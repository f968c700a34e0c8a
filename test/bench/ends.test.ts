/** Whatever ends the harness: no process that it started goes on, and no folder of it stays. Linux alone tells. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t, { type Test } from 'tap';
import { sleep, until } from '../support/until.js';

const main = fileURLToPath(new URL('../../bench/main.js', import.meta.url));
t.setTimeout(600_000);

interface Bench {
  readonly child: ChildProcess;
  /** Its temporary folder: all that it makes is in here, and each of its nodes has the path among its arguments. */
  readonly dir: string;
  said(text: string): Promise<true>;
  ended(): Promise<number | null>;
}

function start(t: Test, args: readonly string[]): Bench {
  const dir = mkdtempSync(join(tmpdir(), 'hansard-test-bench-'));
  const child = spawn(process.execPath, [main, ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, TMPDIR: dir },
  });
  let text = '';
  child.stdout?.setEncoding('utf8').on('data', (chunk: string) => (text += chunk));
  child.stderr?.setEncoding('utf8').on('data', (chunk: string) => (text += chunk));
  const closed = once(child, 'close');
  t.teardown(async () => {
    child.kill('SIGKILL');
    await closed;
    for (const pid of processesOf(dir)) process.kill(pid, 'SIGKILL');
    rmSync(dir, { recursive: true, force: true, maxRetries: 5 });
  });
  return {
    child,
    dir,
    said: (wanted) =>
      until(`"${wanted}"`, () => {
        if (child.exitCode !== null) throw new Error(`it ended with ${child.exitCode}: ${text}`);
        return text.includes(wanted);
      }),
    ended: async () => {
      await until('its end', () => child.exitCode !== null || child.signalCode !== null);
      return child.exitCode;
    },
  };
}

/** Those whose command line or environment names the folder. */
function processesOf(dir: string): number[] {
  return readdirSync('/proc').flatMap((name) => {
    if (!/^\d+$/.test(name) || Number(name) === process.pid) return [];
    try {
      const told =
        readFileSync(`/proc/${name}/cmdline`, 'utf8') + readFileSync(`/proc/${name}/environ`, 'utf8');
      return told.includes(dir) ? [Number(name)] : [];
    } catch {
      // It ended, or is another user's.
      return [];
    }
  });
}

function nothingIsLeft(t: Test, { dir }: Bench): void {
  t.strictSame(
    processesOf(dir).map((pid) => readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ')),
    [],
    'no process is left',
  );
  t.strictSame(readdirSync(dir), [], 'no folder is left');
}

const skip = existsSync('/proc/self/environ') ? false : 'processes are found in /proc';
const brief = ['--warmup', '0', '--row-warmup', '0', '--partitions', '8'];
const single = ['--workload', 'single-1', '--seconds', '30', ...brief];

t.test('SIGTERM while it measures', { skip }, async (t) => {
  const bench = start(t, single);
  await bench.said('filled Hansard');
  t.equal(processesOf(bench.dir).length, 4, 'the harness and three nodes');
  await sleep(1_500);
  bench.child.kill('SIGTERM');
  t.equal(await bench.ended(), 128 + 15);
  nothingIsLeft(t, bench);
});

t.test('SIGINT while it starts', { skip }, async (t) => {
  const bench = start(t, single);
  await until('a node', () => processesOf(bench.dir).length > 1);
  bench.child.kill('SIGINT');
  t.equal(await bench.ended(), 128 + 2);
  nothingIsLeft(t, bench);
});

t.test('a second signal at once', { skip }, async (t) => {
  const bench = start(t, single);
  await bench.said('started Hansard');
  bench.child.kill('SIGTERM');
  bench.child.kill('SIGINT');
  const code = await bench.ended();
  t.ok(code === 128 + 15 || code === 128 + 2, 'by a signal');
  // SIGKILL is delivered at once, its processes' ends take a moment.
  await until('their ends', () => processesOf(bench.dir).length === 0);
  nothingIsLeft(t, bench);
});

t.test('a failure', { skip }, async (t) => {
  const bench = start(t, ['compare', '--against', '/there/is/no/main.js', ...single]);
  t.equal(await bench.ended(), 1, 'is told');
  nothingIsLeft(t, bench);
});
