/**
 * What the proposer adds to each message: a salt, the commitment
 * SHA-256(salt ‖ content), and the digest that a key remembers.
 */
import { hash, randomFillSync } from 'node:crypto';
import type { Sealing } from '../conversation/append-packer.js';
import { saltBytes } from '../conversation/event-record.js';

/** One call for random bytes serves 1,024 salts. */
const pool = Buffer.alloc(16 * 1024);
let used = pool.length;

export const sealing: Sealing = {
  /** Each byte of the pool is used once. */
  putSalt(target, at) {
    if (used === pool.length) {
      randomFillSync(pool);
      used = 0;
    }
    for (let i = 0; i < saltBytes; i++) target[at + i] = pool[used + i] as number;
    used += saltBytes;
  },
  /** By way of a string: half the time of asking for a buffer (node dist/bench/skim.js). */
  putDigest(target, at, length, from, to) {
    const digest = hash('sha256', target.subarray(from, to), 'binary');
    for (let i = 0; i < length; i++) target[at + i] = digest.charCodeAt(i);
  },
};
