/** The command line without a server: usage, help, exit codes, tables, JSON, colours. */
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import t from 'tap';
import { ExitCode, exitCodeOf, exitCodeTable } from '../../src/cli/exit-codes.js';
import { bytesText, count, durationText, Output, printable } from '../../src/cli/output.js';
import { progressText } from '../../src/cli/progress.js';
import { targetOf } from '../../src/cli/session.js';
import { recreationOf } from '../../src/cli/subscription-record.js';
import { statusOf } from '../../src/cli/subscription-status.js';
import { version } from '../../src/cli/version.js';
import { type ClusterInfo, parseTarget, type SubscriptionInfo } from '../../src/client/index.js';
import { HansardError, type Reason, reasons } from '../../src/common/errors.js';
import { silentLogger } from '../../src/common/logger.js';
import { startHttp } from '../../src/node/http.js';
import { createMetrics } from '../../src/node/metrics.js';
import { hansard, Sink } from '../support/command.js';

const dir = mkdtempSync(join(tmpdir(), 'hansard-cli-'));
t.teardown(() => rmSync(dir, { recursive: true, force: true }));
const main = fileURLToPath(new URL('../../src/cli/main.js', import.meta.url));

const run = (...argv: string[]) => hansard(argv, { HANSARD_ENDPOINT: '127.0.0.1:1' });

t.test('every command has help with examples; the whole lists the exit codes', async (t) => {
  const commands = [
    ['init'],
    ['start'],
    ['status'],
    ['append'],
    ['read'],
    ['tail'],
    ['subscribe'],
    ['inbox'],
    ['channel', 'mark-read'],
    ['delivery', 'list'],
    ['delivery', 'report'],
    ['channels'],
    ['channel', 'create'],
    ['channel', 'update'],
    ['channel', 'delete'],
    ['import'],
    ['export'],
    ['inspect'],
    ['cluster', 'up'],
    ['cluster', 'down'],
    ['cluster', 'status'],
  ];
  for (const command of commands) {
    const { code, out } = await run(...command, '--help');
    t.equal(code, 0);
    t.match(out, /Examples:\n {2}\$ hansard /, command.join(' '));
    t.match(out, /--json/, command.join(' '));
  }
  const whole = await run('--help');
  for (const [code, meaning] of exitCodeTable) t.match(whole.out, `${String(code).padEnd(4)} ${meaning}`);
  t.equal((await run('--version')).out.trim(), version);
  const docs = readFileSync(fileURLToPath(new URL('../../../docs/cli.md', import.meta.url)), 'utf8');
  for (const [code, meaning] of exitCodeTable)
    t.ok(docs.includes(`| ${code} | ${meaning} |`), `docs/cli.md: ${code}`);
  const manifest = JSON.parse(
    readFileSync(fileURLToPath(new URL('../../../package.json', import.meta.url)), 'utf8'),
  );
  t.equal(version, manifest.version);
});

t.test('wrong usage is exit code 2, with a hint, and JSON where asked', async (t) => {
  for (const argv of [
    ['raed'],
    ['read'],
    ['read', 'c', '--limit', '0'],
    ['read', 'c', '--nope'],
    ['append', 'c', 'x', '--role', 'king'],
    ['import', '-'],
    ['start', '--tick', 'soon', '--dir', dir],
    ['cluster', 'up', '--nodes', 'x'],
  ]) {
    const plain = await run(...argv);
    t.equal(plain.code, ExitCode.usage, argv.join(' '));
    t.match(plain.err, /^error: /);
    const json = await run(...argv, '--json');
    t.equal(json.code, ExitCode.usage);
    t.match(JSON.parse(json.err.split('\n')[0] ?? ''), {
      error: { reason: String, message: String, cure: String },
    });
    t.equal(json.out, '');
  }
  t.match((await run('raed')).err, /Did you mean read/);
  for (const [option, ...argv] of [
    ['--request-id', 'append-batch', 'none.jsonl'],
    ['--key', 'append', 'c', 'x'],
    ['--message-id', 'append', 'c', 'x'],
  ] as const)
    t.match(await run(...argv, option, ''), { code: ExitCode.usage, err: new RegExp(`${option}.*empty`) });
});

t.test('a tenant in the endpoint counts, or is refused where another is named', async (t) => {
  const of = (endpoint: string, tenant: string) => parseTarget(targetOf({ endpoint, tenant }));
  const nodes = ['h:1', 'h:2'];
  t.same(of('hansard://h:1,h:2/acme', 'default'), { endpoints: nodes, tenant: 'acme' });
  t.same(of('h:1,h:2/acme/', 'acme'), { endpoints: nodes, tenant: 'acme' });
  t.same(of('h:1,h:2', 'acme'), { endpoints: nodes, tenant: 'acme' });
  t.same(of('hansard://h:1,h:2/', 'acme'), { endpoints: nodes, tenant: 'acme' });
  const torn = await run('read', 'c', '--endpoint', 'hansard://127.0.0.1:1/acme', '--tenant', 'other');
  t.equal(torn.code, ExitCode.usage);
  t.match(torn.err, /tenant acme.*other/);
});

