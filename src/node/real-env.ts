/** The real clock and randomness. */
import { randomFillSync } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { type EventLoopUtilization, performance } from 'node:perf_hooks';
import type { Clock, Random, Timer } from '../common/env.js';
import type { LoopMeters } from './loop-load.js';

export const realClock: Clock = {
  nowUs() {
    return Math.floor((performance.timeOrigin + performance.now()) * 1000) + wallOffsetUs();
  },
  monotonicMs() {
    return performance.now();
  },
  after(delayMs, fn): Timer {
    const timer = setTimeout(fn, delayMs);
    timer.unref();
    return { cancel: () => clearTimeout(timer) };
  },
  defer(fn) {
    setImmediate(fn);
  },
};

/**
 * performance's origin is taken once, so corrections of the wall clock since
 * would be missed: compared with it once a second.
 */
let offsetUs = 0;
let offsetAtMs = Number.NEGATIVE_INFINITY;
function wallOffsetUs(): number {
  const now = performance.now();
  if (now - offsetAtMs > 1000) {
    offsetAtMs = now;
    const difference = Date.now() * 1000 - Math.floor((performance.timeOrigin + now) * 1000);
    // Below two milliseconds it is Date's own rounding.
    offsetUs = Math.abs(difference) < 2000 ? 0 : difference;
  }
  return offsetUs;
}

const pool = Buffer.allocUnsafeSlow(4096);
let poolAt = pool.length;

export const realRandom: Random = {
  u32() {
    if (poolAt + 4 > pool.length) {
      randomFillSync(pool);
      poolAt = 0;
    }
    const value = pool.readUInt32LE(poolAt);
    poolAt += 4;
    return value;
  },
  fill(bytes) {
    if (bytes.length > pool.length / 4) {
      randomFillSync(bytes);
      return;
    }
    if (poolAt + bytes.length > pool.length) {
      randomFillSync(pool);
      poolAt = 0;
    }
    bytes.set(pool.subarray(poolAt, poolAt + bytes.length));
    // Used bytes never go out twice, not even to a memory dump.
    pool.fill(0, poolAt, poolAt + bytes.length);
    poolAt += bytes.length;
  },
};

/** Of the loop of this thread, which has to be the process' first. */
export function realLoopMeters(): LoopMeters {
  let last: EventLoopUtilization = performance.eventLoopUtilization();
  let lastNs = cpuNs();
  let lastMs = performance.now();
  const busyShare = (): number => {
    const now = performance.eventLoopUtilization();
    const { utilization } = performance.eventLoopUtilization(now, last);
    last = now;
    return utilization;
  };
  return {
    busyShare,
    cpuShare: () => {
      const [nowNs, nowMs] = [cpuNs(), performance.now()];
      const share = (nowNs - lastNs) / 1e6 / Math.max(1, nowMs - lastMs);
      [lastNs, lastMs] = [nowNs, nowMs];
      return share;
    },
  };
}

/** What this thread took, where that can be known; else the whole process, which is more. */
function cpuNs(): number {
  let ns = 0;
  try {
    // Its first number; of the process' first thread, as no other asks.
    ns = Number.parseInt(readFileSync('/proc/self/schedstat', 'latin1'), 10);
  } catch {
    // Another system.
  }
  if (ns > 0) return ns;
  const { user, system } = process.cpuUsage();
  return (user + system) * 1e3;
}
