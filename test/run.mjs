// `npm test`: the static checks, then every compiled test file; ends with the
// counts of all of them alone on a line, after a list of what failed.
// `npm test -- FILE…` runs just those; `--cpu` tells the processor time of each.
//
// The files are tap tests and are run as plain programs, several at a time: tap's own
// runner puts loaders and NODE_OPTIONS into them, which reach the worker threads
// and the node processes that the tests start.
import { spawn } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { failuresIn, isLeaf, isSkip } from './failures.mjs';

const root = fileURLToPath(new URL('..', import.meta.url));
const bin = (name) => join(root, 'node_modules', '.bin', name);
/** A file that has not ended by then hangs, seconds; the simulator takes minutes on a busy machine. */
const fileTimeoutS = 900;

/** Jobs at a time. Most wait for elections, timeouts and disks half of their time, on two processors. */
const lanes = 4;
/** Of these, files that start clusters of processes: more of them try the scheduler, not Hansard. */
const clustersAtOnce = 2;
/** Folders of such files. What crash/states starts it only records, under a tracer, before its checks. */
const startsProcesses = /[/\\](bench|cluster|crash|embedded)[/\\](?!states\.)[^/\\]*$/;

/**
 * Seconds that the longest files take, below dist/test: begun first, none of them runs on
 * alone in the end. A file that isn't here takes less than the last of these.
 */
const longest = new Map([
  ['crash/states', 200],
  ['sim/variants', 130],
  ['docs/blocks', 120],
  ['sim/cluster', 100],
  ['cluster/partition', 80],
  ['cluster/faults-five', 80],
  ['cluster/crash', 80],
  ['cli/repair', 80],
  ['cluster/faults-three', 75],
  ['cluster/paused-leader', 55],
  ['cluster/first-use', 55],
  ['cluster/snapshot', 50],
  ['cluster/folders', 50],
  ['crash/inject', 50],
  ['cluster/import', 45],
  ['cluster/verify', 45],
  ['bench/ends', 45],
  ['bench/smoke', 35],
  ['cluster/leader-kills', 35],
  ['cluster/subscription-postgres', 30],
  ['api/tail', 30],
  ['client/client', 28],
  ['flips/flips', 26],
  ['client/subscription-life', 26],
  ['cluster/hostile', 26],
  ['cli/copies', 26],
  ['cluster/upgrade', 25],
  ['cluster/delivery', 25],
  ['node/scrub', 25],
  ['cluster/subscribe', 24],
  ['api/bad-input', 24],
  ['cluster/damage', 23],
  ['cluster/every-rpc', 21],
  ['cluster/forwarding', 21],
  ['api/services', 19],
  ['client/api', 19],
  ['api/subscribe', 19],
  ['api/exchange', 18],
]);

/** Failures that are told again in the end; where there are more, one cause is behind most of them. */
const failuresTold = 40;

let passed = 0;
let failed = 0;
let skipped = 0;
/** Where, what, and lines that say more. */
const failures = [];
/** Processor seconds by file, its child processes with it. */
const cpuSeconds = new Map();

const build = [
  'build',
  process.execPath,
  [join(root, 'node_modules/typescript7/bin/tsc'), '-p', 'tsconfig.json'],
];
const checks = [
  ['format and lint', bin('biome'), ['check', '.']],
  ['layers', bin('depcruise'), ['--config', '.dependency-cruiser.cjs', 'src']],
  ['floating promises and pure cores', bin('eslint'), ['src']],
];

const asked = process.argv.slice(2).filter((word) => word !== '--cpu');
const isCpuTold = asked.length < process.argv.length - 2;
// A style error must not hide a broken promise: the tests run wherever the build is there.
if (asked.length > 0) await runAll(asked.map(fileJob));
else if (await runCheck(build))
  await runAll([...testFiles(join(root, 'dist/test')), ...checks.map(checkJob)]);
tellCpu();
tellFailures();
console.log(`${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ''}`);
process.exitCode = failed === 0 ? 0 : 1;

function testFiles(folder) {
  const seconds = (file) => longest.get(file.replace(/\.test\.js$/, '')) ?? 0;
  return readdirSync(folder, { recursive: true })
    .filter((file) => file.endsWith('.test.js'))
    .sort((a, b) => seconds(b) - seconds(a) || (a < b ? -1 : 1))
    .map((file) => fileJob(join(folder, file)));
}

function fileJob(file) {
  return { isCluster: startsProcesses.test(file), run: () => runFile(file) };
}

function checkJob(check) {
  return { isCluster: false, run: () => runCheck(check) };
}

