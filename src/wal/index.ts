export { classifyDamage, type Damage, type DamageKind } from './damage.js';
export type { LogDevice, SegmentFile } from './device.js';
export { openDiskDevice } from './disk-device.js';
export { type FormatOptions, formatWal } from './format-wal.js';
export { type Rebuilt, rebuildLog } from './rebuild.js';
export { type Salvaged, salvageLog } from './salvage.js';
export type * from './types.js';
export { openWal, type WalOptions, walDefaults } from './wal.js';
export { DiskWatch, startWatchdog, type Watchdog, watchdogDefaults } from './watchdog.js';
