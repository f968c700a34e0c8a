/**
 * CPU per message of the door: request bytes → checked → salted, committed → append
 * command, and stored events → a page's bytes. No network, no consensus.
 *
 *     node dist/bench/skim.js [passes per case, default 8]
 */

import { bytesOf } from '../src/api/calls.js';
import { Checker } from '../src/api/check.js';
import { EncodedPage, PageAnswer } from '../src/api/encode.js';
import { packAppend } from '../src/api/pack-append.js';
import { Rules } from '../src/api/rules.js';
import { skimAppendHead } from '../src/api/skim.js';
import { readListResponse } from '../src/client/responses.js';
import { partitionOfBytes } from '../src/common/partitioning.js';
import { loadPublicProtos } from '../src/common/proto.js';
import { decodeCommand } from '../src/conversation/command.js';
import type { StoredEvent } from '../src/conversation/types.js';

const passes = Number(process.argv[2] ?? 8);
const protos = loadPublicProtos() as unknown as Record<string, { serialize(value: object): Buffer }>;
const checker = new Checker();
const rule = new Rules(loadPublicProtos()).message('hansard.v1.MessageContent');

function request(count: number, bytes: number, keyed: boolean, text = 'a'): Buffer {
  const messages = Array.from({ length: count }, (_, i) => ({
    ...(keyed ? { key: `key-${i}` } : {}),
    message: {
      role: 1,
      author: 'somebody',
      parts: [{ text: { text: text.repeat(bytes / Buffer.byteLength(text)) } }],
    },
  }));
  const encoded = protos['hansard.v1.AppendMessagesRequest']?.serialize({ channel: '#ubuntu', messages });
  return encoded as Buffer;
}

function door(bytes: Buffer): Uint8Array {
  const head = skimAppendHead(bytes);
  partitionOfBytes(head.tenant, bytes, head.channelFrom, head.channelTo, 64);
  return packAppend(bytes, head, checker, rule).command;
}

/** By count and not by time: on a busy machine a second is hardly enough to get warm. */
function measure(name: string, messages: number, run: () => unknown): void {
  const perPass = Math.ceil(20_000 / messages);
  let best = Number.POSITIVE_INFINITY;
  for (let pass = -2; pass < passes; pass++) {
    const start = process.cpuUsage();
    for (let i = 0; i < perPass; i++) run();
    const { user, system } = process.cpuUsage(start);
    if (pass >= 0) best = Math.min(best, (user + system) / (perPass * messages));
  }
  console.log(`${name.padEnd(44)} ${best.toFixed(2)} us of CPU per message`);
}

for (const [count, bytes, keyed, text] of [
  [1, 200, false, 'a'],
  [64, 200, false, 'a'],
  [64, 200, true, 'a'],
  [64, 200, false, '你好'],
  [64, 2_000, false, 'a'],
] as const) {
  const input = request(count, bytes, keyed, text);
  const what = `${count} × ${bytes} B${keyed ? ', keyed' : ''}${text === 'a' ? '' : ', Chinese'}`;
  measure(`append ${what}: head`, count, () => skimAppendHead(input));
  measure(`append ${what}: all`, count, () => door(input));
}

const command = Buffer.from(door(request(50, 200, false)));
const decoded = decodeCommand(command, 0, command.length);
if (decoded.kind !== 'append') throw new Error('no append');
const events: StoredEvent[] = decoded.records.map((record, i) => ({
  seq: i + 1,
  commitTimeUs: 1_700_000_000_000_000,
  producerId: 0,
  producerCounter: 0,
  bytes: command,
  headerOffset: record.headerOffset,
  headerLength: record.headerLength,
  contentBytes: command,
  contentOffset: record.contentOffset,
  contentLength: record.contentLength,
}));
const served = {
  nodeId: 1,
  role: 'primary',
  partition: 3,
  appliedIndex: 99,
  stalenessMs: 1,
  commitToken: Buffer.alloc(14),
} as const;
const encodePage = () =>
  bytesOf(new PageAnswer(new EncodedPage(events, '', 50, 'c0001000000000001'), served));
measure('page of 50 × 200 B', 50, encodePage);
const page = encodePage();
measure('page of 50 × 200 B, read by the SDK', 50, () => readListResponse(page));
