/** hansard.v1.MessageService. */
import type { ByteWriter } from '../common/bytes.js';
import { Code, HansardError } from '../common/errors.js';
import type { ChannelId } from '../common/ids.js';
import { limits } from '../common/limits.js';
import { type AppendInput, encodeAppend, encodeOpenProducer } from '../conversation/command.js';
import type { ChannelState, StoredEvent } from '../conversation/types.js';
import type { ReadView } from '../node/types.js';
import { batchGetMessages } from './batch-get.js';
import type { Handler } from './calls.js';
import { commitmentOf, keyDigestOf, newSalt } from './commitment.js';
import { encodeAppended, encodeGetMessage, encodeListMessages } from './encode.js';
import { invalidArgument, takeId } from './names.js';
import { planRead, type ReadOptionsMessage } from './reads.js';
import { toNumber, toTimeUs } from './requests.js';
import type { Services } from './services.js';
import { type Route, type SkimmedAppend, skimAppend, skimRoute } from './skim.js';
import { proposalError } from './writes.js';

export function messageMethods(services: Services): Map<string, Handler> {
  return new Map<string, Handler>([
    ['hansard.v1.MessageService/AppendMessages', appendMessages(services)],
    ['hansard.v1.MessageService/GetMessage', getMessage(services)],
    ['hansard.v1.MessageService/BatchGetMessages', batchGetMessages(services)],
    ['hansard.v1.MessageService/ListMessages', listMessages(services)],
    ['hansard.v1.MessageService/OpenProducer', openProducer(services)],
  ]);
}

/** The hot path: nothing here waits before the proposal is out. */
function appendMessages({ node, codecs, router, tokens }: Services): Handler {
  const content = codecs.rules.message('hansard.v1.MessageContent');
  return (context, request) => {
    const route = skimRoute(request);
    const partition = node.partitionOf(route.tenant, route.channel);
    return router.atLeader(context, partition, request, async () => {
      const append = skimAppend(request, codecs.checker, content);
      const { producerId, firstCounter, messages } = append;
      const options = {
        deadlineMs: context.deadlineMs,
        producer: producerId === 0 ? undefined : { id: producerId, firstCounter, count: messages.length },
      };
      const command = encodeAppend(commandOf(route, append));
      let result: Awaited<ReturnType<typeof node.propose>>;
      try {
        result = await node.propose(partition, command, options);
      } catch (error) {
        throw unsafeToRetry(error, producerId !== 0 || append.allKeyed);
      }
      const answer = result.answer;
      if (answer.kind !== 'appended') throw proposalError(answer);
      return encodeAppended(answer, tokens.commit(partition, result.index));
    });
  };
}

/** Adds salt, commitment and key digest to each message. */
export function commandOf(route: Route, append: SkimmedAppend): AppendInput {
  const events = append.messages.map((message) => {
    const salt = newSalt();
    return {
      type: message.type,
      content: message.content,
      contentXxh64: message.contentXxh64,
      salt,
      commitment: commitmentOf(salt, message.content),
      key: message.key,
      messageId: message.messageId,
      subject: message.subject,
      targetSeq: message.targetSeq,
      usesBatchPosition: message.usesBatchPosition,
      keyDigest: message.key === '' ? undefined : keyDigestOf(message.content),
    };
  });
  const producer =
    append.producerId === 0 ? undefined : { id: append.producerId, firstCounter: append.firstCounter };
  return { tenant: route.tenant, channel: route.channel, producer, condition: append.condition, events };
}

/** UNAVAILABLE invites clients to send again; without key or producer that could append twice. */
function unsafeToRetry(error: unknown, safe: boolean): unknown {
  if (safe || !(error instanceof HansardError) || error.reason !== 'COMMIT_UNKNOWN') return error;
  return new HansardError(error.reason, error.message, error.fields, { code: Code.unknown, cause: error });
}

interface GetMessageRequest {
  ref?: 'seq' | 'message_id';
  seq: string;
  message_id: string;
  read: ReadOptionsMessage | null;
}

