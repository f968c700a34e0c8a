/** `npm ci` and `npm run build` leave a command that npx can start, wherever there was another clone before. */
import { spawnSync } from 'node:child_process';
import { copyFileSync, mkdirSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t, { type Test } from 'tap';

const prepare = fileURLToPath(new URL('../../../cluster/prepare.cjs', import.meta.url));

function checkout(test: Test, compiler: string): { readonly main: string; run(): number | null } {
  const root = test.testdir();
  mkdirSync(join(root, 'cluster'));
  mkdirSync(join(root, 'node_modules', 'typescript7', 'bin'), { recursive: true });
  mkdirSync(join(root, 'dist', 'src', 'cli'), { recursive: true });
  copyFileSync(prepare, join(root, 'cluster', 'prepare.cjs'));
  writeFileSync(join(root, 'node_modules', 'typescript7', 'bin', 'tsc'), compiler);
  const run = () => spawnSync(process.execPath, [join(root, 'cluster', 'prepare.cjs')]).status;
  return { main: join(root, 'dist', 'src', 'cli', 'main.js'), run };
}

t.test('what was compiled may be run', { skip: process.platform === 'win32' && 'no modes here' }, (t) => {
  const { main, run } = checkout(
    t,
    "require('fs').writeFileSync('dist/src/cli/main.js', '', { mode: 420 });",
  );
  t.equal(run(), 0);
  t.equal(statSync(main).mode & 0o111, 0o111);
  t.end();
});

t.test('a build that fails is told', (t) => {
  t.equal(checkout(t, 'process.exit(2);').run(), 2);
  t.end();
});
