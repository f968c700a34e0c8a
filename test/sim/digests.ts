/**
 * State machine safety, seen from the state: replicas that have applied up to the
 * same index have the same digest of all that they hold (design, "Applying").
 * Taken along the way, whenever all replicas of a partition happen to stand at
 * one index; each stands beside a checkpoint, a snapshot or a fault as it may.
 */
import { HansardError } from '../../src/common/errors.js';
import type { Replica } from '../../src/partition/replica.js';
import type { SeenNode } from './invariants/invariants.js';

/** A digest reads everything: so far apart, simulated ms. */
const everyMs = 700;

export class Digests {
  /** By partition and index: the first replica's. */
  readonly #known = new Map<string, { readonly digest: string; readonly of: string }>();
  readonly #lastMs = new Map<number, number>();
  /** Those that had another replica's to be compared with. */
  compared = 0;

  constructor(private readonly violated: (what: string) => void) {}

  look(nodes: readonly SeenNode[], nowMs: number): void {
    const byPartition = new Map<number, { node: SeenNode; replica: Replica }[]>();
    for (const node of nodes) {
      if (node.isDamaged) continue;
      for (const replica of node.replicas()) {
        const list = byPartition.get(replica.partition);
        if (list === undefined) byPartition.set(replica.partition, [{ node, replica }]);
        else list.push({ node, replica });
      }
    }
    for (const [partition, list] of byPartition) {
      if (nowMs - (this.#lastMs.get(partition) ?? 0) < everyMs) continue;
      const index = list[0]?.replica.appliedIndex ?? 0;
      if (index === 0 || list.length < 2) continue;
      if (list.some(({ replica }) => replica.appliedIndex !== index || replica.isInstalling)) continue;
      this.#lastMs.set(partition, nowMs);
      for (const { node, replica } of list) this.#take(node, replica);
    }
  }

  #take({ nodeId }: SeenNode, replica: Replica): void {
    replica.store.digestAt().then(
      ({ appliedIndex, digest }) => {
        const place = `partition ${replica.partition} at ${appliedIndex}`;
        const of = `node ${nodeId}`;
        const known = this.#known.get(place);
        if (known === undefined) this.#known.set(place, { digest, of });
        else {
          this.compared++;
          if (known.digest !== digest)
            this.violated(`digests differ: ${place}: ${known.of} has ${known.digest}, ${of} ${digest}`);
        }
      },
      (error: unknown) => {
        // A channel was deleted meanwhile, the replica was removed, or its process died.
        if (error instanceof HansardError || (error as Error).name === 'ProcessIsDead') return;
        this.violated(`a digest failed on node ${nodeId}: ${(error as Error).stack}`);
      },
    );
  }
}
