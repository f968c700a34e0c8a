/**
 * Reads an AppendMessagesRequest where it lies: no protobuf objects, no copies of
 * content. `skimRoute` finds what decides where the request goes; `skimAppend`
 * checks everything and gives the places of the contents.
 */
import { HansardError } from '../common/errors.js';
import { xxh64 } from '../common/hash.js';
import { limits } from '../common/limits.js';
import { Wire, WireReader } from '../common/wire.js';
import type { AppendCondition } from '../conversation/command.js';
import { EventType } from '../conversation/types.js';
import type { Checker, ContentPlace } from './check.js';
import { invalidArgument, takeChannelName, takeId, takeTenant } from './names.js';
import type { MessageRule } from './rules.js';

export interface Route {
  readonly tenant: string;
  readonly channel: string;
}

export interface SkimmedAppend {
  /** 0: none. */
  readonly producerId: number;
  readonly firstCounter: number;
  readonly condition: AppendCondition | undefined;
  readonly messages: readonly SkimmedMessage[];
  /** Every message has a key. */
  readonly allKeyed: boolean;
}

export interface SkimmedMessage {
  readonly type: EventType;
  readonly key: string;
  readonly messageId: string;
  readonly subject: string;
  readonly targetSeq: number;
  /** Checked where the client gave it, else computed here. */
  readonly contentXxh64: bigint;
  /** A view into the request. */
  readonly content: Buffer;
  readonly usesBatchPosition: boolean;
}

/** Event types whose content is a MessageContent (field `message`); all others carry `raw`. */
export function holdsMessage(type: EventType): boolean {
  return (
    type === EventType.messageCompleted ||
    type === EventType.messageCreated ||
    type === EventType.messageStarted
  );
}

const highestType = EventType.custom;

/** Tenant and channel are fields 1 and 2 of every request that names one channel. */
export function skimRoute(request: Buffer): Route {
  const reader = new WireReader(request);
  let tenantFrom = 0;
  let tenantTo = 0;
  let channelFrom = 0;
  let channelTo = 0;
  while (reader.next()) {
    if (reader.field > 2) {
      reader.skip();
      continue;
    }
    expectWire(reader, Wire.bytes, reader.field === 1 ? 'tenant' : 'channel');
    reader.sized();
    if (reader.field === 1) {
      tenantFrom = reader.start;
      tenantTo = reader.position;
    } else {
      channelFrom = reader.start;
      channelTo = reader.position;
    }
  }
  return {
    tenant: takeTenant(request, tenantFrom, tenantTo),
    channel: takeChannelName(request, channelFrom, channelTo),
  };
}

/** Everything but tenant and channel, checked. `rule` is that of MessageContent. */
export function skimAppend(request: Buffer, checker: Checker, rule: MessageRule): SkimmedAppend {
  const reader = new WireReader(request);
  let producerId = 0;
  let firstCounter = 0;
  let condition: AppendCondition | undefined;
  let allKeyed = true;
  const messages: SkimmedMessage[] = [];
  while (reader.next()) {
    switch (reader.field) {
      case 3: {
        expectWire(reader, Wire.bytes, 'producer');
        reader.sized();
        const stamp = new WireReader(request, reader.start, reader.position);
        while (stamp.next()) {
          if (stamp.field === 1) producerId = takeNumber(stamp, 'producer.producer_id');
          else if (stamp.field === 2) firstCounter = takeNumber(stamp, 'producer.first_counter');
          else stamp.skip();
        }
        break;
      }
      case 4:
        expectWire(reader, Wire.bytes, 'condition');
        reader.sized();
        condition = skimCondition(new WireReader(request, reader.start, reader.position)) ?? condition;
        break;
      case 5: {
        expectWire(reader, Wire.bytes, 'messages');
        if (messages.length >= limits.messagesPerAppend) throw tooManyMessages();
        reader.sized();
        const message = skimMessage(request, reader.start, reader.position, messages.length, checker, rule);
        if (message.key === '') allKeyed = false;
        messages.push(message);
        break;
      }
      default:
        reader.skip();
    }
  }
  if (messages.length === 0) throw invalidArgument('messages', 'must not be empty');
  if (producerId !== 0 && firstCounter === 0)
    throw invalidArgument('producer.first_counter', 'must be at least 1');
  if (producerId === 0 && firstCounter !== 0) throw invalidArgument('producer.producer_id', 'must not be 0');
  if (!Number.isSafeInteger(firstCounter + messages.length)) {
    throw invalidArgument('producer.first_counter', 'out of range');
  }
  return { producerId, firstCounter, condition, messages, allKeyed };
}