function getMessage(services: Services): Handler {
  const { node, codecs, reads, tokens } = services;
  const decode = codecs.decoder<GetMessageRequest>('hansard.v1.GetMessageRequest');
  return (context, request) => {
    const route = skimRoute(request);
    const { ref, seq, message_id, read } = decode(request);
    if (ref === undefined) throw invalidArgument('ref', 'give seq or message_id');
    if (ref === 'message_id') takeIdText(message_id, 'message_id');
    const partition = node.partitionOf(route.tenant, route.channel);
    return reads.at(context, partition, planRead(read, tokens), request, async (view) => {
      const channel = await channelOf(view, route);
      const place = ref === 'seq' ? toNumber(seq) : await view.reader.seqOfMessageId(channel.id, message_id);
      const found =
        place === undefined || place <= channel.baseSeq || place > channel.headSeq
          ? []
          : await at(view, channel, place);
      const event = found[0];
      if (event === undefined) {
        throw new HansardError(
          'MESSAGE_NOT_FOUND',
          `${route.channel} has no event ${ref} ${place ?? message_id}`,
          {
            channel: route.channel,
            [ref]: ref === 'seq' ? toNumber(seq) : message_id,
            head_seq: channel.headSeq,
          },
        );
      }
      return encodeGetMessage(event, services.served(partition, view));
    });
  };
}

export function at(view: ReadView, channel: ChannelState, seq: number): Promise<StoredEvent[]> {
  const one = { fromSeq: seq, toSeq: seq, reverse: false, maxEvents: 1, maxBytes: limits.pageBytes };
  return view.reader.events(channel, one);
}

interface ListMessagesRequest {
  anchor?: 'anchor_seq' | 'anchor_time';
  anchor_seq: string;
  anchor_time: { seconds: string; nanos: number } | null;
  before: number;
  after: number;
  descending: boolean;
  page_token: string;
  read: ReadOptionsMessage | null;
}

/** What a page covers: `before` events below `middle`, `after` events from it on. */
interface Page {
  readonly middle: number;
  readonly before: number;
  readonly after: number;
}

const Direction = { older: 0, newer: 1 } as const;

function listMessages(services: Services): Handler {
  const { node, codecs, reads, tokens } = services;
  const decode = codecs.decoder<ListMessagesRequest>('hansard.v1.ListMessagesRequest');
  return (context, request) => {
    const route = skimRoute(request);
    const list = decode(request);
    if (list.anchor === undefined && list.before > 0 && list.after > 0) {
      throw invalidArgument('after', 'with `before` it needs an anchor');
    }
    const partition = node.partitionOf(route.tenant, route.channel);
    return reads.at(context, partition, planRead(list.read, tokens), request, async (view) => {
      const channel = await channelOf(view, route);
      // The state may grow while the page is read: one head decides all of it.
      const headSeq = channel.headSeq;
      const bound = pageParameters(route, list, channel.id);
      const page =
        list.page_token === ''
          ? await firstPage(view, channel, headSeq, list)
          : nextPage(services, bound, list);
      const { events, next } = await readPage(view, channel, headSeq, page);
      const direction = page.after > 0 ? Direction.newer : Direction.older;
      const token = next === 0 ? '' : tokens.page(bound, (writer) => writePlace(writer, direction, next));
      if (list.descending) events.reverse();
      return encodeListMessages(events, token, headSeq, services.served(partition, view), channel.uid);
    });
  };
}

/** All that must stay the same from page to page; counts and freshness may change. */
function pageParameters(route: Route, list: ListMessagesRequest, channelId: ChannelId): string {
  const anchor =
    list.anchor === 'anchor_seq'
      ? `s${list.anchor_seq}`
      : list.anchor === 'anchor_time' && list.anchor_time !== null
        ? `t${list.anchor_time.seconds}.${list.anchor_time.nanos}`
        : '';
  return JSON.stringify(['ListMessages', route.tenant, route.channel, channelId, anchor, list.descending]);
}

function writePlace(writer: ByteWriter, direction: number, place: number): void {
  writer.u8(direction).uvarint(place);
}

