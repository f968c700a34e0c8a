/** Nobody calls damaged what nothing has damaged (design, "Log, restart, damage"): it would be thrown away. */
import type { Invariant, SeenNode } from './invariants.js';

export class NoFalseAlarm implements Invariant {
  look(nodes: readonly SeenNode[]): string | undefined {
    for (const { nodeId, isDamaged, faults } of nodes) {
      const [fault] = faults;
      if (isDamaged || fault === undefined) continue;
      return `a false alarm: node ${nodeId} calls partition ${fault.partition} ${fault.kind}: ${fault.why}`;
    }
    return undefined;
  }
}
