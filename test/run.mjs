// `npm test`: the static checks, then tap over the compiled tests; ends with the
// counts of all of them alone on a line.
import { spawn } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const bin = (name) => join(root, 'node_modules', '.bin', name);
let passed = 0;
let failed = 0;
let skipped = 0;
let builtHere = true;

const checks = [
  ['build', process.execPath, [join(root, 'node_modules/typescript7/bin/tsc'), '-p', 'tsconfig.json']],
  ['format and lint', bin('biome'), ['check', '.']],
  ['layers', bin('depcruise'), ['--config', '.dependency-cruiser.cjs', 'src']],
  ['floating promises', bin('eslint'), ['src']],
];
const only = process.argv.slice(2);
if (only.length === 0) {
  for (const [name, command, args] of checks) {
    const code = await run(command, args, 'inherit');
    console.log(`${code === 0 ? 'ok' : 'not ok'} - ${name}`);
    if (name === 'build' && code !== 0) builtHere = false;
    if (code === 0) passed++;
    else failed++;
  }
}
// A style error must not hide a broken promise: the tests run wherever the build is there.
if (builtHere) await runTap(only.length > 0 ? only : testFiles(join(root, 'dist/test')));
console.log(`${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ''}`);
process.exitCode = failed === 0 ? 0 : 1;

function testFiles(folder) {
  return readdirSync(folder, { recursive: true })
    .filter((file) => file.endsWith('.test.js'))
    .sort()
    .map((file) => join(folder, file));
}

/** Counts the assertions of all files from tap's own summary lines. */
async function runTap(files) {
  let text = '';
  const code = await run(bin('tap'), ['run', '--reporter=tap', ...files], (chunk) => {
    text += chunk;
    process.stdout.write(chunk);
  });
  // Leaf assertions are indented; a subtest's own line repeats its children.
  const leaves = text.split('\n').filter((line) => /^ +(not )?ok \d+/.test(line) && !/# time=/.test(line));
  skipped += leaves.filter((line) => / # SKIP/i.test(line)).length;
  const bad = leaves.filter(
    (line) => line.trim().startsWith('not ok') && !/ # (SKIP|TODO)/i.test(line),
  ).length;
  passed += leaves.filter((line) => line.trim().startsWith('ok') && !/ # (SKIP|TODO)/i.test(line)).length;
  failed += bad === 0 && code !== 0 ? 1 : bad;
}

function run(command, args, output) {
  return new Promise((resolve) => {
    const child = spawn(command, args, {
      cwd: root,
      stdio: ['ignore', output === 'inherit' ? 'inherit' : 'pipe', 'inherit'],
      env: { ...process.env, UV_THREADPOOL_SIZE: '16' },
    });
    if (output !== 'inherit') child.stdout.setEncoding('utf8').on('data', output);
    child.on('error', (error) => {
      console.error(error.message);
      resolve(1);
    });
    child.on('close', (code) => resolve(code ?? 1));
  });
}
