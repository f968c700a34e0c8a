/** hansard.v1.EventService: opening a tail; tails.ts serves it from then on. */
import { HansardError, type Reason } from '../common/errors.js';
import type { PartitionId } from '../common/ids.js';
import { limits } from '../common/limits.js';
import type { ReadView } from '../node/types.js';
import type { CallContext, CallHooks } from './calls.js';
import { channelNotFound, tokenBound } from './channel-tails.js';
import type { OutCall } from './out-stream.js';
import { planRead, type ReadOptionsMessage } from './reads.js';
import { toNumber } from './requests.js';
import type { Services } from './services.js';
import { type Route, skimRoute } from './skim.js';
import { streamContext } from './stream-context.js';
import { type FlowMessage, takeRequests } from './stream-requests.js';
import { TailStream } from './tail-stream.js';
import { shuttingDown, type Tails } from './tails.js';

export const tailMethod = 'hansard.v1.EventService/TailChannel';

interface TailChannelRequest {
  start?: 'after_seq' | 'resume_token';
  after_seq: string;
  resume_token: string;
  must_exist: boolean;
  max_batch: number;
  read: ReadOptionsMessage | null;
  flow: FlowMessage | null;
}

/** Handles one TailChannel call, to its end. */
export function tailChannel(services: Services, tails: Tails, hooks: CallHooks): (call: OutCall) => void {
  const { node, codecs } = services;
  const decode = codecs.decoder<TailChannelRequest>('hansard.v1.TailChannelRequest');
  return (call) => {
    const startedMs = node.monotonicMs();
    const context = streamContext(call, tailMethod, startedMs);
    const tail = new TailStream(call, startedMs);
    let reserved = false;
    tail.onClose = (reason: Reason | 'CANCELLED' | undefined) => {
      context.cancelled = true;
      if (reserved) tails.release();
      hooks.onCall?.(tailMethod, 'grpc', reason, node.monotonicMs() - startedMs);
    };
    const open = async (request: TailChannelRequest, bytes: Buffer): Promise<void> => {
      hooks.admit?.(context);
      const route = skimRoute(bytes);
      tails.reserve();
      reserved = true;
      const partition = node.partitionOf(route.tenant, route.channel);
      const next = await startOf(services, context, partition, route, request);
      if (tail.isClosed) return;
      if (node.isDraining) throw shuttingDown();
      tail.begin({ next, ...optionsOf(request) });
      tails.add(partition, route, tail);
    };
    takeRequests(call, tail, { decode, open, errorOf: tails.errorOf });
  };
}

function optionsOf(request: TailChannelRequest): { mustExist: boolean; maxBatch: number } {
  const { must_exist, max_batch } = request;
  return {
    mustExist: must_exist,
    maxBatch: max_batch === 0 ? defaultBatch : Math.min(max_batch, limits.pageSizeMax),
  };
}

/** Events in one message that asks for no number. */
const defaultBatch = 500;

/** The first event to send. */
async function startOf(
  services: Services,
  context: CallContext,
  partition: PartitionId,
  route: Route,
  request: TailChannelRequest,
): Promise<number> {
  const { node, reads, router, tokens } = services;
  const plan = planRead(request.read, tokens);
  // A damaged token is told before anything is waited for.
  const after =
    request.start === 'resume_token'
      ? tokens.openPage(tokenBound(route), request.resume_token, (reader) => reader.uvarint())
      : request.start === 'after_seq'
        ? toNumber(request.after_seq)
        : undefined;
  const leader = node.leaderOf(partition);
  const wantsLeader =
    plan.preference === 'primary' || (plan.preference === 'primary-preferred' && leader !== undefined);
  if (wantsLeader && leader !== node.identity.nodeId) throw router.notLeader(partition, leader);
  let view: ReadView;
  try {
    view = await reads.barrier(context, partition, plan);
  } catch (error) {
    // No replica here: the leader has one.
    if (error instanceof HansardError && error.reason === 'NOT_LEADER')
      throw router.notLeader(partition, leader);
    throw error;
  }
  if (after !== undefined && !request.must_exist) return after + 1;
  const channel = await view.reader.channelByName(route.tenant, route.channel);
  if (channel === undefined && request.must_exist) throw channelNotFound(route);
  return (after ?? channel?.headSeq ?? 0) + 1;
}
