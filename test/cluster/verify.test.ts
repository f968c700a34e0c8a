/**
 * `hansard verify` against real nodes: silent beside writers, and loud about a
 * replica that was changed, damaged or is down, while the node lives on.
 */
import { createHash } from 'node:crypto';
import t, { type Test } from 'tap';
import type { Client } from '../../src/client/index.js';
import { xxh64 } from '../../src/common/hash.js';
import { partitionOf } from '../../src/common/partitioning.js';
import type { StoredEvent } from '../../src/conversation/types.js';
import { readUnit, writeUnit } from '../../src/store/block.js';
import { blocksRange, firstSeqOfBlockKey, nameBytes, nameKey, RowKind } from '../../src/store/keys.js';
import { databasePath, levelKvFactory } from '../../src/store/level-kv.js';
import { openChannelRow } from '../../src/store/partition-state.js';
import { openRow, rowWriter, sealRow } from '../../src/store/rows.js';
import type { SealedChannel } from '../../src/store/state-codec.js';
import { hansard } from '../support/command.js';
import { Direct } from './direct.js';
import { ProcessCluster, type TestNode, until } from './harness.js';

t.setTimeout(600_000);

const partitions = 4;
const saltBytes = 16;
/** The conversation with 1,629 identical lines, and the one with only empty messages. */
const equalLines = 1_629;
const emptyLines = 400;

interface Verified {
  readonly code: number;
  readonly sound: boolean;
  readonly replicas: number;
  readonly channels: number;
  readonly findings: readonly {
    kind: string;
    node?: number;
    partition?: number;
    channel?: string;
    first_seq?: number;
    last_seq?: number;
    expected?: string;
    found?: string;
  }[];
}

async function verify(cluster: ProcessCluster, ...args: string[]): Promise<Verified> {
  const endpoint = cluster.nodes.map((node) => node.clientAddress).join(',');
  const words = ['verify', '--endpoint', endpoint, '--json', '--patience', '2', ...args];
  const { code, out, err } = await hansard(words);
  if (out === '') throw new Error(`verify said nothing: ${err}`);
  return { ...(JSON.parse(out) as Verified), code };
}

async function fill(client: Client): Promise<void> {
  const append = async (name: string, count: number, textOf: (i: number) => string): Promise<void> => {
    for (let at = 0; at < count; at += 100) {
      const texts = Array.from({ length: Math.min(100, count - at) }, (_, i) => textOf(at + i));
      await client.channel(name).append(texts.map((text) => ({ role: 'user' as const, text })));
    }
  };
  await append('equal lines', equalLines, () => 'the same line');
  await append('empty lines', emptyLines, () => '');
  for (let i = 0; i < 12; i++) await append(`some/${i}`, 10 + i, (n) => `line ${n} of ${i}`);
  await client.channel('deleted').append({ role: 'user', text: 'x' });
  await client.channel('deleted').delete();
}

/** Appends, deletes, makes anew and changes channels until it is told to end. */
function churn(client: Client): { end(): Promise<number> } {
  let ended = false;
  let writes = 0;
  const loop = async (lane: number): Promise<void> => {
    for (let i = 0; !ended; i++) {
      const channel = client.channel(`churn/${lane}/${i % 5}`);
      await channel.append(
        Array.from({ length: 1 + (i % 7) }, (_, n) => ({ role: 'user' as const, text: `${i} ${n}` })),
      );
      if (i % 3 === 1) await channel.update({ title: `title ${i}` });
      if (i % 4 === 2) await channel.delete();
      await client.channel('equal lines').append({ role: 'user', text: 'the same line' });
      writes++;
    }
  };
  const lanes = [0, 1, 2].map(loop);
  return {
    async end() {
      ended = true;
      await Promise.all(lanes);
      return writes;
    },
  };
}

/** Changes the bytes of the first block of a channel on a node that is down; gives the block's seqs. */
async function changeBlock(
  node: TestNode,
  channel: string,
  change: (key: Uint8Array, row: Buffer) => Buffer,
): Promise<{ firstSeq: number; lastSeq: number }> {
  const kv = await levelKvFactory().open(databasePath(node.dir), { create: false });
  try {
    const place = { partition: partitionOf('default', channel, partitions), generation: 1 };
    const key = nameKey(RowKind.channel, place, nameBytes('default', channel));
    const row = await kv.get(key);
    if (row === undefined) throw new Error(`${channel} is not sealed on node ${node.id}`);
    const { state }: SealedChannel = openChannelRow(key, row);
    const iterator = kv.iterator(blocksRange(place, state.id, 1));
    const [first, second] = await iterator.next(2);
    await iterator.close();
    if (first === undefined || second === undefined) throw new Error(`${channel} has too few blocks`);
    const batch = kv.batch();
    batch.put(first[0], change(first[0], Buffer.from(first[1])));
    await batch.write();
    return { firstSeq: firstSeqOfBlockKey(first[0]), lastSeq: firstSeqOfBlockKey(second[0]) - 1 };
  } finally {
    await kv.close();
  }
}

