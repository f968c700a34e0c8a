/** hansard.v1.InboxService: read cursors, and what is unread. */
import { HansardError } from '../common/errors.js';
import type { PartitionId } from '../common/ids.js';
import { limits } from '../common/limits.js';
import { channelNameProblem } from '../common/names.js';
import { WireReader } from '../common/wire.js';
import { encodeMoveCursor } from '../conversation/command.js';
import { eventTypeAt } from '../conversation/event-record.js';
import type { ChannelState, ReadCursor, StoredEvent } from '../conversation/types.js';
import type { ReadView } from '../node/types.js';
import type { CallContext, Handler } from './calls.js';
import { channelMessage, twoTexts } from './channel-message.js';
import { servedMessage } from './encode.js';
import { encodeInboxEntry, entriesOf, joinEntries } from './encode-inbox.js';
import { takeIdText } from './messages.js';
import { invalidArgument, invalidName, takePageSize, takeTenant } from './names.js';
import { channelOf, planRead, type ReadOptionsMessage } from './reads.js';
import { toNumber, toTimestamp } from './requests.js';
import type { Services } from './services.js';
import { holdsMessage, skimRoute } from './skim.js';
import { onceOnly, proposeFor } from './writes.js';

/** Unread messages are counted one by one up to this, where not all events are messages. */
const countedMax = 100;
/** Bytes of events that counting reads of one channel. */
const countedBytes = 256 * 1024;
/** Channels that are read at once. */
const atOnce = 16;

export function inboxMethods(services: Services): Map<string, Handler> {
  return new Map<string, Handler>([
    ['hansard.v1.InboxService/MoveReadCursor', moveReadCursor(services)],
    ['hansard.v1.InboxService/ListReadCursors', listReadCursors(services)],
    ['hansard.v1.InboxService/GetInbox', getInbox(services)],
  ]);
}

function cursorMessage({ reader, seq, timeUs }: ReadCursor): object {
  return { reader, seq, move_time: toTimestamp(timeUs) };
}

function takeReader(text: string): string {
  if (text === '') throw invalidArgument('reader', 'missing');
  return takeIdText(text, 'reader');
}

function moveReadCursor({ node, codecs, router, tokens }: Services): Handler {
  const decode = codecs.decoder<{ reader: string; seq: string; allow_back: boolean; request_id: string }>(
    'hansard.v1.MoveReadCursorRequest',
  );
  const encode = codecs.encoder('hansard.v1.MoveReadCursorResponse');
  return (context, request) => {
    const route = skimRoute(request);
    const { reader, seq, allow_back, request_id } = decode(request);
    const requestId = takeIdText(request_id, 'request_id');
    const move = encodeMoveCursor({
      tenant: route.tenant,
      channel: route.channel,
      reader: takeReader(reader),
      seq: toNumber(seq),
      mayGoBack: allow_back,
    });
    const partition = node.partitionOf(route.tenant, route.channel);
    return router.atLeader(context, partition, request, async () => {
      // Before that nothing tells a repeat; without `allow_back` it does nothing anyway.
      const isTold = node.partitionDetail(partition).applyVersion >= 4;
      const command = isTold ? onceOnly(requestId, context.method, request, move) : move;
      const { answer, index } = await proposeFor(node, partition, command, context.deadlineMs, 'cursor');
      return encode({
        cursor: cursorMessage(answer.cursor),
        head_seq: answer.headSeq,
        commit_token: tokens.commit(partition, index),
      });
    });
  };
}

function listReadCursors(services: Services): Handler {
  const { node, codecs, reads, tokens } = services;
  const decode = codecs.decoder<{ page_size: number; page_token: string; read: ReadOptionsMessage | null }>(
    'hansard.v1.ListReadCursorsRequest',
  );
  const encode = codecs.encoder('hansard.v1.ListReadCursorsResponse');
  return (context, request) => {
    const route = skimRoute(request);
    const { page_size, page_token, read } = decode(request);
    const size = takePageSize(page_size);
    const bound = JSON.stringify(['ListReadCursors', route.tenant, route.channel]);
    const after = page_token === '' ? '' : tokens.openPage(bound, page_token, (reader) => reader.string());
    const partition = node.partitionOf(route.tenant, route.channel);
    return reads.at(context, partition, planRead(read, tokens), request, async (view) => {
      const channel = await channelOf(view, route);
      const found = await view.reader.listCursors({ ...route, after, limit: size + 1 });
      const cursors = found.slice(0, size);
      const last = cursors.at(-1);
      const more = found.length > size && last !== undefined;
      return encode({
        cursors: cursors.map(cursorMessage),
        next_page_token: more ? tokens.page(bound, (writer) => writer.string(last.reader)) : '',
        head_seq: channel.headSeq,
        served_by: servedMessage(services.served(partition, view)),
      });
    });
  };
}

interface GetInboxRequest {
  reader: string;
  channels: string[];
  without_last_message: boolean;
  read: ReadOptionsMessage | null;
}

