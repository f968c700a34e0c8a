/**
 * What travels on a stream: one welcome, then frames of messages, numbered from
 * 1. Each frame names the pair of lives that the stream connects, so that one of
 * an earlier life is never taken for today's. docs/format.md, "Between nodes".
 */
import { ByteReader, MalformedError } from '../common/bytes.js';
import { xxh32 } from '../common/hash.js';
import { bootIdBytes, hexIdBytes } from '../common/hex-ids.js';

const FrameKind = { welcome: 1, messages: 2 } as const;

/** kind u8, link u32, sequence u32, count u32. */
export const frameHeaderBytes = 13;
/** Each message's length, u32. */
export const messageHeaderBytes = 4;

/** Names sender's and receiver's life in four bytes. */
export function linkFence(senderBootId: string, receiverBootId: string): number {
  return xxh32(
    Buffer.concat([hexIdBytes(senderBootId, bootIdBytes), hexIdBytes(receiverBootId, bootIdBytes)]),
  );
}

export function encodeWelcome(hello: Uint8Array): Buffer {
  return Buffer.concat([Uint8Array.of(FrameKind.welcome), hello]);
}

/** The hello in it, a view. */
export function decodeWelcome(frame: Uint8Array): Buffer {
  const reader = new ByteReader(frame);
  if (reader.u8() !== FrameKind.welcome) throw new MalformedError('the first frame is not a welcome');
  return reader.bytes(reader.remaining);
}

/** What stands before the messages, each of which follows its length. */
export function encodeFrameHeader(link: number, sequence: number, count: number): Buffer {
  const header = Buffer.allocUnsafe(frameHeaderBytes);
  header[0] = FrameKind.messages;
  header.writeUInt32LE(link, 1);
  header.writeUInt32LE(sequence, 5);
  header.writeUInt32LE(count, 9);
  return header;
}

/** Views of the frame's messages; all of it is checked before the first is handed out. */
export function decodeFrame(frame: Uint8Array, link: number, sequence: number): Buffer[] {
  const reader = new ByteReader(frame);
  if (reader.u8() !== FrameKind.messages) throw new MalformedError('not a frame of messages');
  if (reader.u32() !== link) throw new MalformedError('a frame of another life of the peer');
  const got = reader.u32();
  if (got !== sequence) throw new MalformedError(`frame ${got} where ${sequence} was due`);
  const count = reader.u32();
  if (count * messageHeaderBytes > reader.remaining) throw new MalformedError(`${count} messages can't fit`);
  const messages = new Array<Buffer>(count);
  for (let i = 0; i < count; i++) messages[i] = reader.bytes(reader.u32());
  reader.end();
  return messages;
}

/** Sequence numbers wrap at 2^32 (5 days of 10,000 frames a second). */
export function nextSequence(sequence: number): number {
  return (sequence + 1) >>> 0;
}