t.test('HANSARD_TIMEOUT stands for --timeout', async (t) => {
  const nobody = ['status', '--endpoint', '127.0.0.1:1'];
  const none = await hansard(nobody, { HANSARD_TIMEOUT: '0.3' });
  t.equal(none.code, ExitCode.unreachable);
  t.match(
    (await hansard(['verify', '--help'], { HANSARD_TIMEOUT: '0.3' })).out,
    /HANSARD_TIMEOUT\)\s+\(default:\s+0\.3\)/,
  );
  const bad = await hansard(nobody, { HANSARD_TIMEOUT: 'soon' });
  t.match(bad, { code: ExitCode.usage, err: /HANSARD_TIMEOUT is soon: seconds, more than 0/ });
});

t.test('errors say what happened, the reason and the cure', async (t) => {
  const nobody = await run('read', 'c', '--timeout', '0.5');
  t.equal(nobody.code, ExitCode.unreachable);
  t.match(nobody.err, /^error: .*\((UNREACHABLE|DEADLINE_EXCEEDED)\)\ncure: {2}\S/);
  writeFileSync(join(dir, 'backup.jsonl'), 'the last good one');
  t.equal((await run('export', join(dir, 'backup.jsonl'), '--timeout', '0.5')).code, ExitCode.unreachable);
  t.equal(readFileSync(join(dir, 'backup.jsonl'), 'utf8'), 'the last good one', 'a failed export leaves it');
  t.notOk(existsSync(join(dir, 'backup.jsonl.partial')));
  const missing = await run('import', join(dir, 'none.jsonl'));
  t.equal(missing.code, ExitCode.usage);
  t.match(missing.err, /there is no file/);
  const lost = await run('start', '--dir', join(dir, 'nothing'));
  t.equal(lost.code, ExitCode.unusableHere);
  t.match(lost.err, /REPLICA_LOST/);
  writeFileSync(join(dir, 'bad.jsonl'), '{"channel":"c","text":"fine"}\nnot json\n');
  const bad = await run('import', join(dir, 'bad.jsonl'));
  t.equal(bad.code, ExitCode.usage);
  t.match(bad.err, /line 2: not JSON/);
  t.match(bad.err, /nothing was imported/);
  writeFileSync(
    join(dir, 'export.jsonl'),
    '{"channel":"c","text":"t","seq":1,"content_xxh64":"0000000000000000"}\n',
  );
  t.match((await run('import', join(dir, 'export.jsonl'))).err, /--exported/);
  t.match((await run('import', '--exported', join(dir, 'export.jsonl'))).err, /does not match content_xxh64/);
});

t.test('every reason has an exit code of the table', async (t) => {
  const known = new Set(exitCodeTable.map(([code]) => code));
  for (const reason of Object.keys(reasons) as Reason[]) {
    const code = exitCodeOf(new HansardError(reason, 'x'));
    t.ok(known.has(code) && code !== ExitCode.ok, `${reason}: ${code}`);
  }
  t.equal(exitCodeOf(new HansardError('CHANNEL_NOT_FOUND', '')), ExitCode.notFound);
  t.equal(exitCodeOf(new HansardError('CONDITION_FAILED', '')), ExitCode.conflict);
  t.equal(exitCodeOf(new HansardError('NO_QUORUM', '')), ExitCode.unreachable);
  t.equal(exitCodeOf(new HansardError('ADDRESS_IN_USE', '')), ExitCode.unusableHere);
  t.equal(exitCodeOf(new HansardError('LOG_DAMAGED', '')), ExitCode.damaged);
});

t.test('tables are plain columns; colours only on a terminal that wants them', async (t) => {
  const stdout = new Sink();
  const output = (env: Record<string, string>) =>
    new Output({ json: false, stdout, stderr: new Sink(), env });
  output({}).table(
    [{ title: 'NAME' }, { title: 'N', align: 'right' }],
    [
      ['渠道', 5],
      ['b', 1000],
    ],
  );
  t.equal(stdout.text, 'NAME     N\n渠道     5\nb     1000\n');
  stdout.isTTY = true;
  t.match(output({}).colors.red('x'), '\u001b[');
  t.equal(output({ NO_COLOR: '1' }).colors.red('x'), 'x');
  t.equal(output({ TERM: 'dumb' }).colors.red('x'), 'x');
  t.equal(
    printable('a\u001b]0;owned\u0007b\u009bc'),
    'a␛]0;owned␇b␛c',
    'stored text can not drive the terminal',
  );
  t.equal(printable('a\u001b[31mb'), 'a␛[31mb');
  t.equal(count(1234567), '1,234,567');
  t.equal(bytesText(36_441_510), '36.4 MB');
  t.equal(durationText(75), '1 min 15 s');
  t.equal(
    progressText('importing', { bytes: 500, totalBytes: 1000, messages: 40 }, 2),
    'importing   50 %  40 messages  20/s  500 B of 1.0 kB  2.0 s left',
  );
});

