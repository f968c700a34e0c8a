/** How reads are made: their level, which replica is asked, and what the session learns of the answer. */
import { HansardError } from '../common/errors.js';
import type { PartitionId } from '../common/ids.js';
import { invalid } from './check-input.js';
import type { Method } from './requests.js';
import type { Router } from './router.js';
import type { ReadOptions, ReadPreference, ServedBy } from './types.js';

/** What every answer to a read says. */
export interface Served {
  readonly servedBy: ServedBy | readonly ServedBy[];
}

/**
 * Makes a read with retries until its deadline. `encode` is given what the options
 * come to: the client's level where they name none, and the session's tokens.
 */
export async function read<T extends Served>(
  router: Router,
  method: Method,
  partition: PartitionId | undefined,
  options: ReadOptions,
  encode: (read: ReadOptions) => Uint8Array,
  decode: (response: Uint8Array) => T,
): Promise<T> {
  const { session } = router;
  const level = options.level ?? router.options.readLevel;
  if (level === 'bounded' && options.maxStalenessMs === undefined)
    throw invalid('maxStalenessMs', 'level bounded needs it');
  const doubt = level === 'session' && partition !== undefined ? session.doubtOf(partition) : 0;
  const preference = options.preference ?? router.options.readPreference ?? preferenceFor(level, doubt);
  const own = level === 'session' ? session.tokens(partition) : [];
  const asked: ReadOptions = {
    ...options,
    // Something was heard that no token says: only this level is sure to see it.
    level: doubt === 0 ? level : 'linearizable',
    ...(preference === undefined ? {} : { preference }),
    commitTokens: [...(options.commitTokens ?? []), ...own],
  };
  const deadlineMs = performance.now() + (options.timeoutMs ?? router.options.timeoutMs);
  let answer: T;
  try {
    answer = await router.call(method, encode(asked), { partition, preference }, deadlineMs, decode);
  } catch (error) {
    // Told once, loudly; then the client goes on with what the cluster is now.
    if (error instanceof HansardError && error.reason === 'INCARNATION_CHANGED' && own.length > 0)
      session.forget(Number(error.fields.cluster_incarnation));
    throw error;
  }
  const servedBy = Array.isArray(answer.servedBy) ? answer.servedBy : [answer.servedBy as ServedBy];
  for (const served of servedBy) {
    session.observe(served.commitToken);
    options.onServed?.(served);
  }
  if (partition !== undefined && doubt !== 0) session.settled(partition, doubt);
  // Asked as the leader, it answered as a follower, which costs it a question to the leader.
  if (preference === undefined && servedBy[0]?.role === 'secondary') router.refresh();
  return answer;
}

/** Undefined: the leader, without a word of it to the server, so that a follower answers where none is known. */
function preferenceFor(level: ReadOptions['level'], doubt: number): ReadPreference | undefined {
  return level === 'linearizable' || doubt !== 0 ? undefined : 'nearest';
}
