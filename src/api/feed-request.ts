/** What Subscribe and FetchEvents ask for: checked, and as a filter of feeds. */
import type { PartitionId, TimeUs } from '../common/ids.js';
import { limits } from '../common/limits.js';
import { channelNameProblem } from '../common/names.js';
import { affinityOf } from '../common/partitioning.js';
import { Wire, WireReader } from '../common/wire.js';
import type { NodeService } from '../node/types.js';
import type { FeedBudget, FeedFilter } from './feed.js';
import { compareBytewise } from './list-channels.js';
import { invalidArgument, invalidName, takePrefix, takeTenant } from './names.js';
import { toTimeUs } from './requests.js';

/** The fields that both requests have, as proto-loader decodes them. */
export interface FeedRequestMessage {
  channels: string[];
  label_key: string;
  label_value: string;
  types: number[];
  start?: 'from_beginning' | 'from_time' | 'resume_token' | 'place';
  from_beginning: boolean;
  from_time: { seconds: string; nanos: number } | null;
}

/** Where a feed begins that brings no token. */
export type FeedStart = { readonly kind: 'now' } | { readonly kind: 'time'; readonly fromTimeUs: TimeUs };

const defaultEvents = 500;

/** `fromTimeUs` is the start's, or the token's. */
export function filterOf(request: Buffer, message: FeedRequestMessage): Omit<FeedFilter, 'fromTimeUs'> {
  const { tenant, prefix } = skimTenantAndPrefix(request);
  const { channels, label_key, label_value, types } = message;
  if (label_key === '' && label_value !== '') throw invalidArgument('label_value', 'without a label_key');
  if (channels.length > limits.subscribedChannels)
    throw invalidArgument('channels', `more than ${limits.subscribedChannels}`);
  for (const [i, name] of channels.entries()) {
    const problem = channelNameProblem(name);
    if (problem !== undefined) throw invalidName(`channels[${i}]`, problem);
  }
  if (types.some((type) => type === 0)) throw invalidArgument('types', 'a type that is no type');
  return {
    tenant,
    names: channels.length === 0 ? undefined : new Set(channels),
    prefix,
    label: label_key === '' ? undefined : [label_key, label_value],
    types: types.length === 0 ? undefined : new Set(types),
  };
}

export function startOf(
  message: Pick<FeedRequestMessage, 'start' | 'from_beginning' | 'from_time'>,
): FeedStart {
  if (message.start === 'from_beginning') {
    if (!message.from_beginning) throw invalidArgument('from_beginning', 'must be true where it is given');
    return { kind: 'time', fromTimeUs: 0 };
  }
  if (message.start === 'from_time' && message.from_time !== null)
    return { kind: 'time', fromTimeUs: Math.max(1, toTimeUs(message.from_time)) };
  return { kind: 'now' };
}

export function budgetOf(maxEvents: number, maxBytes: number): FeedBudget {
  return {
    events: maxEvents === 0 ? defaultEvents : Math.min(maxEvents, limits.pageSizeMax),
    bytes: maxBytes,
  };
}

/** What a token belongs to: it goes on only with the request that gave it. */
export function feedBound(method: string, filter: Omit<FeedFilter, 'fromTimeUs'>): string {
  const { tenant, names, prefix, label, types } = filter;
  return JSON.stringify([
    method,
    tenant,
    names === undefined ? null : [...names].sort(compareBytewise),
    prefix,
    label ?? null,
    types === undefined ? null : [...types].sort((a, b) => a - b),
  ]);
}

/** Partitions in which something that is wanted may be, ascending. */
export function partitionsOf(
  node: Pick<NodeService, 'partitionOf' | 'partitionCount'>,
  { tenant, names, prefix }: Pick<FeedFilter, 'tenant' | 'names' | 'prefix'>,
): PartitionId[] {
  if (names !== undefined) {
    const found = new Set<PartitionId>();
    for (const name of names) found.add(node.partitionOf(tenant, name));
    return [...found].sort((a, b) => a - b);
  }
  // A closed tag in the prefix is the tag of every name that begins with it.
  if (affinityOf(prefix) !== prefix) return [node.partitionOf(tenant, prefix)];
  return Array.from({ length: node.partitionCount }, (_, partition) => partition);
}

/** Fields 1 and 3, read from the bytes, as decoders mend broken UTF-8. */
function skimTenantAndPrefix(request: Buffer): { tenant: string; prefix: string } {
  const reader = new WireReader(request);
  let tenant: [number, number] = [0, 0];
  let prefix: [number, number] = [0, 0];
  while (reader.next()) {
    if ((reader.field !== 1 && reader.field !== 3) || reader.wire !== Wire.bytes) {
      reader.skip();
      continue;
    }
    reader.sized();
    if (reader.field === 1) tenant = [reader.start, reader.position];
    else prefix = [reader.start, reader.position];
  }
  return {
    tenant: takeTenant(request, tenant[0], tenant[1]),
    prefix: takePrefix(request, prefix[0], prefix[1], 'prefix'),
  };
}
