/** ChannelService.ListChannels: parts of several partitions, put together in one order. */
import type { ByteReader, ByteWriter } from '../common/bytes.js';
import { HansardError } from '../common/errors.js';
import type { PartitionId } from '../common/ids.js';
import { limits } from '../common/limits.js';
import { affinityOf } from '../common/partitioning.js';
import { WireReader } from '../common/wire.js';
import type { ChannelState } from '../conversation/types.js';
import type { ReadView } from '../node/types.js';
import type { FindQuery, ScanBudget } from '../store/find-channels.js';
import type { ChannelFilter } from '../store/terms.js';
import type { Handler } from './calls.js';
import { channelMessage, twoTexts } from './channel-message.js';
import { servedMessage } from './encode.js';
import { invalidArgument, takePageSize, takePrefix, takeTenant } from './names.js';
import { planRead, type ReadOptionsMessage } from './reads.js';
import { toNumber, toTimeUs } from './requests.js';
import type { Services } from './services.js';

interface ListChannelsRequest {
  page_size: number;
  page_token: string;
  read: ReadOptionsMessage | null;
  partitions: number[];
  label_key: string;
  label_value: string;
  participant: string;
  order_by: number;
  deleted: boolean;
}

/** hansard.v1.ListChannelsResponse, of which only what orders it is looked into. */
interface ListedChannels {
  channels: { name: string; activity_time: { seconds: string; nanos: number } | null }[];
  next_page_token: string;
  served_by: { applied_index: string }[];
}

/** Rows that are fetched from a partition at once, at least: most pages need few from each. */
const rowsAtOnceMin = 8;

export function listChannels(services: Services): Handler {
  const { node, codecs, reads, router, tokens } = services;
  const decode = codecs.decoder<ListChannelsRequest>('hansard.v1.ListChannelsRequest');
  const encode = codecs.encoder('hansard.v1.ListChannelsResponse');
  const encodeRequest = codecs.encoder('hansard.v1.ListChannelsRequest');
  const decodeResponse = codecs.answerDecoder<ListedChannels>('hansard.v1.ListChannelsResponse');
  return async (context, request) => {
    const { tenant, prefix } = skimTenantAndPrefix(request);
    const list = decode(request);
    const { page_size, page_token, read, partitions: asked } = list;
    const size = takePageSize(page_size);
    const query: Query = { tenant, prefix, ...filterOf(list), order: orderOf(list), deleted: list.deleted };
    if (query.deleted && !isPlain(query))
      throw invalidArgument('deleted', 'by name alone, without label or participant');
    const bound = boundOf(query, asked);
    const after =
      page_token === ''
        ? undefined
        : tokens.openPage(bound, page_token, (reader) => readPlace(reader, query.order));
    const plan = planRead(read, tokens);
    const partitions = partitionsOf(tenant, prefix, asked);
    // By activity every page looks at all candidates anyway: no second look.
    const atOnce =
      query.order === 'activity'
        ? size + 1
        : Math.max(rowsAtOnceMin, Math.ceil((2 * size) / partitions.length) + 1);
    const servedBy = new Map<PartitionId, () => object>();
    /** Applied indexes of what other nodes answered. */
    const elsewhereAt = new Map<PartitionId, number>();
    const scan = { count: 0, max: limits.channelsScanned };
    const sources = await Promise.all(
      partitions.map(async (partition) => {
        const source = new ChannelSource(await rowsOf(partition));
        await source.fetch(after, Math.min(atOnce, size + 1));
        return source;
      }),
    );
    const { page, more } = await merge(sources, query.order, size, atOnce);
    const last = page.at(-1);
    return encode({
      channels: page.map(({ message }) => message),
      next_page_token: more && last !== undefined ? tokenAfter(bound, query.order, last) : '',
      served_by: partitions.flatMap((partition) => servedBy.get(partition)?.() ?? []),
    });

    async function rowsOf(partition: PartitionId): Promise<FetchRows> {
      try {
        const view = await reads.barrier(context, partition, plan);
        // Asked when all rows are read: its token covers the last of them, too.
        servedBy.set(partition, () => servedMessage(services.served(partition, view)));
        return localRows(partition, view, query, scan);
      } catch (error) {
        // No replica of the partition here: its leader lists it.
        const elsewhere = error instanceof HansardError && error.reason === 'NOT_LEADER';
        if (!elsewhere || context.origin === 'forward') throw error;
        return (from, limit) => remoteRows(partition, from, limit, error);
      }
    }

    async function remoteRows(
      partition: PartitionId,
      from: Place | undefined,
      limit: number,
      notHere: HansardError,
    ): Promise<FetchedRows> {
      const ofOne = encodeRequest({
        ...list,
        tenant,
        prefix,
        page_size: limit,
        page_token: from === undefined ? '' : tokenAfter(boundOf(query, [partition]), query.order, from),
        partitions: [partition],
      });
      const answer = await router.atLeader(context, partition, ofOne, () => Promise.reject(notHere));
      // One of many partitions: nowhere to send the next call.
      context.forwardedTo = 0;
      const { channels, next_page_token, served_by } = decodeResponse(answer);
      // A later page may show more, and another replica's less: the highest covers all of them.
      const [served] = served_by;
      const index = toNumber(served?.applied_index ?? '0');
      if (served !== undefined && index >= (elsewhereAt.get(partition) ?? 0)) {
        elsewhereAt.set(partition, index);
        servedBy.set(partition, () => served);
      }
      const bytes = Math.ceil(answer.length / Math.max(1, channels.length));
      const rows = channels.map((message) => ({
        name: message.name,
        timeUs: message.activity_time === null ? 0 : toTimeUs(message.activity_time),
        bytes,
        message,
      }));
      return { rows, more: next_page_token !== '' };
    }
  };

  function tokenAfter(bound: string, order: Order, place: Place): string {
    return tokens.page(bound, (writer) => writePlace(writer, order, place));
  }

  function partitionsOf(tenant: string, prefix: string, asked: readonly number[]): PartitionId[] {
    if (asked.some((partition) => partition >= node.partitionCount))
      throw invalidArgument('partitions', `partitions are 0 to ${node.partitionCount - 1}`);
    if (asked.length > 0) return [...new Set(asked)];
    // A closed tag in the prefix is the tag of every name that begins with it.
    if (affinityOf(prefix) !== prefix) return [node.partitionOf(tenant, prefix)];
    return Array.from({ length: node.partitionCount }, (_, partition) => partition);
  }
}

