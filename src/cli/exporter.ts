/** Reads channels whole, one after the other, with the next ones' first pages already under way. */
import type { Event } from '../client/types.js';
import { HansardError } from '../common/errors.js';

export interface ExportSource {
  /** By name, ascending. */
  channels(prefix: string): AsyncIterable<{ readonly name: string; readonly headSeq: number }>;
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

/**
 * Each channel up to its head at the time when its export begins. Seqs are
 * checked to be 1, 2, 3 …: an export with a hole must not look whole.
 */
export async function* exportPages(
  source: ExportSource,
  names: AsyncIterable<string> | Iterable<string>,
): AsyncGenerator<ExportedPage> {
  const ahead: { channel: string; first: Promise<Page> }[] = [];
  for await (const channel of names) {
    const first = source.page(channel, 1);
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
  channel: string,
  first: Promise<Page>,
): AsyncGenerator<ExportedPage> {
  let page = await first;
  const head = page.headSeq;
  let nextSeq = 1;
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
