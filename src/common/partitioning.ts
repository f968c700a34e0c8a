/** Which partition a channel lives in: the same answer on every node and in every client, for ever. */
import { xxh64 } from './hash.js';
import type { PartitionId } from './ids.js';

export const defaultTenant = 'default';

/**
 * The part of a name that decides its partition: what stands between the first
 * `{` and the next `}`, if that is not empty, else the whole name. So
 * `user{42}/a` and `user{42}/b` live together.
 */
export function affinityOf(channel: string): string {
  const open = channel.indexOf('{');
  if (open < 0) return channel;
  const close = channel.indexOf('}', open + 1);
  return close > open + 1 ? channel.slice(open + 1, close) : channel;
}

/** xxh64(seed 0, tenant ‖ 0x00 ‖ affinity) mod `partitionCount`. An empty tenant means `default`. */
export function partitionOf(tenant: string, channel: string, partitionCount: number): PartitionId {
  const bytes = Buffer.from(`${tenant || defaultTenant}\0${affinityOf(channel)}`, 'utf8');
  return Number(xxh64(bytes) % BigInt(partitionCount));
}
