/** What can be set on a client, its defaults, and the connection string. */
import { HansardError } from '../common/errors.js';
import { limits } from '../common/limits.js';
import { checkOptions, invalid } from './check-input.js';
import type { Transport } from './link.js';
import { requireTenant } from './requests.js';
import type { ReadLevel, ReadPreference } from './types.js';

export interface ClientOptions {
  /** `exchange` (one stream per node, calls framed together) or `unary` (a call each). */
  readonly transport?: Transport;
  /** How long a call may take, retries included, ms. */
  readonly timeoutMs?: number;
  /** Appends in flight per partition; the server's own window also counts. */
  readonly window?: number;
  /** Bytes in flight per partition, at most; fewer at first and behind failures. */
  readonly inFlightBytesPerPartition?: number;
  /** Bytes in flight of the whole client; appends beyond wait. */
  readonly inFlightBytes?: number;
  /** Bytes of appends that wait; beyond, append() fails with OVERLOADED. */
  readonly queuedBytes?: number;
  /** The level of reads that name none. */
  readonly readLevel?: ReadLevel;
  /** The preference of reads that name none; default: the leader for `linearizable`, else `nearest`. */
  readonly readPreference?: ReadPreference | undefined;
  /** How often the map of partitions and leaders is read again, ms. */
  readonly mapRefreshMs?: number;
}

export const clientDefaults: Required<ClientOptions> = Object.freeze({
  transport: 'exchange',
  timeoutMs: limits.defaultDeadlineMs,
  window: 1_024,
  // A quarter of what a partition admits uncommitted (docs/internals.md, "Limits in flight").
  inFlightBytesPerPartition: 4 * 1024 * 1024,
  // Half of what a node admits.
  inFlightBytes: 32 * 1024 * 1024,
  queuedBytes: 256 * 1024 * 1024,
  readLevel: 'session',
  readPreference: undefined,
  mapRefreshMs: 10_000,
});

export interface Target {
  /** host:port each. */
  readonly endpoints: readonly string[];
  /** Empty: `default`. */
  readonly tenant: string;
}

/** `hansard://host:port,host:port/tenant`; the scheme and the tenant may be left out. */
export function parseTarget(url: string): Target {
  if (typeof url !== 'string')
    throw invalid('url', "must be a string such as 'hansard://127.0.0.1:4701,127.0.0.1:4702/tenant'");
  const rest = url.replace(/^hansard:\/\//, '');
  const slash = rest.indexOf('/');
  const hosts = slash < 0 ? rest : rest.slice(0, slash);
  const tenant = slash < 0 ? '' : rest.slice(slash + 1).replace(/\/$/, '');
  const endpoints = hosts.split(',').map((host) => host.trim());
  for (const endpoint of endpoints) {
    const port = Number(/^(?:\[[0-9a-fA-F:.]+\]|[^\s:/@?#]+):(\d{1,5})$/.exec(endpoint)?.[1]);
    if (!(port >= 1 && port <= 65_535))
      throw new HansardError(
        'INVALID_ARGUMENT',
        `not host:port: ${JSON.stringify(endpoint)} in ${JSON.stringify(url)}`,
        {
          field: 'url',
          problem: 'expected hansard://host:port,host:port/tenant',
        },
      );
  }
  requireTenant(tenant);
  return { endpoints, tenant };
}

export function checkedOptions(options: ClientOptions): Required<ClientOptions> {
  const merged = { ...clientDefaults };
  if (typeof options !== 'object' || options === null) throw invalid('options', 'must be an object');
  for (const [key, value] of Object.entries(options)) {
    if (value === undefined) continue;
    if (!Object.hasOwn(clientDefaults, key))
      throw badOption(key, `no such option; there are ${Object.keys(clientDefaults).join(', ')}`);
    if (key === 'transport') {
      if (value !== 'exchange' && value !== 'unary') throw badOption(key, 'exchange or unary');
    } else if (key === 'readLevel' || key === 'readPreference') {
      checkOptions('read', { [key === 'readLevel' ? 'level' : 'preference']: value });
    } else if (!(typeof value === 'number' && value >= 1)) throw badOption(key, 'a number of at least 1');
    Object.assign(merged, { [key]: value });
  }
  return merged;
}

function badOption(field: string, problem: string): HansardError {
  return new HansardError('INVALID_ARGUMENT', `option ${field}: ${problem}`, { field, problem });
}