t.test('init and --print-config; a second init changes nothing', async (t) => {
  const folder = join(dir, 'node');
  const made = await run(
    'init',
    '--dir',
    folder,
    '--partitions',
    '2',
    '--client-address',
    '127.0.0.1:7001',
    '--json',
  );
  t.equal(made.code, 0, made.err);
  t.match(JSON.parse(made.out), { node: 1, partitions: 2, client_address: '127.0.0.1:7001' });
  const again = await run('init', '--dir', folder);
  t.equal(again.code, ExitCode.unusableHere);
  t.match(again.err, /DIRECTORY_NOT_EMPTY/);
  writeFileSync(join(folder, 'hansard.toml'), 'tail_limit = "128MiB"\n');
  const { settings } = JSON.parse(
    (await run('start', '--dir', folder, '--tick', '20ms', '--print-config', '--json')).out,
  );
  const row = (name: string) => settings.find((s: { setting: string }) => s.setting === name);
  t.match(row('tick'), { value: '20 ms', origin: 'flag --tick' });
  t.match(row('tail_limit'), { value: '128 MiB', origin: /^file .*hansard\.toml$/ });
  t.match(row('client_address'), { value: '127.0.0.1:7001', origin: 'folder' });
  t.match(row('log_level'), { value: 'info', origin: 'default' });
});

t.test('the process: exit status, and a reader that has seen enough', async (t) => {
  const none = spawnSync(
    process.execPath,
    [main, 'read', 'c', '--endpoint', '127.0.0.1:1', '--timeout', '0.3'],
    { encoding: 'utf8' },
  );
  t.equal(none.status, ExitCode.unreachable);
  t.equal(none.stdout, '');
  const head = execFileSync('sh', ['-c', `"${process.execPath}" "${main}" --help | head -1`], {
    encoding: 'utf8',
  });
  t.match(head, /^Usage: hansard/);
});

t.test('data commands do not load what only servers need', async (t) => {
  const script = `await import(${JSON.stringify(pathToFileURL(main.replace('main.js', 'program.js')).href)});
    for (const name of ['append', 'read', 'channels', 'import', 'export', 'status']) await import(${JSON.stringify(pathToFileURL(main.replace('main.js', 'commands/')).href)} + name + '.js');
    const { createRequire } = await import('node:module');
    console.log(JSON.stringify(Object.keys(createRequire(import.meta.url).cache)));`;
  const loaded = execFileSync(process.execPath, ['--input-type=module', '-e', script], { encoding: 'utf8' });
  for (const heavy of ['classic-level', 'pino', 'prom-client', 'zod'])
    t.notOk(loaded.includes(`node_modules/${heavy}/`), heavy);
});

