/** Places of feeds in tokens. docs/format.md, "Tokens". */
import { type ByteReader, type ByteWriter, MalformedError } from '../common/bytes.js';
import type { PartitionId, TimeUs } from '../common/ids.js';
import type { FeedPlace } from './feed.js';

const PlaceBit = { backfill: 1, after: 2, current: 4 } as const;

export function writePlace(writer: ByteWriter, { index, events, backfill }: FeedPlace): void {
  const after = backfill?.after;
  const current = backfill?.current;
  writer.u8(
    (backfill === undefined ? 0 : PlaceBit.backfill) |
      (after === undefined ? 0 : PlaceBit.after) |
      (current === undefined ? 0 : PlaceBit.current),
  );
  writer.uvarint(index).uvarint(events);
  if (after !== undefined) writer.string(after);
  if (current !== undefined)
    writer.string(current.name).uvarint(current.id).uvarint(current.next).uvarint(current.to);
}

export function readPlace(reader: ByteReader): FeedPlace {
  const bits = reader.u8();
  if (bits > 7 || (bits > 1 && (bits & PlaceBit.backfill) === 0))
    throw new MalformedError('a place of unknown form');
  const place = { index: reader.uvarint(), events: reader.uvarint() };
  if (bits === 0) return place;
  const after = (bits & PlaceBit.after) === 0 ? undefined : reader.string();
  if ((bits & PlaceBit.current) === 0) return { ...place, backfill: { after } };
  const current = {
    name: reader.string(),
    id: reader.uvarint(),
    next: reader.uvarint(),
    to: reader.uvarint(),
  };
  return { ...place, backfill: { after, current } };
}

/** Where a subscription stands in all its partitions. */
export interface SubscriptionPlace {
  readonly fromTimeUs: TimeUs;
  readonly places: ReadonlyMap<PartitionId, FeedPlace>;
}

export function writePlaces(writer: ByteWriter, { fromTimeUs, places }: SubscriptionPlace): void {
  writer.u64(fromTimeUs).uvarint(places.size);
  for (const [partition, place] of places) {
    writer.uvarint(partition);
    writePlace(writer, place);
  }
}

export function readPlaces(reader: ByteReader): SubscriptionPlace {
  const fromTimeUs = reader.u64();
  const count = reader.uvarint();
  if (count * 4 > reader.remaining) throw new MalformedError('a list of places');
  const places = new Map<PartitionId, FeedPlace>();
  for (let i = 0; i < count; i++) places.set(reader.uvarint(), readPlace(reader));
  return { fromTimeUs, places };
}