/** In their order, except that a job may wait for another cluster's end. */
async function runAll(jobs) {
  let clusters = 0;
  const next = () => {
    const at = jobs.findIndex(({ isCluster }) => !isCluster || clusters < clustersAtOnce);
    return at < 0 ? undefined : jobs.splice(at, 1)[0];
  };
  // A lane that finds only clusters, too many, ends: those that run them take the rest.
  const lane = async () => {
    for (let job = next(); job !== undefined; job = next()) {
      if (job.isCluster) clusters++;
      await job.run();
      if (job.isCluster) clusters--;
    }
  };
  await Promise.all(Array.from({ length: lanes }, lane));
}

async function runCheck([name, command, args]) {
  const { code, text } = await run(command, args);
  console.log(`${code === 0 ? 'ok' : 'not ok'} - ${name}`);
  if (code === 0) passed++;
  else {
    failed++;
    console.log(text);
    failures.push({ where: name, name: `ended with ${code}`, diagnosis: lastLines(text) });
  }
  return code === 0;
}

/** Counts assertions. */
async function runFile(file) {
  const name = relative(join(root, 'dist'), file);
  const started = Date.now();
  const { code, text } = await run(process.execPath, [file], name);
  const leaves = text.split('\n').filter((line) => isLeaf(line) && !isSkip(line));
  const found = failuresIn(text);
  const good = leaves.length - found.length;
  const skips = text.split('\n').filter((line) => /^ *(not )?ok \d+.* # SKIP/i.test(line));
  if (code !== 0 && found.length === 0)
    found.push({ name: `ended with ${code}, no assertion having failed`, diagnosis: lastLines(text) });
  failures.push(...found.map((failure) => ({ where: name, ...failure })));
  passed += good;
  failed += found.length;
  skipped += skips.length;
  const seconds = ((Date.now() - started) / 1000).toFixed(1);
  const verdict = found.length === 0 ? 'ok' : 'not ok';
  console.log(`${verdict} - ${name} (${good} passed, ${found.length} failed, ${seconds} s)`);
  for (const line of skips) console.log(`  skipped: ${line.trim().replace(/^(not )?ok \d+ - /, '')}`);
  if (found.length > 0) console.log(text);
}

function lastLines(text) {
  return text.trimEnd().split('\n').slice(-10);
}

function tellFailures() {
  if (failures.length > 0) console.log('\nwhat failed:');
  for (const { where, name, diagnosis } of failures.slice(0, failuresTold)) {
    console.log(`not ok - ${where}: ${name}`);
    for (const line of diagnosis) console.log(`    ${line}`);
  }
  if (failures.length > failuresTold) console.log(`and ${failures.length - failuresTold} more`);
}

function tellCpu() {
  const all = [...cpuSeconds].sort(([, a], [, b]) => b - a);
  for (const [name, seconds] of all) console.log(`${seconds.toFixed(1).padStart(7)} s of CPU  ${name}`);
}

/** For `--cpu` through a shell, which knows what its children and theirs took. */
function run(command, args, name = command) {
  const timed = ['sh', ['-c', '"$@" 3>&-; code=$?; times >&3; exit $code', 'sh', command, ...args]];
  return new Promise((resolve) => {
    let text = '';
    let times = '';
    const child = spawn(...(isCpuTold ? timed : [command, args]), {
      cwd: root,
      stdio: ['ignore', 'pipe', 'pipe', ...(isCpuTold ? ['pipe'] : [])],
      // A shell's death alone would leave what it started.
      detached: isCpuTold,
      env: { ...process.env, UV_THREADPOOL_SIZE: '16', TAP_TIMEOUT: String(fileTimeoutS) },
    });
    const timer = setTimeout(() => {
      text += `\nkilled: it had not ended after ${fileTimeoutS} s\n`;
      if (isCpuTold) process.kill(-child.pid, 'SIGKILL');
      else child.kill('SIGKILL');
    }, fileTimeoutS * 1000);
    const keep = (chunk) => {
      text += chunk;
    };
    child.stdout.setEncoding('utf8').on('data', keep);
    child.stderr.setEncoding('utf8').on('data', keep);
    child.stdio[3]?.setEncoding('utf8').on('data', (chunk) => {
      times += chunk;
    });
    child.on('error', (error) => keep(`${error.message}\n`));
    child.on('close', (code) => {
      clearTimeout(timer);
      if (isCpuTold) cpuSeconds.set(name, childSeconds(times));
      resolve({ code: code ?? 1, text });
    });
  });
}

/** Of the second line of the shell's `times`, such as `1m2.300000s 0m4.000000s`. */
function childSeconds(times) {
  const parts = [...(times.split('\n')[1] ?? '').matchAll(/(\d+)m([\d.]+)s/g)];
  return parts.reduce((sum, [, minutes, seconds]) => sum + Number(minutes) * 60 + Number(seconds), 0);
}
