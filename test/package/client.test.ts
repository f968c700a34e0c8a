/** `npm run pack:client`: installed into an empty project, it type-checks, works, and carries no LevelDB. */
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import t from 'tap';
import { open } from '../../src/index.js';

const root = fileURLToPath(new URL('../../..', import.meta.url));
const exec = promisify(execFile);
const env = Object.fromEntries(
  Object.entries(process.env).filter(([name]) => !/^(NODE_OPTIONS|TAP|_TAPJS|npm_)/.test(name)),
);
/** `env -u`: the test runner puts its hooks into every child's NODE_OPTIONS at the spawn itself. */
const run = async (command: string, args: string[], cwd: string) =>
  (await exec('/usr/bin/env', ['-u', 'NODE_OPTIONS', command, ...args], { cwd, env, timeout: 120_000 }))
    .stdout;

interface Lock {
  packages: Record<string, { dependencies?: Record<string, string> }>;
}

/** The project's lock with the versions of ours: npm then finds everything in its cache, without the network. */
function lockOf(tarball: string, dependencies: Record<string, string>): unknown {
  const ours = JSON.parse(readFileSync(join(root, 'package-lock.json'), 'utf8')) as Lock;
  const packages: Record<string, unknown> = {
    '': { dependencies: { 'hansard-client': `file:${tarball}` } },
    'node_modules/hansard-client': {
      version: '0.1.0',
      resolved: `file:${tarball}`,
      integrity: `sha512-${createHash('sha512').update(readFileSync(tarball)).digest('base64')}`,
      dependencies,
    },
  };
  const queue = Object.keys(dependencies);
  for (let name = queue.pop(); name !== undefined; name = queue.pop()) {
    const path = `node_modules/${name}`;
    if (path in packages) continue;
    const entry = ours.packages[path];
    if (entry === undefined) throw new Error(`package-lock.json has no ${path}`);
    const { dev: _dev, ...rest } = entry as { dev?: boolean; dependencies?: Record<string, string> };
    packages[path] = rest;
    queue.push(...Object.keys(rest.dependencies ?? {}));
  }
  return { name: 'empty', lockfileVersion: 3, requires: true, packages };
}

const program = `
import { connect, type AppendResult, type Event } from 'hansard-client';
const client = connect('hansard://' + process.argv[2]);
const channel = client.channel('packed');
const { seq }: AppendResult = await channel.append({ role: 'user', author: 'ada', text: 'from a package' });
const events: readonly Event[] = (await channel.list().page()).events;
console.log(seq, events.length, events[0]?.message?.author);
await client.close();
`;

t.setTimeout(600_000);

t.test('the client-only package', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'hansard-pack-'));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  const said = await run(process.execPath, [join(root, 'scripts/pack-client.mjs'), '--out', folder], root);
  const tarball = said.trim().split('\n').at(-1) as string;
  t.ok(existsSync(tarball), tarball);
  const manifest = JSON.parse(readFileSync(join(folder, 'package', 'package.json'), 'utf8')) as {
    dependencies: Record<string, string>;
  };
  t.same(Object.keys(manifest.dependencies), ['@grpc/grpc-js', 'xxhash-wasm']);

  const project = join(folder, 'project');
  mkdirSync(project);
  writeFileSync(
    join(project, 'package.json'),
    JSON.stringify({ name: 'empty', type: 'module', dependencies: { 'hansard-client': `file:${tarball}` } }),
  );
  writeFileSync(join(project, 'package-lock.json'), JSON.stringify(lockOf(tarball, manifest.dependencies)));
  await run('npm', ['install', '--prefer-offline', '--no-audit', '--no-fund', '--ignore-scripts'], project);
  const installed = readdirSync(join(project, 'node_modules'), { recursive: true, encoding: 'utf8' });
  t.notOk(
    installed.some((name) => /level|\.node$/.test(name) && !/loglevel/.test(name)),
    'nothing native',
  );

  writeFileSync(join(project, 'main.ts'), program);
  const options = ['--strict', '--module', 'nodenext', '--target', 'es2023', '--types', 'node'];
  const types = ['--typeRoots', join(root, 'node_modules/@types'), '--outDir', project];
  const compiler = join(root, 'node_modules/typescript7/bin/tsc');
  await run(process.execPath, [compiler, ...options, ...types, 'main.ts'], project);

  const node = await open();
  t.teardown(() => node.close());
  t.equal((await run(process.execPath, ['main.js', node.endpoint], project)).trim(), '1 1 ada');
});
