/** What other folders use of the core. */
export * from './conf-codec.js';
export { type Progress, ProgressState, progressStateNames } from './progress.js';
export { RawNode, type Status, type WorkSink } from './raw-node.js';
export { entriesSize, entrySize, payloadsSize } from './size.js';
export { describeConfig, type MemberConfig } from './tracker.js';
export * from './types.js';
