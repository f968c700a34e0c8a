/** hansard.v1.ChannelService. */
import { HansardError } from '../common/errors.js';
import type { PartitionId } from '../common/ids.js';
import { limits } from '../common/limits.js';
import { affinityOf } from '../common/partitioning.js';
import { Wire, WireReader } from '../common/wire.js';
import { encodeCreateChannel } from '../conversation/command.js';
import type { ChannelState } from '../conversation/types.js';
import type { ReadView } from '../node/types.js';
import type { Handler } from './calls.js';
import { channelOf, takeIdText } from './messages.js';
import { invalidArgument, takeChannelName, takePrefix, takeTenant } from './names.js';
import { planRead, type ReadOptionsMessage } from './reads.js';
import { toTimestamp } from './requests.js';
import type { Services } from './services.js';
import { type Route, skimRoute } from './skim.js';
import { proposalError } from './writes.js';

export function channelMethods(services: Services): Map<string, Handler> {
  return new Map<string, Handler>([
    ['hansard.v1.ChannelService/GetChannel', getChannel(services)],
    ['hansard.v1.ChannelService/ListChannels', listChannels(services)],
    ['hansard.v1.ChannelService/CreateChannel', createChannel(services)],
  ]);
}

function getChannel(services: Services): Handler {
  const { node, codecs, reads, tokens } = services;
  const decode = codecs.decoder<{ read: ReadOptionsMessage | null }>('hansard.v1.GetChannelRequest');
  const encode = codecs.encoder('hansard.v1.GetChannelResponse');
  return (context, request) => {
    const route = skimRoute(request);
    const { read } = decode(request);
    const partition = node.partitionOf(route.tenant, route.channel);
    return reads.at(context, partition, planRead(read, tokens), request, async (view) => {
      const channel = await channelOf(view, route);
      const { nodeId, role, appliedIndex } = services.served(partition, view);
      return encode({
        channel: channelMessage(channel, partition),
        served_by: { node_id: nodeId, role: roleNumber[role], partition, applied_index: appliedIndex },
      });
    });
  };
}

const roleNumber = { primary: 1, secondary: 2, learner: 3 } as const;

interface ListChannelsRequest {
  page_size: number;
  page_token: string;
  read: ReadOptionsMessage | null;
  partitions: number[];
}

/** hansard.v1.ListChannelsResponse, of which only the names are looked into. */
interface ListedChannels {
  channels: { name: string }[];
  next_page_token: string;
}

/** Rows that are fetched from a partition at once, at least: most pages need few from each. */
const rowsAtOnceMin = 8;