type Order = FindQuery['order'];
type Query = Pick<FindQuery, 'tenant' | 'prefix' | 'label' | 'participant' | 'order'> & {
  /** What may be brought back, instead of what is there. */
  readonly deleted: boolean;
};
/** Where a page ends, in the listing's order. */
type Place = NonNullable<FindQuery['after']>;

function filterOf({ label_key, label_value, participant }: ListChannelsRequest): ChannelFilter {
  if (label_key === '' && label_value !== '') throw invalidArgument('label_value', 'without a label_key');
  return {
    label: label_key === '' ? undefined : [label_key, label_value],
    participant: participant === '' ? undefined : participant,
  };
}

const OrderNumber = { unspecified: 0, name: 1, activity: 2 } as const;

function orderOf({ order_by }: ListChannelsRequest): Order {
  if (order_by === OrderNumber.activity) return 'activity';
  if (order_by === OrderNumber.unspecified || order_by === OrderNumber.name) return 'name';
  throw invalidArgument('order_by', 'no order that this version knows');
}

/** What a page token is bound to: it goes on only with the listing that gave it. */
function boundOf(query: Query, partitions: readonly number[]): string {
  const { tenant, prefix, label, participant, order, deleted } = query;
  return JSON.stringify([
    deleted ? 'ListChannels, deleted' : 'ListChannels',
    tenant,
    prefix,
    ...(partitions.length > 0 ? [partitions] : []),
    ...(isPlain(query) ? [] : [{ label, participant, order }]),
  ]);
}

function isPlain({ label, participant, order }: Query): boolean {
  return label === undefined && participant === undefined && order === 'name';
}

function readPlace(reader: ByteReader, order: Order): Place {
  return { timeUs: order === 'activity' ? reader.u64() : 0, name: reader.string() };
}

function writePlace(writer: ByteWriter, order: Order, { timeUs, name }: Place): void {
  if (order === 'activity') writer.u64(timeUs);
  writer.string(name);
}

interface ChannelRow extends Place {
  /** About its encoded size. */
  readonly bytes: number;
  /** hansard.v1.Channel. */
  readonly message: object;
}
interface FetchedRows {
  readonly rows: readonly ChannelRow[];
  readonly more: boolean;
}
/** The next rows of a partition after a place. */
type FetchRows = (after: Place | undefined, limit: number) => Promise<FetchedRows>;

