/**
 * CPU per message of the door: request bytes → checked → salted, committed → append
 * command, and stored events → a page's bytes. No network, no consensus.
 *
 *     node dist/bench/skim.js [seconds per case, default 1]
 */
import { Checker } from '../src/api/check.js';
import { encodeListMessages } from '../src/api/encode.js';
import { commandOf } from '../src/api/messages.js';
import { Rules } from '../src/api/rules.js';
import { skimAppend, skimRoute } from '../src/api/skim.js';
import { readListResponse } from '../src/client/responses.js';
import { partitionOf } from '../src/common/partitioning.js';
import { loadPublicProtos } from '../src/common/proto.js';
import { decodeCommand, encodeAppend } from '../src/conversation/command.js';
import type { StoredEvent } from '../src/conversation/types.js';

const seconds = Number(process.argv[2] ?? 1);
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
  const route = skimRoute(bytes);
  partitionOf(route.tenant, route.channel, 64);
  return encodeAppend(commandOf(route, skimAppend(bytes, checker, rule)));
}

function measure(name: string, messages: number, run: () => unknown): void {
  const warm = performance.now() + 500;
  while (performance.now() < warm) run();
  const start = process.cpuUsage();
  const until = performance.now() + seconds * 1_000;
  let runs = 0;
  while (performance.now() < until) {
    for (let i = 0; i < 20; i++) run();
    runs += 20;
  }
  const { user, system } = process.cpuUsage(start);
  const each = (user + system) / (runs * messages);
  console.log(`${name.padEnd(44)} ${each.toFixed(2)} us of CPU per message`);
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
  measure(`append ${what}: route`, count, () => skimRoute(input));
  measure(`append ${what}: check`, count, () => skimAppend(input, checker, rule));
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
const served = { nodeId: 1, role: 'primary', partition: 3, appliedIndex: 99 } as const;
measure('page of 50 × 200 B', 50, () => encodeListMessages(events, '', 50, served, 'c0001000000000001'));
const page = encodeListMessages(events, '', 50, served, 'c0001000000000001');
measure('page of 50 × 200 B, read by the SDK', 50, () => readListResponse(page));
