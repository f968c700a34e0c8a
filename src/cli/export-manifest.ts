/** EXPORT.json: what an export of all tenants consists of. Written last, so that a folder with it is whole. */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { HansardError } from '../common/errors.js';
import { isTenantName } from '../common/names.js';

export const manifestName = 'EXPORT.json';
/** The file's magic. */
export const exportFormat = 'hansard-export';
export const exportVersion = 1;

export interface TenantFile {
  readonly tenant: string;
  readonly file: string;
  readonly channels: number;
  readonly events: number;
  /** Of the file as it lies there. */
  readonly sha256: string;
  /** SubscriptionRecords; missing in exports of earlier builds. */
  readonly subscriptions?: readonly unknown[];
}

export interface ExportManifest {
  readonly clusterId: string;
  readonly incarnation: number;
  readonly tenants: readonly TenantFile[];
}

/** Reads it and verifies every file. Throws INVALID_ARGUMENT, FORMAT_TOO_NEW, CHECKSUM_MISMATCH. */
export async function readManifest(folder: string): Promise<ExportManifest> {
  const path = join(folder, manifestName);
  const text = await readFile(path, 'utf8').catch((error: unknown) => {
    const why = error instanceof Error ? error.message : String(error);
    throw bad(`${folder} is no whole export of all tenants: ${why}`);
  });
  let value: Record<string, unknown>;
  try {
    value = JSON.parse(text) as Record<string, unknown>;
  } catch (error) {
    throw bad(`${path}: ${error instanceof Error ? error.message : String(error)}`);
  }
  if (value.format !== exportFormat) throw bad(`${path} is not of an export of Hansard`);
  if (typeof value.version !== 'number' || value.version > exportVersion) {
    throw new HansardError(
      'FORMAT_TOO_NEW',
      `${path} has version ${value.version}; this program knows ${exportVersion}`,
    );
  }
  const { cluster_id: clusterId, incarnation, tenants } = value;
  if (typeof clusterId !== 'string' || typeof incarnation !== 'number' || !Array.isArray(tenants))
    throw bad(`${path}: cluster_id, incarnation or tenants are missing`);
  const files = tenants as TenantFile[];
  for (const { tenant, file, sha256, subscriptions = [] } of files) {
    // Names of files out of a file: nothing but what an export makes.
    if (!isTenantName(tenant) || file !== `${tenant}.jsonl.gz`)
      throw bad(`${path}: tenant ${tenant}, file ${file}`);
    if (!Array.isArray(subscriptions)) throw bad(`${path}: subscriptions of tenant ${tenant}`);
    const hash = createHash('sha256');
    try {
      for await (const chunk of createReadStream(join(folder, file))) hash.update(chunk as Buffer);
    } catch (error) {
      throw bad(`${folder}: ${error instanceof Error ? error.message : String(error)}`);
    }
    if (hash.digest('hex') !== sha256)
      throw new HansardError('CHECKSUM_MISMATCH', `${join(folder, file)} is not what was exported`, { file });
  }
  return { clusterId, incarnation, tenants: files };
}

function bad(problem: string): HansardError {
  return new HansardError('INVALID_ARGUMENT', problem, { field: 'FILE' });
}
