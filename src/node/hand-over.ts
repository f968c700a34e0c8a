/** Leaderships that go to other nodes: who may have them, one at a time, and all of them before the node stops. */
import type { NodeId, PartitionId } from '../common/ids.js';
import type { Replica } from '../partition/replica.js';
import type { ClockWatch } from './clock-watch.js';
import type { FaultLedger } from './fault-ledger.js';
import type { Hearsay } from './hearsay.js';
import type { NodeOptions } from './options.js';

export interface HandOverContext {
  readonly options: NodeOptions;
  readonly hearsay: Hearsay;
  readonly clockWatch: ClockWatch;
  readonly ledger: FaultLedger;
  replicas(): readonly Replica[];
  isConnected(node: NodeId): boolean;
  /** It stopped, or failed: nothing is handed over any more. */
  isOver(): boolean;
}

export class HandOver {
  readonly #context: HandOverContext;

  constructor(context: HandOverContext) {
    this.#context = context;
  }

  /** Not where its clock is far ahead, it stops, or its replica is damaged. */
  mayLead(node: NodeId, partition: PartitionId): boolean {
    const { hearsay, clockWatch, ledger, options } = this.#context;
    if (hearsay.isUnwilling(node) || clockWatch.isPeerAhead(node)) return false;
    const faults = node === options.identity.nodeId ? ledger.faults : hearsay.faultsOf(node);
    return !faults.some((fault) => fault.partition === partition);
  }

  /** Begins it, where another member has all that is committed. */
  transfer(replica: Replica): void {
    const heir = replica.voters.find(
      ({ nodeId, replicaId }) =>
        replica.membership.isHeir(replicaId) &&
        this.#couldLead(nodeId, replica) &&
        replica.isCaughtUp(replicaId),
    );
    if (heir !== undefined) replica.transferLeadership(heir.replicaId);
  }

  /** As far as that goes within `drainMs`. */
  async transferAll(): Promise<void> {
    // Not the guarded clock: the wait ends also where something fails meanwhile.
    const { settings, clock } = this.#context.options;
    const endMs = clock.monotonicMs() + settings.drainMs;
    while (clock.monotonicMs() < endMs && !this.#context.isOver()) {
      const led = this.#context.replicas().filter((replica) => replica.isLeader);
      for (const replica of led) this.transfer(replica);
      // Who lags a little may catch up in time; where nobody else lives there is nothing to wait for.
      if (!led.some((replica) => this.#hasOther(replica))) return;
      await new Promise<void>((resolve) => clock.after(settings.tickMs, resolve));
    }
  }

  #hasOther(replica: Replica): boolean {
    return replica.voters.some(({ nodeId }) => this.#couldLead(nodeId, replica));
  }

  #couldLead(nodeId: NodeId, { partition }: Replica): boolean {
    return (
      nodeId !== this.#context.options.identity.nodeId &&
      this.#context.isConnected(nodeId) &&
      this.mayLead(nodeId, partition)
    );
  }
}
