/** Reads channels whole, one after the other, with the next ones' first pages already under way. */
import type { Event } from '../client/types.js';
import { HansardError } from '../common/errors.js';
import type { ExportedChannel } from './channel-record.js';

export interface ExportSource {
  /** By name, ascending. */
  channels(prefix: string): AsyncIterable<ExportedChannel>;
  /** Undefined: there is no such channel any more. */
  channel(name: string): Promise<ExportedChannel | undefined>;
  /** Events from `fromSeq` on, ascending, as many as a page holds; empty behind the head. */
  page(channel: string, fromSeq: number): Promise<ExportSourcePage>;
}

export interface ExportSourcePage {
  readonly events: readonly Event[];
  readonly headSeq: number;
  /** Of the channel that has the name now. */
  readonly channelUid: string;
}

/** Channels whose first page is fetched before its turn: hides the round trips of many small ones. */
const lookahead = 16;

export interface ExportedPage {
  readonly channel: ExportedChannel;
  /** Of the last event that is exported; the same in all pages of a channel. */
  readonly headSeq: number;
  readonly isFirst: boolean;
  /** Empty only where the channel has none. */
  readonly events: readonly Event[];
}

/**
 * Each channel up to its head at the time when its export begins. Seqs are
 * checked to go on from the first one by one: an export with a hole must not look
 * whole. A channel that is deleted before its turn is left out.
 */
export async function* exportPages(
  source: ExportSource,
  channels: AsyncIterable<ExportedChannel> | Iterable<ExportedChannel>,
): AsyncGenerator<ExportedPage> {
  const ahead: { channel: ExportedChannel; first: Promise<ExportSourcePage> }[] = [];
  for await (const channel of channels) {
    const first = source.page(channel.name, channel.firstSeq);
    // It is awaited in its turn; until then a failure must not count as unhandled.
    first.catch(() => {});
    ahead.push({ channel, first });
    if (ahead.length < lookahead) continue;
    const next = ahead.shift();
    if (next !== undefined) yield* channelPages(source, next.channel, next.first);
  }
  for (const next of ahead) yield* channelPages(source, next.channel, next.first);
}

async function* channelPages(
  source: ExportSource,
  listed: ExportedChannel,
  first: Promise<ExportSourcePage>,
): AsyncGenerator<ExportedPage> {
  const begun = await begin(source, listed, first);
  if (begun === undefined) return;
  const { channel } = begun;
  let { page } = begun;
  const head = page.headSeq;
  if (head < channel.firstSeq) yield { channel, headSeq: head, isFirst: true, events: [] };
  let nextSeq = channel.firstSeq;
  while (nextSeq <= head) {
    if (page.channelUid !== channel.uid) throw replaced(channel.name);
    const isFirst = nextSeq === channel.firstSeq;
    nextSeq = checkDense(channel.name, nextSeq, head, page.events);
    // The next page is on its way while this one is written.
    const following = nextSeq <= head ? source.page(channel.name, nextSeq) : undefined;
    following?.catch(() => {});
    yield { channel, headSeq: head, isFirst, events: page.events.filter((event) => event.seq <= head) };
    if (following !== undefined) page = await following;
  }
}

/** The channel as it is now, where it was deleted and made anew since it was listed; undefined where it is gone. */
async function begin(
  source: ExportSource,
  listed: ExportedChannel,
  first: Promise<ExportSourcePage>,
): Promise<{ channel: ExportedChannel; page: ExportSourcePage } | undefined> {
  let channel: ExportedChannel | undefined = listed;
  for (let page: Promise<ExportSourcePage> = first, attempt = 1; ; attempt++) {
    try {
      const got = await page;
      if (got.channelUid === channel.uid) return { channel, page: got };
      if (attempt >= beginAttempts) throw replaced(listed.name);
    } catch (error) {
      if (!(error instanceof HansardError) || error.reason !== 'CHANNEL_NOT_FOUND') throw error;
    }
    channel = await source.channel(listed.name);
    if (channel === undefined) return undefined;
    page = source.page(channel.name, channel.firstSeq);
  }
}

/** More often than this nobody deletes and makes a channel meanwhile. */
const beginAttempts = 5;

function replaced(channel: string): HansardError {
  return new HansardError(
    'CHANNEL_NOT_FOUND',
    `channel ${channel} was deleted while it was exported: export again`,
    {
      channel,
    },
  );
}

/** Returns the seq that comes next. */
function checkDense(channel: string, fromSeq: number, head: number, events: readonly Event[]): number {
  let nextSeq = fromSeq;
  for (const event of events) {
    if (event.seq !== nextSeq)
      throw new HansardError(
        'INTERNAL',
        `channel ${channel}: event ${nextSeq} is missing, ${event.seq} came instead`,
        { channel, seq: nextSeq },
      );
    nextSeq++;
  }
  if (events.length === 0)
    throw new HansardError('INTERNAL', `channel ${channel}: no events from ${nextSeq} on, head is ${head}`, {
      channel,
      seq: nextSeq,
    });
  return nextSeq;
}
