/** `Hello` and `PeerFrame` of peer.proto by hand: one `bytes` field, number 1. */
import { ByteReader, MalformedError } from '../common/bytes.js';

const fieldOne = 0x0a;

/** One allocation, one copy. */
export function wrap(payload: Uint8Array): Buffer {
  let headerBytes = 2;
  for (let rest = payload.length; rest >= 0x80; rest = Math.floor(rest / 0x80)) headerBytes++;
  const message = Buffer.allocUnsafe(headerBytes + payload.length);
  message[0] = fieldOne;
  let at = 1;
  let rest = payload.length;
  for (; rest >= 0x80; rest = Math.floor(rest / 0x80)) message[at++] = (rest % 0x80) | 0x80;
  message[at++] = rest;
  message.set(payload, at);
  return message;
}

/** A view. An empty message is an empty field, as protobuf has it. */
export function unwrap(message: Uint8Array): Buffer {
  const reader = new ByteReader(message);
  if (reader.remaining === 0) return Buffer.alloc(0);
  if (reader.u8() !== fieldOne) throw new MalformedError('not a frame');
  const payload = reader.sized();
  reader.end();
  return payload;
}
