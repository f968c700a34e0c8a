/** A client's patience with a node that may die under it. */
import { HansardError } from '../../src/common/errors.js';
import type { SimClock } from './sim-clock.js';

/** Undefined: the client waited long enough, or the process died: nobody knows. An error of ours is an answer. */
export function within<T>(
  clock: SimClock,
  patienceMs: number,
  call: Promise<T>,
): Promise<T | HansardError | undefined> {
  return new Promise((resolve, reject) => {
    const timer = clock.after(patienceMs, () => resolve(undefined));
    call.then(
      (value) => {
        timer.cancel();
        resolve(value);
      },
      (error: unknown) => {
        timer.cancel();
        // A dead process's calls end in all ways, and say nothing.
        if (error instanceof HansardError) resolve(error);
        else if ((error as Error).name === 'ProcessIsDead') resolve(undefined);
        else reject(error);
      },
    );
  });
}
