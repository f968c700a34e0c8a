/** hansard.v1.ChannelService. */

import { HansardError } from '../common/errors.js';
import { limits } from '../common/limits.js';
import { Wire, WireReader } from '../common/wire.js';
import {
  type ChannelInput,
  encodeCreateChannel,
  encodeDeleteChannel,
  encodeSealChannel,
  encodeUndeleteChannel,
  encodeUpdateChannel,
} from '../conversation/command.js';
import type { ChannelState } from '../conversation/types.js';
import type { Handler } from './calls.js';
import { channelMessage, expectedBy, twoTexts } from './channel-message.js';
import { servedMessage } from './encode.js';
import { listChannels } from './list-channels.js';
import { takeIdText } from './messages.js';
import { invalidArgument, takeChannelName, takeTenant } from './names.js';
import { channelNotFound, channelOf, planRead, type ReadOptionsMessage } from './reads.js';
import { toTimestamp } from './requests.js';
import type { Services } from './services.js';
import { type Route, skimRoute } from './skim.js';
import { proposeFor } from './writes.js';

export function channelMethods(services: Services): Map<string, Handler> {
  return new Map<string, Handler>([
    ['hansard.v1.ChannelService/GetChannel', getChannel(services)],
    ['hansard.v1.ChannelService/ListChannels', listChannels(services)],
    ['hansard.v1.ChannelService/CreateChannel', createChannel(services)],
    ['hansard.v1.ChannelService/UpdateChannel', updateChannel(services)],
    ['hansard.v1.ChannelService/DeleteChannel', deleteChannel(services)],
    ['hansard.v1.ChannelService/UndeleteChannel', changeState(services, 'Undelete', encodeUndeleteChannel)],
    ['hansard.v1.ChannelService/SealChannel', changeState(services, 'Seal', encodeSealChannel)],
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
      return encode({
        channel: channelMessage(channel, partition),
        served_by: servedMessage(services.served(partition, view)),
      });
    });
  };
}

interface ChannelMessage {
  title: string;
  labels: Record<string, string>;
  class: string;
  participants: { id: string; display_name: string; role: string }[];
  etag: string;
}

interface CreateChannelRequest {
  channel: ChannelMessage | null;
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
      const { answer, index } = await proposeFor(node, partition, command, context.deadlineMs, 'channel');
      return encode({
        channel: channelMessage(answer.channel, partition),
        commit_token: tokens.commit(partition, index),
      });
    });
  };
}

interface UpdateChannelRequest {
  channel: ChannelMessage | null;
  update_mask: { paths: string[] } | null;
  request_id: string;
}

function updateChannel({ node, codecs, router, tokens }: Services): Handler {
  const decode = codecs.decoder<UpdateChannelRequest>('hansard.v1.UpdateChannelRequest');
  const encode = codecs.encoder('hansard.v1.UpdateChannelResponse');
  return (context, request) => {
    const route = skimNewChannel(request);
    const { channel, update_mask, request_id } = decode(request);
    if (channel === null) throw invalidArgument('channel', 'missing');
    const named = changedFields(channel, update_mask?.paths ?? []);
    const command = encodeUpdateChannel({
      tenant: route.tenant,
      channel: route.channel,
      requestId: takeIdText(request_id, 'request_id'),
      expected: expectedBy(channel.etag, 'channel.etag'),
      title: named.has('title') ? bounded(channel.title, limits.titleBytes, 'channel.title') : undefined,
      class: named.has('class') ? bounded(channel.class, limits.labelBytes, 'channel.class') : undefined,
      labels: named.has('labels') ? checkedLabels(channel.labels) : undefined,
      participants: named.has('participants') ? checkedParticipants(channel.participants) : undefined,
    });
    const partition = node.partitionOf(route.tenant, route.channel);
    return router.atLeader(context, partition, request, async () => {
      const { answer, index } = await proposeFor(node, partition, command, context.deadlineMs, 'channel');
      return encode({
        channel: channelMessage(answer.channel, partition),
        commit_token: tokens.commit(partition, index),
      });
    });
  };
}

const changeable = ['title', 'labels', 'class', 'participants'] as const;
type Changeable = (typeof changeable)[number];

