/**
 * Reads a node's settings from flags, environment, file and folder, in this
 * order of precedence, and says of each where it came from. A value that is
 * unknown, malformed or out of range is INVALID_SETTINGS with its origin and
 * what is allowed.
 */
import { isLoopback, parseAddress } from '../common/address.js';
import { HansardError } from '../common/errors.js';
import { formatSetting, parseSetting, type SettingValue } from './setting-values.js';
import { type SettingName, type Settings, settingNames, settingsTable } from './settings-table.js';

export type { SettingName, Settings } from './settings-table.js';

/** Where a value came from, for people: `flag --tick`, `environment HANSARD_TICK`, `file /etc/h.toml`, `folder`, `default`. */
export type Origins = Readonly<Record<SettingName, string>>;

export interface SettingSources {
  /** By setting name, as given on the command line. */
  readonly flags?: Readonly<Partial<Record<SettingName, string | boolean>>>;
  readonly env?: Readonly<Record<string, string | undefined>>;
  /** A TOML file's name (for messages) and text. */
  readonly file?: { readonly name: string; readonly text: string } | undefined;
  /** What the node's folder was made with (its addresses). */
  readonly folder?: Readonly<Partial<Record<SettingName, string>>>;
  /** What V8's heap may have; defaults of memory that it holds go by it. Unknown: there is enough. */
  readonly heapLimitBytes?: number;
}

export interface ResolvedSettings {
  readonly settings: Settings;
  readonly origins: Origins;
  /** Things that are probably mistakes but must not stop a start. */
  readonly warnings: readonly string[];
}

/** Of a heap that has room for nothing; bytes. */
const tailLimitLeast = 64 * 1024 * 1024;

/** Variables of the command and of tests that are no settings of a node. */
const otherVariables = new Set([
  'HANSARD_ENDPOINT',
  'HANSARD_TENANT',
  'HANSARD_TIMEOUT',
  'HANSARD_CONFIG',
  'HANSARD_SHARED',
  'HANSARD_LONG',
]);

export const flagOf = (name: SettingName): string => `--${words(name).join('-')}`;
export const keyOf = (name: SettingName): string => words(name).join('_');
export const variableOf = (name: SettingName): string => `HANSARD_${words(name).join('_').toUpperCase()}`;

export async function resolveSettings(sources: SettingSources): Promise<ResolvedSettings> {
  const values: Partial<Record<SettingName, SettingValue>> = {};
  const origins: Partial<Record<SettingName, string>> = {};
  const file = sources.file === undefined ? {} : await parseFile(sources.file);
  const take = (name: SettingName, raw: unknown, origin: string): boolean => {
    if (raw === undefined || raw === '') return false;
    const parsed = parseSetting(settingsTable[name], raw);
    if ('problem' in parsed)
      throw invalid(name, `${show(raw)} from ${origin} is not allowed`, parsed.problem);
    values[name] = parsed.value;
    origins[name] = origin;
    return true;
  };
  for (const name of settingNames) {
    const found =
      take(name, sources.flags?.[name], `flag ${flagOf(name)}`) ||
      take(name, sources.env?.[variableOf(name)], `environment ${variableOf(name)}`) ||
      take(name, file[keyOf(name)], `file ${sources.file?.name}`) ||
      take(name, sources.folder?.[name], 'folder');
    if (found) continue;
    values[name] = settingsTable[name].default;
    origins[name] = 'default';
  }
  const settings = values as { -readonly [K in SettingName]: Settings[K] };
  fitDefaults(settings, origins as Origins, sources.heapLimitBytes ?? Number.POSITIVE_INFINITY);
  checkTogether(settings, origins as Origins);
  return { settings, origins: origins as Origins, warnings: unknownVariables(sources.env ?? {}) };
}

/** Defaults that a small machine, or another setting, has no room for are less: nobody has to know of them. */
function fitDefaults(
  s: { -readonly [K in SettingName]: Settings[K] },
  origins: Origins,
  heapLimitBytes: number,
): void {
  if (origins.tailLimit === 'default')
    s.tailLimit = Math.min(s.tailLimit, Math.max(tailLimitLeast, Math.floor(heapLimitBytes / 8)));
  if (origins.checkpointBytes === 'default')
    s.checkpointBytes = Math.min(s.checkpointBytes, Math.floor(s.tailLimit / 2));
}

/** The rows of `start --print-config`. */
export function describeSettings(
  resolved: ResolvedSettings,
): { setting: string; value: string; origin: string; default: string }[] {
  return settingNames.map((name) => ({
    setting: keyOf(name),
    value: formatSetting(settingsTable[name], resolved.settings[name]),
    origin: resolved.origins[name],
    default: formatSetting(settingsTable[name], settingsTable[name].default),
  }));
}

