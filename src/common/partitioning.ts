/** Which partition a channel lives in: the same answer on every node and in every client, for ever. */
import { xxh64 } from './hash.js';
import { xxh64ModOfNotes } from './hash-scratch.js';
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

const openBrace = 0x7b;
const closeBrace = 0x7d;
/** A tenant of at most 63 bytes, a zero, a channel's name of at most 256. */
const material = Buffer.alloc(512);

/** The same of a channel's name that lies in a request and was checked, as its tenant (ASCII) was. */
export function partitionOfBytes(
  tenant: string,
  bytes: Buffer,
  channelFrom: number,
  channelTo: number,
  partitionCount: number,
): PartitionId {
  let from = channelFrom;
  let to = channelTo;
  const open = placeOf(bytes, openBrace, from, to);
  if (open < to) {
    const close = placeOf(bytes, closeBrace, open + 1, to);
    if (close < to && close > open + 1) {
      from = open + 1;
      to = close;
    }
  }
  let at = 0;
  const name = tenant || defaultTenant;
  for (let i = 0; i < name.length; i++) material[at++] = name.charCodeAt(i);
  material[at++] = 0;
  for (let i = from; i < to; i++) material[at++] = bytes[i] as number;
  return xxh64ModOfNotes(material, at, partitionCount);
}

function placeOf(bytes: Buffer, byte: number, from: number, to: number): number {
  let at = from;
  while (at < to && bytes[at] !== byte) at++;
  return at;
}
