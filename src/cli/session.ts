/** A command's connection: the SDK's client, and what importing and exporting need of it. */
import {
  type ChannelInfo,
  type ChannelQuery,
  type Client,
  connect,
  HansardError,
  type Page,
  parseTarget,
  type ReadOptions,
} from '../client/index.js';
import { defaultTenant } from '../common/partitioning.js';
import type { CommonOptions } from './action.js';
import type { ExportSource } from './exporter.js';
import type { ImportTarget } from './importer.js';

export interface ClientOptions extends CommonOptions {
  readonly endpoint: string;
  readonly tenant: string;
  /** Deadline of each call, seconds. */
  readonly timeout: number;
}

export interface Session {
  readonly client: Client;
  readonly timeoutMs: number;
  close(): Promise<void>;
}

export function openSession(options: ClientOptions): Session {
  const timeoutMs = options.timeout * 1000;
  // A command is a session of its own: what was written before it must be there.
  const client = connect(targetOf(options), { timeoutMs, readLevel: 'linearizable' });
  return { client, timeoutMs, close: () => client.close() };
}

/** An endpoint may be the SDK's connection string; a tenant in it is never passed over. */
export function targetOf({ endpoint, tenant }: Pick<ClientOptions, 'endpoint' | 'tenant'>): string {
  const named = parseTarget(endpoint).tenant;
  if (named === '') return `hansard://${endpoint.replace(/^hansard:\/\//, '').replace(/\/$/, '')}/${tenant}`;
  if (tenant === '' || tenant === defaultTenant || tenant === named) return endpoint;
  throw new HansardError(
    'INVALID_ARGUMENT',
    `the endpoint names tenant ${named}, --tenant or HANSARD_TENANT names ${tenant}`,
    { field: '--tenant' },
  );
}

/** Up to `limit` events from `fromSeq` on. */
export async function pageFrom(
  session: Session,
  channel: string,
  fromSeq: number,
  limit: number,
  read: ReadOptions = {},
): Promise<Page> {
  return await session.client
    .channel(channel)
    .list({ anchor: fromSeq, after: limit, ...read })
    .page();
}

const channelPageSize = 1_000;
const exportPageSize = 1_000;

export function listChannels(
  session: Session,
  prefix: string,
  query: Omit<ChannelQuery, 'prefix' | 'pageToken'> = {},
): AsyncIterable<ChannelInfo> {
  return session.client.channels({ prefix, pageSize: channelPageSize, ...query });
}

export function exportSource(session: Session): ExportSource {
  return {
    channels: (prefix) => listChannels(session, prefix),
    channel: (name) => session.client.channel(name).info().catch(missing),
    page: (channel, fromSeq) => pageFrom(session, channel, fromSeq, exportPageSize),
  };
}

function missing(error: unknown): undefined {
  if (!(error instanceof HansardError) || error.reason !== 'CHANNEL_NOT_FOUND') throw error;
}

/** `firstContactMs`: a cluster that is not there is told soon, one that fails later is waited for. A named producer, whose counters are the messages' numbers in their partition. */
export async function importTarget(session: Session, firstContactMs: number): Promise<ImportTarget> {
  const { partitionOf } = await import('../common/partitioning.js');
  const { pools } = await session.client.cluster({ timeoutMs: firstContactMs });
  const partitionCount = pools[0]?.partitionCount ?? 1;
  const { client } = session;
  let producer: ReturnType<typeof client.openProducer> | undefined;
  return {
    partitionOf: (channel) => partitionOf(client.tenant, channel, partitionCount),
    async makeChannel({ channel, title, class: kind, labels, participants }) {
      try {
        const made = await client.createChannel(channel, { title, class: kind, labels, participants });
        return { made: true, channel: made };
      } catch (error) {
        if (!(error instanceof HansardError) || error.reason !== 'CHANNEL_EXISTS') throw error;
        return { made: false, channel: await client.channel(channel).info() };
      }
    },
    async sealChannel(name, events) {
      const channel = client.channel(name);
      const info = await channel.info({ level: 'linearizable' }).catch(missing);
      if (info === undefined || info.headSeq - info.firstSeq + 1 !== events) return false;
      if (info.sealTimeUs === 0) await channel.seal({ etag: info.etag });
      return true;
    },
    async openProducer(name, channel) {
      producer ??= client.openProducer(name);
      const named = producer;
      const nextCounter = await named.nextCounter(channel);
      return {
        nextCounter,
        append: (to, messages, options) =>
          named.append(to, messages, {
            counter: options.counter,
            ...(options.condition === undefined ? {} : { condition: options.condition }),
          }),
      };
    },
  };
}
