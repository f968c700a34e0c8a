/** What applying an entry will look up, so that the store can have it at hand by then. */
import { onceKeyOf } from './apply-once.js';
import type { Command } from './command.js';
import type { DecodedEntry, MalformedCommand } from './decoded-entry.js';
import { DeletedItem, requestItemKey, requestKey } from './names.js';
import type { Lookups } from './types.js';

/** Total: of malformed bytes it gives what can be read. */
export function lookupsOf(entry: DecodedEntry): Lookups {
  const lookups: Lookups = {
    channels: [],
    producers: [],
    producerNames: [],
    keys: [],
    messageIds: [],
    requestKeys: [],
    cursors: [],
  };
  for (const command of entry.commands) collect(lookups, command);
  return lookups;
}

function collect(lookups: Lookups, command: Command | MalformedCommand): void {
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
    case 'appendMany': {
      const { tenant, requestId, appends } = command;
      for (const append of appends) collect(lookups, append);
      if (requestId === '') return;
      lookups.requestKeys.push(requestKey(tenant, requestId));
      for (let i = 0; i < appends.length; i++) lookups.requestKeys.push(requestItemKey(tenant, requestId, i));
      return;
    }
    case 'once': {
      lookups.requestKeys.push(onceKeyOf(command));
      return collect(lookups, command.command);
    }
    case 'moveCursor': {
      const { tenant, channel: name, reader } = command;
      channelOnce(lookups, tenant, name);
      lookups.cursors.push({ tenant, name, reader, kind: 'read' });
      return;
    }
    case 'reportDelivery': {
      const { tenant, channel: name, recipient } = command;
      channelOnce(lookups, tenant, name);
      lookups.cursors.push({ tenant, name, reader: recipient, kind: 'delivery' });
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
    case 'sealChannel':
    case 'undeleteChannel':
      channelOnce(lookups, command.tenant, command.channel);
      if (command.requestId === '') return;
      lookups.requestKeys.push(requestKey(command.tenant, command.requestId));
      if (command.kind === 'deleteChannel' && command.permanent) {
        for (const item of Object.values(DeletedItem))
          lookups.requestKeys.push(requestItemKey(command.tenant, command.requestId, item));
      }
      return;
    default:
  }
}

/** Neighbours are often of one channel; further repeats are the store's to find. */
function channelOnce(lookups: Lookups, tenant: string, name: string): void {
  const last = lookups.channels.at(-1);
  if (last?.name !== name || last.tenant !== tenant) lookups.channels.push({ tenant, name });
}
