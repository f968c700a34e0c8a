/** The protos stand alone: they compile with nothing but themselves and protobuf's own, and another language drives a cluster with them. */
import { execFile, spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { loadSync } from '@grpc/proto-loader';
import t from 'tap';
import { testCluster } from '../../src/index.js';

const root = fileURLToPath(new URL('../../..', import.meta.url));
const proto = join(root, 'proto');
const files = readdirSync(proto, { recursive: true, encoding: 'utf8' })
  .filter((name) => name.endsWith('.proto'))
  .sort();
const has = (command: string, ...args: string[]): boolean =>
  spawnSync(command, args, { stdio: 'ignore' }).status === 0;
const python = ['python3', '/usr/bin/python3'].find((name) => has(name, '-c', 'import grpc, grpc_tools'));
const noPython = 'python3-grpcio and python3-grpc-tools are not installed';

t.test('every file parses by itself, with its imports in proto/ or of protobuf itself', (t) => {
  t.ok(files.length >= 10, files.join(' '));
  for (const file of files) {
    const definition = loadSync(file, { includeDirs: [proto] });
    t.ok(Object.keys(definition).length > 0, file);
    for (const [, path] of readFileSync(join(proto, file), 'utf8').matchAll(/^import "([^"]+)";/gm))
      t.ok(files.includes(path ?? '') || (path ?? '').startsWith('google/protobuf/'), `${file}: ${path}`);
  }
  t.end();
});

t.test('they compile with protoc', (t) => {
  const compiler = has('protoc', '--version')
    ? { command: 'protoc', args: [] }
    : python === undefined
      ? undefined
      : { command: python, args: ['-m', 'grpc_tools.protoc'] };
  if (compiler === undefined) {
    t.pass('', { skip: 'neither protoc nor python3-grpc-tools is installed' });
    return t.end();
  }
  const out = mkdtempSync(join(tmpdir(), 'hansard-protoc-'));
  t.teardown(() => rmSync(out, { recursive: true, force: true }));
  const set = `--descriptor_set_out=${join(out, 'set.pb')}`;
  const compiled = spawnSync(compiler.command, [...compiler.args, '-I', proto, set, ...files], {
    encoding: 'utf8',
  });
  t.same([compiled.status, compiled.stderr], [0, '']);
  t.end();
});

t.test('a Python program drives a cluster', { timeout: 120_000 }, async (t) => {
  if (python === undefined) return void t.pass('', { skip: noPython });
  const out = mkdtempSync(join(tmpdir(), 'hansard-python-'));
  t.teardown(() => rmSync(out, { recursive: true, force: true }));
  const ours = files.filter((name) => name.startsWith('hansard/v1/'));
  const made = spawnSync(
    python,
    ['-m', 'grpc_tools.protoc', '-I', proto, `--python_out=${out}`, `--grpc_python_out=${out}`, ...ours],
    { cwd: proto, encoding: 'utf8' },
  );
  t.equal(made.status, 0, made.stderr);
  const cluster = await testCluster({ nodes: 3 });
  t.teardown(() => cluster.close());
  const [first = '', , third = ''] = cluster.endpoint.split(',');
  const ran = await new Promise<{ said: string; failed: string }>((done) => {
    const options = { env: { ...process.env, PYTHONPATH: out }, timeout: 90_000 };
    execFile(python, [join(root, 'test/package/drive.py'), first, third], options, (error, said, stderr) =>
      done({ said, failed: error === null ? '' : stderr || error.message }),
    );
  });
  t.equal(ran.failed, '');
  t.equal(ran.said.trim(), '3 nodes, 22 events');
});
