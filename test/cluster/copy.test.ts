/** An export of one tenant loaded into another, by the command against three real nodes: nothing of the channels is lost. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { connect, type TestCluster, testCluster } from '../../src/index.js';
import { hansard as command } from '../support/command.js';

t.setTimeout(600_000);
const dir = mkdtempSync(join(tmpdir(), 'hansard-copy-'));
let cluster: TestCluster;
t.before(async () => {
  cluster = await testCluster({ nodes: 3 });
});
t.teardown(async () => {
  await cluster?.close();
  rmSync(dir, { recursive: true, force: true });
});

interface Line {
  readonly record?: string;
  readonly channel: string;
  readonly [field: string]: unknown;
}

const hansard = (...args: string[]) => command([...args, '--endpoint', cluster.endpoint, '--timeout', '120']);

async function exported(tenant: string): Promise<Line[]> {
  const { code, out, err } = await hansard('export', '--tenant', tenant);
  t.equal(code, 0, err);
  return out
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as Line);
}

async function loaded(file: string, tenant: string): Promise<Record<string, unknown>> {
  const { code, out, err } = await hansard('import', '--exported', file, '--tenant', tenant, '--json');
  t.equal(code, 0, err);
  return JSON.parse(out) as Record<string, unknown>;
}

/** Without what a load makes anew; seqs counted from the channel's first. */
function comparable(lines: readonly Line[]): unknown[] {
  const firstSeqs = new Map(
    lines.filter((line) => line.record).map((line) => [line.channel, Number(line.first_seq)]),
  );
  const fresh = new Set(['uid', 'create_time', 'commit_time']);
  const seqs = new Set(['seq', 'first_seq', 'head_seq', 'target_seq']);
  return lines.map((line) =>
    Object.fromEntries(
      Object.entries(line)
        .filter(([name]) => !fresh.has(name))
        .map(([name, value]) => [
          name,
          seqs.has(name) ? Number(value) - (firstSeqs.get(line.channel) ?? 1) : value,
        ]),
    ),
  );
}

t.test('export and load', async (t) => {
  const from = connect(`hansard://${cluster.endpoint}/from`, { readLevel: 'linearizable' });
  const participants = [{ id: 'ada', displayName: 'Ada', role: 'customer' }];
  const fields = { title: 'Späte Lieferung', class: 'support', labels: { team: 'north' }, participants };
  await from.createChannel('support/1', fields);
  await from.createChannel('waiting', { title: 'nobody has spoken yet' });
  const support = from.channel('support/1');
  const { seq } = await support.append({ role: 'user', text: 'Where is it?' });
  await support.append([
    { role: 'assistant', text: 'Let me look.', replyTo: { seq } },
    { role: 'assistant', text: 'Soon there.', replyTo: { batchPosition: 0 } },
  ]);
  await support.append({ type: 'reaction-added', contentBytes: new Uint8Array([7]), targetSeq: seq });
  const again = from.channel('again');
  await again.append(Array.from({ length: 5 }, () => ({ text: 'forgotten' })));
  await again.delete();
  const anew = await again.append([{ text: 'a new beginning' }, { text: 'with a second' }]);
  t.equal(anew.seq, 6);
  await again.append({ text: 'about it', replyTo: { seq: 6 } });
  await again.append({ type: 'annotated', contentBytes: new Uint8Array([1]), targetSeq: 7 });
  await from.channel('plain').append({ text: 'made by its first append' });

  const lines = await exported('from');
  t.match(
    lines.filter((line) => line.record === 'channel'),
    [
      { version: 1, channel: 'again', first_seq: 6, head_seq: 9 },
      { version: 1, channel: 'plain', first_seq: 1, head_seq: 1 },
      {
        channel: 'support/1',
        head_seq: 4,
        title: fields.title,
        labels: fields.labels,
        class: 'support',
        participants: [{ id: 'ada', display_name: 'Ada', role: 'customer' }],
      },
      { channel: 'waiting', first_seq: 1, head_seq: 0 },
    ],
  );
  const file = join(dir, 'from.jsonl');
  writeFileSync(file, `${lines.map((line) => JSON.stringify(line)).join('\n')}\n`);

  await t.test(
    'into an empty tenant: the same but for new numbers where a name was used before',
    async (t) => {
      t.match(await loaded(file, 'to'), {
        channels: 4,
        added: 9,
        channels_renumbered: 1,
        stale_references: 1,
        channels_kept: 0,
      });
      const copy = await exported('to');
      t.same(comparable(copy), comparable(lines));
      t.match(
        copy.filter((line) => line.channel === 'again').map((line) => line.seq ?? line.first_seq),
        [1, 1, 2, 3, 4],
      );
      t.match(await loaded(file, 'to'), { added: 0, before: 9, channels_kept: 0 }, 'again adds nothing');
      t.same(await exported('to'), copy);
    },
  );

  await t.test('where names were used and deleted, behind what they had', async (t) => {
    const client = connect(`hansard://${cluster.endpoint}/used`, { readLevel: 'linearizable' });
    for (const name of ['plain', 'again', 'waiting']) {
      await client.channel(name).append([{ text: 'x' }, { text: 'y' }]);
      await client.channel(name).delete();
    }
    await client.close();
    t.match(await loaded(file, 'used'), { added: 9, channels_renumbered: 2 });
    const copy = await exported('used');
    t.same(comparable(copy), comparable(lines));
    t.match(
      copy.find((line) => line.channel === 'plain'),
      { first_seq: 3, head_seq: 3 },
    );
  });

  await t.test('an export of earlier versions, without records, loads as before', async (t) => {
    const old = join(dir, 'old.jsonl');
    const plain = lines.filter((line) => line.record === undefined && line.channel !== 'again');
    writeFileSync(old, plain.map((line) => JSON.stringify(line)).join('\n'));
    t.match(await loaded(old, 'old'), { added: 5, channels: 2, channels_renumbered: 0 });
    t.same(
      comparable(await exported('old')).filter((line) => (line as Line).record === undefined),
      comparable(plain),
    );
  });

  await t.test('a file that lost lines is refused before anything is stored', async (t) => {
    const text = readFileSync(file, 'utf8').split('\n');
    for (const lost of [text.length - 2 - 1, 3]) {
      const cut = join(dir, `cut-${lost}.jsonl`);
      writeFileSync(cut, text.toSpliced(lost, 1).join('\n'));
      const { code, err } = await hansard('import', '--exported', cut, '--tenant', 'cut');
      t.equal(code, 2);
      t.match(err, /nothing was imported/);
    }
    t.match(await hansard('import', file, '--tenant', 'cut'), { code: 2, err: /--exported/ });
    const { out } = await hansard('channels', '--all', '--tenant', 'cut', '--json');
    t.same((JSON.parse(out) as { channels: unknown[] }).channels, []);
  });
  await from.close();
});