function skimCondition(reader: WireReader): AppendCondition | undefined {
  let condition: AppendCondition | undefined;
  while (reader.next()) {
    switch (reader.field) {
      case 1:
        condition = { kind: 'expectedHeadSeq', seq: takeNumber(reader, 'condition.expected_head_seq') };
        break;
      case 2:
        condition = {
          kind: 'expectedLastMessageSeq',
          seq: takeNumber(reader, 'condition.expected_last_message_seq'),
        };
        break;
      case 3:
        condition = { kind: 'mustNotExist' };
        takeTrue(reader, 'condition.must_not_exist');
        break;
      case 4:
        condition = { kind: 'mustExist' };
        takeTrue(reader, 'condition.must_exist');
        break;
      default:
        reader.skip();
    }
  }
  return condition;
}

/** One reader serves all messages: skimming never waits, so it never runs twice at once. */
const messageReader = new WireReader(Buffer.alloc(0));

function skimMessage(
  request: Buffer,
  from: number,
  to: number,
  place: number,
  checker: Checker,
  rule: MessageRule,
): SkimmedMessage {
  const reader = messageReader.reset(request, from, to);
  let type: number = EventType.messageCompleted;
  let key = '';
  let messageId = '';
  let subject = '';
  let targetSeq = 0;
  let given = 0n;
  let contentField = 0;
  let contentFrom = 0;
  let contentTo = 0;
  while (reader.next()) {
    switch (reader.field) {
      case 1:
        type = takeNumber(reader, at(place, 'type')) || EventType.messageCompleted;
        break;
      case 2:
        key = takeText(reader, place, 'key');
        break;
      case 3:
        messageId = takeText(reader, place, 'message_id');
        break;
      case 4:
        subject = takeText(reader, place, 'subject');
        break;
      case 5:
        targetSeq = takeNumber(reader, at(place, 'target_seq'));
        break;
      case 6:
        expectWire(reader, Wire.fixed64, 'messages.content_xxh64');
        given = reader.fixed64();
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
  const message = holdsMessage(type as EventType);
  if (contentField === 0) throw invalidArgument(at(place, message ? 'message' : 'raw'), 'missing');
  if (message !== (contentField === 20)) {
    throw invalidArgument(
      at(place, 'content'),
      `events of type ${type} carry ${message ? '`message`' : '`raw`'}`,
    );
  }
  const size = contentTo - contentFrom;
  if (size > limits.messageBytes) throw messageTooLarge(place, size);
  let usesBatchPosition = false;
  if (message) {
    contentPlace.batchPosition = place;
    checker.check(rule, request, contentFrom, contentTo, contentPlace);
    usesBatchPosition = checker.usesBatchPosition;
  }
  const content = request.subarray(contentFrom, contentTo);
  const contentXxh64 = xxh64(content);
  if (given !== 0n && given !== contentXxh64) throw checksumMismatch(place, given, contentXxh64);
  return {
    type: type as EventType,
    key,
    messageId,
    subject,
    targetSeq,
    contentXxh64,
    content,
    usesBatchPosition,
  };
}

const contentPlace: ContentPlace & { batchPosition: number } = { batchPosition: 0 };

function takeText(reader: WireReader, place: number, name: string): string {
  if (reader.wire !== Wire.bytes) throw invalidArgument(at(place, name), `wire type ${reader.wire}`);
  reader.sized();
  const { bytes, start, position } = reader;
  if (position - start <= limits.idBytes) {
    let ascii = true;
    for (let i = start; ascii && i < position; i++) ascii = (bytes[i] as number) < 0x80;
    if (ascii) return bytes.toString('latin1', start, position);
  }
  return takeId(bytes, start, position, at(place, name));
}

function takeNumber(reader: WireReader, field: string): number {
  expectWire(reader, Wire.varint, field);
  const value = reader.varint();
  if (value > Number.MAX_SAFE_INTEGER) throw invalidArgument(field, 'out of range (at most 2^53 - 1)');
  return value;
}

function takeTrue(reader: WireReader, field: string): void {
  if (takeNumber(reader, field) !== 1) throw invalidArgument(field, 'must be true where it is given');
}

function expectWire(reader: WireReader, wire: number, field: string): void {
  if (reader.wire !== wire) throw invalidArgument(field, `wire type ${reader.wire}`);
}

function at(place: number, name: string): string {
  return `messages[${place}].${name}`;
}

function tooManyMessages(): HansardError {
  return new HansardError('FRAME_TOO_LARGE', `more than ${limits.messagesPerAppend} messages in one append`, {
    limit_messages: limits.messagesPerAppend,
  });
}

function messageTooLarge(place: number, size: number): HansardError {
  return new HansardError(
    'MESSAGE_TOO_LARGE',
    `messages[${place}] has ${size} bytes of content, at most ${limits.messageBytes} are allowed`,
    { field: `messages[${place}]`, bytes: size, limit_bytes: limits.messageBytes },
  );
}

function checksumMismatch(place: number, given: bigint, computed: bigint): HansardError {
  return new HansardError(
    'CHECKSUM_MISMATCH',
    `the content of messages[${place}] does not match its checksum`,
    {
      field: `messages[${place}].content_xxh64`,
      expected: given.toString(16).padStart(16, '0'),
      actual: computed.toString(16).padStart(16, '0'),
    },
  );
}
