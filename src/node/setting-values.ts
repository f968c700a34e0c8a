/** Text of settings to values and back: `64MiB`, `1.5s`, `127.0.0.1:4650`. */
import { parseAddress } from '../common/address.js';
import type { SettingInfo } from './settings-table.js';

const byteUnits: readonly (readonly [string, number])[] = [
  ['GiB', 1024 ** 3],
  ['MiB', 1024 ** 2],
  ['KiB', 1024],
  ['GB', 1e9],
  ['MB', 1e6],
  ['KB', 1e3],
  ['B', 1],
];
const durationUnits: readonly (readonly [string, number])[] = [
  ['h', 3_600_000],
  ['min', 60_000],
  ['m', 60_000],
  ['s', 1000],
  ['ms', 1],
];

export type SettingValue = string | number | boolean;
export type Parsed = { readonly value: SettingValue } | { readonly problem: string };

/** What a value may be, for messages and docs. */
export function allowed(info: SettingInfo): string {
  switch (info.kind) {
    case 'path':
      return 'a path';
    case 'address':
      return 'host:port, port 0 to 65535 (IPv6 in brackets)';
    case 'switch':
      return 'true or false';
    case 'choice':
      return info.choices.join(', ');
    case 'count':
      return `a whole number from ${info.min} to ${info.max}`;
    case 'bytes':
      return `a size from ${formatBytes(info.min)} to ${formatBytes(info.max)}, such as 512KiB, 64MiB or 1GiB`;
    case 'duration':
      return `a time from ${formatDuration(info.min)} to ${formatDuration(info.max)}, such as 50ms, 2s or 5m`;
  }
}

/** `raw` is text (flag, environment) or a TOML value. */
export function parseSetting(info: SettingInfo, raw: unknown): Parsed {
  const problem = { problem: `allowed: ${allowed(info)}` };
  switch (info.kind) {
    case 'path':
      return typeof raw === 'string' ? { value: raw } : problem;
    case 'address':
      if (typeof raw !== 'string') return problem;
      return parseAddress(raw) === undefined && raw !== 'off' ? problem : { value: raw };
    case 'switch':
      if (typeof raw === 'boolean') return { value: raw };
      if (raw === 'true' || raw === '1') return { value: true };
      if (raw === 'false' || raw === '0') return { value: false };
      return problem;
    case 'choice':
      return typeof raw === 'string' && info.choices.includes(raw) ? { value: raw } : problem;
    case 'count':
    case 'bytes':
    case 'duration': {
      const units = info.kind === 'bytes' ? byteUnits : info.kind === 'duration' ? durationUnits : [];
      const value = parseQuantity(raw, units);
      if (value === undefined || value < info.min || value > info.max) return problem;
      return { value };
    }
  }
}

export function formatSetting(info: SettingInfo, value: SettingValue): string {
  if (typeof value === 'number' && info.kind === 'bytes') return formatBytes(value);
  if (typeof value === 'number' && info.kind === 'duration') return formatDuration(value);
  return String(value);
}

/** The largest binary unit that divides it, else bytes. */
export function formatBytes(bytes: number): string {
  for (const [unit, scale] of byteUnits.slice(0, 3)) {
    if (bytes >= scale && bytes % scale === 0) return `${bytes / scale} ${unit}`;
  }
  return `${bytes} B`;
}

export function formatDuration(ms: number): string {
  for (const [unit, scale] of durationUnits) {
    if (unit !== 'm' && ms >= scale && ms % scale === 0) return `${ms / scale} ${unit}`;
  }
  return `${ms} ms`;
}

/** Numbers are in the base unit. Undefined where it is no whole number of them. */
function parseQuantity(raw: unknown, units: readonly (readonly [string, number])[]): number | undefined {
  if (typeof raw === 'bigint') return undefined;
  if (typeof raw === 'number') return Number.isSafeInteger(raw) ? raw : undefined;
  if (typeof raw !== 'string') return undefined;
  const match = /^(\d+(?:\.\d+)?)\s*([A-Za-z]*)$/.exec(raw.trim());
  if (match === null) return undefined;
  const name = match[2] ?? '';
  const unit = name === '' ? 1 : units.find(([n]) => n.toLowerCase() === name.toLowerCase())?.[1];
  if (unit === undefined) return undefined;
  const value = Number(match[1]) * unit;
  return Number.isSafeInteger(value) ? value : undefined;
}
