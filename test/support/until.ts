export function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** A start, or a change of leaders, on a busy machine, ms. */
const patienceMs = 60_000;

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
