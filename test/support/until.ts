export function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/**
 * For whatever is expected to come, ms: a test says nothing of how fast a machine is, and one
 * that is busy with other work may let it wait for a minute. Only what is to run out of time has little.
 */
export const patienceMs = 180_000;

/** Polls until `check` gives something else than undefined or false. */
export async function until<T>(
  what: string,
  check: () => T | Promise<T>,
  timeoutMs = patienceMs,
): Promise<Exclude<T, undefined | false>> {
  const end = performance.now() + timeoutMs;
  for (;;) {
    const value = await check();
    if (value !== undefined && value !== false) return value as Exclude<T, undefined | false>;
    if (performance.now() >= end) throw new Error(`not within ${timeoutMs} ms: ${what}`);
    await sleep(20);
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
