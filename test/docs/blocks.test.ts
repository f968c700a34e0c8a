/**
 * Every code block of README.md, docs/quickstart.md, docs/concepts.md and docs/guide runs,
 * against three real nodes: sh, ts and python. Blocks that need what is not
 * installed here are skipped by name; only grpcurl has a stand-in.
 */
import { execFile, spawnSync } from 'node:child_process';
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t, { type Test } from 'tap';
import { connect, type TestCluster, testCluster } from '../../src/index.js';
import { patientCommand } from '../support/command.js';

const root = fileURLToPath(new URL('../../..', import.meta.url));
const pages = [
  'README.md',
  'docs/quickstart.md',
  'docs/concepts.md',
  'docs/guide/writing.md',
  'docs/guide/reading.md',
  'docs/guide/subscribe.md',
  'docs/guide/inbox.md',
  'docs/guide/delivery.md',
  'docs/guide/durable-subscriptions.md',
];
/** Kinds that are no programs. */
const shownOnly = new Set(['text', 'mermaid', 'json', 'toml']);
const blockTimeoutMs = 400_000;
const pageTimeoutMs = 800_000;
t.setTimeout(pageTimeoutMs);

interface Block {
  readonly page: string;
  readonly line: number;
  readonly kind: string;
  readonly code: string;
}

function blocksOf(page: string): Block[] {
  const blocks: Block[] = [];
  let open: { line: number; kind: string; code: string[] } | undefined;
  readFileSync(join(root, page), 'utf8')
    .split('\n')
    .forEach((text, i) => {
      const fence = /^```(\w*)\s*$/.exec(text);
      if (open === undefined) {
        if (fence !== null) open = { line: i + 1, kind: fence[1] ?? '', code: [] };
        else if (text.trimStart().startsWith('```'))
          throw new Error(`${page}:${i + 1}: a fence we don't know`);
      } else if (fence !== null) {
        blocks.push({ page, line: open.line, kind: open.kind, code: open.code.join('\n') });
        open = undefined;
      } else open.code.push(text);
    });
  if (open !== undefined) throw new Error(`${page}: a block without end`);
  return blocks;
}

const folder = mkdtempSync(join(tmpdir(), 'hansard-docs-'));
let cluster: TestCluster;
/** What the compiler said of the programs in TypeScript. */
let compiled: Promise<string[]>;
let env: NodeJS.ProcessEnv = {};
const python = ['python3', '/usr/bin/python3'].find(
  (name) => spawnSync(name, ['-c', 'import grpc, grpc_tools'], { stdio: 'ignore' }).status === 0,
);
const hasGrpcurl = spawnSync('grpcurl', ['--version'], { stdio: 'ignore' }).status === 0;

t.before(async () => {
  cluster = await testCluster({ nodes: 3 });
  await loadSample();
  // `npx hansard` means this checkout's command; npx itself costs a second each time, and is npm's.
  const bin = join(folder, 'bin');
  mkdirSync(bin);
  const npx = `#!/bin/sh\n[ "$1" = hansard ] || { echo "npx $1?" >&2; exit 1; }\nshift\nexec ${process.execPath} ${join(root, 'dist/src/cli/main.js')} "$@"\n`;
  writeFileSync(join(bin, 'npx'), npx);
  chmodSync(join(bin, 'npx'), 0o755);
  if (!hasGrpcurl) {
    const standIn = fileURLToPath(new URL('grpcurl.js', import.meta.url));
    writeFileSync(join(bin, 'grpcurl'), `#!/bin/sh\nexec ${process.execPath} ${standIn} "$@"\n`);
    chmodSync(join(bin, 'grpcurl'), 0o755);
  }
  if (python !== undefined) {
    writeFileSync(join(bin, 'python3'), `#!/bin/sh\nexec ${resolved(python)} "$@"\n`);
    chmodSync(join(bin, 'python3'), 0o755);
  }
  const clean = Object.entries(process.env).filter(
    ([name]) => !/^(NODE_OPTIONS|TAP|_TAPJS|HANSARD)/.test(name),
  );
  env = {
    ...Object.fromEntries(clean),
    PATH: `${bin}${delimiter}${process.env.PATH}`,
    HANSARD_ENDPOINT: cluster.endpoint,
    ...patientCommand,
    PYTHONPATH: join(folder, 'python'),
  };
  // A project in which `hansard` is this checkout.
  mkdirSync(join(folder, 'project', 'node_modules'), { recursive: true });
  symlinkSync(root, join(folder, 'project', 'node_modules', 'hansard'));
  writeFileSync(join(folder, 'project', 'package.json'), '{ "type": "module" }');
  compiled = compileAll(pages.flatMap(blocksOf).filter(({ kind }) => kind === 'ts'));
  // Told by the first block that waits for it.
  compiled.catch(() => {});
});
t.teardown(async () => {
  await cluster?.close();
  rmSync(folder, { recursive: true, force: true });
});

