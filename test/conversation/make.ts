/** Events and commands as the leader's door would make them, for tests and benches. */
import { createHash } from 'node:crypto';
import { xxh64 } from '../../src/common/hash.js';
import { type AppendInput, encodeAppend } from '../../src/conversation/append-command.js';
import { encodeEntry } from '../../src/conversation/command.js';
import type { NewEvent } from '../../src/conversation/event-record.js';
import { EventType } from '../../src/conversation/types.js';

export type MadeEvent = AppendInput['events'][number];

/** `text` is the content's bytes; the salt follows from `saltSeed`, so that runs are equal. */
export function madeEvent(text: string, extra: Partial<NewEvent> & { saltSeed?: number } = {}): MadeEvent {
  const { saltSeed = 0, ...rest } = extra;
  const content = Buffer.from(text);
  const salt = sha256(Buffer.from(`salt ${saltSeed} ${text}`)).subarray(0, 16);
  return {
    type: EventType.messageCompleted,
    content,
    contentXxh64: xxh64(content),
    salt,
    commitment: sha256(Buffer.concat([salt, content])),
    ...(rest.key ? { keyDigest: sha256(content).subarray(0, 16) } : {}),
    ...rest,
  };
}

/** An append of texts to `channel` of the default tenant. */
export function madeAppend(
  channel: string,
  events: readonly (string | MadeEvent)[],
  rest: Partial<Omit<AppendInput, 'channel' | 'events'>> = {},
): Uint8Array {
  return encodeAppend({
    tenant: 'default',
    channel,
    ...rest,
    events: events.map((event) => (typeof event === 'string' ? madeEvent(event) : event)),
  });
}

export function madeEntry(commands: Uint8Array[], timeUs = 1_700_000_000_000_000): Uint8Array {
  return encodeEntry(commands, timeUs, 1);
}

export function sha256(bytes: Uint8Array): Buffer {
  return createHash('sha256').update(bytes).digest();
}
