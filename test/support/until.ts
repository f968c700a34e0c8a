export function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/**
 * For whatever is expected to come, ms: a test says nothing of how fast a machine is, and one
 * that is busy with other work may let it wait for a minute. Only what is to run out of time has little.
 */
export const patienceMs = 180_000;

/** Polls, first often, until `check` gives something else than undefined or false. */
export async function until<T>(
  what: string,
  check: () => T | Promise<T>,
  timeoutMs = patienceMs,
): Promise<Exclude<T, undefined | false>> {
  const begun = performance.now();
  for (;;) {
    const value = await check();
    if (value !== undefined && value !== false) return value as Exclude<T, undefined | false>;
    const passedMs = performance.now() - begun;
    if (passedMs >= timeoutMs) throw new Error(`not within ${timeoutMs} ms: ${what}`);
    // A node that is asked all the time whether it is ready gets there later.
    await sleep(Math.min(100, 5 + passedMs / 20));
  }
}

/** What `read` gives once nothing of it moves any more: five looks in a row, as the first behind a stall comes before what the stall held up. */
export async function standstill(read: () => number): Promise<number> {
  let last = read();
  for (let looks = 0; looks < 5; looks++) {
    await sleep(100);
    if (read() !== last) looks = -1;
    last = read();
  }
  return last;
}
