/** What applying an entry will look up, so that the store can have it at hand by then. */
import { MalformedError } from '../common/bytes.js';
import { type Command, decodeCommand, readEntry } from './command.js';
import { requestKey } from './names.js';
import type { Lookups } from './types.js';

/** Total: of malformed bytes it gives what can be read. */
export function lookupsOf(data: Uint8Array): Lookups {
  const lookups: Lookups = {
    channels: [],
    producers: [],
    producerNames: [],
    keys: [],
    messageIds: [],
    requestKeys: [],
  };
  if (data.length === 0) return lookups;
  const bytes = Buffer.isBuffer(data) ? data : Buffer.from(data.buffer, data.byteOffset, data.length);
  try {
    const { bounds } = readEntry(bytes);
    for (let i = 0; i < bounds.length; i += 2) collect(lookups, bytes, bounds[i]!, bounds[i + 1]!);
  } catch (error) {
    if (!(error instanceof MalformedError)) throw error;
  }
  return lookups;
}

function collect(lookups: Lookups, bytes: Buffer, from: number, to: number): void {
  let command: Command;
  try {
    command = decodeCommand(bytes, from, to);
  } catch (error) {
    if (error instanceof MalformedError) return;
    throw error;
  }
  switch (command.kind) {
    case 'append': {
      const { tenant, channel: name, producerId } = command;
      channelOnce(lookups, tenant, name);
      if (producerId !== 0 && lookups.producers.at(-1) !== producerId) lookups.producers.push(producerId);
      if (!command.hasKeys && !command.hasMessageIds) return;
      for (const { key, messageId } of command.records) {
        if (key !== undefined) lookups.keys.push({ tenant, name, key });
        if (messageId !== undefined) lookups.messageIds.push({ tenant, name, messageId });
      }
      return;
    }
    case 'openProducer':
      if (command.name !== '') lookups.producerNames.push({ tenant: command.tenant, name: command.name });
      return;
    case 'expireProducers':
      for (const { id } of command.producers) lookups.producers.push(id);
      return;
    case 'createChannel':
    case 'updateChannel':
    case 'deleteChannel':
      channelOnce(lookups, command.tenant, command.channel);
      if (command.requestId !== '') lookups.requestKeys.push(requestKey(command.tenant, command.requestId));
      return;
    default:
  }
}

/** Neighbours are often of one channel; further repeats are the store's to find. */
function channelOnce(lookups: Lookups, tenant: string, name: string): void {
  const last = lookups.channels.at(-1);
  if (last?.name !== name || last.tenant !== tenant) lookups.channels.push({ tenant, name });
}