function listChannels(services: Services): Handler {
  const { node, codecs, reads, router, tokens } = services;
  const decode = codecs.decoder<ListChannelsRequest>('hansard.v1.ListChannelsRequest');
  const encode = codecs.encoder('hansard.v1.ListChannelsResponse');
  const encodeRequest = codecs.encoder('hansard.v1.ListChannelsRequest');
  const decodeResponse = codecs.answerDecoder<ListedChannels>('hansard.v1.ListChannelsResponse');
  return async (context, request) => {
    const { tenant, prefix } = skimTenantAndPrefix(request);
    const { page_size, page_token, read, partitions: asked } = decode(request);
    if (page_size < 0) throw invalidArgument('page_size', 'must not be negative');
    const size =
      page_size === 0 ? limits.channelPageSizeDefault : Math.min(page_size, limits.channelPageSizeMax);
    const bound = boundOf(tenant, prefix, asked);
    const after =
      page_token === '' ? undefined : tokens.openPage(bound, page_token, (reader) => reader.string());
    const plan = planRead(read, tokens);
    const partitions = partitionsOf(tenant, prefix, asked);
    const atOnce = Math.max(rowsAtOnceMin, Math.ceil((2 * size) / partitions.length) + 1);
    const sources = await Promise.all(
      partitions.map(async (partition) => {
        const source = new NameSource(await rowsOf(partition));
        await source.fetch(after, Math.min(atOnce, size + 1));
        return source;
      }),
    );
    const { page, more } = await mergeByName(sources, size, atOnce);
    const last = page.at(-1);
    return encode({
      channels: page.map(({ message }) => message),
      next_page_token: more && last !== undefined ? tokenAfter(bound, last.name) : '',
    });

    async function rowsOf(partition: PartitionId): Promise<FetchRows> {
      try {
        return localRows(partition, await reads.barrier(context, partition, plan), tenant, prefix);
      } catch (error) {
        // No replica of the partition here: its leader lists it.
        const elsewhere = error instanceof HansardError && error.reason === 'NOT_LEADER';
        if (!elsewhere || context.origin === 'forward') throw error;
        return (from, limit) => remoteRows(partition, from, limit, error);
      }
    }

    async function remoteRows(
      partition: PartitionId,
      from: string | undefined,
      limit: number,
      notHere: HansardError,
    ): Promise<FetchedRows> {
      const ofOne = encodeRequest({
        tenant,
        prefix,
        page_size: limit,
        page_token: from === undefined ? '' : tokenAfter(boundOf(tenant, prefix, [partition]), from),
        read,
        partitions: [partition],
      });
      const answer = await router.atLeader(context, partition, ofOne, () => Promise.reject(notHere));
      const { channels, next_page_token } = decodeResponse(answer);
      const bytes = Math.ceil(answer.length / Math.max(1, channels.length));
      const rows = channels.map((message) => ({ name: message.name, bytes, message }));
      return { rows, more: next_page_token !== '' };
    }
  };

  function tokenAfter(bound: string, name: string): string {
    return tokens.page(bound, (writer) => writer.string(name));
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

/** What a page token is bound to: it goes on only with the listing that gave it. */
function boundOf(tenant: string, prefix: string, partitions: readonly number[]): string {
  return JSON.stringify(['ListChannels', tenant, prefix, ...(partitions.length > 0 ? [partitions] : [])]);
}

interface ChannelRow {
  readonly name: string;
  /** About its encoded size. */
  readonly bytes: number;
  /** hansard.v1.Channel. */
  readonly message: object;
}
interface FetchedRows {
  readonly rows: readonly ChannelRow[];
  readonly more: boolean;
}
/** The next rows of a partition after a name. */
type FetchRows = (after: string | undefined, limit: number) => Promise<FetchedRows>;

function localRows(partition: PartitionId, view: ReadView, tenant: string, prefix: string): FetchRows {
  return async (after, limit) => {
    const channels = await view.reader.listChannels({ tenant, prefix, after, limit });
    const rows = channels.map((channel) => ({
      name: channel.name,
      bytes: weightOf(channel),
      message: channelMessage(channel, partition),
    }));
    return { rows, more: rows.length === limit };
  };
}

/** The channels of one partition, in order of names, fetched as they are needed. */
class NameSource {
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

  async fetch(after: string | undefined, limit: number): Promise<void> {
    const from = after ?? this.#rows.at(-1)?.name;
    const { rows, more } = await this.rowsAfter(from, limit);
    this.#more = more;
    this.#rows.push(...rows);
  }
}

/** The first `count` channels of all sources, fewer where they are large; `more`: there are others behind them. */
async function mergeByName(
  sources: readonly NameSource[],
  count: number,
  atOnce: number,
): Promise<{ page: ChannelRow[]; more: boolean }> {
  const page: ChannelRow[] = [];
  let bytes = 0;
  for (;;) {
    let first: NameSource | undefined;
    for (const source of sources) {
      if (source.dry) await source.fetch(undefined, atOnce);
      if (source.head === undefined) continue;
      if (first?.head === undefined || compareBytewise(source.head.name, first.head.name) < 0) first = source;
    }
    if (first?.head === undefined) return { page, more: false };
    bytes += first.head.bytes;
    if (page.length === count || (page.length > 0 && bytes > limits.pageBytes)) return { page, more: true };
    page.push(first.head);
    first.take();
  }
}

/** About the encoded bytes of a channel, rather too many. */
function weightOf(channel: ChannelState): number {
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

interface CreateChannelRequest {
  channel: {
    title: string;
    labels: Record<string, string>;
    class: string;
    participants: { id: string; display_name: string; role: string }[];
  } | null;
  request_id: string;
}

function createChannel({ node, codecs, router, tokens }: Services): Handler {
  const decode = codecs.decoder<CreateChannelRequest>('hansard.v1.CreateChannelRequest');
  const encode = codecs.encoder('hansard.v1.CreateChannelResponse');
  return (context, request) => {
    const route = skimNewChannel(request);
    const { channel, request_id } = decode(request);
    if (channel === null) throw invalidArgument('channel', 'missing');
    const command = encodeCreateChannel({
      tenant: route.tenant,
      channel: route.channel,
      requestId: takeIdText(request_id, 'request_id'),
      title: bounded(channel.title, limits.titleBytes, 'channel.title'),
      class: bounded(channel.class, limits.labelBytes, 'channel.class'),
      labels: checkedLabels(channel.labels),
      participants: checkedParticipants(channel.participants),
    });
    const partition = node.partitionOf(route.tenant, route.channel);
    return router.atLeader(context, partition, request, async () => {
      const { answer, index } = await node.propose(partition, command, { deadlineMs: context.deadlineMs });
      if (answer.kind !== 'channel') throw proposalError(answer);
      return encode({
        channel: channelMessage(answer.channel, partition),
        commit_token: tokens.commit(partition, index),
      });
    });
  };
}

function checkedLabels(labels: Record<string, string>): [string, string][] {
  const entries = Object.entries(labels);
  if (entries.length > limits.labelsPerChannel) {
    throw invalidArgument('channel.labels', `more than ${limits.labelsPerChannel}`);
  }
  return entries.map(([name, value]) => {
    if (name === '') throw invalidArgument('channel.labels', 'a label without a name');
    return [
      bounded(name, limits.labelBytes, 'channel.labels'),
      bounded(value, limits.labelBytes, 'channel.labels'),
    ];
  });
}

function checkedParticipants(participants: { id: string; display_name: string; role: string }[]) {
  if (participants.length > limits.participantsPerChannel) {
    throw invalidArgument('channel.participants', `more than ${limits.participantsPerChannel}`);
  }
  return participants.map(({ id, display_name, role }, i) => {
    if (id === '') throw invalidArgument(`channel.participants[${i}].id`, 'empty');
    return {
      id: takeIdText(id, `channel.participants[${i}].id`),
      displayName: bounded(display_name, limits.labelBytes, `channel.participants[${i}].display_name`),
      role: bounded(role, limits.labelBytes, `channel.participants[${i}].role`),
    };
  });
}

function bounded(text: string, max: number, field: string): string {
  if (Buffer.byteLength(text) > max) throw invalidArgument(field, `longer than ${max} bytes`);
  return text;
}

/** Tenant and name of the channel in field 1; read from the bytes, as decoders mend broken UTF-8. */
function skimNewChannel(request: Buffer): Route {
  const reader = new WireReader(request);
  let body: WireReader | undefined;
  while (reader.next()) {
    if (reader.field !== 1 || reader.wire !== Wire.bytes) {
      reader.skip();
      continue;
    }
    if (body !== undefined) throw invalidArgument('channel', 'given twice');
    reader.sized();
    body = new WireReader(request, reader.start, reader.position);
  }
  if (body === undefined) throw invalidArgument('channel', 'missing');
  const { first, second } = twoTexts(body);
  return {
    tenant: takeTenant(request, first[0], first[1]),
    channel: takeChannelName(request, second[0], second[1], 'channel.name'),
  };
}

function skimTenantAndPrefix(request: Buffer): { tenant: string; prefix: string } {
  const { first, second } = twoTexts(new WireReader(request));
  return {
    tenant: takeTenant(request, first[0], first[1]),
    prefix: takePrefix(request, second[0], second[1], 'prefix'),
  };
}

/** Where fields 1 and 2 of a message lie. */
function twoTexts(reader: WireReader): { first: [number, number]; second: [number, number] } {
  let first: [number, number] = [0, 0];
  let second: [number, number] = [0, 0];
  while (reader.next()) {
    if (reader.wire !== Wire.bytes || reader.field > 2) {
      reader.skip();
      continue;
    }
    reader.sized();
    if (reader.field === 1) first = [reader.start, reader.position];
    else second = [reader.start, reader.position];
  }
  return { first, second };
}

/** hansard.v1.Channel as proto-loader encodes it. */
function channelMessage(channel: ChannelState, partition: PartitionId): object {
  return {
    tenant: channel.tenant,
    name: channel.name,
    uid: channel.uid,
    title: channel.title,
    labels: Object.fromEntries(channel.labels),
    class: channel.class,
    participants: channel.participants.map(({ id, displayName, role }) => ({
      id,
      display_name: displayName,
      role,
    })),
    create_time: toTimestamp(channel.createTimeUs),
    update_time: toTimestamp(channel.updateTimeUs),
    head_seq: channel.headSeq,
    last_message_seq: channel.lastMessageSeq,
    message_count: channel.messageCount,
    etag: etagOf(channel),
    partition,
  };
}

/** Changes with every change of the channel's own fields, and with the channel behind the name. */
function etagOf(channel: ChannelState): string {
  return `"${channel.uid}-${channel.revision.toString(36)}"`;
}
