/** What a start does after the log was read: applies what is committed and not sealed. Says how long, and at what rate. */
import type { Clock } from '../common/env.js';
import type { Index } from '../common/ids.js';
import type { Logger } from '../common/logger.js';
import type { Replica } from '../partition/replica.js';
import type { Store } from '../store/types.js';

/** How often it looks, ms: the precision of what it says. */
const lookMs = 10;

/** To be called before anything is applied. `isOver`: nobody wants to know any more. */
export function reportReplay(
  { clock, logger, store }: { clock: Clock; logger: Logger; store: Store },
  replicas: readonly Replica[],
  isOver: () => boolean,
): void {
  let entries = 0;
  /** Up to where the log knew entries to be committed when it was opened. */
  const goals = new Map<Replica, Index>();
  for (const replica of replicas) {
    const { commit } = replica.log.hardState;
    const isHeldBack = replica.isStateDamaged || replica.isMute;
    if (isHeldBack || commit <= replica.store.appliedIndex) continue;
    entries += commit - replica.store.appliedIndex;
    goals.set(replica, commit);
  }
  const startedMs = clock.monotonicMs();
  const eventsBefore = store.stats().eventsApplied;
  const look = (): void => {
    if (isOver()) return;
    for (const [replica, goal] of goals) if (replica.store.appliedIndex >= goal) goals.delete(replica);
    if (goals.size > 0) {
      clock.after(lookMs, look);
      return;
    }
    const durationMs = Math.round(clock.monotonicMs() - startedMs);
    const events = store.stats().eventsApplied - eventsBefore;
    const eventsPerSecond = durationMs === 0 ? 0 : Math.round((events * 1000) / durationMs);
    logger.info({ entries, events, durationMs, eventsPerSecond }, 'log applied');
  };
  look();
}
