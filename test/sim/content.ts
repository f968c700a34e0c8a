/** The text of a stored event of the simulator's clients: salt, then content. */
import type { StoredEvent } from '../../src/conversation/types.js';

const saltBytes = 16;

export function contentOf(event: StoredEvent): string {
  const from = event.contentOffset + saltBytes;
  return Buffer.from(event.contentBytes.subarray(from, event.contentOffset + event.contentLength)).toString();
}
