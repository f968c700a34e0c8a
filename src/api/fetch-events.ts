/** EventService.FetchEvents: one step of a feed as a call, answered by the partition's leader. */
import { HansardError } from '../common/errors.js';
import type { Index, PartitionId } from '../common/ids.js';
import type { NodeService } from '../node/types.js';
import type { CallContext, Handler } from './calls.js';
import { encodeFeedParts, encodeFetched } from './encode-subscribe.js';
import {
  backfillStart,
  type FeedFilter,
  type FeedPage,
  type FeedPlace,
  pullFeed,
  wantsChannel,
} from './feed.js';
import { readPlace, writePlace } from './feed-place.js';
import { budgetOf, type FeedRequestMessage, feedBound, filterOf, startOf } from './feed-request.js';
import { invalidArgument } from './names.js';
import type { Services } from './services.js';

export const fetchMethod = 'hansard.v1.EventService/FetchEvents';

export interface FetchEventsRequest extends FeedRequestMessage {
  partition: number;
  place: string;
  max_events: number;
  max_bytes: number;
  wait_ms: number;
}

const defaultBytes = 128 * 1024;
const mostBytes = 1024 * 1024;
const mostWaitMs = 10_000;
/** What is left of the deadline for the answer's way back, ms. */
const answerMs = 200;
/** An applied state answers at once; this only bounds a wait that should not be there, ms. */
const viewTimeoutMs = 5_000;

export function fetchEvents(services: Services): Handler {
  const { node, codecs, router, tokens } = services;
  const decode = codecs.decoder<FetchEventsRequest>('hansard.v1.FetchEventsRequest');
  return (context, request) => {
    const message = decode(request);
    const { partition, place, max_events, max_bytes, wait_ms } = message;
    if (partition >= node.partitionCount)
      throw invalidArgument('partition', `partitions are 0 to ${node.partitionCount - 1}`);
    const wanted = filterOf(request, message);
    const bound = `${feedBound('FetchEvents', wanted)}/${partition}`;
    const budget = budgetOf(max_events, max_bytes === 0 ? defaultBytes : Math.min(max_bytes, mostBytes));
    const start = startOf(message);
    const from =
      message.start !== 'place'
        ? undefined
        : tokens.openPage(bound, place, (reader) => ({ fromTimeUs: reader.u64(), place: readPlace(reader) }));
    const fromTimeUs = from?.fromTimeUs ?? (start.kind === 'time' ? start.fromTimeUs : 0);
    const filter: FeedFilter = { ...wanted, fromTimeUs };
    return router.atLeader(context, partition, request, async () => {
      const first = from?.place ?? (start.kind === 'time' ? backfillStart : await headOf(context, partition));
      const untilMs = Math.min(
        node.monotonicMs() + Math.min(wait_ms, mostWaitMs),
        context.deadlineMs - answerMs,
      );
      let next = first;
      for (;;) {
        // Watched before it is read: what comes in between is not missed.
        const news = new News(node, partition, filter);
        try {
          const page = await pullHere(services, partition, filter, next, budget);
          next = page.place;
          const leftMs = untilMs - node.monotonicMs();
          if (page.parts.length > 0 || leftMs <= 0 || context.cancelled) {
            const place = tokens.page(bound, (writer) => writePlace(writer.u64(fromTimeUs), next));
            const events = page.parts.length === 0 ? undefined : encodeFeedParts(partition, page.parts);
            return encodeFetched(events, place, page.atEnd);
          }
          if (page.isBehind === true) await appliedAtLeast(partition, next.index, untilMs);
          else if (page.atEnd) await news.within(leftMs);
          // What is in memory is read without a pause: timers, sockets and applying get their turn here.
          await new Promise((resolve) => setImmediate(resolve));
        } finally {
          news.end();
        }
      }
    });
  };

  async function headOf(context: CallContext, partition: PartitionId): Promise<FeedPlace> {
    const plan = { level: 'linearizable', minIndex: 0, deadlineMs: context.deadlineMs } as const;
    const view = await node.readBarrier(partition, plan);
    return { index: view.appliedIndex, events: 0 };
  }

  /** Or until then. */
  async function appliedAtLeast(partition: PartitionId, minIndex: Index, untilMs: number): Promise<void> {
    try {
      await node.readBarrier(partition, { level: 'eventual', minIndex, deadlineMs: untilMs });
    } catch (error) {
      if (!(error instanceof HansardError) || error.reason !== 'DEADLINE_EXCEEDED') throw error;
    }
  }
}

/** A step on this node's replica. Rejects NOT_LEADER where there is none. */
export async function pullHere(
  { node }: Services,
  partition: PartitionId,
  filter: FeedFilter,
  place: FeedPlace,
  budget: { readonly events: number; readonly bytes: number },
): Promise<FeedPage> {
  const view = await node.readBarrier(partition, {
    level: 'eventual',
    minIndex: 0,
    deadlineMs: node.monotonicMs() + viewTimeoutMs,
  });
  // This replica has not got to where the one before stood.
  if (view.appliedIndex < place.index) return { parts: [], place, atEnd: false, isBehind: true };
  return pullFeed(view.reader, filter, place, budget);
}

/** Tells once that the partition may have something that is wanted. */
class News {
  readonly #unwatch: () => void;
  #isThere = false;
  #wake: (() => void) | undefined;

  constructor(node: NodeService, partition: PartitionId, filter: FeedFilter) {
    this.#unwatch = node.watchPartition(partition, (tenant, name) => {
      if (tenant !== undefined && name !== undefined && !wantsChannel(filter, tenant, name)) return;
      this.#isThere = true;
      this.#wake?.();
    });
  }

  async within(ms: number): Promise<void> {
    if (this.#isThere) return;
    let timer: NodeJS.Timeout | undefined;
    await new Promise<void>((resolve) => {
      timer = setTimeout(resolve, ms);
      this.#wake = resolve;
    });
    clearTimeout(timer);
  }

  end(): void {
    this.#unwatch();
  }
}
