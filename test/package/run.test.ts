import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';

const runner = fileURLToPath(new URL('../../../test/run.mjs', import.meta.url));

t.setTimeout(600_000);

t.test('a run ends with what failed in it, and then the counts', (t) => {
  const dir = mkdtempSync(join(tmpdir(), 'hansard-run-'));
  t.teardown(() => rmSync(dir, { recursive: true }));
  const file = (name: string, body: string): string => {
    const path = join(dir, `${name}.test.mjs`);
    writeFileSync(path, `import t from '${import.meta.resolve('tap')}';\n${body}`);
    return path;
  };
  const files = [
    file(
      'fails',
      `t.test('outer', t => t.test('inner', async t => { t.ok(1); t.equal('was', 'wanted', 'is so'); }));`,
    ),
    file(
      'ends',
      `t.test('well', async t => { t.ok(1); t.ok(0, 'never', { skip: 'no such' }); }); process.on('exit', () => { console.log('last words'); process.exitCode = 7; });`,
    ),
    file('good', `t.equal(1, 1);`),
  ];
  const { stdout, status } = spawnSync(process.execPath, [runner, ...files], { encoding: 'utf8' });
  t.equal(status, 1);
  const end = stdout.slice(stdout.lastIndexOf('what failed:'));
  t.match(end, /^not ok - .*fails\.test\.mjs: outer > inner > is so$/m);
  t.match(end, /^ +-wanted\n +\+was$/m);
  t.match(end, /^not ok - .*ends\.test\.mjs: ended with 7, .*\n[\s\S]*last words$/m);
  t.notMatch(end, 'good.test.mjs');
  t.match(end, /\n3 passed, 2 failed, 1 skipped\n$/);
  t.end();
});