async function parseFile(file: { name: string; text: string }): Promise<Record<string, unknown>> {
  const { parse } = await import('smol-toml');
  let parsed: Record<string, unknown>;
  try {
    parsed = parse(file.text);
  } catch (error) {
    const problem = error instanceof Error ? (error.message.split('\n')[0] ?? '') : String(error);
    throw new HansardError('INVALID_SETTINGS', `${file.name} is not TOML: ${problem}`, { origin: file.name });
  }
  const known = new Set(settingNames.map(keyOf));
  for (const key of Object.keys(parsed)) {
    if (known.has(key)) continue;
    const near = nearest(key, [...known]);
    throw new HansardError(
      'INVALID_SETTINGS',
      `${file.name} has the unknown setting ${key}${near === undefined ? '' : `; did you mean ${near}?`}`,
      { origin: file.name, setting: key },
    );
  }
  return parsed;
}

/** Rules over several settings. */
function checkTogether(s: Settings, origins: Origins): void {
  const from = (name: SettingName) =>
    `${show(formatSetting(settingsTable[name], s[name]))} from ${origins[name]}`;
  if (s.electionTimeout < 5 * s.tick)
    throw invalid(
      'electionTimeout',
      from('electionTimeout'),
      `it must be at least five ticks (${5 * s.tick} ms)`,
    );
  if (4 * s.heartbeat > s.electionTimeout)
    throw invalid('heartbeat', from('heartbeat'), 'it must be at most a quarter of election_timeout');
  if (s.checkpointBytes >= s.tailLimit)
    throw invalid('checkpointBytes', from('checkpointBytes'), 'it must be below tail_limit');
  if (s.logMax < 4 * s.logSegment)
    throw invalid('logMax', from('logMax'), 'it must be at least four segments');
  if (s.uncommittedPartition > s.uncommittedNode)
    throw invalid(
      'uncommittedPartition',
      from('uncommittedPartition'),
      'it must not be above uncommitted_node',
    );
  for (const name of ['clientAddress', 'peerAddress', 'httpAddress'] as const) {
    if (s[name] === 'off') {
      if (name === 'httpAddress') continue;
      throw invalid(name, from(name), 'only http_address may be off');
    }
    if (s.insecure || isLoopback(parseAddress(s[name])?.host ?? '')) continue;
    throw invalid(
      name,
      from(name),
      'any address other than loopback needs --insecure: nothing is encrypted, and nobody is asked who they are',
    );
  }
}

/**
 * Only warned about: a Kubernetes service called `hansard` puts HANSARD_PORT,
 * HANSARD_SERVICE_HOST … into every container, and that must not stop a node.
 */
function unknownVariables(env: Readonly<Record<string, string | undefined>>): string[] {
  const known = new Set(settingNames.map(variableOf));
  return Object.keys(env)
    .filter((name) => name.startsWith('HANSARD_') && !known.has(name) && !otherVariables.has(name))
    .map((name) => {
      const near = nearest(name, [...known]);
      return `${name} is no setting${near === undefined ? '' : `; did you mean ${near}?`}`;
    });
}

function invalid(name: SettingName, what: string, problem: string): HansardError {
  return new HansardError('INVALID_SETTINGS', `${keyOf(name)}: ${what}; ${problem}`, {
    setting: keyOf(name),
  });
}

function show(raw: unknown): string {
  return typeof raw === 'string' ? `"${raw}"` : String(raw);
}

/** clientAddress → client, address */
function words(name: string): string[] {
  return name.split(/(?=[A-Z])/).map((word) => word.toLowerCase());
}

/** The known name that shares most with `wanted`, if it shares enough to be a likely slip. */
function nearest(wanted: string, known: readonly string[]): string | undefined {
  let best: string | undefined;
  let bestDistance = 3;
  for (const name of known) {
    const distance = editDistance(wanted, name, bestDistance);
    if (distance >= bestDistance) continue;
    best = name;
    bestDistance = distance;
  }
  return best;
}

function editDistance(a: string, b: string, atMost: number): number {
  if (Math.abs(a.length - b.length) > atMost) return atMost + 1;
  let row = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const same = a[i - 1] === b[j - 1] ? 0 : 1;
      next.push(Math.min((row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1, (row[j - 1] ?? 0) + same));
    }
    row = next;
  }
  return row[b.length] ?? 0;
}
