/** Settings: precedence, origins, units, refusals that say where and what is allowed. */
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import t, { type Test as TestBase } from 'tap';
import { parseAddress } from '../../src/common/address.js';
import { HansardError } from '../../src/common/errors.js';
import {
  allowed,
  formatBytes,
  formatDuration,
  formatSetting,
  parseSetting,
} from '../../src/node/setting-values.js';
import { describeSettings, flagOf, keyOf, resolveSettings, variableOf } from '../../src/node/settings.js';
import { settingNames, settingsTable } from '../../src/node/settings-table.js';

async function refusal(t: TestBase, sources: Parameters<typeof resolveSettings>[0]): Promise<string> {
  try {
    await resolveSettings(sources);
  } catch (error) {
    if (error instanceof HansardError && error.reason === 'INVALID_SETTINGS') return error.message;
    throw error;
  }
  t.fail('expected INVALID_SETTINGS');
  return '';
}

t.test('a flag counts before the environment, that before the file, that before the folder', async (t) => {
  const file = {
    name: 'h.toml',
    text: 'tick = "20ms"\nlog_level = "debug"\ntail_limit = "128 MiB"\nclient_address = "127.0.0.1:3"',
  };
  const resolved = await resolveSettings({
    flags: { tick: '40ms' },
    env: { HANSARD_TICK: '30ms', HANSARD_LOG_LEVEL: 'warn' },
    file,
    folder: { clientAddress: '127.0.0.1:1', peerAddress: '127.0.0.1:2' },
  });
  t.equal(resolved.settings.tick, 40);
  t.equal(resolved.origins.tick, 'flag --tick');
  t.equal(resolved.settings.logLevel, 'warn');
  t.equal(resolved.origins.logLevel, 'environment HANSARD_LOG_LEVEL');
  t.equal(resolved.settings.tailLimit, 128 * 1024 * 1024);
  t.equal(resolved.origins.tailLimit, 'file h.toml');
  t.equal(resolved.settings.clientAddress, '127.0.0.1:3');
  t.equal(resolved.settings.peerAddress, '127.0.0.1:2');
  t.equal(resolved.origins.peerAddress, 'folder');
  t.equal(resolved.settings.electionTimeout, 1000);
  t.equal(resolved.origins.electionTimeout, 'default');
  const rows = describeSettings(resolved);
  t.equal(rows.length, settingNames.length);
  t.match(
    rows.find((row) => row.setting === 'tail_limit'),
    { value: '128 MiB', origin: 'file h.toml', default: '384 MiB' },
  );
});

t.test('what is not allowed says where it came from and what is', async (t) => {
  t.match(
    await refusal(t, { env: { HANSARD_TICK: 'soon' } }),
    /^tick: "soon" from environment HANSARD_TICK .*10 ms to 1 s/,
  );
  t.match(await refusal(t, { flags: { logLevel: 'loud' } }), /flag --log-level.*debug, info, warn, error/);
  t.match(await refusal(t, { file: { name: 'f.toml', text: 'tail_limit = 1' } }), /file f\.toml/);
  t.match(
    await refusal(t, { file: { name: 'f.toml', text: 'tail_limt = 1' } }),
    /unknown setting tail_limt; did you mean tail_limit/,
  );
  t.match(await refusal(t, { file: { name: 'f.toml', text: 'tick =' } }), /f\.toml is not TOML/);
  t.match(await refusal(t, { flags: { electionTimeout: '200ms' } }), /at least five ticks/);
  t.match(await refusal(t, { flags: { checkpointBytes: '384MiB' } }), /below tail_limit/);
  t.match(await refusal(t, { flags: { peerAddress: 'off' } }), /only http_address/);
});

