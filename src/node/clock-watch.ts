/**
 * A node whose clock is far ahead would stamp commit times that all later ones
 * have to follow; so it neither leads nor stamps (design, "An event").
 */
import type { NodeId } from '../common/ids.js';

/** Ahead of a majority by more than this, ms. */
const toleratedMs = 5_000;

export class ClockWatch {
  readonly #self: NodeId;
  readonly #nodeCount: number;
  /** Our clock minus theirs, ms; includes the message's way, which makes us look ahead by that little. */
  readonly #aheadOf = new Map<NodeId, number>();
  #aheadMs = 0;

  constructor(self: NodeId, nodeCount: number) {
    this.#self = self;
    this.#nodeCount = nodeCount;
  }

  heard(node: NodeId, differenceUs: number): void {
    if (node === this.#self) return;
    this.#aheadOf.set(node, differenceUs / 1000);
    this.#judge();
  }

  forget(node: NodeId): void {
    this.#aheadOf.delete(node);
    this.#judge();
  }

  /** How far ahead of a majority, ms; 0 where not ahead or not known. */
  get aheadMs(): number {
    return this.#aheadMs;
  }

  get isAhead(): boolean {
    return this.#aheadMs > toleratedMs;
  }

  /** The node's clock is ahead of ours by more than is tolerated: nothing is handed to it. */
  isPeerAhead(node: NodeId): boolean {
    return (this.#aheadOf.get(node) ?? 0) < -toleratedMs;
  }

  /** We are the odd one, so a majority of all nodes must be behind us by this much without us. */
  #judge(): void {
    const majority = Math.floor(this.#nodeCount / 2) + 1;
    const differences = [...this.#aheadOf.values()].sort((a, b) => b - a);
    this.#aheadMs = Math.max(0, Math.round(differences[Math.min(majority, this.#nodeCount - 1) - 1] ?? 0));
  }
}
