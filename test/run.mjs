// `npm test`: the static checks, then every compiled test file; ends with the
// counts of all of them alone on a line. `npm test -- FILE…` runs just those.
//
// The files are tap tests and are run as plain programs, two at a time: tap's own
// runner puts loaders and NODE_OPTIONS into them, which reach the worker threads
// and the node processes that the tests start.
import { spawn } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const bin = (name) => join(root, 'node_modules', '.bin', name);
/** A file that has not ended by then hangs, seconds; the simulator takes five minutes on a busy machine. */
const fileTimeoutS = 900;

let passed = 0;
let failed = 0;
let skipped = 0;

const checks = [
  ['build', process.execPath, [join(root, 'node_modules/typescript7/bin/tsc'), '-p', 'tsconfig.json']],
  ['format and lint', bin('biome'), ['check', '.']],
  ['layers', bin('depcruise'), ['--config', '.dependency-cruiser.cjs', 'src']],
  ['floating promises and pure cores', bin('eslint'), ['src']],
];

const asked = process.argv.slice(2);
let built = true;
if (asked.length === 0) {
  for (const [name, command, args] of checks) {
    const { code, text } = await run(command, args);
    console.log(`${code === 0 ? 'ok' : 'not ok'} - ${name}`);
    if (code === 0) passed++;
    else {
      failed++;
      console.log(text);
      if (name === 'build') built = false;
    }
  }
}
// A style error must not hide a broken promise: the tests run wherever the build is there.
if (built) await runAll(asked.length > 0 ? asked : testFiles(join(root, 'dist/test')));
console.log(`${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ''}`);
process.exitCode = failed === 0 ? 0 : 1;

function testFiles(folder) {
  return readdirSync(folder, { recursive: true })
    .filter((file) => file.endsWith('.test.js'))
    .sort((a, b) => slowFirst(a) - slowFirst(b) || (a < b ? -1 : 1))
    .map((file) => join(folder, file));
}

/** The simulator takes longest: begun last, it would run alone. */
function slowFirst(file) {
  return file.startsWith('sim') ? 0 : 1;
}

/**
 * Two lanes. Files that start clusters of processes share one: two clusters at
 * once on two cores try the scheduler, not Hansard.
 */
async function runAll(files) {
  const startsProcesses = (file) =>
    /[/\\](bench|cluster|crash|docs|package|embedded)[/\\][^/\\]*$/.test(file);
  const clusters = files.filter(startsProcesses);
  const others = files.filter((file) => !startsProcesses(file));
  const lane = async (...queues) => {
    for (const queue of queues)
      for (let file = queue.shift(); file !== undefined; file = queue.shift()) await runFile(file);
  };
  await Promise.all([lane(clusters, others), lane(others)]);
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
