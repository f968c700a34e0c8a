/** `hansard start`: settings, then the node, its API and its HTTP door; ends with a signal. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { getHeapStatistics } from 'node:v8';
import { HansardError } from '../../common/errors.js';
import { openDirectory } from '../../node/directory.js';
import { createLogger } from '../../node/logging.js';
import {
  describeSettings,
  type ResolvedSettings,
  resolveSettings,
  type SettingSources,
} from '../../node/settings.js';
import type { SettingName } from '../../node/settings-table.js';
import type { ActionContext, CommonOptions } from '../action.js';
import { runServer } from '../server.js';

type StartOptions = CommonOptions &
  Partial<Record<SettingName, string | boolean>> & {
    readonly config?: string;
    readonly printConfig?: boolean;
  };

export async function start({ output, options }: ActionContext<StartOptions>): Promise<undefined> {
  const resolved = await resolve(options, process.env);
  if (options.printConfig) {
    const rows = describeSettings(resolved);
    output.table(
      [{ title: 'SETTING' }, { title: 'VALUE' }, { title: 'ORIGIN' }, { title: 'DEFAULT' }],
      rows.map((row) => [row.setting, row.value, row.origin, row.default]),
    );
    output.json({ settings: rows, warnings: resolved.warnings });
    for (const warning of resolved.warnings) output.warn(warning);
    return;
  }
  const { settings } = resolved;
  const logger = await createLogger(settings, { isTerminal: process.stderr.isTTY === true });
  for (const warning of resolved.warnings) logger.warn({}, warning);
  await runServer(settings, logger);
}

/** The folder may be named by flag, environment or file, and the file may lie in the folder. */
async function resolve(options: StartOptions, env: NodeJS.ProcessEnv): Promise<ResolvedSettings> {
  const { config, printConfig, json: _json, ...flags } = options;
  const named = config ?? env.HANSARD_CONFIG;
  const dirFirst = (flags.dir as string | undefined) ?? env.HANSARD_DIR;
  const file =
    named !== undefined ? readConfig(named) : dirFirst === undefined ? undefined : ownConfig(dirFirst);
  const heapLimitBytes = getHeapStatistics().heap_size_limit;
  const sources: SettingSources = { flags, env, file, heapLimitBytes };
  // Twice: the folder is known only after the first time, and has a say in the second.
  const { settings } = await resolveSettings(sources);
  if (settings.dir === '') {
    if (printConfig) return await resolveSettings(sources);
    throw new HansardError(
      'INVALID_SETTINGS',
      'which folder? Give --dir (make it first with: hansard init --dir …)',
      {
        setting: 'dir',
      },
    );
  }
  if (printConfig && !existsSync(settings.dir)) return await resolveSettings(sources);
  const { identity } = await openDirectory(settings.dir);
  const self = identity.members.find((member) => member.nodeId === identity.nodeId);
  const folder =
    self === undefined ? {} : { clientAddress: self.clientAddress, peerAddress: self.peerAddress };
  return await resolveSettings({ ...sources, folder });
}

function ownConfig(dir: string): { name: string; text: string } | undefined {
  const name = join(dir, 'hansard.toml');
  return existsSync(name) ? readConfig(name) : undefined;
}

function readConfig(name: string): { name: string; text: string } {
  try {
    return { name, text: readFileSync(name, 'utf8') };
  } catch (error) {
    throw new HansardError(
      'INVALID_SETTINGS',
      `the settings file can not be read: ${(error as Error).message}`,
      {
        origin: name,
      },
    );
  }
}
