/** An Event from bytes, its content verified and decoded: about 1 µs for a text of 200 bytes (dist/bench/pages.js). */
import { HansardError } from '../common/errors.js';
import { xxh64 } from '../common/hash.js';
import { readContentFields, readTimestamp } from './content-decode.js';
import { readEventQuick } from './event-quick.js';
import { eventTypes, isMessageType } from './requests.js';
import type { Event, MessageContent } from './types.js';
import { type ProtoReader, WireError } from './wire-reader.js';

const none: Uint8Array = new Uint8Array(0);

/** The event that comes next. */
export function readNextEvent(r: ProtoReader): Event {
  return r.quick(readEventQuick) ?? r.message(readEvent);
}

/**
 * Plain objects with all their fields, so that they can be spread, compared and
 * printed; each made at once at its end, in one shape. Throws CHECKSUM_MISMATCH
 * where content changed on the way. `asItCame`: content is neither verified nor decoded.
 */
export function readEvent(r: ProtoReader, asItCame = false): Event {
  let seq = 0;
  let type = 0;
  let commitTimeUs = 0;
  let producerId = 0;
  let producerCounter = 0;
  let actor = '';
  let subject = '';
  let targetSeq = 0;
  let messageId = '';
  let key = '';
  let batchPosition = 0;
  let erased = false;
  let checksum = 0n;
  let checksumAt = -1;
  let commitment = none;
  let salt = none;
  let contentBytes = none;
  let contentEnd = 0;
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    switch (tag) {
      case 8:
        seq = r.uint();
        break;
      case 16:
        type = r.uint();
        break;
      case 26: {
        const outer = r.enter();
        commitTimeUs = readTimestamp(r);
        r.leave(outer);
        break;
      }
      case 32:
        producerId = r.uint();
        break;
      case 40:
        producerCounter = r.uint();
        break;
      case 50:
        actor = r.name();
        break;
      case 58:
        subject = r.name();
        break;
      case 64:
        targetSeq = r.uint();
        break;
      case 73:
        checksumAt = r.position;
        checksum = r.fixed64();
        break;
      case 82:
        commitment = r.bytes();
        break;
      case 90:
        salt = r.bytes();
        break;
      case 98:
        messageId = r.string();
        break;
      case 106:
        key = r.string();
        break;
      case 120:
        erased = r.bool();
        break;
      case 128:
        batchPosition = r.uint();
        break;
      case 162:
      case 170:
        contentBytes = r.bytes();
        contentEnd = r.position;
        break;
      default:
        r.skip();
    }
  }
  let message: MessageContent | undefined;
  if (!erased && !asItCame) {
    if (contentEnd === 0 || checksumAt < 0 || !r.hashEquals(contentEnd, contentBytes.length, checksumAt)) {
      // Empty content or checksum: absent on the wire.
      const actual = xxh64(contentBytes);
      if (actual !== checksum) throw mismatch(seq, checksum, actual);
    }
    if (contentEnd > 0 && isMessageType(type)) message = contentOf(r, contentEnd, contentBytes.length);
  }
  const event: Event = {
    seq,
    type: eventTypes[type] ?? type,
    commitTimeUs,
    producerId,
    producerCounter,
    actor,
    subject,
    targetSeq,
    messageId,
    key,
    batchPosition,
    erased,
    checksum,
    commitment,
    salt,
    contentBytes,
  };
  if (message !== undefined) (event as { message?: MessageContent }).message = message;
  return event;
}

/** One message that can't be read must not hide its channel; `contentBytes` has it whole. */
function contentOf(r: ProtoReader, end: number, length: number): MessageContent | undefined {
  try {
    return r.again(end, length, readContentFields);
  } catch (error) {
    if (!(error instanceof WireError)) throw error;
    return undefined;
  }
}

function mismatch(seq: number, expected: bigint, actual: bigint): HansardError {
  return new HansardError('CHECKSUM_MISMATCH', `the content of event ${seq} does not match its checksum`, {
    seq,
    expected: expected.toString(16),
    actual: actual.toString(16),
  });
}
