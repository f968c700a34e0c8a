/** ListMessages: a page before, after or around a place. */
import type { ByteWriter } from '../common/bytes.js';
import type { ChannelId } from '../common/ids.js';
import { limits } from '../common/limits.js';
import { Wire, WireReader } from '../common/wire.js';
import type { ChannelState, StoredEvent } from '../conversation/types.js';
import type { ReadView } from '../node/types.js';
import type { PageRange } from '../store/types.js';
import type { Handler } from './calls.js';
import { EncodedPage } from './encode.js';
import { invalidArgument } from './names.js';
import { channelNotFound, channelOf, planRead, type ReadOptionsMessage } from './reads.js';
import { toNumber, toTimeUs } from './requests.js';
import type { Services } from './services.js';
import { type Route, skimRoute } from './skim.js';
import { type Soon, whenThere } from './soon.js';

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

export function listMessages(services: Services): Handler {
  const { node, codecs, reads, tokens, pages } = services;
  const decode = codecs.decoder<ListMessagesRequest>('hansard.v1.ListMessagesRequest');
  return (context, request) => {
    const route = skimRoute(request);
    const list = quickRequest(request) ?? decode(request);
    if (list.anchor === undefined && list.before > 0 && list.after > 0) {
      throw invalidArgument('after', 'with `before` it needs an anchor');
    }
    const partition = node.partitionOf(route.tenant, route.channel);
    return reads.at(context, partition, planRead(list.read, tokens), request, (view) =>
      whenThere(channelAt(view, route), (channel) => {
        // The state may grow while the page is read: one head decides all of it.
        const headSeq = channel.headSeq;
        const bound = () => pageParameters(route, list, channel.id);
        const place =
          list.page_token === ''
            ? firstPage(view, channel, headSeq, list)
            : nextPage(services, bound(), list);
        return whenThere(place, (page) => {
          // Short, for it is made and looked up with every call; the channel's id stands for its names.
          const key = `${partition} ${channel.id} ${headSeq} ${page.middle} ${page.before} ${page.after} ${list.descending ? 'd' : ''}${anchorOf(list)}`;
          return pages.answer(key, services.served(partition, view), () =>
            whenThere(readPage(view, channel, headSeq, page), ({ events, next }) => {
              const direction = page.after > 0 ? Direction.newer : Direction.older;
              const token =
                next === 0 ? '' : tokens.page(bound(), (writer) => writePlace(writer, direction, next));
              if (list.descending) events.reverse();
              return new EncodedPage(events, token, headSeq, channel.uid);
            }),
          );
        });
      }),
    );
  };
}

/**
 * The usual request, without times and a page's token, read as it lies: a fifth
 * of what checker and decoder cost. Undefined: it has something else, or something
 * wrong, which they know how to tell. (Tenant and channel are skimRoute's.)
 */
function quickRequest(request: Buffer): ListMessagesRequest | undefined {
  const list: ListMessagesRequest = {
    anchor_seq: '0',
    anchor_time: null,
    before: 0,
    after: 0,
    descending: false,
    page_token: '',
    read: null,
  };
  const reader = new WireReader(request);
  while (reader.next()) {
    const { field } = reader;
    if (field <= 2) {
      if (reader.wire !== Wire.bytes) return undefined;
      reader.sized();
      continue;
    }
    if (field === 9) {
      if (reader.wire !== Wire.bytes || list.read !== null) return undefined;
      reader.sized();
      list.read = quickReadOptions(request, reader.start, reader.position) ?? null;
      if (list.read === null) return undefined;
      continue;
    }
    if (reader.wire !== Wire.varint) return undefined;
    const value = reader.varint();
    if (value > quickMax) return undefined;
    if (field === 3) {
      list.anchor = 'anchor_seq';
      list.anchor_seq = String(value);
    } else if (field === 5) list.before = value;
    else if (field === 6) list.after = value;
    else if (field === 7 && value <= 1) list.descending = value === 1;
    else return undefined;
  }
  return list;
}