t.test('addresses other than loopback need --insecure', async (t) => {
  for (const address of ['0.0.0.0:4650', '10.0.0.1:1', '[::]:4650', 'example.org:4650'])
    t.match(await refusal(t, { flags: { clientAddress: address } }), /--insecure/, address);
  for (const address of ['127.0.0.1:1', '127.9.9.9:1', '[::1]:1', 'localhost:1'])
    t.equal((await resolveSettings({ flags: { clientAddress: address } })).settings.clientAddress, address);
  const open = await resolveSettings({ flags: { clientAddress: '0.0.0.0:4650', insecure: true } });
  t.equal(open.settings.insecure, true);
});

t.test('an unknown variable is a warning, as Kubernetes makes such', async (t) => {
  const { warnings } = await resolveSettings({
    env: { HANSARD_PORT: 'tcp://1', HANSARD_TICKS: '3', HANSARD_ENDPOINT: 'x' },
  });
  t.equal(warnings.length, 2);
  t.match(warnings.join('\n'), /HANSARD_TICKS.*HANSARD_TICK\?/);
});

t.test('values: units, whole numbers, round trips', async (t) => {
  const size = settingsTable.tailLimit;
  t.same(parseSetting(size, '64MiB'), { value: 67108864 });
  t.same(parseSetting(size, '64 mib'), { value: 67108864 });
  t.same(parseSetting(size, 67108864), { value: 67108864 });
  t.same(parseSetting(settingsTable.electionTimeout, '1.5s'), { value: 1500 });
  for (const bad of ['', '-1', '64 XiB', '1e9', 'NaN', '1.0000001MiB', 2 ** 60, 1n, null, {}, true])
    t.match(parseSetting(size, bad), { problem: String }, String(bad));
  t.equal(formatBytes(1536), '1536 B');
  t.equal(formatBytes(64 * 1024), '64 KiB');
  t.equal(formatDuration(90_000), '90 s');
  t.equal(formatDuration(120_000), '2 min');
  for (const bad of ['a', 'a:', ':1', 'a:65536', '::1:5', 'http://a:1', 'a b:1'])
    t.equal(parseAddress(bad), undefined, bad);
  t.same(parseAddress('[::1]:5'), { host: '::1', port: 5 });
});

t.test('every setting has a reason, an allowed default and one name in three spellings', async (t) => {
  for (const name of settingNames) {
    const info = settingsTable[name];
    t.ok(info.reason.length > 20, name);
    t.notMatch(
      parseSetting(info, info.default),
      { problem: String },
      `${name}'s default is ${allowed(info)}`,
    );
  }
  t.equal(flagOf('clientAddress'), '--client-address');
  t.equal(keyOf('clientAddress'), 'client_address');
  t.equal(variableOf('clientAddress'), 'HANSARD_CLIENT_ADDRESS');
});

t.test('defaults of memory go by what there is', async (t) => {
  const MiB = 1024 * 1024;
  const of = async (sources: Parameters<typeof resolveSettings>[0]) => {
    const { tailLimit, checkpointBytes } = (await resolveSettings(sources)).settings;
    return [tailLimit / MiB, checkpointBytes / MiB];
  };
  t.same(await of({ heapLimitBytes: 4_096 * MiB }), [384, 32]);
  t.same(await of({ heapLimitBytes: 1_024 * MiB }), [128, 32]);
  t.same(await of({ heapLimitBytes: 256 * MiB }), [64, 32]);
  t.same(await of({ flags: { tailLimit: '28MiB' }, heapLimitBytes: 1_024 * MiB }), [28, 14]);
  t.same(
    await of({ flags: { tailLimit: '1GiB' }, heapLimitBytes: 256 * MiB }),
    [1_024, 32],
    'what is set counts',
  );
});

t.test('docs/settings.md has every setting as it is', async (t) => {
  const docs = readFileSync(fileURLToPath(new URL('../../../docs/settings.md', import.meta.url)), 'utf8');
  for (const name of settingNames) {
    const info = settingsTable[name];
    const def = info.default === '' ? '(none)' : formatSetting(info, info.default);
    const row = `| \`${keyOf(name)}\` | ${def} | ${allowed(info)} | ${info.reason} |`;
    t.ok(docs.includes(row), row);
  }
});