function localRows(partition: PartitionId, view: ReadView, query: Query, scan: ScanBudget): FetchRows {
  return async (after, limit) => {
    const channels = await readChannels(view, query, after, limit, scan);
    const rows = channels.map((channel) => ({
      name: channel.name,
      timeUs: channel.activityTimeUs,
      bytes: weightOf(channel),
      message: channelMessage(channel, partition),
    }));
    return { rows, more: rows.length === limit };
  };
}

function readChannels(
  { reader }: ReadView,
  query: Query,
  after: Place | undefined,
  limit: number,
  scan: ScanBudget,
): Promise<ChannelState[]> {
  const { tenant, prefix, label, participant, order, deleted } = query;
  const byName = { tenant, prefix, after: after?.name, limit };
  if (deleted) return reader.listDeleted(byName);
  if (isPlain(query)) return reader.listChannels(byName);
  const conditions = Number(label !== undefined) + Number(participant !== undefined);
  const scanMax = limits.channelsScannedPerPartition;
  // By name with one condition all that are looked at are in the page.
  const total = order === 'name' && conditions === 1 ? undefined : scan;
  return reader.findChannels({ ...query, after, limit, scanMax, total });
}

/** The channels of one partition, in the listing's order, fetched as they are needed. */
class ChannelSource {
  readonly #rows: ChannelRow[] = [];
  #next = 0;
  #more = true;

  constructor(readonly rowsAfter: FetchRows) {}

  get head(): ChannelRow | undefined {
    return this.#rows[this.#next];
  }

  /** True where `head` is undefined but the partition may have more. */
  get dry(): boolean {
    return this.#more && this.#next === this.#rows.length;
  }

  take(): void {
    this.#next++;
  }

  async fetch(after: Place | undefined, limit: number): Promise<void> {
    const { rows, more } = await this.rowsAfter(after ?? this.#rows.at(-1), limit);
    this.#more = more;
    this.#rows.push(...rows);
  }
}

/** The first `count` channels of all sources, fewer where they are large; `more`: there are others behind them. */
async function merge(
  sources: readonly ChannelSource[],
  order: Order,
  count: number,
  atOnce: number,
): Promise<{ page: ChannelRow[]; more: boolean }> {
  const page: ChannelRow[] = [];
  let bytes = 0;
  for (;;) {
    let first: ChannelSource | undefined;
    for (const source of sources) {
      if (source.dry) await source.fetch(undefined, atOnce);
      if (source.head === undefined) continue;
      if (first?.head === undefined || compareRows(source.head, first.head, order) < 0) first = source;
    }
    if (first?.head === undefined) return { page, more: false };
    bytes += first.head.bytes;
    if (page.length === count || (page.length > 0 && bytes > limits.pageBytes)) return { page, more: true };
    page.push(first.head);
    first.take();
  }
}

/** As the store has it: by activity the newest first, then by name. */
function compareRows(a: ChannelRow, b: ChannelRow, order: Order): number {
  return (order === 'activity' ? b.timeUs - a.timeUs : 0) || compareBytewise(a.name, b.name);
}

/** About the encoded bytes of a channel, rather too many. */
export function weightOf(channel: ChannelState): number {
  let characters = channel.name.length + channel.title.length + channel.class.length;
  for (const [name, value] of channel.labels) characters += name.length + value.length + 4;
  for (const { id, displayName, role } of channel.participants) {
    characters += id.length + displayName.length + role.length + 4;
  }
  return 256 + 3 * characters;
}

/** Order of the names' UTF-8 bytes, which differs from that of UTF-16 where surrogates are. */
export function compareBytewise(a: string, b: string): number {
  const length = Math.min(a.length, b.length);
  for (let i = 0; i < length; i++) {
    const x = a.charCodeAt(i);
    const y = b.charCodeAt(i);
    if (x !== y) return rank(x) - rank(y);
  }
  return a.length - b.length;
}

/** Surrogates (characters above U+FFFF) sort behind everything else. */
function rank(unit: number): number {
  return unit >= 0xd800 && unit <= 0xdfff ? unit + 0x1_0000 : unit;
}

function skimTenantAndPrefix(request: Buffer): { tenant: string; prefix: string } {
  const { first, second } = twoTexts(new WireReader(request));
  return {
    tenant: takeTenant(request, first[0], first[1]),
    prefix: takePrefix(request, second[0], second[1], 'prefix'),
  };
}
