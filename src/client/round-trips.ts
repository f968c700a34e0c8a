/** How far away nodes are, for the preference `nearest`: measured round trips, smoothed. */

/** Weight of a new measurement. */
const share = 0.3;
/** Nodes this much farther than the nearest count as near, too: reads spread over them. */
const nearFactor = 1.5;
const nearExtraMs = 2;
/** A node that let a read wait past its time is passed over for this long, where others are left. */
const slowMs = 2_000;

export class RoundTrips {
  readonly #ms = new Map<string, number>();
  readonly #slowUntilMs = new Map<string, number>();

  measured(address: string, ms: number): void {
    const known = this.#ms.get(address);
    this.#ms.set(address, known === undefined ? ms : known + share * (ms - known));
    this.#slowUntilMs.delete(address);
  }

  slow(address: string, nowMs: number): void {
    this.#slowUntilMs.set(address, nowMs + slowMs);
  }

  isSlow(address: string, nowMs: number): boolean {
    return (this.#slowUntilMs.get(address) ?? 0) > nowMs;
  }

  /** The nearest ones; those that were never measured are among them. */
  near(addresses: readonly string[]): string[] {
    let best = Number.POSITIVE_INFINITY;
    for (const address of addresses) best = Math.min(best, this.#ms.get(address) ?? best);
    const limit = best * nearFactor + nearExtraMs;
    return addresses.filter((address) => (this.#ms.get(address) ?? 0) <= limit);
  }
}
