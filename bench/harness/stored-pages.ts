/** Pages of events as a block of the store holds them: one buffer, header and content of each beside one another. */
import { writeContent } from '../../src/client/content-encode.js';
import { BackWriter } from '../../src/client/wire.js';
import { ByteWriter } from '../../src/common/bytes.js';
import { xxh64 } from '../../src/common/hash.js';
import { writeEventRecord } from '../../src/conversation/event-record.js';
import { producerId } from '../../src/conversation/names.js';
import { EventType, type StoredEvent } from '../../src/conversation/types.js';
import { chatTexts } from './payload.js';

export const perPage = 50;

export function storedPages(count: number): StoredEvent[][] {
  const texts = chatTexts(perPage * count, 200);
  return Array.from({ length: count }, (_, page) => storedPage(texts.slice(page * perPage)));
}

function storedPage(texts: readonly string[]): StoredEvent[] {
  const writer = new ByteWriter(64 * 1024);
  const places: { start: number; header: number; end: number }[] = [];
  const content = new BackWriter();
  for (let i = 0; i < perPage; i++) {
    content.reset();
    const text = texts[i] as string;
    writeContent(content, { role: i % 2 === 0 ? 'user' : 'assistant', author: 'ann', text }, 0);
    const bytes = content.copy();
    const start = writer.length;
    writeEventRecord(
      writer,
      {
        type: EventType.messageCompleted,
        content: bytes,
        contentXxh64: xxh64(bytes),
        salt: Buffer.alloc(16, i + 1),
        commitment: Buffer.alloc(32, i + 1),
      },
      0,
    );
    places.push({ start, header: 50, end: writer.length });
  }
  const block = Buffer.from(writer.finish());
  return places.map(({ start, header, end }, i) => ({
    seq: 1_000 + i,
    commitTimeUs: 1_763_000_000_123_456 + i * 1_000_003,
    producerId: producerId(7, 1),
    producerCounter: 20_000 + i,
    bytes: block,
    headerOffset: start,
    headerLength: header,
    contentBytes: block,
    contentOffset: start + header,
    contentLength: end - start - header,
  })) as unknown as StoredEvent[];
}
