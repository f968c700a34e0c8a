/**
 * Request ids: a request that was carried out is recognised when it comes again. They live
 * where keys do, under the channel id that no channel has, and are forgotten as keys are.
 */
import { ByteWriter } from '../common/bytes.js';
import { xxh64, xxh64Seeded } from '../common/hash.js';
import type { TimeUs } from '../common/ids.js';
import { liveKey } from './apply-keys.js';
import { requestKey } from './names.js';
import { refuse } from './refuse.js';
import type { ApplyState, KeyRecord, Refused } from './types.js';

export const requestChannelId = 0;

export interface Request {
  readonly tenant: string;
  /** Empty: there is none. */
  readonly requestId: string;
}

/** Undefined: the request id is new, or there is none. `refused`: it came with another request before. */
export function firstRequest(
  state: ApplyState,
  { tenant, requestId }: Request,
  digest: Uint8Array,
): { record: KeyRecord; refused?: Refused } | undefined {
  return requestId === '' ? undefined : requestUnder(state, requestKey(tenant, requestId), digest);
}

/** The same, of a key of another form. */
export function requestUnder(
  state: ApplyState,
  key: string,
  digest: Uint8Array,
): { record: KeyRecord; refused?: Refused } | undefined {
  const record = liveKey(state, requestChannelId, key);
  if (record === undefined) return undefined;
  if (Buffer.compare(record.contentDigest, digest) === 0) return { record };
  const refused = refuse('DUPLICATE_KEY_DIFFERENT_CONTENT', 'the request_id was used with another request', {
    field: 'request_id',
  });
  return { record, refused };
}

/** `seq`: what a repeat is to be answered by, mostly the channel's id. */
export function keepRequest(
  state: ApplyState,
  { tenant, requestId }: Request,
  contentDigest: Uint8Array,
  seq: number,
  commitTimeUs: TimeUs,
): void {
  if (requestId === '') return;
  state.putKey(requestChannelId, requestKey(tenant, requestId), { seq, contentDigest, commitTimeUs });
}

/** 16 bytes by which a repeat of the request is told from another one; no defence against design. */
export function bodyDigest(body: Uint8Array): Uint8Array {
  return new ByteWriter(16).u64big(xxh64(body)).u64big(xxh64Seeded(body, 1n)).finish();
}
