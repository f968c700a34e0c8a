/** hansard.v1.DeliveryService: what recipients have confirmed, and what is pending. */
import { HansardError } from '../common/errors.js';
import { encodeReportDelivery } from '../conversation/delivery-command.js';
import type { ChannelState, ReadCursor } from '../conversation/types.js';
import type { ReadView } from '../node/types.js';
import type { Handler } from './calls.js';
import { servedMessage } from './encode.js';
import { compareBytewise } from './list-channels.js';
import { takeIdText } from './messages.js';
import { invalidArgument, takePageSize } from './names.js';
import { channelOf, planRead, type ReadOptionsMessage } from './reads.js';
import { toNumber, toTimestamp } from './requests.js';
import type { Services } from './services.js';
import { type Route, skimRoute } from './skim.js';
import { proposeFor } from './writes.js';

/** Numbers of hansard.v1.DeliveryState. */
const DeliveryState = { unspecified: 0, pending: 1, delivered: 2, failed: 3 } as const;

export function deliveryMethods(services: Services): Map<string, Handler> {
  return new Map<string, Handler>([
    ['hansard.v1.DeliveryService/ReportDelivery', reportDelivery(services)],
    ['hansard.v1.DeliveryService/ListDeliveries', listDeliveries(services)],
  ]);
}

interface ReportDeliveryRequest {
  recipient: string;
  up_to_seq: string;
  failed: { seq: string; reason: string; attempts: number }[];
  recovered: string[];
}

function reportDelivery({ node, codecs, router, tokens }: Services): Handler {
  const decode = codecs.decoder<ReportDeliveryRequest>('hansard.v1.ReportDeliveryRequest');
  const encode = codecs.encoder('hansard.v1.ReportDeliveryResponse');
  return (context, request) => {
    const route = skimRoute(request);
    const { recipient, up_to_seq, failed, recovered } = decode(request);
    const command = encodeReportDelivery({
      tenant: route.tenant,
      channel: route.channel,
      recipient: takeRecipient(recipient),
      upToSeq: toNumber(up_to_seq),
      failed: failed.map(({ seq, reason, attempts }) => ({
        seq: toNumber(seq),
        reason,
        attempts: Math.max(1, attempts),
      })),
      recovered: recovered.map(toNumber),
    });
    const partition = node.partitionOf(route.tenant, route.channel);
    return router.atLeader(context, partition, request, async () => {
      const { answer, index } = await proposeFor(node, partition, command, context.deadlineMs, 'cursor');
      const { cursor, headSeq } = answer;
      return encode({
        delivery: deliveryMessage(cursor, { headSeq, baseSeq: 0 }),
        head_seq: headSeq,
        commit_token: tokens.commit(partition, index),
      });
    });
  };
}

interface ListDeliveriesRequest {
  ref?: 'seq' | 'message_id';
  seq: string;
  message_id: string;
  recipient: string;
  page_size: number;
  page_token: string;
  read: ReadOptionsMessage | null;
}

function listDeliveries(services: Services): Handler {
  const { node, codecs, reads, tokens } = services;
  const decode = codecs.decoder<ListDeliveriesRequest>('hansard.v1.ListDeliveriesRequest');
  const encode = codecs.encoder('hansard.v1.ListDeliveriesResponse');
  return (context, bytes) => {
    const route = skimRoute(bytes);
    const request = decode(bytes);
    const { page_size, page_token, read, recipient } = request;
    if (recipient !== '') takeRecipient(recipient);
    if (request.ref === 'message_id') takeIdText(request.message_id, 'message_id');
    const size = takePageSize(page_size);
    const bound = JSON.stringify(['ListDeliveries', route.tenant, route.channel]);
    const after = page_token === '' ? '' : tokens.openPage(bound, page_token, (reader) => reader.string());
    const partition = node.partitionOf(route.tenant, route.channel);
    return reads.at(context, partition, planRead(read, tokens), bytes, async (view) => {
      const channel = await channelOf(view, route);
      const seq = await seqOf(view, channel, request);
      const { cursors, more } =
        recipient === ''
          ? await pageOf(view, channel, route, after, size)
          : { cursors: [await cursorOf(view, route, recipient)], more: false };
      const last = cursors.at(-1);
      return encode({
        deliveries: cursors.map((cursor) => deliveryMessage(cursor, channel, seq)),
        next_page_token: more && last ? tokens.page(bound, (writer) => writer.string(last.reader)) : '',
        head_seq: channel.headSeq,
        seq,
        served_by: servedMessage(services.served(partition, view)),
      });
    });
  };
}