/** What `npm start` loads; its own test starts it. */
async function loadSample(): Promise<void> {
  const client = connect(`hansard://${cluster.endpoint}`);
  for (const name of ['support', 'assistants', 'team'])
    for (const line of readFileSync(join(root, `cluster/sample/${name}.jsonl`), 'utf8')
      .trim()
      .split('\n')) {
      const { channel, role, author, text } = JSON.parse(line) as Record<string, string>;
      await client
        .channel(channel ?? '')
        .append({ role: role as 'user', author: author ?? '', text: text ?? '' });
    }
  await client.close();
}

function resolved(command: string): string {
  return spawnSync('/bin/sh', ['-c', `command -v ${command}`], { encoding: 'utf8' }).stdout.trim();
}

/** The docs' addresses and folders become this run's. */
function placed(code: string): string {
  const own = cluster.endpoint.split(',');
  return code
    .replace(/127\.0\.0\.1:465([012])\b/g, (_, n: string) => own[Number(n)] ?? '')
    .replaceAll('/tmp/hansard', join(folder, 'tmp-hansard'))
    .replaceAll(`${join(folder, 'tmp-hansard')}-python`, join(folder, 'python'));
}

function run(command: string, args: readonly string[], cwd: string): Promise<{ code: number; said: string }> {
  return new Promise((done) => {
    // The test runner puts its hooks into every child's NODE_OPTIONS at the spawn itself.
    const bare = ['-u', 'NODE_OPTIONS', command, ...args];
    execFile('/usr/bin/env', bare, { cwd, env, timeout: blockTimeoutMs }, (error, stdout, stderr) => {
      const code = error === null ? 0 : typeof error.code === 'number' ? error.code : 1;
      done({ code, said: stdout + stderr });
    });
  });
}

function programOf({ page, line }: Block): string {
  return `${page.replace(/\W/g, '-')}-${line}`;
}

/** All of them at once: the compiler reads the SDK's types a single time. Gives what it says, line by line. */
async function compileAll(blocks: readonly Block[]): Promise<string[]> {
  const project = join(folder, 'project');
  const files = blocks.map((block) => {
    const file = `${programOf(block)}.ts`;
    writeFileSync(join(project, file), placed(block.code));
    return file;
  });
  const compiler = join(root, 'node_modules/typescript7/bin/tsc');
  const strict = ['--strict', '--module', 'nodenext', '--target', 'es2023', '--skipLibCheck'];
  // Each is a program of its own, also one that imports nothing.
  const apart = ['--moduleDetection', 'force', '--pretty', 'false'];
  const types = ['--types', 'node', '--typeRoots', join(root, 'node_modules/@types')];
  const { code, said } = await run(
    process.execPath,
    [compiler, ...strict, ...apart, ...types, ...files],
    project,
  );
  const lines = said.split('\n').filter((line) => line !== '');
  if (code !== 0 && !lines.some((line) => files.some((file) => line.startsWith(`${file}(`))))
    throw new Error(`the compiler ended with ${code}: ${said}`);
  return lines;
}

