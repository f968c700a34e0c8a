/**
 * From an AppendMessagesRequest to its command: each message is checked where it
 * lies and packed as it will be stored. No protobuf objects, no strings, one copy.
 */
import { HansardError } from '../common/errors.js';
import { xxh64 } from '../common/hash.js';
import { dropScratch, loadScratch, xxh64Equals } from '../common/hash-scratch.js';
import { limits } from '../common/limits.js';
import { Wire, WireReader } from '../common/wire.js';
import { AppendPacker, type MessagePlaces } from '../conversation/append-packer.js';
import { EventType } from '../conversation/types.js';
import type { Checker, ContentPlace } from './check.js';
import { sealing } from './commitment.js';
import { invalidArgument, takeId } from './names.js';
import type { MessageRule } from './rules.js';
import { type AppendHead, at, expectWire, holdsMessage, takeNumber } from './skim.js';

export interface PackedAppend {
  readonly command: Buffer;
  /** Every message has a key. */
  readonly allKeyed: boolean;
}

const packer = new AppendPacker(sealing);
/** One reader serves all requests: packing never waits, so it never runs twice at once. */
const requestReader = new WireReader(Buffer.alloc(0));

/** Checks all messages and adds salt, commitment and key digest to each. `rule` is that of MessageContent. */
export function packAppend(
  request: Buffer,
  head: AppendHead,
  checker: Checker,
  rule: MessageRule,
): PackedAppend {
  const { tenant, channelFrom, channelTo, producerId, firstCounter, condition, count, messageBytes } = head;
  packer.begin(
    request,
    tenant,
    channelFrom,
    channelTo,
    producerId,
    firstCounter,
    condition,
    count,
    messageBytes,
  );
  try {
    // For checksums and texts of all messages together.
    loadScratch(request, 0, request.length);
    let allKeyed = true;
    let place = 0;
    const reader = requestReader.reset(request, 0, request.length);
    while (reader.next()) {
      if (reader.field !== 5) {
        reader.skip();
        continue;
      }
      reader.sized();
      skimMessage(request, reader.start, reader.position, place++, checker, rule);
      if (message.keyTo === message.keyFrom) allKeyed = false;
      packer.record(message);
    }
    return { command: packer.finish(), allKeyed };
  } finally {
    dropScratch();
    packer.forget();
  }
}

const highestType = EventType.custom;
const messageReader = new WireReader(Buffer.alloc(0));
/** What the last message skimmed was. */
const message: MessagePlaces = {
  type: EventType.messageCompleted,
  keyFrom: 0,
  keyTo: 0,
  messageIdFrom: 0,
  messageIdTo: 0,
  subjectFrom: 0,
  subjectTo: 0,
  targetSeq: 0,
  usesBatchPosition: false,
  contentFrom: 0,
  contentTo: 0,
  checksumAt: -1,
};

function skimMessage(
  request: Buffer,
  from: number,
  to: number,
  place: number,
  checker: Checker,
  rule: MessageRule,
): void {
  const reader = messageReader.reset(request, from, to);
  let type: number = EventType.messageCompleted;
  message.keyFrom = message.keyTo = 0;
  message.messageIdFrom = message.messageIdTo = 0;
  message.subjectFrom = message.subjectTo = 0;
  message.targetSeq = 0;
  let checksumAt = -1;
  let contentField = 0;
  let contentFrom = 0;
  let contentTo = 0;
  while (reader.next()) {
    switch (reader.field) {
      case 1:
        type = takeNumber(reader, 'type', place) || EventType.messageCompleted;
        break;
      case 2:
        checkText(reader, place, 'key');
        message.keyFrom = reader.start;
        message.keyTo = reader.position;
        break;
      case 3:
        checkText(reader, place, 'message_id');
        message.messageIdFrom = reader.start;
        message.messageIdTo = reader.position;
        break;
      case 4:
        checkText(reader, place, 'subject');
        message.subjectFrom = reader.start;
        message.subjectTo = reader.position;
        break;
      case 5:
        message.targetSeq = takeNumber(reader, 'target_seq', place);
        break;
      case 6:
        expectWire(reader, Wire.fixed64, 'messages.content_xxh64');
        checksumAt = reader.position;
        reader.skip();
        break;
      case 20:
      case 21:
        expectWire(reader, Wire.bytes, 'messages.content');
        // A reader would merge two; what is stored must be what one encoder made.
        if (contentField !== 0) throw invalidArgument(at(place, 'content'), 'given twice');
        contentField = reader.field;
        reader.sized();
        contentFrom = reader.start;
        contentTo = reader.position;
        break;
      default:
        reader.skip();
    }
  }
  if (type > highestType)
    throw invalidArgument(at(place, 'type'), 'no type of event that this version knows');
  const isMessage = holdsMessage(type as EventType);
  if (contentField === 0) throw invalidArgument(at(place, isMessage ? 'message' : 'raw'), 'missing');
  if (isMessage !== (contentField === 20)) {
    throw invalidArgument(
      at(place, 'content'),
      `events of type ${type} carry ${isMessage ? '`message`' : '`raw`'}`,
    );
  }
  const size = contentTo - contentFrom;
  if (size > limits.messageBytes) throw messageTooLarge(place, size);
  message.usesBatchPosition = false;
  if (isMessage) {
    contentPlace.batchPosition = place;
    checker.check(rule, request, contentFrom, contentTo, contentPlace);
    message.usesBatchPosition = checker.usesBatchPosition;
  }
  // Zero: none given.
  if (checksumAt >= 0 && isZero(request, checksumAt)) checksumAt = -1;
  if (checksumAt >= 0 && !xxh64Equals(request, contentFrom, contentTo, checksumAt)) {
    throw checksumMismatch(place, request, checksumAt, contentFrom, contentTo);
  }
  message.type = type as EventType;
  message.contentFrom = contentFrom;
  message.contentTo = contentTo;
  message.checksumAt = checksumAt;
}

function isZero(bytes: Buffer, from: number): boolean {
  for (let i = from; i < from + 8; i++) if (bytes[i] !== 0) return false;
  return true;
}

const contentPlace: ContentPlace & { batchPosition: number } = { batchPosition: 0 };

/** Takes a text field: a name of its own, as takeId has it. */
function checkText(reader: WireReader, place: number, name: string): void {
  if (reader.wire !== Wire.bytes) throw invalidArgument(at(place, name), `wire type ${reader.wire}`);
  reader.sized();
  const { bytes, start, position } = reader;
  if (position - start <= limits.idBytes) {
    let ascii = true;
    for (let i = start; ascii && i < position; i++) ascii = (bytes[i] as number) < 0x80;
    if (ascii) return;
  }
  takeId(bytes, start, position, at(place, name));
}

function messageTooLarge(place: number, size: number): HansardError {
  return new HansardError(
    'MESSAGE_TOO_LARGE',
    `messages[${place}] has ${size} bytes of content, at most ${limits.messageBytes} are allowed`,
    { field: `messages[${place}]`, bytes: size, limit_bytes: limits.messageBytes },
  );
}

function checksumMismatch(
  place: number,
  request: Buffer,
  givenAt: number,
  contentFrom: number,
  contentTo: number,
): HansardError {
  return new HansardError(
    'CHECKSUM_MISMATCH',
    `the content of messages[${place}] does not match its checksum`,
    {
      field: `messages[${place}].content_xxh64`,
      expected: request.readBigUInt64LE(givenAt).toString(16).padStart(16, '0'),
      actual: xxh64(request.subarray(contentFrom, contentTo)).toString(16).padStart(16, '0'),
    },
  );
}
