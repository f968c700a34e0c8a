/** Which rows belong to one channel: its two rows by name lead to its id, the id to its blocks. */
import { asBuffer, nameBytes, nameOfKey, RowKind, readU64BE } from '../store/keys.js';
import { type FoundFile, inspectFile } from './files.js';

const prefixBytes = 7;

export function rowsWithKey(wanted: Uint8Array): (key: Buffer) => boolean {
  return (key) => key.equals(wanted);
}

/** Reads the files once, for the ids that the name had. */
export async function rowsOfChannel(
  files: readonly FoundFile[],
  tenant: string,
  channel: string,
): Promise<(key: Buffer) => boolean> {
  const name = nameBytes(tenant, channel);
  const isNamed = (key: Buffer): boolean =>
    (key[0] === RowKind.channel || key[0] === RowKind.channelName) &&
    key.length > prefixBytes &&
    asBuffer(nameOfKey(key)).equals(name);
  /** Partition, generation and id, as they stand in keys. */
  const ids = new Set<string>();
  for (const file of files) {
    for (const { fields } of (await inspectFile(file, { full: false, wanted: isNamed })) ?? []) {
      if (fields.kind !== 'channel' && fields.kind !== 'channel_name') continue;
      const { id, channel_id } = (fields.value ?? {}) as { id?: number; channel_id?: number };
      const found = id ?? channel_id;
      if (found !== undefined) ids.add(`${fields.partition}/${fields.generation}/${found}`);
    }
  }
  const isOfId = (key: Buffer): boolean =>
    (key[0] === RowKind.block || key[0] === RowKind.ended) &&
    key.length >= prefixBytes + 8 &&
    ids.has(`${key.readUInt16BE(1)}/${key.readUInt32BE(3)}/${readU64BE(key, prefixBytes)}`);
  return (key) => isNamed(key) || isOfId(key);
}
