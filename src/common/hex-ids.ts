/**
 * Random ids as text: lower-case hex, two digits per byte. A cluster's id has 16
 * bytes, a store's and a boot's 8.
 */
import type { Random } from './env.js';
import { assert } from './errors.js';

export const clusterIdBytes = 16;
export const storeIdBytes = 8;
export const bootIdBytes = 8;

export function isHexId(text: string, bytes: number): boolean {
  return text.length === bytes * 2 && /^[0-9a-f]*$/.test(text);
}

export function hexIdBytes(text: string, bytes: number): Buffer {
  assert(isHexId(text, bytes), `not an id of ${bytes} bytes in hex: ${JSON.stringify(text)}`);
  return Buffer.from(text, 'hex');
}

/** Never all zeros: that stands for "none" in our formats. */
export function randomHexId(random: Random, bytes: number): string {
  const id = Buffer.alloc(bytes);
  do random.fill(id);
  while (id.every((byte) => byte === 0));
  return id.toString('hex');
}