t.test('metrics and health over HTTP', async (t) => {
  const metrics = createMetrics({
    identity: () => ({ clusterId: 'c', incarnation: 1, nodeId: 1, storeId: 's', bootId: 'b', version }),
    cluster: () => ({
      nodes: [],
      replicationFactor: 1,
      partitionMapVersion: 1,
      partitions: [
        { partition: 0, leader: 1, term: 1, commitIndex: 9, appliedIndex: 7, applyVersion: 2, replicas: [] },
        {
          partition: 1,
          leader: undefined,
          term: 1,
          commitIndex: 0,
          appliedIndex: 0,
          applyVersion: 2,
          replicas: [],
        },
      ],
    }),
    wal: () => ({
      batches: 1,
      syncs: 2,
      bytesWritten: 3,
      segments: 4,
      segmentBytes: 10,
      cachedBytes: 11,
      lastSyncMs: 5,
      replay: { segments: 0, batches: 0, entries: 0, bytes: 0, durationMs: 0, tornTail: false },
    }),
    store: () => ({
      tailBytes: 6,
      checkpoints: 0,
      checkpointBytes: 0,
      syncReads: 0,
      blocksRead: 0,
      eventsApplied: 0,
    }),
    peers: () => [],
  });
  for (let i = 0; i < 200; i++) metrics.observeCall(`m${i}`, 'OK', 1);
  metrics.observeCall('m1', 'NO_QUORUM', 3);
  let ready = false;
  const http = await startHttp(
    '127.0.0.1:0',
    {
      metrics: async () => ({ text: await metrics.text(), contentType: metrics.contentType }),
      readiness: () => ({ ready, problems: ready ? [] : ['asleep'], details: { node: 1 } }),
    },
    silentLogger,
  );
  t.teardown(() => http.close());
  const get = async (path: string, method = 'GET') => {
    const response = await fetch(`http://${http.address}${path}`, { method });
    return { status: response.status, text: await response.text() };
  };
  const { status, text } = await get('/metrics');
  t.equal(status, 200);
  for (const line of [
    'hansard_partitions_led 1',
    'hansard_partitions_leaderless 1',
    'hansard_apply_lag_entries 2',
    'hansard_tail_bytes 6',
    'hansard_log_last_sync_seconds 0.005',
  ])
    t.ok(text.includes(`\n${line}\n`), line);
  t.match(text, 'hansard_calls_total{method="m1",outcome="NO_QUORUM"} 1');
  t.match(text, 'hansard_calls_total{method="other",outcome="OK"} 136');
  t.match(await get('/healthz'), { status: 200 });
  t.match(await get('/readyz'), { status: 503, text: /asleep/ });
  ready = true;
  t.match(await get('/readyz'), { status: 200 });
  t.match(await get('/nothing'), { status: 404 });
  t.match(await get('/metrics', 'POST'), { status: 405 });
  await t.rejects(
    startHttp(
      http.address,
      {
        metrics: async () => ({ text: '', contentType: '' }),
        readiness: () => ({ ready, problems: [], details: {} }),
      },
      silentLogger,
    ),
    { reason: 'ADDRESS_IN_USE' } as unknown as Error,
  );
  metrics.close();
});

t.test('what is no subscription of an export is refused', async (t) => {
  const selector = { channels: [], prefix: 'a/', label: null, types: [] };
  const settings = { ack_deadline_seconds: 30, paused: false };
  const right = { subscription: 'w', selector, settings };
  t.match(recreationOf(right), { name: 'w', options: { prefix: 'a/', ackDeadlineMs: 30_000 } });
  for (const wrong of [
    null,
    'w',
    { ...right, subscription: 5 },
    { ...right, selector: null },
    { ...right, selector: {} },
    { ...right, selector: { ...selector, channels: undefined } },
    { ...right, selector: { ...selector, types: 'all' } },
    { ...right, settings: null },
  ])
    t.throws(
      () => recreationOf(wrong),
      { reason: 'INVALID_ARGUMENT' } as unknown as Error,
      JSON.stringify(wrong),
    );
});

t.test('status: which durable subscriptions stand still although there is work', async (t) => {
  const nowMs = 1_000_000_000;
  const cluster = { partitions: [{ partition: 0, commitIndex: 50 }] } as unknown as ClusterInfo;
  const of = (progress: Partial<SubscriptionInfo['progress']>, paused = false) => {
    const settings = { ackDeadlineMs: 30_000, retryDelayMs: 1_000, paused };
    const common = {
      idle: 'consumers-busy',
      pendingEvents: 3,
      oldestPendingMs: 100_000,
      lastProgressTimeUs: (nowMs - 100_000) * 1_000,
      consumers: 1,
      caughtUp: false,
      positions: new Map([
        [0, 40],
        [7, 1],
      ]),
    };
    const info = { settings, progress: { ...common, ...progress } } as unknown as SubscriptionInfo;
    return statusOf(info, cluster, nowMs);
  };
  t.match(of({}), { isStill: true, behind: 10 });
  t.match(of({ idle: 'no-consumers', consumers: 0 }), { isStill: true });
  t.match(of({ caughtUp: true }), { isStill: true, behind: 0 }, 'all is taken, and stays unacknowledged');
  t.match(of({ idle: 'dead-letters-full', oldestPendingMs: 1 }), { isStill: true });
  t.match(of({}, true), { isStill: false }, 'paused on purpose');
  t.match(of({ lastProgressTimeUs: nowMs * 1_000 }), { isStill: false });
  t.match(of({ oldestPendingMs: 10 }), { isStill: false }, 'work that has only just come');
  const nothing = { pendingEvents: 0, oldestPendingMs: 0 };
  t.match(of(nothing), { isStill: false }, 'somebody looks through what is there');
  const left = { ...nothing, idle: 'no-consumers', consumers: 0 } as const;
  t.match(of(left), { isStill: true, behind: 10 }, 'all are gone, and nothing more is taken');
  t.match(of(left, true), { isStill: false });
  t.match(of({ ...left, positions: new Map([[0, 50]]) }), { isStill: false, behind: 0 });
  t.match(of({ ...left, lastProgressTimeUs: nowMs * 1_000 }), { isStill: false });
});
