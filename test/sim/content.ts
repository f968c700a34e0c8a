/** Events of the simulator's clients: what they send, and the text of what is stored. */
import { createHash } from 'node:crypto';
import { xxh64 } from '../../src/common/hash.js';
import { type NewEvent, saltBytes } from '../../src/conversation/event-record.js';
import { EventType, type StoredEvent } from '../../src/conversation/types.js';

/** A message with this text as its content; its salt is one byte repeated. */
export function textEvent(text: string, saltByte: number): NewEvent {
  const content = Buffer.from(text);
  const salt = Buffer.alloc(saltBytes, saltByte);
  return {
    type: EventType.messageCompleted,
    content,
    contentXxh64: xxh64(content),
    salt,
    commitment: createHash('sha256').update(salt).update(content).digest(),
  };
}

export function contentOf(event: StoredEvent): string {
  const from = event.contentOffset + saltBytes;
  return Buffer.from(event.contentBytes.subarray(from, event.contentOffset + event.contentLength)).toString();
}
