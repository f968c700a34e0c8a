/** hansard.v1.MessageService. */
import { HansardError } from '../common/errors.js';
import { limits } from '../common/limits.js';
import { encodeOpenProducer } from '../conversation/command.js';
import type { ChannelState, StoredEvent } from '../conversation/types.js';
import type { ReadView } from '../node/types.js';
import { appendMessages } from './append.js';
import { appendBatch } from './append-batch.js';
import { batchGetMessages } from './batch-get.js';
import type { Handler } from './calls.js';
import { encodeGetMessage } from './encode.js';
import { listMessages } from './list-messages.js';
import { invalidArgument, takeId } from './names.js';
import { channelOf, planRead, type ReadOptionsMessage } from './reads.js';
import { toNumber } from './requests.js';
import type { Services } from './services.js';
import { skimRoute } from './skim.js';
import { proposeFor } from './writes.js';

export function messageMethods(services: Services): Map<string, Handler> {
  return new Map<string, Handler>([
    ['hansard.v1.MessageService/AppendMessages', appendMessages(services)],
    ['hansard.v1.MessageService/AppendBatch', appendBatch(services)],
    ['hansard.v1.MessageService/GetMessage', getMessage(services)],
    ['hansard.v1.MessageService/BatchGetMessages', batchGetMessages(services)],
    ['hansard.v1.MessageService/ListMessages', listMessages(services)],
    ['hansard.v1.MessageService/OpenProducer', openProducer(services)],
  ]);
}

interface GetMessageRequest {
  ref?: 'seq' | 'message_id';
  seq: string;
  message_id: string;
  read: ReadOptionsMessage | null;
}

function getMessage(services: Services): Handler {
  const { node, codecs, reads, tokens } = services;
  const decode = codecs.decoder<GetMessageRequest>('hansard.v1.GetMessageRequest');
  return (context, request) => {
    const route = skimRoute(request);
    const { ref, seq, message_id, read } = decode(request);
    if (ref === undefined) throw invalidArgument('ref', 'give seq or message_id');
    if (ref === 'message_id') takeIdText(message_id, 'message_id');
    const partition = node.partitionOf(route.tenant, route.channel);
    return reads.at(context, partition, planRead(read, tokens), request, async (view) => {
      const channel = await channelOf(view, route);
      const place = ref === 'seq' ? toNumber(seq) : await view.reader.seqOfMessageId(channel.id, message_id);
      const found =
        place === undefined || place <= channel.baseSeq || place > channel.headSeq
          ? []
          : await at(view, channel, place);
      const event = found[0];
      if (event === undefined) {
        throw new HansardError(
          'MESSAGE_NOT_FOUND',
          `${route.channel} has no event ${ref} ${place ?? message_id}`,
          {
            channel: route.channel,
            [ref]: ref === 'seq' ? toNumber(seq) : message_id,
            head_seq: channel.headSeq,
          },
        );
      }
      return encodeGetMessage(event, services.served(partition, view));
    });
  };
}

export function at(view: ReadView, channel: ChannelState, seq: number): Promise<StoredEvent[]> {
  const one = { fromSeq: seq, toSeq: seq, reverse: false, maxEvents: 1, maxBytes: limits.pageBytes };
  return view.reader.events(channel, one);
}

interface OpenProducerRequest {
  name: string;
}

function openProducer({ node, codecs, router, tokens }: Services): Handler {
  const decode = codecs.decoder<OpenProducerRequest>('hansard.v1.OpenProducerRequest');
  const encode = codecs.encoder('hansard.v1.OpenProducerResponse');
  return (context, request) => {
    const route = skimRoute(request);
    const { name } = decode(request);
    takeIdText(name, 'name');
    const partition = node.partitionOf(route.tenant, route.channel);
    return router.atLeader(context, partition, request, async () => {
      const command = encodeOpenProducer(route.tenant, name);
      const { answer, index } = await proposeFor(node, partition, command, context.deadlineMs, 'producer');
      return encode({
        producer_id: answer.producerId,
        partition,
        next_counter: answer.nextCounter,
        window: answer.window,
        commit_token: tokens.commit(partition, index),
      });
    });
  };
}

/** Checks an id that was decoded already. */
export function takeIdText(id: string, field: string): string {
  const bytes = Buffer.from(id, 'utf8');
  return takeId(bytes, 0, bytes.length, field);
}