async function firstPage(
  view: ReadView,
  channel: ChannelState,
  headSeq: number,
  list: ListMessagesRequest,
): Promise<Page> {
  const after = Math.min(list.after, limits.pageSizeMax);
  const before =
    list.before === 0 && list.after === 0
      ? limits.pageSizeDefault
      : Math.min(list.before, limits.pageSizeMax);
  if (list.anchor === 'anchor_seq') {
    const anchor = Math.max(toNumber(list.anchor_seq), channel.baseSeq + 1);
    return { middle: Math.min(anchor, headSeq + 1), before, after };
  }
  if (list.anchor === 'anchor_time' && list.anchor_time !== null) {
    const seq = await view.reader.seqAtTime(channel, toTimeUs(list.anchor_time));
    return { middle: Math.min(seq, headSeq + 1), before, after };
  }
  return { middle: after > 0 ? channel.baseSeq + 1 : headSeq + 1, before, after };
}

function nextPage({ tokens }: Services, bound: string, list: ListMessagesRequest): Page {
  return tokens.openPage(bound, list.page_token, (reader) => {
    const newer = reader.u8() === Direction.newer;
    const middle = reader.uvarint();
    const count = newer ? list.after : list.before;
    const size = count === 0 ? limits.pageSizeDefault : Math.min(count, limits.pageSizeMax);
    return { middle, before: newer ? 0 : size, after: newer ? size : 0 };
  });
}

/** Ascending. `next`: the middle of the page that follows, 0 where there is none. */
async function readPage(
  view: ReadView,
  channel: ChannelState,
  headSeq: number,
  { middle, before, after }: Page,
): Promise<{ events: StoredEvent[]; next: number }> {
  // Around an anchor both sides get half the bytes, so that neither starves the other.
  const maxBytes = before > 0 && after > 0 ? limits.pageBytes / 2 : limits.pageBytes;
  // What came before belongs to a deleted channel of the same name.
  const firstSeq = channel.baseSeq + 1;
  const oldest = Math.max(firstSeq, middle - before);
  const newest = Math.min(headSeq, middle + after - 1);
  const older =
    before > 0 && oldest < middle
      ? await view.reader.events(channel, {
          fromSeq: oldest,
          toSeq: middle - 1,
          reverse: true,
          maxEvents: before,
          maxBytes,
        })
      : [];
  const newer =
    after > 0 && middle <= newest
      ? await view.reader.events(channel, {
          fromSeq: middle,
          toSeq: newest,
          reverse: false,
          maxEvents: after,
          maxBytes,
        })
      : [];
  const events = older.length === 0 ? newer : newer.length === 0 ? older : [...older, ...newer];
  if (after > 0) {
    const last = newer.at(-1)?.seq ?? headSeq;
    return { events, next: last < headSeq ? last + 1 : 0 };
  }
  const first = older[0]?.seq ?? firstSeq;
  return { events, next: first > firstSeq ? first : 0 };
}

interface OpenProducerRequest {
  name: string;
}

function openProducer({ node, codecs, router, tokens }: Services): Handler {
  const decode = codecs.decoder<OpenProducerRequest>('hansard.v1.OpenProducerRequest');
  const encode = codecs.encoder('hansard.v1.OpenProducerResponse');
  return (context, request) => {
    const route = skimRoute(request);
    const { name } = decode(request);
    takeIdText(name, 'name');
    const partition = node.partitionOf(route.tenant, route.channel);
    return router.atLeader(context, partition, request, async () => {
      const { answer, index } = await node.propose(partition, encodeOpenProducer(route.tenant, name), {
        deadlineMs: context.deadlineMs,
      });
      if (answer.kind !== 'producer') throw proposalError(answer);
      return encode({
        producer_id: answer.producerId,
        partition,
        next_counter: answer.nextCounter,
        window: answer.window,
        commit_token: tokens.commit(partition, index),
      });
    });
  };
}

export async function channelOf(view: ReadView, route: Route): Promise<ChannelState> {
  const channel = await view.reader.channelByName(route.tenant, route.channel);
  if (channel !== undefined) return channel;
  throw new HansardError('CHANNEL_NOT_FOUND', `tenant ${route.tenant} has no channel ${route.channel}`, {
    tenant: route.tenant,
    channel: route.channel,
  });
}

/** Checks an id that was decoded already. */
export function takeIdText(id: string, field: string): string {
  const bytes = Buffer.from(id, 'utf8');
  return takeId(bytes, 0, bytes.length, field);
}
