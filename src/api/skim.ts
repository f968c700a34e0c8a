/**
 * Reads requests where they lie, without protobuf objects: `skimRoute` finds what
 * decides where a request goes, `skimAppendHead` all of an AppendMessagesRequest
 * but its messages (pack-append.ts).
 */
import { HansardError } from '../common/errors.js';
import { limits } from '../common/limits.js';
import { Wire, WireReader } from '../common/wire.js';
import type { AppendCondition } from '../conversation/command.js';
import { EventType } from '../conversation/types.js';
import { checkChannelName, invalidArgument, takeChannelName, takeTenant } from './names.js';

export interface Route {
  readonly tenant: string;
  readonly channel: string;
}

/** An AppendMessagesRequest but its messages: where it goes, and what a command begins with. */
export interface AppendHead extends RouteBytes {
  /** 0: none. */
  readonly producerId: number;
  readonly firstCounter: number;
  readonly condition: AppendCondition | undefined;
  readonly count: number;
  /** Of all messages as they lie in the request. */
  readonly messageBytes: number;
}

/** Event types whose content is a MessageContent (field `message`); all others carry `raw`. */
export function holdsMessage(type: EventType): boolean {
  return (
    type === EventType.messageCompleted ||
    type === EventType.messageCreated ||
    type === EventType.messageStarted
  );
}

/** A route whose channel's name stays where it lies in the request. */
export interface RouteBytes {
  readonly tenant: string;
  readonly channelFrom: number;
  readonly channelTo: number;
}

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

/** One reader serves all requests: skimming never waits, so it never runs twice at once. */
const headReader = new WireReader(Buffer.alloc(0));

/** Everything but the messages, checked. */
export function skimAppendHead(request: Buffer): AppendHead {
  const reader = headReader.reset(request, 0, request.length);
  let tenantFrom = 0;
  let tenantTo = 0;
  let channelFrom = 0;
  let channelTo = 0;
  let producerId = 0;
  let firstCounter = 0;
  let condition: AppendCondition | undefined;
  let count = 0;
  let messageBytes = 0;
  while (reader.next()) {
    switch (reader.field) {
      case 1:
        expectWire(reader, Wire.bytes, 'tenant');
        reader.sized();
        tenantFrom = reader.start;
        tenantTo = reader.position;
        break;
      case 2:
        expectWire(reader, Wire.bytes, 'channel');
        reader.sized();
        channelFrom = reader.start;
        channelTo = reader.position;
        break;
      case 3: {
        expectWire(reader, Wire.bytes, 'producer');
        reader.sized();
        const stamp = stampReader.reset(request, reader.start, reader.position);
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
      case 5:
        expectWire(reader, Wire.bytes, 'messages');
        if (count >= limits.messagesPerAppend) throw tooManyMessages();
        count++;
        reader.sized();
        messageBytes += reader.position - reader.start;
        break;
      default:
        reader.skip();
    }
  }
  const tenant = takeTenant(request, tenantFrom, tenantTo);
  checkChannelName(request, channelFrom, channelTo);
  if (count === 0) throw invalidArgument('messages', 'must not be empty');
  if (producerId !== 0 && firstCounter === 0)
    throw invalidArgument('producer.first_counter', 'must be at least 1');
  if (producerId === 0 && firstCounter !== 0) throw invalidArgument('producer.producer_id', 'must not be 0');
  if (!Number.isSafeInteger(firstCounter + count)) {
    throw invalidArgument('producer.first_counter', 'out of range');
  }
  return { tenant, channelFrom, channelTo, producerId, firstCounter, condition, count, messageBytes };
}

const stampReader = new WireReader(Buffer.alloc(0));

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

/** `place`: of the message whose field it is; -1: of none. */
export function takeNumber(reader: WireReader, field: string, place = -1): number {
  if (reader.wire !== Wire.varint) expectWire(reader, Wire.varint, place < 0 ? field : at(place, field));
  const value = reader.varint();
  if (value > Number.MAX_SAFE_INTEGER) {
    throw invalidArgument(place < 0 ? field : at(place, field), 'out of range (at most 2^53 - 1)');
  }
  return value;
}

export function at(place: number, name: string): string {
  return `messages[${place}].${name}`;
}

function takeTrue(reader: WireReader, field: string): void {
  if (takeNumber(reader, field) !== 1) throw invalidArgument(field, 'must be true where it is given');
}

export function expectWire(reader: WireReader, wire: number, field: string): void {
  if (reader.wire !== wire) throw invalidArgument(field, `wire type ${reader.wire}`);
}

function tooManyMessages(): HansardError {
  return new HansardError('FRAME_TOO_LARGE', `more than ${limits.messagesPerAppend} messages in one append`, {
    limit_messages: limits.messagesPerAppend,
  });
}
