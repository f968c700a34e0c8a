import type { Json, MessageContent } from './types.js';

/** The message's metadata as a value; its text stays as it is in `metadataJson`. Undefined where there is none. */
export function parseMetadata(message: Pick<MessageContent, 'metadataJson'> | undefined): Json | undefined {
  return message?.metadataJson === undefined ? undefined : (JSON.parse(message.metadataJson) as Json);
}
