/** Nobody calls damaged what nothing has damaged (design, "Log, restart, damage"): it would be thrown away. */
import type { Invariant, SeenNode } from './invariants.js';

export class NoFalseAlarm implements Invariant {
  look(nodes: readonly SeenNode[]): string | undefined {
    for (const { nodeId, isDamaged, faults, hasSetAside } of nodes) {
      if (isDamaged) continue;
      const [fault] = faults;
      if (fault !== undefined)
        return `a false alarm: node ${nodeId} calls partition ${fault.partition} ${fault.kind}: ${fault.why}`;
      // All that it held may be salvaged: no partition is the worse for it, and still the start read damage into it.
      if (hasSetAside) return `a false alarm: node ${nodeId} has set its log or database aside`;
    }
    return undefined;
  }
}
