/** hansard.v1.ReplicaService: what this node holds itself. Never asked of, or answered from, another one. */
import type { ByteReader, ByteWriter } from '../common/bytes.js';
import type { PartitionId } from '../common/ids.js';
import { limits } from '../common/limits.js';
import type { ReadView } from '../node/types.js';
import type { ScannedChannel } from '../store/scan.js';
import type { CallContext, Handler } from './calls.js';
import { channelMessage } from './channel-message.js';
import { encodeEvents } from './encode.js';
import { weightOf } from './list-channels.js';
import { invalidArgument, takeChannelName, takePageSize, takePrefix, takeTenant } from './names.js';
import { toNumber } from './requests.js';
import { scrubNode } from './scrub.js';
import type { Services } from './services.js';

export function replicaMethods(services: Services): Map<string, Handler> {
  return new Map<string, Handler>([
    ['hansard.v1.ReplicaService/ListReplicaChannels', listReplicaChannels(services)],
    ['hansard.v1.ReplicaService/ReadReplicaEvents', readReplicaEvents(services)],
    ['hansard.v1.ReplicaService/DigestReplica', digestReplica(services)],
    ['hansard.v1.ReplicaService/ScrubNode', scrubNode(services)],
  ]);
}

/** What each request begins with. */
interface OfReplica {
  partition: number;
  min_applied_index: string;
}

interface ListRequest extends OfReplica {
  tenant: string;
  prefix: string;
  page_size: number;
  page_token: string;
}

function listReplicaChannels(services: Services): Handler {
  const { codecs, tokens } = services;
  const decode = codecs.decoder<ListRequest>('hansard.v1.ListReplicaChannelsRequest');
  const encode = codecs.encoder('hansard.v1.ListReplicaChannelsResponse');
  return async (context, request) => {
    const list = decode(request);
    const { partition, page_size, page_token } = list;
    const limit = takePageSize(page_size);
    const { tenant, prefix } = scopeOf(list);
    const bound = JSON.stringify(['ListReplicaChannels', partition, tenant, prefix]);
    const after = page_token === '' ? undefined : tokens.openPage(bound, page_token, readKey);
    const view = await replicaView(services, context, list);
    const { appliedIndex, channels } = await view.reader.scanChannels({ tenant, prefix, after, limit });
    const page = fitting(channels);
    const last = page.at(-1);
    const more = page.length < channels.length || channels.length === limit;
    return encode({
      channels: page.map((channel) => replicaChannel(channel, partition)),
      next_page_token: more && last !== undefined ? tokens.page(bound, (to) => writeKey(to, last.key)) : '',
      served_by: servedBy(services, view, partition, appliedIndex),
    });
  };
}

function scopeOf({ tenant, prefix }: ListRequest): { tenant: string; prefix: string } {
  if (tenant === '' && prefix !== '') throw invalidArgument('prefix', 'without a tenant');
  const [tenantBytes, prefixBytes] = [Buffer.from(tenant), Buffer.from(prefix)];
  return {
    tenant: tenant === '' ? '' : takeTenant(tenantBytes, 0, tenantBytes.length),
    prefix: takePrefix(prefixBytes, 0, prefixBytes.length, 'prefix'),
  };
}

function readKey(reader: ByteReader): Uint8Array {
  return Uint8Array.from(reader.sized());
}

function writeKey(writer: ByteWriter, key: Uint8Array): void {
  writer.sized(key);
}

/** The first ones that an answer has room for, at least one. */
function fitting(channels: readonly ScannedChannel[]): readonly ScannedChannel[] {
  let bytes = 0;
  for (const [i, { key, state, damage }] of channels.entries()) {
    bytes += 2 * key.length + damage.length + (state === undefined ? 0 : weightOf(state));
    if (i > 0 && bytes > limits.pageBytes) return channels.slice(0, i);
  }
  return channels;
}

interface ReadRequest extends OfReplica {
  tenant: string;
  channel: string;
  channel_uid: string;
  from_seq: string;
  max_events: number;
}

function readReplicaEvents(services: Services): Handler {
  const { codecs } = services;
  const decode = codecs.decoder<ReadRequest>('hansard.v1.ReadReplicaEventsRequest');
  const encode = codecs.encoder('hansard.v1.ReadReplicaEventsResponse');
  return async (context, request) => {
    const read = decode(request);
    const { partition, max_events } = read;
    const tenantBytes = Buffer.from(read.tenant);
    const nameBytes = Buffer.from(read.channel);
    const query = {
      tenant: takeTenant(tenantBytes, 0, tenantBytes.length),
      name: takeChannelName(nameBytes, 0, nameBytes.length),
      uid: read.channel_uid,
      fromSeq: toNumber(read.from_seq),
      maxEvents: max_events === 0 ? limits.pageSizeDefault : Math.min(max_events, limits.pageSizeMax),
      maxBytes: limits.replicaPageBytes,
    };
    const view = await replicaView(services, context, read);
    const { appliedIndex, channel, events, damages, nextSeq } = await view.reader.scanEvents(query);
    const rest = encode({
      damages: damages.map(({ firstSeq, lastSeq, problem }) => ({
        first_seq: firstSeq,
        last_seq: lastSeq,
        problem,
      })),
      next_seq: nextSeq,
      ...(channel === undefined ? {} : { channel: replicaChannel(channel, partition) }),
      served_by: servedBy(services, view, partition, appliedIndex),
    });
    return Buffer.concat([encodeEvents(events), rest]);
  };
}

function digestReplica(services: Services): Handler {
  const { codecs } = services;
  const decode = codecs.decoder<OfReplica>('hansard.v1.DigestReplicaRequest');
  const encode = codecs.encoder('hansard.v1.DigestReplicaResponse');
  return async (context, request) => {
    const asked = decode(request);
    const view = await replicaView(services, context, asked);
    const { digest, appliedIndex } = await view.reader.digestAt();
    return encode({ digest, served_by: servedBy(services, view, asked.partition, appliedIndex) });
  };
}

/** This node's replica, once it has applied what is asked for. */
function replicaView(
  { node }: Services,
  { deadlineMs }: CallContext,
  { partition, min_applied_index }: OfReplica,
): Promise<ReadView> {
  if (partition >= node.partitionCount) {
    throw invalidArgument('partition', `partitions are 0 to ${node.partitionCount - 1}`);
  }
  return node.readBarrier(partition, {
    level: 'eventual',
    minIndex: toNumber(min_applied_index),
    deadlineMs,
  });
}

function replicaChannel({ key, state, deleted, damage }: ScannedChannel, partition: PartitionId): object {
  if (state !== undefined) return { channel: channelMessage(state, partition), deleted, damage };
  const [tenant = '', name = ''] = key.toString('utf8').split('\0', 2);
  return { deleted, damage, tenant, name };
}

const roleNumber = { primary: 1, secondary: 2, learner: 3 } as const;

function servedBy(services: Services, { role }: ReadView, partition: PartitionId, appliedIndex: number) {
  return {
    node_id: services.node.identity.nodeId,
    role: roleNumber[role],
    partition,
    applied_index: appliedIndex,
  };
}
