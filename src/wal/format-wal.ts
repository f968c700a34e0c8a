/** Makes a log where none is. Never done by itself: absence is a loss until an operator says otherwise. */
import type { Random } from '../common/env.js';
import { HansardError } from '../common/errors.js';
import { BatchFlag, encodeBatch } from './batch.js';
import type { LogDevice } from './device.js';
import type { LogIdentity } from './replay.js';
import { alignBytes, encodeHeader, segmentSeed } from './segment-header.js';
import { walDefaults } from './wal.js';

export interface FormatOptions extends LogIdentity {
  readonly random: Random;
  readonly segmentBytes?: number | undefined;
}

/** Creates the first segment, empty and closed. Throws DIRECTORY_NOT_EMPTY. The device stays open. */
export async function formatWal(device: LogDevice, options: FormatOptions): Promise<void> {
  const files = await device.list();
  if (files.length > 0) {
    throw new HansardError('DIRECTORY_NOT_EMPTY', `there is a log of ${files.length} segments already`);
  }
  const segmentBytes = options.segmentBytes ?? walDefaults.segmentBytes;
  const random = Buffer.alloc(8);
  options.random.fill(random);
  const salt = random.readBigUInt64LE(0);
  const { clusterId, storeId } = options;
  const header = encodeHeader({
    segment: 1,
    segmentBytes,
    clusterId,
    storeId,
    salt,
    firstBatch: 1,
    previous: 0n,
    table: [],
  });
  const place = { segment: 1, seed: segmentSeed(salt, 1), number: 1, previous: 0n };
  const batch = Buffer.alloc(alignBytes);
  encodeBatch(batch, place, BatchFlag.closing, []);
  await device.create(1, segmentBytes);
  await device.write(1, 0, header);
  await device.write(1, header.length, batch);
}
