/** MessageService.BatchGetMessages: many events of one partition by seq or message id. */
import { HansardError } from '../common/errors.js';
import type { Seq } from '../common/ids.js';
import { limits } from '../common/limits.js';
import type { ChannelState, StoredEvent } from '../conversation/types.js';
import type { ReadView } from '../node/types.js';
import type { Handler } from './calls.js';
import { type BatchGetResult, encodeBatchGet, eventSize } from './encode.js';
import { invalidArgument, takeChannelName, takeId } from './names.js';
import { planRead, type ReadOptionsMessage } from './reads.js';
import { toNumber } from './requests.js';
import type { Services } from './services.js';
import { type Route, skimRoute } from './skim.js';

const Absence = { channelNotFound: 1, messageNotFound: 2, deferred: 3 } as const;

interface BatchGetRequest {
  items: { channel: string; ref?: 'seq' | 'message_id'; seq: string; message_id: string }[];
  read: ReadOptionsMessage | null;
}

interface Item {
  readonly channel: string;
  readonly ref: { readonly seq: Seq } | { readonly messageId: string };
}

export function batchGetMessages(services: Services): Handler {
  const { node, codecs, reads, tokens } = services;
  const decode = codecs.decoder<BatchGetRequest>('hansard.v1.BatchGetMessagesRequest');
  return (context, request) => {
    const route = skimRoute(request);
    const { items: given, read } = decode(request);
    const partition = node.partitionOf(route.tenant, route.channel);
    const items = checkedItems(given, route);
    for (const [i, { channel }] of items.entries()) {
      if (channel === route.channel || node.partitionOf(route.tenant, channel) === partition) continue;
      throw invalidArgument(`items[${i}].channel`, 'lies in another partition than `channel`');
    }
    return reads.at(context, partition, planRead(read, tokens), request, async (view) => {
      const results = await readItems(view, route.tenant, items);
      return encodeBatchGet(results, services.served(partition, view));
    });
  };
}

function checkedItems(given: BatchGetRequest['items'], route: Route): Item[] {
  if (given.length === 0) throw invalidArgument('items', 'must not be empty');
  if (given.length > limits.batchGetItems)
    throw invalidArgument('items', `more than ${limits.batchGetItems}`);
  return given.map(({ channel, ref, seq, message_id }, i) => {
    const name = Buffer.from(channel);
    const of = {
      channel: channel === '' ? route.channel : takeChannelName(name, 0, name.length, `items[${i}].channel`),
    };
    if (ref === 'seq') return { ...of, ref: { seq: toNumber(seq) } };
    if (ref === undefined || message_id === '')
      throw invalidArgument(`items[${i}].ref`, 'give seq or message_id');
    const id = Buffer.from(message_id);
    return { ...of, ref: { messageId: takeId(id, 0, id.length, `items[${i}].message_id`) } };
  });
}

/** Each channel is looked up once; of the answer's bytes the items come first that were named first. */
async function readItems(view: ReadView, tenant: string, items: readonly Item[]): Promise<BatchGetResult[]> {
  const results = new Array<BatchGetResult>(items.length).fill(Absence.deferred);
  const channels = new Map<string, ChannelState | undefined>();
  for (const { channel } of items) {
    if (!channels.has(channel)) channels.set(channel, await view.reader.channelByName(tenant, channel));
  }
  const ahead = new Ahead();
  let bytes = 0;
  for (const [i, { channel: name, ref }] of items.entries()) {
    const channel = channels.get(name);
    if (channel === undefined) {
      results[i] = Absence.channelNotFound;
      continue;
    }
    const seq = 'seq' in ref ? ref.seq : await view.reader.seqOfMessageId(channel.id, ref.messageId);
    if (seq === undefined || seq <= channel.baseSeq || seq > channel.headSeq) {
      results[i] = Absence.messageNotFound;
      continue;
    }
    if (bytes >= limits.pageBytes) continue;
    const event = await readOne(view, channel, seq, runLength(items, i, name, seq), ahead);
    if (event === undefined) {
      results[i] = Absence.channelNotFound;
      continue;
    }
    const size = eventSize(event);
    if (bytes > 0 && bytes + size > limits.pageBytes) {
      // Smaller ones behind it must not be answered before it for ever.
      bytes = limits.pageBytes;
      continue;
    }
    bytes += size;
    results[i] = event;
  }
  return results;
}

/** The last page that was read, for items that ask for one seq after the other. */
class Ahead {
  channel: ChannelState | undefined;
  events: readonly StoredEvent[] = [];

  find(channel: ChannelState, seq: Seq): StoredEvent | undefined {
    return this.channel === channel ? this.events[seq - (this.events[0]?.seq ?? 0)] : undefined;
  }
}

/** How many items from `i` on ask for consecutive seqs of the channel. */
function runLength(items: readonly Item[], i: number, name: string, seq: Seq): number {
  let count = 1;
  for (; i + count < items.length; count++) {
    const next = items[i + count];
    if (next?.channel !== name || !('seq' in next.ref) || next.ref.seq !== seq + count) break;
  }
  return count;
}

/** Undefined: the channel was deleted meanwhile. */
async function readOne(
  view: ReadView,
  channel: ChannelState,
  seq: Seq,
  count: number,
  ahead: Ahead,
): Promise<StoredEvent | undefined> {
  const known = ahead.find(channel, seq);
  if (known !== undefined) return known;
  try {
    const toSeq = Math.min(channel.headSeq, seq + count - 1);
    const range = { fromSeq: seq, toSeq, reverse: false, maxEvents: count, maxBytes: limits.pageBytes };
    ahead.events = await view.reader.events(channel, range);
    ahead.channel = channel;
    return ahead.events[0];
  } catch (error) {
    if (error instanceof HansardError && error.reason === 'CHANNEL_NOT_FOUND') return undefined;
    throw error;
  }
}
