/** What a replica answers where it takes nothing. */
import { HansardError } from '../common/errors.js';
import type { NodeId, PartitionId } from '../common/ids.js';
import type { StepResult } from '../raft/types.js';

/** For whoever gets it to come again soon, ms. */
const retryDelayMs = 50;

export const stopping = (): HansardError => new HansardError('SHUTTING_DOWN', 'the node is stopping');

export function notLeader(partition: PartitionId, leader: NodeId | undefined): HansardError {
  const fields: Record<string, number> = { partition };
  if (leader !== undefined) fields.leader_node_id = leader;
  return new HansardError('NOT_LEADER', `this node does not lead partition ${partition}`, fields);
}

/** Of `what`, counted, more than are kept. */
export function overloaded(partition: PartitionId, what: string): HansardError {
  return new HansardError(
    'OVERLOADED',
    `partition ${partition} has ${what}`,
    { partition },
    { retryDelayMs },
  );
}

/** The core took no entry. */
export function notTaken(
  partition: PartitionId,
  leader: NodeId | undefined,
  result: StepResult,
): HansardError {
  if (result === 'not-leader' || result === 'no-leader') return notLeader(partition, leader);
  if (result === 'transferring') {
    return new HansardError('NOT_LEADER', `leadership of partition ${partition} is being handed over`, {
      partition,
    });
  }
  return new HansardError(
    'OVERLOADED',
    `partition ${partition} takes no append now (${result})`,
    {},
    { retryDelayMs },
  );
}
