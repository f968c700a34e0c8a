/** Durable subscriptions in `hansard status`: which of them have work that nobody gets on with. */
import type { ClusterInfo, SubscriptionInfo } from '../client/index.js';
import { HansardError } from '../common/errors.js';
import { count, durationText, type Output, printable } from './output.js';
import type { Session } from './session.js';
import { formatTime } from './times.js';

/** A partition without a leader must not hold up what is known of the cluster, ms. */
const timeoutMs = 2_000;
/** Work that nobody got on with for so long stands still, ms; longer where a consumer may take longer. */
const stillMs = 60_000;
/** More of them fill no screen; --json has all. */
const shownMax = 50;

export interface SubscriptionStatus {
  readonly info: SubscriptionInfo;
  /** Entries of the log, of any channel, that are not looked through. */
  readonly behind: number;
  /** There is work, and it stands still. */
  readonly isStill: boolean;
}

/** Of the session's tenant, those that stand still first; undefined: not known. */
export async function subscriptionStatus(
  { client }: Session,
  cluster: ClusterInfo,
  nowMs: number,
): Promise<SubscriptionStatus[] | undefined> {
  const found: SubscriptionStatus[] = [];
  try {
    for await (const info of client.subscriptions({ timeoutMs })) found.push(statusOf(info, cluster, nowMs));
  } catch (error) {
    if (!(error instanceof HansardError)) throw error;
    return undefined;
  }
  return found.sort((a, b) => Number(b.isStill) - Number(a.isStill));
}

export function statusOf(info: SubscriptionInfo, cluster: ClusterInfo, nowMs: number): SubscriptionStatus {
  const { progress, settings } = info;
  let behind = 0;
  // Whoever is caught up has seen what its places, written down now and then, do not say yet.
  for (const { partition, commitIndex } of progress.caughtUp ? [] : cluster.partitions) {
    const position = progress.positions.get(partition);
    if (position !== undefined) behind += Math.max(0, commitIndex - position);
  }
  const sinceMs = nowMs - progress.lastProgressTimeUs / 1_000;
  const mayTakeMs = Math.max(stillMs, 2 * settings.ackDeadlineMs, settings.retryDelayMs + stillMs);
  // Without consumers nothing is taken, so that nothing is pending either.
  const isLeft = progress.consumers === 0 && behind > 0;
  // Both: what waits may be old because so much is in front of it, and progress be long ago because there was nothing.
  const isStill = (progress.oldestPendingMs > mayTakeMs || isLeft) && sinceMs > mayTakeMs;
  return { info, behind, isStill: (isStill && !settings.paused) || progress.idle === 'dead-letters-full' };
}

export function subscriptionStatusJson({ info, behind, isStill }: SubscriptionStatus): object {
  const { name, partition, progress } = info;
  return {
    subscription: name,
    partition,
    state: progress.idle,
    stands_still: isStill,
    consumers: progress.consumers,
    pending_events: progress.pendingEvents,
    lag_seconds: progress.oldestPendingMs / 1_000,
    entries_behind: behind,
    dead_letters: progress.deadLetters,
    last_progress_time: formatTime(progress.lastProgressTimeUs),
  };
}

export function showSubscriptionStatus(
  output: Output,
  tenant: string,
  all: readonly SubscriptionStatus[] | undefined,
): void {
  if (all === undefined) output.note(`durable subscriptions of tenant ${tenant} are not known`);
  if (all === undefined || all.length === 0) return;
  const c = output.colors;
  output.table(
    [
      { title: 'SUBSCRIPTION' },
      { title: 'STATE' },
      { title: 'CONSUMERS', align: 'right' },
      { title: 'PENDING', align: 'right' },
      { title: 'OLDEST', align: 'right' },
      { title: 'BEHIND', align: 'right' },
      { title: 'DEAD', align: 'right' },
      { title: 'LAST PROGRESS' },
    ],
    all
      .slice(0, shownMax)
      .map(({ info: { name, progress }, behind, isStill }) => [
        printable(name),
        isStill ? c.red(`${progress.idle}, stands still`) : progress.idle,
        progress.consumers,
        count(progress.pendingEvents),
        durationText(progress.oldestPendingMs / 1_000),
        count(behind),
        progress.deadLetters > 0 ? c.red(count(progress.deadLetters)) : '0',
        formatTime(progress.lastProgressTimeUs),
      ]),
  );
  const still = all.filter(({ isStill }) => isStill).length;
  const more = all.length > shownMax ? `, ${shownMax} of them shown` : '';
  output.line(
    `${count(all.length)} durable subscriptions of tenant ${tenant}${more}${still > 0 ? c.red(`; ${count(still)} stand still although there is work`) : ''}`,
  );
}
