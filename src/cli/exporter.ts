/** Reads channels whole, one after the other, with the next ones' first pages already under way. */
import type { Event } from '../client/types.js';
import { HansardError } from '../common/errors.js';

export interface ExportSource {
  /** By name, ascending. */
  channels(
    prefix: string,
  ): AsyncIterable<{ readonly name: string; readonly headSeq: number; readonly firstSeq: number }>;
  /** Events from `fromSeq` on, ascending, as many as a page holds; empty behind the head. */
  page(
    channel: string,
    fromSeq: number,
  ): Promise<{ readonly events: readonly Event[]; readonly headSeq: number }>;
}

type Page = Awaited<ReturnType<ExportSource['page']>>;

/** Channels whose first page is fetched before its turn: hides the round trips of many small ones. */
const lookahead = 16;

export interface ExportedPage {
  readonly channel: string;
  readonly events: readonly Event[];
}

/** A channel to export: its name, where its first event is 1, or with its first seq. */
export type ExportedChannel = string | { readonly name: string; readonly firstSeq: number };

/**
 * Each channel up to its head at the time when its export begins. Seqs are
 * checked to go on from the first one by one: an export with a hole must not look whole.
 */
export async function* exportPages(
  source: ExportSource,
  names: AsyncIterable<ExportedChannel> | Iterable<ExportedChannel>,
): AsyncGenerator<ExportedPage> {
  const ahead: { channel: string; firstSeq: number; first: Promise<Page> }[] = [];
  for await (const named of names) {
    const channel = typeof named === 'string' ? named : named.name;
    const firstSeq = typeof named === 'string' ? 1 : named.firstSeq;
    const first = source.page(channel, firstSeq);
    // It is awaited in its turn; until then a failure must not count as unhandled.
    first.catch(() => {});
    ahead.push({ channel, firstSeq, first });
    if (ahead.length < lookahead) continue;
    const next = ahead.shift();
    if (next !== undefined) yield* channelPages(source, next.channel, next.firstSeq, next.first);
  }
  for (const next of ahead) yield* channelPages(source, next.channel, next.firstSeq, next.first);
}

async function* channelPages(
  source: ExportSource,
  channel: string,
  firstSeq: number,
  first: Promise<Page>,
): AsyncGenerator<ExportedPage> {
  let page = await first;
  const head = page.headSeq;
  let nextSeq = firstSeq;
  while (nextSeq <= head) {
    for (const event of page.events) {
      if (event.seq !== nextSeq)
        throw new HansardError(
          'INTERNAL',
          `channel ${channel}: event ${nextSeq} is missing, ${event.seq} came instead`,
          {
            channel,
            seq: nextSeq,
          },
        );
      nextSeq++;
    }
    if (page.events.length === 0)
      throw new HansardError(
        'INTERNAL',
        `channel ${channel}: no events from ${nextSeq} on, head is ${head}`,
        {
          channel,
          seq: nextSeq,
        },
      );
    // The next page is on its way while this one is written.
    const following = nextSeq <= head ? source.page(channel, nextSeq) : undefined;
    following?.catch(() => {});
    yield { channel, events: page.events.filter((event) => event.seq <= head) };
    if (following !== undefined) page = await following;
  }
}