/** By AIP-134: without a mask what is not empty, `*` for everything. */
function changedFields(channel: ChannelMessage, paths: readonly string[]): ReadonlySet<Changeable> {
  if (paths.length === 0) {
    const present = changeable.filter((field) => Object.keys(channel[field]).length > 0);
    if (present.length === 0)
      throw invalidArgument('update_mask', 'names nothing to change, nor is anything given');
    return new Set(present);
  }
  if (paths.includes('*')) {
    if (paths.length > 1) throw invalidArgument('update_mask', '`*` stands alone');
    return new Set(changeable);
  }
  return new Set(
    paths.map((path) => {
      const field = changeable.find((each) => each === path);
      if (field !== undefined) return field;
      throw invalidArgument('update_mask', `only ${changeable.join(', ')} can be changed`);
    }),
  );
}

interface DeleteChannelRequest {
  etag: string;
  allow_missing: boolean;
  request_id: string;
  validate_only: boolean;
  permanent: boolean;
}

function deleteChannel(services: Services): Handler {
  const { node, codecs, router, tokens, reads } = services;
  const decode = codecs.decoder<DeleteChannelRequest>('hansard.v1.DeleteChannelRequest');
  const encode = codecs.encoder('hansard.v1.DeleteChannelResponse');
  return (context, request) => {
    const route = skimRoute(request);
    const { etag, allow_missing, request_id, validate_only, permanent } = decode(request);
    const expected = expectedBy(etag, 'etag');
    const requestId = takeIdText(request_id, 'request_id');
    const partition = node.partitionOf(route.tenant, route.channel);
    if (validate_only) {
      const plan = { ...planRead(null, tokens), preference: 'primary' as const };
      return reads.at(context, partition, plan, request, async (view) => {
        const channel = await view.reader.channelByName(route.tenant, route.channel);
        if (channel === undefined && allow_missing) return encode({});
        if (channel === undefined) throw channelNotFound(route);
        if (
          expected !== undefined &&
          (channel.uid !== expected.uid || channel.revision !== expected.revision)
        )
          throw staleEtag(channel);
        const { headSeq, baseSeq, messageCount } = channel;
        return encode({ head_seq: headSeq, event_count: headSeq - baseSeq, message_count: messageCount });
      });
    }
    return router.atLeader(context, partition, request, async () => {
      const command = encodeDeleteChannel({
        tenant: route.tenant,
        channel: route.channel,
        requestId,
        expected,
        allowMissing: allow_missing,
        // Before that no deletion is anything else, and the flag is not known.
        permanent: permanent && node.partitionDetail(partition).applyVersion >= 3,
      });
      const { answer, index } = await proposeFor(node, partition, command, context.deadlineMs, 'deleted');
      const { headSeq, was } = answer;
      return encode({
        head_seq: headSeq,
        commit_token: tokens.commit(partition, index),
        event_count: was?.eventCount ?? 0,
        message_count: was?.messageCount ?? 0,
        purge_time: was === undefined || was.purgeTimeUs === 0 ? null : toTimestamp(was.purgeTimeUs),
      });
    });
  };
}

function staleEtag({ uid, revision }: ChannelState): HansardError {
  return new HansardError('CONDITION_FAILED', 'the channel has changed since the etag was made', {
    condition: 'etag',
    uid,
    revision,
  });
}

/** SealChannel and UndeleteChannel: a channel, an etag, a request id. */
function changeState(
  { node, codecs, router, tokens }: Services,
  name: 'Seal' | 'Undelete',
  encodeCommand: (input: ChannelInput) => Uint8Array,
): Handler {
  const decode = codecs.decoder<{ etag: string; request_id: string }>(`hansard.v1.${name}ChannelRequest`);
  const encode = codecs.encoder(`hansard.v1.${name}ChannelResponse`);
  return (context, request) => {
    const { tenant, channel } = skimRoute(request);
    const { etag, request_id } = decode(request);
    const requestId = takeIdText(request_id, 'request_id');
    const command = encodeCommand({ tenant, channel, requestId, expected: expectedBy(etag, 'etag') });
    const partition = node.partitionOf(tenant, channel);
    return router.atLeader(context, partition, request, async () => {
      const { answer, index } = await proposeFor(node, partition, command, context.deadlineMs, 'channel');
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
