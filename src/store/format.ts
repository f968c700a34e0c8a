/** The format record: whose the database is, and which replicas are held in it. Made once; it changes where they come and go. */
import type { ByteReader, ByteWriter } from '../common/bytes.js';
import type { Kv } from '../common/env.js';
import { HansardError } from '../common/errors.js';
import type { HostedId, PartitionId, ReplicaId } from '../common/ids.js';
import type { ConfState } from '../common/log-types.js';
import type { ReplicatedSettings } from '../conversation/types.js';
import { formatKey, partitionKey } from './keys.js';
import { damaged, openRow, rowWriter, sealRow } from './rows.js';
import { emptyRecord } from './set-aside.js';
import { partitionRowVersion, writePartition } from './state-codec.js';
import type { HostedReplica } from './types.js';

/** 2: with the replicas that came or went since it was formatted. Written only where there are such. */
export const storeFormatVersion = 2;

/** Of a block before compression, about. Fixed when a store is formatted. */
export const defaultBlockBytes = 16 * 1024;

export interface FormatOptions {
  readonly kv: Kv;
  readonly clusterId: string;
  readonly storeId: string;
  readonly partitions: readonly {
    readonly partition: PartitionId;
    readonly confState: ConfState;
    /** Of a replica that came later, or is formatted anew in the place of a lost database. */
    readonly replicaId?: ReplicaId;
  }[];
  /** Replicas that were here, where the database that knew it is lost. */
  readonly gone?: readonly HostedId[];
  readonly settings?: Readonly<ReplicatedSettings>;
  readonly blockBytes?: number;
}

export interface FormatRecord {
  readonly clusterId: string;
  readonly storeId: string;
  readonly blockBytes: number;
  /** What is held here, or was. A partition that is not named was never here. */
  readonly hosted: readonly HostedReplica[];
}

/**
 * Writes the format record and every partition's first record, in one batch.
 * From then on a missing record is damage, never a fresh start.
 */
export async function formatStore(options: FormatOptions): Promise<void> {
  const { kv, clusterId, storeId } = options;
  const iterator = kv.iterator({ gte: new Uint8Array(0), lt: Uint8Array.of(0xff), limit: 1 });
  const rows = await iterator.next(1).finally(() => iterator.close());
  if (rows.length > 0) {
    throw new HansardError('DIRECTORY_NOT_EMPTY', 'the database to format holds rows already');
  }
  const batch = kv.batch();
  const put = (key: Uint8Array, writer: ByteWriter) => batch.put(key, sealRow(key, writer));
  const blockBytes = options.blockBytes ?? defaultBlockBytes;
  const here = options.partitions.map(({ partition, replicaId = 0 }) => ({
    partition,
    replicaId,
    removed: false,
  }));
  const gone = (options.gone ?? []).map((one) => ({ ...one, removed: true }));
  const hosted = [...here, ...gone].sort((a, b) => a.partition - b.partition);
  put(formatKey(), formatRow({ clusterId, storeId, blockBytes, hosted }));
  for (const { partition, confState } of options.partitions) {
    const record = emptyRecord(partition, 1, confState, options.settings);
    const row = rowWriter(256, partitionRowVersion(record));
    writePartition(row, record);
    put(partitionKey(partition), row);
  }
  await batch.write();
}

/** The oldest version that can hold it. */
export function formatRow({ clusterId, storeId, blockBytes, hosted }: FormatRecord): ByteWriter {
  const version = hosted.some(({ replicaId, removed }) => replicaId > 0 || removed) ? 2 : 1;
  const writer = rowWriter().u16(version).string(clusterId).string(storeId);
  writer.u32(blockBytes).uvarint(hosted.length);
  for (const { partition, replicaId, removed } of hosted) {
    writer.u16(partition);
    if (version >= 2) writer.uvarint(replicaId).u8(removed ? 1 : 0);
  }
  return writer;
}

/** Rejects REPLICA_LOST, FORMAT_TOO_NEW, STORE_DAMAGED. */
export async function readFormat(kv: Kv): Promise<FormatRecord> {
  const key = formatKey();
  const row = await kv.get(key);
  if (row === undefined) {
    throw new HansardError(
      'REPLICA_LOST',
      'the database has no format record: it was never formatted, or is lost',
    );
  }
  return openRow(key, row, 'the format record', (reader) => {
    const version = reader.u16();
    if (version > storeFormatVersion) {
      throw new HansardError(
        'FORMAT_TOO_NEW',
        `the database has format ${version}, this program knows ${storeFormatVersion}`,
        { format: version, known: storeFormatVersion },
      );
    }
    return {
      clusterId: reader.string(),
      storeId: reader.string(),
      blockBytes: reader.u32(),
      hosted: readHosted(reader, version),
    };
  });
}

function readHosted(reader: ByteReader, version: number): HostedReplica[] {
  const count = reader.uvarint();
  if (count * (version >= 2 ? 4 : 2) > reader.remaining) {
    throw damaged('the format record', `a list of ${count} partitions`);
  }
  const hosted = Array.from({ length: count }, () => ({
    partition: reader.u16(),
    replicaId: version >= 2 ? reader.uvarint() : 0,
    removed: version >= 2 && reader.u8() === 1,
  }));
  reader.end();
  return hosted;
}