function getInbox(services: Services): Handler {
  const { node, codecs, reads, router, tokens } = services;
  const decode = codecs.decoder<GetInboxRequest>('hansard.v1.GetInboxRequest');
  const encodeRequest = codecs.encoder('hansard.v1.GetInboxRequest');
  return async (context, request) => {
    const { first } = twoTexts(new WireReader(request));
    const tenant = takeTenant(request, first[0], first[1]);
    const inbox = decode(request);
    const reader = takeReader(inbox.reader);
    const names = checkedNames(inbox.channels);
    const plan = planRead(inbox.read, tokens);
    const byPartition = new Map<PartitionId, string[]>();
    for (const name of names) {
      const partition = node.partitionOf(tenant, name);
      const list = byPartition.get(partition);
      if (list === undefined) byPartition.set(partition, [name]);
      else list.push(name);
    }
    const entries = new Map<string, Uint8Array>();
    await Promise.all(
      [...byPartition].map(async ([partition, ofOne]) => {
        try {
          const view = await reads.barrier(context, partition, plan);
          await entriesHere(partition, view, ofOne);
        } catch (error) {
          // No replica of the partition here: its leader reads it.
          const elsewhere = error instanceof HansardError && error.reason === 'NOT_LEADER';
          if (!elsewhere || context.origin === 'forward') throw error;
          await entriesElsewhere(context, partition, ofOne, error);
        }
      }),
    );
    return joinEntries(names.map((name) => entries.get(name) ?? new Uint8Array(0)));

    async function entriesHere(
      partition: PartitionId,
      view: ReadView,
      ofOne: readonly string[],
    ): Promise<void> {
      for (let from = 0; from < ofOne.length; from += atOnce) {
        await Promise.all(
          ofOne.slice(from, from + atOnce).map(async (name) => {
            entries.set(name, await entryOf(partition, view, name));
          }),
        );
      }
    }

    async function entryOf(partition: PartitionId, view: ReadView, name: string): Promise<Uint8Array> {
      const channel = await view.reader.channelByName(tenant, name);
      const served = () => servedMessage(services.served(partition, view));
      if (channel === undefined) return encodeInboxEntry(codecs, { name, served: served() });
      const cursor = await view.reader.readCursor(tenant, name, reader);
      // Read after the channel: it may stand behind events that came in between.
      const cursorSeq = Math.min(cursor?.seq ?? 0, channel.headSeq);
      const readSeq = Math.max(cursorSeq, channel.baseSeq);
      const unread = await unreadOf(view, channel, readSeq);
      const last = inbox.without_last_message ? undefined : await lastMessage(view, channel);
      return encodeInboxEntry(codecs, {
        name,
        channel: channelMessage(channel, partition),
        readSeq: cursorSeq,
        unreadEvents: channel.headSeq - readSeq,
        unreadMessages: unread.messages,
        moreUnread: unread.more,
        last,
        served: served(),
      });
    }

    async function entriesElsewhere(
      from: CallContext,
      partition: PartitionId,
      ofOne: readonly string[],
      notHere: HansardError,
    ): Promise<void> {
      const ofThese = encodeRequest({ ...inbox, tenant, channels: ofOne });
      const answer = await router.atLeader(from, partition, ofThese, () => Promise.reject(notHere));
      // One of many partitions: nowhere to send the next call.
      from.forwardedTo = 0;
      const found = entriesOf(answer);
      for (const [i, name] of ofOne.entries()) entries.set(name, found[i] ?? new Uint8Array(0));
    }
  };
}

function checkedNames(names: readonly string[]): string[] {
  if (names.length === 0) throw invalidArgument('channels', 'no channel is named');
  if (names.length > limits.inboxChannels)
    throw invalidArgument('channels', `more than ${limits.inboxChannels}`);
  for (const [i, name] of names.entries()) {
    const problem = channelNameProblem(name);
    if (problem !== undefined) throw invalidName(`channels[${i}]`, problem);
  }
  return [...names];
}

async function unreadOf(
  view: ReadView,
  channel: ChannelState,
  readSeq: number,
): Promise<{ messages: number; more: boolean }> {
  const { headSeq, baseSeq, messageCount, lastMessageSeq } = channel;
  if (lastMessageSeq <= readSeq) return { messages: 0, more: false };
  // All of them are messages: nothing to look at.
  if (messageCount === headSeq - baseSeq) return { messages: headSeq - readSeq, more: false };
  if (readSeq <= baseSeq) return { messages: messageCount, more: false };
  const events = await eventsOf(view, channel, readSeq + 1, lastMessageSeq);
  const messages = events.filter((event) =>
    holdsMessage(eventTypeAt(event.bytes, event.headerOffset)),
  ).length;
  return { messages, more: (events.at(-1)?.seq ?? 0) < lastMessageSeq };
}

async function eventsOf(
  view: ReadView,
  channel: ChannelState,
  fromSeq: number,
  toSeq: number,
): Promise<StoredEvent[]> {
  const range = { fromSeq, toSeq, reverse: false, maxEvents: countedMax, maxBytes: countedBytes };
  try {
    return await view.reader.events(channel, range);
  } catch (error) {
    // Deleted meanwhile.
    if (error instanceof HansardError && error.reason === 'CHANNEL_NOT_FOUND') return [];
    throw error;
  }
}

async function lastMessage(view: ReadView, channel: ChannelState): Promise<StoredEvent | undefined> {
  const { lastMessageSeq } = channel;
  return lastMessageSeq === 0
    ? undefined
    : (await eventsOf(view, channel, lastMessageSeq, lastMessageSeq))[0];
}
