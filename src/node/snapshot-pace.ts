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
/** Longer than this a round waited for no processor, ms: a follower was away, or a leader deposed. */
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
const leastBytesPerSecond = 1024 * 1024;
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
  /** When the next byte may leave. */
  #freeAtMs = Number.NEGATIVE_INFINITY;
  /** Rounds that end before are disturbed. */
  #quietFromMs = Number.NEGATIVE_INFINITY;
  #probedAtMs = Number.NEGATIVE_INFINITY;
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
    if (nowMs < this.#quietFromMs) return this.#disturbed.add(ms);
    this.#undisturbed.add(ms);
    if (this.#undisturbed.count >= windowRounds) this.#learn(this.#undisturbed.takeMean());
  }

  /** What the next chunk should have, at most `limitBytes`. */
  chunkBytes(limitBytes: number): number {
    return Math.min(limitBytes, Math.max(leastChunkBytes, (this.bytesPerSecond * chunkMs) / 1000));
  }

  /** `bytes` leave now. When the next ones may. */
  take(bytes: number, nowMs: number): number {
    if (nowMs - this.#freeAtMs > restMs) this.#begin(nowMs);
    this.#judge(nowMs);
    this.#isProbing = false;
    this.#freeAtMs = Math.max(this.#freeAtMs, nowMs) + (bytes / this.bytesPerSecond) * 1000;
    this.#quietFromMs = this.#freeAtMs + takenInMs;
    const everyMs = this.#undisturbedMs === undefined ? firstProbeMs : probeEveryMs;
    if (nowMs - this.#probedAtMs >= everyMs) this.#probe(nowMs);
    return this.#freeAtMs;
  }

  #begin(nowMs: number): void {
    this.bytesPerSecond = this.#leastBytesPerSecond;
    this.#probedAtMs = nowMs;
    this.#beginWindow(nowMs);
  }

  #beginWindow(nowMs: number): void {
    this.#windowFromMs = nowMs;
    this.#disturbed.clear();
  }

  /** Where nobody appends there is nothing to learn, and nobody to yield to. */
  #probe(nowMs: number): void {
    this.#probedAtMs = nowMs;
    if (this.#disturbed.count === 0) return;
    this.#isProbing = true;
    this.#quietFromMs = this.#freeAtMs + takenInMs;
    this.#freeAtMs += probeMs;
    this.#beginWindow(this.#freeAtMs);
  }

  #judge(nowMs: number): void {
    const ageMs = nowMs - this.#windowFromMs;
    const { count } = this.#disturbed;
    if (ageMs < windowMs || (count > 0 && count < windowRounds && ageMs < longestWindowMs)) return;
    const isSlow =
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
    this.#ms += Math.min(ms, longestRoundMs);
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
