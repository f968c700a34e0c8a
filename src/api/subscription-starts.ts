/** Where a durable subscription begins: when it is made, put elsewhere, or follows something else. */
import { ByteWriter } from '../common/bytes.js';
import type { PartitionId } from '../common/ids.js';
import type { Reselection, SubscriptionStart } from '../conversation/subscription-command.js';
import type { SubscriptionSelector, SubscriptionState } from '../conversation/subscription-state.js';
import type { CallContext } from './calls.js';
import { readPlaces, type SubscriptionPlace, writePlace } from './feed-place.js';
import { feedBound, partitionsOf, startOf } from './feed-request.js';
import { startPlaces } from './feed-start.js';
import type { Services } from './services.js';
import { filterOfSelector } from './subscription-message.js';

export interface StartMessage {
  start?: 'from_beginning' | 'from_time' | 'resume_token';
  from_beginning: boolean;
  from_time: { seconds: string; nanos: number } | null;
  resume_token: string;
}

/** In partitions that it has not followed yet it begins behind what is committed now. */
export async function reselectionOf(
  services: Services,
  context: CallContext,
  { tenant, places }: Readonly<SubscriptionState>,
  selector: SubscriptionSelector,
): Promise<Reselection> {
  const filter = filterOfSelector(tenant, selector, 0);
  const begun = await startPlaces(services, {
    deadlineMs: context.deadlineMs,
    read: null,
    start: { kind: 'now' },
    resumed: undefined,
    partitions: partitionsOf(services.node, filter).filter((each) => !places.has(each)),
  });
  return { selector, places: encodedPlaces(begun) };
}

export async function subscriptionStart(
  services: Services,
  context: CallContext,
  tenant: string,
  selector: SubscriptionSelector,
  message: StartMessage | null,
): Promise<SubscriptionStart> {
  const { node, tokens } = services;
  const filter = filterOfSelector(tenant, selector, 0);
  const resumed =
    message?.start === 'resume_token'
      ? tokens.openPage(feedBound('Subscribe', filter), message.resume_token, readPlaces)
      : undefined;
  const begun = await startPlaces(services, {
    deadlineMs: context.deadlineMs,
    read: null,
    start: message === null ? { kind: 'now' } : startOf(message),
    resumed,
    partitions: partitionsOf(node, filter),
  });
  return { fromTimeUs: begun.fromTimeUs, places: encodedPlaces(begun) };
}

function encodedPlaces({ places }: SubscriptionPlace): Map<PartitionId, Uint8Array> {
  return new Map(
    [...places].map(([partition, place]) => {
      const writer = new ByteWriter(32);
      writePlace(writer, place);
      return [partition, writer.finish()];
    }),
  );
}
