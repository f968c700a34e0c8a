/**
 * Which moments are a node's own for sealing. Replicas apply the same entries at about the same time: with equal
 * settings the tails of all nodes would be full in the same moment, and every commit would wait for nodes that seal and for
 * disks that write tables. One after the other, there is a majority without one that seals, or with one.
 *
 * Nobody asks anybody: how many entries a node has applied, of all its partitions together, is a clock that those with
 * the same partitions share, whatever their restarts. Each has its own phase of it. The period is a power of two, since all
 * must have the same one, and what they measure (bytes an entry) differs a little. Where it lies near such a power some
 * take twice the period of others: phases lie so that twice one is halfway between two. Nodes that hold other
 * partitions seal when they do: nothing depends on it.
 */

export interface CheckpointPlace {
  /** Among those that it has partitions in common with, by node id; from 0. */
  readonly rank: number;
  readonly count: number;
}

/** Entries between two checkpoints of tails of half of `fullBytes` to all of them; `entries` took `bytes`. */
export function checkpointPeriod(fullBytes: number, entries: number, bytes: number): number {
  return 2 ** Math.max(0, Math.floor(Math.log2((fullBytes * entries) / bytes)));
}

/** The moment came between `from` and `to` entries applied. */
export function isTurnBetween(from: number, to: number, period: number, place: CheckpointPlace): boolean {
  const phase = (period * (place.rank + 0.5)) / place.count;
  return Math.floor((to - phase) / period) > Math.floor((from - phase) / period);
}
