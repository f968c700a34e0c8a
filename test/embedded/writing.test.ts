/** Sealing, deleting and bringing back, and batches over several channels: with the SDK, on three nodes, over both transports. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { runCommand } from '../../src/cli/program.js';
import { type Channel, HansardError, testCluster } from '../../src/index.js';
import { patienceMs } from '../support/until.js';

t.setTimeout(600_000);

const reasonOf = (error: unknown): string => (error instanceof HansardError ? error.reason : String(error));
const refused = (promise: Promise<unknown>): Promise<string> => promise.then(() => 'done', reasonOf);

async function texts(channel: Channel): Promise<string[]> {
  const words: string[] = [];
  for await (const event of channel.list({ level: 'linearizable' })) {
    const part = event.message?.parts?.[0];
    if (part?.type === 'text') words.push(part.text);
  }
  return words;
}

t.test('three nodes', async (t) => {
  const cluster = await testCluster({ partitions: 4 });
  t.teardown(() => cluster.close());

  for (const transport of ['exchange', 'unary'] as const) {
    await t.test(`${transport}: a channel is sealed, deleted, brought back`, async (t) => {
      const client = cluster.connect('', { transport, timeoutMs: patienceMs });
      const channel = client.channel(`life/${transport}`);
      await channel.append([{ text: 'one' }, { text: 'two', key: 'k' }]);
      const sealed = await channel.seal();
      t.ok(sealed.sealTimeUs > 0);
      t.equal(await refused(channel.append({ text: 'three' })), 'CHANNEL_SEALED');
      t.match(await channel.append({ text: 'two', key: 'k' }), { seq: 2, duplicate: true }, 'a repeat');
      t.equal((await channel.info()).sealTimeUs, sealed.sealTimeUs);
      t.equal(await refused(client.channel('nowhere').seal()), 'CHANNEL_NOT_FOUND');

      const would = { headSeq: 2, eventCount: 2, messageCount: 2, purgeTimeUs: 0 };
      t.match(await channel.delete({ dryRun: true }), would);
      t.match(await channel.delete({ dryRun: true, etag: sealed.etag }), would);
      t.equal(
        await refused(channel.delete({ dryRun: true, etag: '"c0000000000000000-1"' })),
        'CONDITION_FAILED',
      );
      t.equal((await channel.info()).headSeq, 2, 'nothing was deleted');
      const deleted = await channel.delete();
      t.match(deleted, { headSeq: 2, eventCount: 2, messageCount: 2 });
      t.ok(deleted.purgeTimeUs > Date.now() * 1000);
      t.equal(await refused(channel.info()), 'CHANNEL_NOT_FOUND');
      t.equal(await refused(channel.delete({ dryRun: true })), 'CHANNEL_NOT_FOUND');
      t.same((await client.channelPage({ prefix: channel.name })).channels, []);
      t.same((await client.channelPage({ prefix: channel.name, orderBy: 'activity' })).channels, []);
      const trashed = (await client.channelPage({ prefix: channel.name, deleted: true })).channels;
      t.match(trashed, [{ name: channel.name, headSeq: 2, purgeTimeUs: deleted.purgeTimeUs }]);
      t.ok((trashed[0]?.deleteTimeUs ?? 0) > 0);
      const back = await channel.undelete();
      t.same((await client.channelPage({ prefix: channel.name, deleted: true })).channels, []);
      t.match(back, { deleteTimeUs: 0, purgeTimeUs: 0 });
      t.match(back, { headSeq: 2, sealTimeUs: sealed.sealTimeUs });
      t.not(back.etag, sealed.etag);
      t.same(await texts(channel), ['one', 'two']);
      t.equal(await refused(channel.undelete()), 'CHANNEL_EXISTS');
      t.match(await channel.delete({ permanent: true }), { headSeq: 2, purgeTimeUs: 0 });
      t.equal(await refused(channel.undelete()), 'CHANNEL_NOT_FOUND');
      t.equal((await channel.append({ text: 'next life' })).seq, 3);
    });

    await t.test(`${transport}: deleted channels are listed by name, page by page`, async (t) => {
      const client = cluster.connect('', { transport, timeoutMs: 20_000 });
      const prefix = `gone/${transport}/`;
      const names = ['a', 'b', 'c', 'd', 'e'].map((each) => `${prefix}${each}`);
      for (const name of names) {
        await client.channel(name).append({ text: 'x' });
        await client.channel(name).delete();
      }
      const found: string[] = [];
      for await (const { name } of client.channels({ prefix, deleted: true, pageSize: 2 })) found.push(name);
      t.same(found, names);
      const { nextPageToken } = await client.channelPage({ prefix, deleted: true, pageSize: 2 });
      t.equal(await refused(client.channelPage({ prefix, pageToken: nextPageToken })), 'INVALID_TOKEN');
      const byActivity = client.channelPage({ prefix, deleted: true, orderBy: 'activity' });
      t.equal(await refused(byActivity), 'INVALID_ARGUMENT');
      t.equal(await refused(client.channelPage({ deleted: true, participant: 'a' })), 'INVALID_ARGUMENT');
    });

    await t.test(`${transport}: a batch takes effect as a whole, over a lost leader, too`, async (t) => {
      const client = cluster.connect('', { transport, timeoutMs: patienceMs });
      const tag = `{${transport}}`;
      const [a, b, c] = ['a', 'b', 'c'].map((each) => client.channel(`${tag}/${each}`)) as [
        Channel,
        Channel,
        Channel,
      ];
      const results = await client.appendBatch([
        { channel: a.name, messages: [{ text: 'a1' }, { text: 'a2' }] },
        { channel: b.name, messages: { text: 'b1' }, condition: { mustNotExist: true } },
      ]);
      t.match(results, [{ seqs: [1, 2], duplicate: false }, { seqs: [1] }]);
      const again = [{ channel: a.name, messages: { text: 'a3' } }];
      t.match(await client.appendBatch(again, { requestId: tag }), [{ seqs: [3], duplicate: false }]);
      const repeat = cluster.connect('', { transport }).appendBatch(again, { requestId: tag });
      t.match(await repeat, [{ seqs: [3], duplicate: true }], 'a repeat by another process');
      const failed = await client
        .appendBatch([
          { channel: c.name, messages: { text: 'c1' } },
          { channel: b.name, messages: { text: 'b2' }, condition: { expectedHeadSeq: 7 } },
        ])
        .catch((error: unknown) => error);
      t.match(failed, { reason: 'CONDITION_FAILED', fields: { item: '1' } });
      t.equal(await refused(c.info()), 'CHANNEL_NOT_FOUND', 'nothing of it');
      const apart = ['x', 'y', 'z', 'w', 'v', 'u'].map((name) => ({
        channel: name,
        messages: { text: 'x' },
      }));
      t.equal(await refused(client.appendBatch(apart)), 'INVALID_ARGUMENT', 'several partitions');
      t.equal(await refused(client.appendBatch([])), 'INVALID_ARGUMENT');
      const twice = [a, a].map(({ name }) => ({ channel: name, messages: { text: 'x' } }));
      t.equal(await refused(client.appendBatch(twice)), 'INVALID_ARGUMENT');

      // Many batches while the leader dies: each is there once in all of its channels, or in none.
      const rounds = 30;
      const sent: Promise<string>[] = [];
      for (let n = 0; n < rounds; n++) {
        const items = [a, b, c].map(({ name }) => ({ channel: name, messages: { text: `round ${n}` } }));
        sent.push(refused(client.appendBatch(items)));
        if (n === 10) {
          const leader = cluster.leaderOf(a.name);
          if (leader !== undefined) {
            await cluster.kill(leader);
            await cluster.restart(leader);
          }
        }
        await new Promise((resolve) => setTimeout(resolve, 5));
      }
      const outcomes = await Promise.all(sent);
      const found = await Promise.all([a, b, c].map(texts));
      for (const [n, outcome] of outcomes.entries()) {
        const counts = found.map((words) => words.filter((word) => word === `round ${n}`).length);
        const isWhole = counts.every((count) => count === counts[0]) && (counts[0] ?? 2) <= 1;
        if (!isWhole || (outcome === 'done' && counts[0] !== 1)) t.fail(`round ${n}: ${outcome}, ${counts}`);
      }
      t.ok(outcomes.filter((outcome) => outcome === 'done').length > rounds / 2, outcomes.join());
      const order = found.map((words) => words.filter((word) => word.startsWith('round')).join());
      t.equal(new Set(order).size, 1, 'in one order');
    });
  }

  await t.test('the command', async (t) => {
    const client = cluster.connect('', { timeoutMs: patienceMs });
    await client.channel('cli').append({ text: 'one' });
    const said = async (...args: string[]) => {
      let out = '';
      const write = (text: string): boolean => {
        out += text;
        return true;
      };
      const stdout = { write, isTTY: false } as never;
      const code = await runCommand([...args, '--endpoint', cluster.endpoint], { stdout, stderr: stdout });
      return { code, lines: out.trim().split('\n') };
    };
    const run = async (...args: string[]) => {
      const { code, lines } = await said(...args, '--json');
      return { code, ...(JSON.parse(lines.at(-1) ?? '{}') as object) };
    };
    t.match(await run('channel', 'delete', 'cli', '--dry-run'), { code: 0, deleted: false, event_count: 1 });
    t.match(await run('channel', 'seal', 'cli'), { code: 0, channel: 'cli' });
    t.match(await run('channel', 'delete', 'cli'), { code: 0, deleted: true, message_count: 1 });
    t.match(await run('channels', '--deleted', '--prefix', 'cli'), {
      code: 0,
      channels: [{ channel: 'cli', seal_time: /Z$/, delete_time: /Z$/, purge_time: /Z$/ }],
    });
    t.match(await run('channel', 'undelete', 'cli'), { code: 0, head_seq: 1 });
    t.match(await run('channel', 'delete', 'cli', '--permanent'), { code: 0, deleted: true });
    t.match(await run('channel', 'undelete', 'cli'), { error: { reason: 'CHANNEL_NOT_FOUND' } });
    await client.channel('cli').append({ text: 'two' });
    const read = await run(
      'read',
      'cli',
      '--level',
      'bounded',
      '--max-staleness',
      '5',
      '--preference',
      'secondary',
    );
    t.match(read, { code: 0, head_seq: 2, served_by: { role: 'secondary' } });
    t.match(await run('read', 'cli', '--level', 'bounded'), { code: 2 });

    const folder = mkdtempSync(join(tmpdir(), 'hansard-batch-'));
    t.teardown(() => rmSync(folder, { recursive: true }));
    const file = join(folder, 'moves.jsonl');
    const lines = [
      { channel: '{cli}/a', text: 'a1' },
      { channel: '{cli}/b', text: 'b1' },
      { channel: '{cli}/a', text: 'a2' },
    ];
    writeFileSync(file, lines.map((line) => JSON.stringify(line)).join('\n'));
    const batch = ['append-batch', file, '--expect-head', '{cli}/a=0'];
    const appended = [
      { channel: '{cli}/a', seqs: [1, 2], duplicate: false },
      { channel: '{cli}/b', seqs: [1], duplicate: false },
    ];
    t.match(await run(...batch, '--request-id', 'r'), { code: 0, appended });
    const repeated = appended.map((each) => ({ ...each, duplicate: true }));
    t.match(await run(...batch, '--request-id', 'r'), { code: 0, appended: repeated });
    t.match(await run(...batch), { code: 5, error: { reason: 'CONDITION_FAILED' } });
    t.same(await texts(client.channel('{cli}/a')), ['a1', 'a2']);
    t.match(await run(...batch, '--expect-head', 'else=1'), {
      code: 2,
      error: { reason: 'INVALID_ARGUMENT' },
    });
    const keyed = ['1', '3'].map((key) => JSON.stringify({ channel: '{cli}/c', text: `c${key}`, key }));
    for (const line of [keyed[0], JSON.stringify({ channel: '{cli}/c', text: 'c2' }), keyed[1]]) {
      writeFileSync(file, line as string);
      t.match(await run('append-batch', file), { code: 0 });
    }
    writeFileSync(file, [...keyed, JSON.stringify({ channel: '{cli}/d', text: 'd1' })].join('\n'));
    const places = ['{cli}/c: events 1, 3 (was there before)', '{cli}/d: 1 from event 1 on'];
    t.match(await said('append-batch', file, '--request-id', 'k'), { code: 0, lines: places });
    const again = ['{cli}/c: appended (was there before)', `${places[1]} (was there before)`];
    t.match(await said('append-batch', file, '--request-id', 'k'), { code: 0, lines: again });
    writeFileSync(file, 'no JSON');
    t.match(await run('append-batch', file), {
      code: 2,
      error: { reason: 'INVALID_ARGUMENT', message: /line 1/ },
    });
  });
});
