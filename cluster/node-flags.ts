import { availableParallelism } from 'node:os';

/** How many threads help V8 where Node is told nothing. */
const defaultHelpers = 4;

/**
 * How a node's process is started by all who start one.
 *
 * V8 interprets a function's first calls and collects types for its compilers from the eighth or so on. A node's paths are
 * long and wide: some ten thousand appends pass before the last of them is compiled, and until then an append costs up to
 * six times as much. With the first two, functions are compiled plainly at once and types are collected from the first call:
 * rates after a start or a failover rise in seconds (docs/performance.md); for it a process takes about 25 MB more and
 * 50 ms more to start, which the short commands of `hansard` do not want.
 *
 * V8 also collects the whole heap whenever 64 MiB of buffers have been made since the last time, however much is in use.
 * With the third one they count as the heap's own objects do, so that a node which holds 500 MB is not collected
 * for a tenth of that (docs/performance.md, "What buffers cost"; memory: docs/operations.md).
 *
 * Four threads help V8 to collect and to compile, by default, and on few cores they take them from the node's own thread
 * just when that waits for nothing: each collection of a whole heap kept it, or another node's, waiting for up to
 * 100 ms. They get the cores that it leaves (docs/performance.md, "Who helps to collect").
 */
export const nodeFlags: readonly string[] = [
  '--no-lazy-feedback-allocation',
  '--always-sparkplug',
  ...(countsBuffers() ? ['--external-memory-accounted-in-global-limit'] : []),
  ...(helpers() < defaultHelpers ? [`--v8-pool-size=${helpers()}`] : []),
];

function helpers(): number {
  return Math.max(1, availableParallelism() - 1);
}

/** A process that is given a flag which its V8 does not know ends at once: only versions that were looked at have it. */
function countsBuffers(): boolean {
  const major = Number(process.versions.node.split('.')[0]);
  return major >= 24 && major <= 26;
}
