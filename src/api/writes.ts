/** What all writes share. */
import { HansardError, InvariantError } from '../common/errors.js';
import type { CommandAnswer } from '../conversation/types.js';

/** The error for an answer of another kind than the one asked for: a refusal, or a defect. */
export function proposalError(answer: CommandAnswer): Error {
  if (answer.kind === 'refused') return new HansardError(answer.reason, answer.message, answer.fields);
  return new InvariantError(`a command was answered with ${answer.kind}`);
}
