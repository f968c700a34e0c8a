// `npm test`: the static checks, then every compiled test file; ends with the
// counts of all of them alone on a line. `npm test -- FILE…` runs just those.
//
// The files are tap tests and are run as plain programs, several at a time: tap's own
// runner puts loaders and NODE_OPTIONS into them, which reach the worker threads
// and the node processes that the tests start.
import { spawn } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const bin = (name) => join(root, 'node_modules', '.bin', name);
/** A file that has not ended by then hangs, seconds; the simulator takes minutes on a busy machine. */
const fileTimeoutS = 900;

/** Jobs at a time. Most wait for elections, timeouts and disks half of their time, on two processors. */
const lanes = 4;
/** Of these, files that start clusters of processes: more of them try the scheduler, not Hansard. */
const clustersAtOnce = 2;
/** Folders of such files. */
const startsProcesses = /[/\\](bench|cluster|crash|docs|package|embedded)[/\\][^/\\]*$/;

/**
 * Seconds that the longest files take, below dist/test: begun first, none of them runs on
 * alone in the end. A file that isn't here takes less than the last of these.
 */
const longest = new Map([
  ['crash/states', 110],
  ['sim/cluster', 100],
  ['sim/variants', 90],
  ['cluster/faults-five', 70],
  ['cluster/faults-three', 70],
  ['cluster/partition', 65],
  ['cluster/folders', 65],
  ['cluster/snapshot', 60],
  ['cluster/crash', 50],
  ['cluster/verify', 50],
  ['cluster/upgrade', 45],
  ['node/scrub', 45],
  ['bench/ends', 40],
  ['cluster/first-use', 40],
  ['cluster/import', 40],
  ['crash/inject', 40],
  ['docs/blocks', 40],
  ['api/bad-input', 28],
  ['crash/full', 28],
  ['node/foreign', 28],
  ['api/services', 27],
  ['bench/smoke', 25],
  ['cli/repair', 25],
  ['flips/flips', 23],
  ['store/snapshot', 22],
]);

let passed = 0;
let failed = 0;
let skipped = 0;

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

const asked = process.argv.slice(2);
// A style error must not hide a broken promise: the tests run wherever the build is there.
if (asked.length > 0) await runAll(asked.map(fileJob));
else if (await runCheck(build))
  await runAll([...testFiles(join(root, 'dist/test')), ...checks.map(checkJob)]);
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
  }
  return code === 0;
}

/** Counts assertions: indented lines that no subtest's own line repeats. */
async function runFile(file) {
  const started = Date.now();
  const { code, text } = await run(process.execPath, [file]);
  const leaves = text.split('\n').filter((line) => /^ +(not )?ok \d+/.test(line) && !/ # time=/.test(line));
  const isSkip = (line) => / # (SKIP|TODO)/i.test(line);
  const bad = leaves.filter((line) => /^ +not ok/.test(line) && !isSkip(line)).length;
  const good = leaves.filter((line) => /^ +ok/.test(line) && !isSkip(line)).length;
  const skips = text.split('\n').filter((line) => /^ *(not )?ok \d+.* # SKIP/i.test(line));
  const broken = code !== 0 && bad === 0 ? 1 : bad;
  passed += good;
  failed += broken;
  skipped += skips.length;
  const seconds = ((Date.now() - started) / 1000).toFixed(1);
  const name = relative(join(root, 'dist'), file);
  console.log(`${broken === 0 ? 'ok' : 'not ok'} - ${name} (${good} passed, ${broken} failed, ${seconds} s)`);
  for (const line of skips) console.log(`  skipped: ${line.trim().replace(/^(not )?ok \d+ - /, '')}`);
  if (broken > 0) console.log(text);
}

function run(command, args) {
  return new Promise((resolve) => {
    let text = '';
    const child = spawn(command, args, {
      cwd: root,
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, UV_THREADPOOL_SIZE: '16', TAP_TIMEOUT: String(fileTimeoutS) },
    });
    const timer = setTimeout(() => {
      text += `\nkilled: it had not ended after ${fileTimeoutS} s\n`;
      child.kill('SIGKILL');
    }, fileTimeoutS * 1000);
    const keep = (chunk) => {
      text += chunk;
    };
    child.stdout.setEncoding('utf8').on('data', keep);
    child.stderr.setEncoding('utf8').on('data', keep);
    child.on('error', (error) => keep(`${error.message}\n`));
    child.on('close', (code) => {
      clearTimeout(timer);
      resolve({ code: code ?? 1, text });
    });
  });
}