/** The block with other content in its third event, all checksums and the commitment made anew. */
function forged(key: Uint8Array, row: Buffer): Buffer {
  const events = openRow(key, row, 'a block', (reader) => readUnit(reader));
  const forgedEvents = events.map((event, i): StoredEvent => {
    if (i !== 2) return event;
    const contentBytes = Buffer.from(
      event.contentBytes.subarray(event.contentOffset, event.contentOffset + event.contentLength),
    );
    const at = contentBytes.indexOf('same');
    contentBytes.write('fake', at);
    const bytes = Buffer.from(
      event.bytes.subarray(event.headerOffset, event.headerOffset + event.headerLength),
    );
    bytes.writeBigUInt64LE(xxh64(contentBytes.subarray(saltBytes)), 10);
    createHash('sha256').update(contentBytes).digest().copy(bytes, 18);
    return { ...event, bytes, headerOffset: 0, contentBytes, contentOffset: 0 };
  });
  const writer = rowWriter(row.length);
  writeUnit(writer, forgedEvents, true);
  return sealRow(key, writer);
}

function flipped(_key: Uint8Array, row: Buffer): Buffer {
  row[row.length - 3] = (row[row.length - 3] as number) ^ 0x10;
  return row;
}

async function stopped(
  t: Test,
  cluster: ProcessCluster,
  node: TestNode,
  change: () => Promise<void>,
): Promise<void> {
  t.equal((await node.stop()).code, 0);
  await change();
  cluster.startNode(node);
  await cluster.ready();
}

t.test(
  'verify beside writers finds nothing; a changed, a damaged and a missing replica it finds',
  async (t) => {
    const cluster = await ProcessCluster.start(t, { partitions, args: ['--checkpoint-age', '1s'] });
    const client = cluster.connect();
    await fill(client);

    await t.test('a healthy cluster, while clients write, delete and create', async (t) => {
      const writers = churn(client);
      for (let round = 0; round < 2; round++) {
        const busy = await verify(cluster);
        t.same(busy.findings, [], `round ${round}`);
        t.equal(busy.code, 0);
        t.equal(busy.replicas, 3 * partitions);
        t.ok(busy.channels >= 15);
      }
      t.ok((await writers.end()) > 10, 'they did write');
      const quiet = await until('all digests are equal', async () => {
        const result = await verify(cluster);
        t.same(result.findings, []);
        return (result as unknown as { digests_equal: number }).digests_equal === partitions
          ? result
          : undefined;
      });
      t.equal(quiet.code, 0);
    });

    const changed = cluster.node(3);
    const partition = partitionOf('default', 'equal lines', partitions);
    await t.test('an event that was changed with all its checksums', async (t) => {
      await stopped(t, cluster, changed, async () => {
        await changeBlock(changed, 'equal lines', forged);
      });
      const result = await verify(cluster);
      t.equal(result.code, 1);
      t.match(result.findings, [
        { kind: 'event-differs', node: 3, partition, channel: 'equal lines', first_seq: 3, last_seq: 3 },
        { kind: 'digest-differs', node: 3, partition },
      ]);
      t.equal(result.findings.length, 2);
      t.match(result.findings[0]?.expected, /^content_xxh64 "[0-9a-f]{16}" commitment .*\(node [12]\)$/);
      const part = await verify(cluster, '--channel', 'empty lines');
      t.match(part, { code: 0, channels: 1, findings: [] }, 'another channel is sound');
    });

    await t.test(
      'a block that does not verify: told with its seqs, never served; who reads it has it fetched anew, and the node lives',
      async (t) => {
        let seqs = { firstSeq: 0, lastSeq: 0 };
        await stopped(t, cluster, changed, async () => {
          seqs = await changeBlock(changed, 'empty lines', flipped);
        });
        const result = await verify(cluster, '--channel', 'empty lines');
        t.equal(result.code, 1);
        t.match(result.findings, [
          {
            kind: 'events-damaged',
            node: 3,
            channel: 'empty lines',
            first_seq: seqs.firstSeq,
            last_seq: seqs.lastSeq,
          },
        ]);
        t.equal(result.findings.length, 1);
        const direct = new Direct(changed.clientAddress);
        const read = direct.call('MessageService/ListMessages', {
          channel: 'empty lines',
          after: 10,
          read: { level: 4 },
        });
        const failure = (await read.catch((error: unknown) => error)) as { error?: { reason?: string } };
        t.match(failure.error?.reason, /^(STORE_DAMAGED|NOT_LEADER)$/, 'an ordinary read of the same place');
        direct.close();
        t.equal((await changed.readiness())?.ready, true);
        const isSound = async (): Promise<boolean> =>
          (await verify(cluster, '--channel', 'empty lines')).findings.length === 0;
        t.ok(await until('the replica has fetched its state from a sound one', isSound));
        // What differs with matching checksums is no damage that a replica could notice; another partition's stays.
        const isOne = partitionOf('default', 'empty lines', partitions) === partition;
        const whole = await verify(cluster);
        t.same(
          whole.findings.map(({ kind, node }) => `${kind} ${node}`).sort(),
          isOne ? [] : ['digest-differs 3', 'event-differs 3'],
        );
      },
    );

    await t.test('a node that is down', async (t) => {
      await changed.kill();
      const result = await verify(cluster);
      t.equal(result.code, 1);
      t.match(result.findings, [{ kind: 'node-unreachable', node: 3 }]);
      t.equal(result.findings.length, 1);
      t.equal(result.replicas, 2 * partitions, 'the others are verified');
    });
  },
);
