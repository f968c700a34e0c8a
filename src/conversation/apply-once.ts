/**
 * Commands that are carried out once, however often they come (from apply version 4 on): a client that got no answer sends its request again,
 * and is told what became of the first. Commands on channels have a request id of their own; these are wrapped in one.
 */
import type { TimeUs } from '../common/ids.js';
import { applyLimits } from './apply-limits.js';
import { requestChannelId, requestUnder } from './apply-request.js';
import { keptOf, liveChannel } from './apply-trash.js';
import type { OnceCommand } from './command.js';
import { onceKey } from './names.js';
import { refuse } from './refuse.js';
import { tooLong } from './subscription-checks.js';
import { subscriptionNumber } from './subscription-state.js';
import type { ApplyState, CommandAnswer, KeyRecord } from './types.js';

type Repeated = OnceCommand['command'];

export function applyOnce(
  state: ApplyState,
  { requestId, digest, command }: OnceCommand,
  commitTimeUs: TimeUs,
  apply: (command: Repeated) => CommandAnswer,
): CommandAnswer {
  const problem = tooLong('request_id', requestId, applyLimits.idBytes);
  if (problem !== undefined) return problem;
  const key = onceKeyOf({ requestId, command });
  const first = requestUnder(state, key, digest);
  if (first?.refused !== undefined) return first.refused;
  if (first !== undefined) return again(state, command, first.record);
  const answer = apply(command);
  // A refusal changed nothing: what is asked again may succeed by then.
  if (answer.kind !== 'refused')
    state.putKey(requestChannelId, key, { seq: numberOf(answer), contentDigest: digest, commitTimeUs });
  return answer;
}

/** For the subscription, or the channel whose cursor it is. */
export function onceKeyOf({ requestId, command }: Pick<OnceCommand, 'requestId' | 'command'>): string {
  const of = command.kind === 'moveCursor' ? `channel/${command.channel}` : `subscription/${command.name}`;
  return onceKey(command.tenant, requestId, of);
}

/** By which a repeat is answered: how many, or which life of the name. */
function numberOf(answer: CommandAnswer): number {
  if (answer.kind === 'deadLettersMoved') return answer.count;
  return answer.kind === 'subscription' ? subscriptionNumber(answer.subscription) : 0;
}

/** What it is about may have changed since by others: it is told as it is now. */
function again(state: ApplyState, command: Repeated, { seq }: KeyRecord): CommandAnswer {
  const { tenant } = command;
  switch (command.kind) {
    case 'deleteSubscription':
      return { kind: 'done' };
    case 'deadLetters':
      return { kind: 'deadLettersMoved', count: seq };
    case 'createSubscription':
    case 'updateSubscription':
    case 'seekSubscription': {
      const subscription = state.subscription(tenant, command.name);
      if (subscription !== undefined && subscriptionNumber(subscription) === seq)
        return { kind: 'subscription', subscription };
      return refuse(
        'SUBSCRIPTION_NOT_FOUND',
        'the subscription that this request was carried out on is gone',
        {
          subscription: command.name,
        },
      );
    }
    case 'moveCursor': {
      const { channel: name, reader } = command;
      const cursor = state.cursor(tenant, name, reader);
      const channel = liveChannel(state, tenant, name) ?? keptOf(state, tenant, name);
      if (cursor !== undefined && channel !== undefined)
        return { kind: 'cursor', cursor, headSeq: channel.headSeq };
      return refuse('CHANNEL_NOT_FOUND', 'there is no channel of that name', { channel: name });
    }
  }
}