async function runBlock(t: Test, block: Block): Promise<void> {
  const code = placed(block.code);
  const project = join(folder, 'project');
  switch (block.kind) {
    case 'sh': {
      // Installing and starting have tests of their own: .ci/run, test/cluster/first-use.test.ts.
      const lines = code.split('\n').filter((line) => !/^npm (ci|start)\b/.test(line));
      if (lines.every((line) => line.trim() === '')) return void t.pass('npm ci and npm start only');
      if (/\bgrpcurl\b/.test(code) && !hasGrpcurl)
        t.pass(
          'grpcurl is not installed: test/docs/grpcurl.ts carries out its commands by server reflection',
        );
      if (/\bpython3\b/.test(code) && python === undefined)
        return void t.pass('', { skip: 'python3-grpcio and python3-grpc-tools are not installed' });
      const { code: status, said } = await run('/bin/sh', ['-euc', lines.join('\n')], root);
      t.equal(status, 0, said);
      return;
    }
    case 'ts': {
      const name = programOf(block);
      const problems = (await compiled).filter((line) => line.startsWith(`${name}.ts(`));
      t.same(problems, [], 'it compiles');
      const { code: status, said } = await run(process.execPath, [`${name}.js`], project);
      t.equal(status, 0, said);
      return;
    }
    case 'python': {
      if (python === undefined)
        return void t.pass('', { skip: 'python3-grpcio and python3-grpc-tools are not installed' });
      writeFileSync(join(project, 'block.py'), code);
      const { code: status, said } = await run(python, ['block.py'], project);
      t.equal(status, 0, said);
      return;
    }
    default:
      t.ok(shownOnly.has(block.kind), `a block of kind "${block.kind}" that nothing runs`);
  }
}

for (const page of pages)
  t.test(page, { timeout: pageTimeoutMs }, async (t) => {
    for (const block of blocksOf(page))
      await t.test(`${page}:${block.line} (${block.kind})`, { timeout: blockTimeoutMs }, (t) =>
        runBlock(t, block),
      );
  });

t.test('docs/dependencies.md is the list of package.json', async (t) => {
  const { dependencies } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as {
    dependencies: Record<string, string>;
  };
  const listed = [...readFileSync(join(root, 'docs/dependencies.md'), 'utf8').matchAll(/^\| `([^`]+)` \|/gm)];
  t.same(listed.map((match) => match[1]).sort(), Object.keys(dependencies).sort());
});

t.test(
  'the stand-in for grpcurl calls, and refuses what grpcurl would',
  { skip: hasGrpcurl && 'grpcurl itself is here' },
  async (t) => {
    const at = cluster.endpoint.split(',')[0] ?? '';
    const grpcurl = (line: string) => run('/bin/sh', ['-euc', `grpcurl -plaintext ${line}`], root);
    const messages = 'hansard.v1.MessageService';
    const body = (part: string) =>
      `-d '{"channel": "grpcurl", "messages": [{"message": {"role": "ROLE_USER", "parts": [${part}]}}]}' ${at} ${messages}/AppendMessages`;
    const listed = await grpcurl(`${at} list`);
    t.match(listed.said, /hansard\.v1\.ExchangeService/);
    const { code, said } = await grpcurl(body('{"text": {"text": "hello"}}'));
    t.equal(code, 0, said);
    t.match(JSON.parse(said), { first_seq: '1', count: 1 });
    const read = await grpcurl(`-d '{"channel": "grpcurl"}' ${at} ${messages}/ListMessages`);
    t.match(JSON.parse(read.said), {
      head_seq: '1',
      events: [{ message: { parts: [{ text: { text: 'hello' } }] } }],
    });
    for (const [line, problem] of [
      [body('{"test": {}}'), /no known field named test/],
      [body('').replace('ROLE_USER', 'USER'), /no value named USER/],
      [`${at} ${messages}/Nope`, /does not include a method/],
      [`-d '{"channel": "none"}' ${at} ${messages}/ListMessages`, /no channel none/],
    ] as const) {
      const refused = await grpcurl(line);
      t.equal(refused.code, 1, line);
      t.match(refused.said, problem);
    }
  },
);
