/**
 * How fast snapshots leave: at most at the rate that is set, and so that appends do not wait for them. What a
 * snapshot disturbs (this loop, the disk, the processor that the receiver shares) shows in one place, the
 * time from a round of this node's proposals to its commit. While that takes more than twice as long
 * as it does undisturbed, the rate falls; else it rises. Yielding by delay is LEDBAT's way (RFC 6817), to stop now
 * and then and see how things are without oneself is BBR's.
 */

/** Rounds beside a snapshot are judged together, ms: a single one says what the collector did. */
const windowMs = 250;
/** A window in which there are some lasts until it has so many of them, but at most `longestWindowMs`. */
const windowRounds = 8;
const longestWindowMs = 1_000;
/** Longer than this a round waited for no processor, ms (a follower was away, a leader was deposed): nothing is learned of it, and it counts as no more. */
const longestRoundMs = 1_000;
/** Of what a round takes undisturbed, what it may take beside a snapshot. */
const disturbedRatio = 2;
/**
 * What the mean of `windowRounds` undisturbed rounds changes of what is known. What disturbs them may be no snapshot of
 * this node's (the start of who will take it, another node's): what is higher counts slowly, and more where it was looked for.
 */
const lowerShare = 0.3;
const higherShare = 0.03;
const higherShareOfProbe = 0.1;
const fallRatio = 0.6;
const riseRatio = 1.25;
/**
 * Of the rate that is set: so much leaves however long appends take, so that whoever lags gets there. A transfer begins
 * with it, and has all of the rate after some three seconds in which nobody minds.
 */
const leastShare = 1 / 16;
const leastBytesPerSecond = 64 * 1024;
/** What left is still being taken in, ms. */
const takenInMs = 250;
/** Every so often, ms, nothing leaves for `probeMs`; sooner where nothing is known. */
const probeEveryMs = 10_000;
const firstProbeMs = 2_000;
const probeMs = 2 * takenInMs;
/** Without a chunk for this long a transfer is over, ms: the next one begins anew. */
const restMs = 5_000;
/** A chunk is what leaves in so many ms: with more at once the receiver has its processor for as long. */
const chunkMs = 8;
const leastChunkBytes = 64 * 1024;

export class SnapshotPace {
  readonly #mostBytesPerSecond: number;
  readonly #leastBytesPerSecond: number;
  /** Now. */
  bytesPerSecond: number;
  /** When the next chunk may leave. */
  #freeAtMs = Number.NEGATIVE_INFINITY;
  /** Rounds that end before are disturbed. */
  #quietFromMs = Number.NEGATIVE_INFINITY;
  /** The last pause's end, or the transfer's begin. */
  #probedAtMs = Number.NEGATIVE_INFINITY;
  /** Without any there is nothing to learn in a pause, and nobody to yield to. */
  #roundsSinceProbe = 0;
  #isProbing = false;
  /** What a round takes without snapshots, ms; undefined: not known. */
  #undisturbedMs: number | undefined;
  readonly #undisturbed = new Rounds();
  readonly #disturbed = new Rounds();
  #windowFromMs = Number.NEGATIVE_INFINITY;

  constructor(mostBytesPerSecond: number) {
    this.#mostBytesPerSecond = mostBytesPerSecond;
    const least = Math.max(mostBytesPerSecond * leastShare, leastBytesPerSecond);
    this.#leastBytesPerSecond = Math.min(mostBytesPerSecond, least);
    this.bytesPerSecond = this.#leastBytesPerSecond;
  }

  /** A round of this node's proposals took `ms` until its commit. */
  committed(ms: number, nowMs: number): void {
    this.#roundsSinceProbe++;
    if (nowMs < this.#quietFromMs) {
      // In a pause what left before it is still being taken in: that belongs to neither.
      if (nowMs >= this.#windowFromMs) this.#disturbed.add(Math.min(ms, longestRoundMs));
      return;
    }
    if (ms > longestRoundMs) return;
    this.#undisturbed.add(ms);
    if (this.#undisturbed.count >= windowRounds) this.#learn(this.#undisturbed.takeMean());
  }

  /** What the next chunk should have, at most `limitBytes`. */
  chunkBytes(limitBytes: number): number {
    return Math.min(limitBytes, Math.max(leastChunkBytes, (this.bytesPerSecond * chunkMs) / 1000));
  }

  /** How long the next chunk has to wait, ms. To be asked again then: others may have left, or a pause have begun. */
  waitMs(nowMs: number): number {
    return Math.max(0, this.#freeAtMs - nowMs);
  }

  /** A chunk of `bytes` leaves. `isPressed`: the log that its taker needs grows too large, and appends have to wait. */
  left(bytes: number, nowMs: number, isPressed = false): void {
    if (nowMs - this.#freeAtMs > restMs) this.#begin(nowMs);
    this.#judge(nowMs, isPressed);
    this.#isProbing = nowMs < this.#freeAtMs;
    this.#freeAtMs = Math.max(this.#freeAtMs, nowMs) + (bytes / this.bytesPerSecond) * 1000;
    this.#quietFromMs = nowMs + takenInMs;
    const everyMs = this.#undisturbedMs === undefined ? firstProbeMs : probeEveryMs;
    const isDue = nowMs - this.#probedAtMs >= everyMs && this.#roundsSinceProbe > 0;
    if (isDue && !isPressed && this.#leastBytesPerSecond < this.#mostBytesPerSecond) this.#probe(nowMs);
  }

  #begin(nowMs: number): void {
    this.bytesPerSecond = this.#leastBytesPerSecond;
    this.#probedAtMs = nowMs;
    this.#roundsSinceProbe = 0;
    this.#beginWindow(nowMs);
  }

  #beginWindow(nowMs: number): void {
    this.#windowFromMs = nowMs;
    this.#disturbed.clear();
  }

  #probe(nowMs: number): void {
    this.#isProbing = true;
    this.#freeAtMs = Math.max(this.#freeAtMs, nowMs + probeMs);
    this.#probedAtMs = this.#freeAtMs;
    this.#roundsSinceProbe = 0;
    this.#beginWindow(this.#freeAtMs);
  }

  #judge(nowMs: number, isPressed: boolean): void {
    const ageMs = nowMs - this.#windowFromMs;
    const { count } = this.#disturbed;
    if (ageMs < windowMs || (count > 0 && count < windowRounds && ageMs < longestWindowMs)) return;
    const isSlow =
      !isPressed &&
      count > 0 &&
      this.#undisturbedMs !== undefined &&
      this.#disturbed.takeMean() > disturbedRatio * this.#undisturbedMs;
    const next = this.bytesPerSecond * (isSlow ? fallRatio : riseRatio);
    this.bytesPerSecond = Math.min(this.#mostBytesPerSecond, Math.max(this.#leastBytesPerSecond, next));
    this.#beginWindow(nowMs);
  }

  #learn(ms: number): void {
    const known = this.#undisturbedMs ?? ms;
    const higher = this.#isProbing ? higherShareOfProbe : higherShare;
    this.#undisturbedMs = known + (ms - known) * (ms < known ? lowerShare : higher);
  }
}

class Rounds {
  count = 0;
  #ms = 0;

  add(ms: number): void {
    this.count++;
    this.#ms += ms;
  }

  clear(): void {
    this.count = 0;
    this.#ms = 0;
  }

  takeMean(): number {
    const mean = this.#ms / this.count;
    this.clear();
    return mean;
  }
}
