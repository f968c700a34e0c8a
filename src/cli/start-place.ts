/** Where a subscription begins, as options of a command say. */
import type { SubscriptionStart } from '../client/index.js';
import { HansardError } from '../common/errors.js';
import { parseTime } from './times.js';

export interface StartOptions {
  readonly fromStart?: boolean;
  readonly since?: string;
  readonly resume?: string;
}

export function startOf({ fromStart, since, resume }: StartOptions): SubscriptionStart {
  return {
    ...(fromStart ? { fromBeginning: true } : {}),
    ...(since === undefined ? {} : { fromTime: { timeUs: timeOf(since) } }),
    ...(resume === undefined ? {} : { resumeToken: resume }),
  };
}

function timeOf(text: string): number {
  const timeUs = parseTime(text);
  if (timeUs !== undefined) return timeUs;
  throw new HansardError('INVALID_ARGUMENT', `no RFC 3339 time: ${text}`, { field: '--since' });
}