/** Undefined where no event is asked for. */
async function seqOf(
  view: ReadView,
  channel: ChannelState,
  { ref, seq, message_id }: ListDeliveriesRequest,
): Promise<number | undefined> {
  if (ref === undefined) return undefined;
  const place = ref === 'seq' ? toNumber(seq) : await view.reader.seqOfMessageId(channel.id, message_id);
  if (place !== undefined && place > channel.baseSeq && place <= channel.headSeq) return place;
  throw new HansardError('MESSAGE_NOT_FOUND', `${channel.name} has no event ${ref} ${place ?? message_id}`, {
    channel: channel.name,
    [ref]: place ?? message_id,
    head_seq: channel.headSeq,
  });
}

/** Who has reported, and participants that have not: what is stored is read by one page. */
async function pageOf(
  view: ReadView,
  channel: ChannelState,
  { tenant, channel: name }: Route,
  after: string,
  size: number,
): Promise<{ cursors: ReadCursor[]; more: boolean }> {
  const query = { tenant, channel: name, kind: 'delivery', after, limit: size + 1 } as const;
  const reported = await view.reader.listCursors(query);
  const known = new Set(reported.map(({ reader }) => reader));
  // One that has reported further on is not taken for one that has not: it stands behind this page's end.
  const silent = channel.participants.filter(({ id }) => !known.has(id) && compareBytewise(id, after) > 0);
  const all = [...reported, ...silent.map(({ id }) => nothingReported(tenant, name, id))].sort((a, b) =>
    compareBytewise(a.reader, b.reader),
  );
  return { cursors: all.slice(0, size), more: all.length > size };
}

async function cursorOf(view: ReadView, { tenant, channel }: Route, recipient: string): Promise<ReadCursor> {
  const cursor = await view.reader.readCursor(tenant, channel, recipient, 'delivery');
  return cursor ?? nothingReported(tenant, channel, recipient);
}

function nothingReported(tenant: string, channel: string, reader: string): ReadCursor {
  return { tenant, channel, reader, seq: 0, timeUs: 0, failed: [] };
}

function takeRecipient(text: string): string {
  if (text === '') throw invalidArgument('recipient', 'missing');
  return takeIdText(text, 'recipient');
}

function deliveryMessage(
  { reader, seq, timeUs, failed = [] }: ReadCursor,
  { headSeq, baseSeq }: Pick<ChannelState, 'headSeq' | 'baseSeq'>,
  asked?: number,
): object {
  // Of events of the name's earlier life nothing is to be had; and the cursor may have been read after the channel.
  const upTo = Math.min(Math.max(seq, baseSeq), headSeq);
  const current = failed.filter((each) => each.seq > baseSeq);
  return {
    recipient: reader,
    up_to_seq: seq,
    failed: current.map((each) => ({
      seq: each.seq,
      reason: each.reason,
      attempts: each.attempts,
      report_time: toTimestamp(each.timeUs),
    })),
    pending_events: headSeq - upTo,
    report_time: timeUs === 0 ? null : toTimestamp(timeUs),
    state:
      asked === undefined
        ? DeliveryState.unspecified
        : current.some((each) => each.seq === asked)
          ? DeliveryState.failed
          : asked <= seq
            ? DeliveryState.delivered
            : DeliveryState.pending,
  };
}
