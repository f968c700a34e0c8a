/** Where feeds begin, in all their partitions: behind what is committed now, with what is there, or where a token says. */
import { HansardError } from '../common/errors.js';
import type { PartitionId } from '../common/ids.js';
import { backfillStart, type FeedPlace } from './feed.js';
import type { SubscriptionPlace } from './feed-place.js';
import type { FeedStart } from './feed-request.js';
import { FeedSource } from './feed-source.js';
import { planRead, type ReadOptionsMessage } from './reads.js';
import type { Services } from './services.js';

export interface FeedStartRequest {
  readonly deadlineMs: number;
  /** Null: LINEARIZABLE where the place is not known, else whatever is there. */
  readonly read: ReadOptionsMessage | null;
  readonly start: FeedStart;
  /** What a token says. */
  readonly resumed: SubscriptionPlace | undefined;
  readonly partitions: readonly PartitionId[];
}

export async function startPlaces(
  services: Services,
  { deadlineMs, read, start, resumed, partitions }: FeedStartRequest,
): Promise<SubscriptionPlace> {
  const plan = planRead(read, services.tokens);
  const places = new Map<PartitionId, FeedPlace>();
  await Promise.all(
    partitions.map(async (partition) => {
      const known = resumed?.places.get(partition) ?? (start.kind === 'time' ? backfillStart : undefined);
      // Where the place is known any state will do, unless another is asked for.
      const level = known !== undefined && read === null ? 'eventual' : plan.level;
      try {
        const view = await services.reads.barrier({ deadlineMs }, partition, { ...plan, level });
        places.set(partition, known ?? { index: view.appliedIndex, events: 0 });
      } catch (error) {
        const elsewhere = error instanceof HansardError && error.reason === 'NOT_LEADER';
        if (!elsewhere) throw error;
        places.set(partition, known ?? (await headElsewhere(services, partition, deadlineMs)));
      }
    }),
  );
  const sorted = new Map([...places].sort((a, b) => a[0] - b[0]));
  return {
    fromTimeUs: resumed?.fromTimeUs ?? (start.kind === 'time' ? start.fromTimeUs : 0),
    places: sorted,
  };
}

/** Of a partition that this node holds no replica of: where its leader stands. */
async function headElsewhere(
  services: Services,
  partition: PartitionId,
  deadlineMs: number,
): Promise<FeedPlace> {
  const filter = {
    tenant: 'default',
    names: undefined,
    prefix: '',
    label: undefined,
    types: undefined,
    fromTimeUs: 0,
  };
  const place = { index: 0, events: 0 };
  const source = new FeedSource(services, partition, filter, place, { wake() {}, failed() {} });
  try {
    return await source.headAtLeader(deadlineMs);
  } finally {
    source.end();
  }
}