/** Level, preference and tokens, as every request of the SDK has them. */
function quickReadOptions(request: Buffer, from: number, to: number): ReadOptionsMessage | undefined {
  const read: ReadOptionsMessage = { level: 0, preference: 0, max_staleness: null, commit_tokens: [] };
  const reader = new WireReader(request, from, to);
  while (reader.next()) {
    const { field } = reader;
    if (field === 4 && reader.wire === Wire.bytes) {
      reader.sized();
      read.commit_tokens.push(request.subarray(reader.start, reader.position));
    } else if (field <= 2 && reader.wire === Wire.varint) {
      const value = reader.varint();
      if (value > quickMax) return undefined;
      if (field === 1) read.level = value;
      else read.preference = value;
    } else return undefined;
  }
  return read;
}

/** Of numbers that need no second look. */
const quickMax = 0x7fff_ffff;

/** All that must stay the same from page to page; counts and freshness may change. */
function pageParameters(route: Route, list: ListMessagesRequest, channelId: ChannelId): string {
  const { tenant, channel } = route;
  return JSON.stringify(['ListMessages', tenant, channel, channelId, anchorOf(list), list.descending]);
}

function anchorOf({ anchor, anchor_seq, anchor_time }: ListMessagesRequest): string {
  if (anchor === 'anchor_seq') return `s${anchor_seq}`;
  if (anchor === 'anchor_time' && anchor_time !== null) return `t${anchor_time.seconds}.${anchor_time.nanos}`;
  return '';
}

function writePlace(writer: ByteWriter, direction: number, place: number): void {
  writer.u8(direction).uvarint(place);
}

function firstPage(
  view: ReadView,
  channel: ChannelState,
  headSeq: number,
  list: ListMessagesRequest,
): Soon<Page> {
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
    return view.reader
      .seqAtTime(channel, toTimeUs(list.anchor_time))
      .then((seq) => ({ middle: Math.min(seq, headSeq + 1), before, after }));
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
function readPage(
  view: ReadView,
  channel: ChannelState,
  headSeq: number,
  { middle, before, after }: Page,
): Soon<{ events: StoredEvent[]; next: number }> {
  // Around an anchor both sides get half the bytes, so that neither starves the other.
  const maxBytes = before > 0 && after > 0 ? limits.pageBytes / 2 : limits.pageBytes;
  // What came before belongs to a deleted channel of the same name.
  const firstSeq = channel.baseSeq + 1;
  const down: PageRange = {
    fromSeq: Math.max(firstSeq, middle - before),
    toSeq: middle - 1,
    reverse: true,
    maxEvents: before,
    maxBytes,
  };
  const up: PageRange = {
    fromSeq: middle,
    toSeq: Math.min(headSeq, middle + after - 1),
    reverse: false,
    maxEvents: after,
    maxBytes,
  };
  return whenThere(eventsIn(view, channel, down), (older) =>
    whenThere(eventsIn(view, channel, up), (newer) => {
      const events = older.length === 0 ? newer : newer.length === 0 ? older : [...older, ...newer];
      if (after > 0) {
        const last = newer.at(-1)?.seq ?? headSeq;
        return { events, next: last < headSeq ? last + 1 : 0 };
      }
      const first = older[0]?.seq ?? firstSeq;
      return { events, next: first > firstSeq ? first : 0 };
    }),
  );
}

function eventsIn({ reader }: ReadView, channel: ChannelState, range: PageRange): Soon<StoredEvent[]> {
  if (range.maxEvents === 0 || range.fromSeq > range.toSeq) return [];
  return reader.eventsNow(channel, range) ?? reader.events(channel, range);
}

function channelAt(view: ReadView, route: Route): Soon<ChannelState> {
  const channel = view.reader.channelNow(route.tenant, route.channel);
  if (channel === 'unknown') return channelOf(view, route);
  if (channel === undefined) throw channelNotFound(route);
  return channel;
}
