import type { ErrorFields, Reason } from '../common/errors.js';
import type { Refused } from './types.js';

/**
 * A refusal. Its text is kept with the producer that got it and is part of the
 * replicated state: to word one differently needs a new apply version.
 */
export function refuse(reason: Reason, message: string, fields: ErrorFields = {}): Refused {
  return { kind: 'refused', reason, message, fields };
}
