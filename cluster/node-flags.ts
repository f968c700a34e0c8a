/**
 * How a node's process is started by all who start one.
 *
 * V8 interprets a function's first calls and collects types for its compilers from the eighth or so on. A node's paths are
 * long and wide: some ten thousand appends pass before the last of them is compiled, and until then an append costs up to
 * six times as much. With these two, functions are compiled plainly at once and types are collected from the first call:
 * rates after a start or a failover rise in seconds (docs/performance.md); for it a process takes about 25 MB more and
 * 50 ms more to start, which the short commands of `hansard` do not want.
 */
export const nodeFlags: readonly string[] = ['--no-lazy-feedback-allocation', '--always-sparkplug'];
