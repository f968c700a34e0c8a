/**
 * `hansard cluster run`, which is what `npm start` does: the launcher's cluster
 * in the foreground, a sample in a folder that was just made, what to try next,
 * and a clean stop. Its nodes are the launcher's background processes, so every
 * other `hansard cluster` command works beside it, and a start after a crash of
 * this process finds them again.
 */
import { existsSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import {
  clusterDown,
  clusterKill,
  clusterUp,
  endpointsOf,
  lastError,
  launcherDefaults,
  type NodeStatus,
} from '../../../cluster/launcher.js';
import { foregroundFileOf, samplePendingOf } from '../../../cluster/layout.js';
import { readRecord, recordOfSelf, removeFile, stateOf, writeJson } from '../../../cluster/processes.js';
import { HansardError } from '../../common/errors.js';
import type { ActionContext, CommonOptions } from '../action.js';
import { ExitCode, exitCodeOf } from '../exit-codes.js';
import { durationText, type Output } from '../output.js';
import { launcherHooks, nodeJson, showNodes } from './cluster.js';

interface RunOptions extends CommonOptions {
  readonly dir: string;
  readonly nodes?: number;
  readonly basePort?: number;
  readonly partitions?: number;
  readonly timeout?: number;
  readonly sample: boolean;
}

/** How often the nodes' processes are looked at, ms. */
const watchMs = 500;
/** npm passes on a Ctrl-C that the terminal has sent already: signals within this time, ms, are one. */
const sameSignalMs = 1_000;

export async function run({ output, options }: ActionContext<RunOptions>): Promise<ExitCode> {
  const stop = new StopSignal();
  try {
    return await runUntil(stop, output, options);
  } catch (error) {
    const known =
      error instanceof HansardError
        ? error
        : new HansardError('INTERNAL', String(error), {}, { cause: error });
    output.error(error, cureOf(known, options));
    return exitCodeOf(known);
  } finally {
    stop.close();
  }
}

async function runUntil(stop: StopSignal, output: Output, options: RunOptions): Promise<ExitCode> {
  const began = performance.now();
  const dir = resolve(options.dir);
  // Ours once the lock-holding part has said so: only then are the nodes ours to stop.
  let isOurs = false;
  let made = false;
  try {
    const nodes = await clusterUp(
      {
        dir,
        nodes: options.nodes,
        basePort: options.basePort,
        partitions: options.partitions,
        ...(options.timeout === undefined ? {} : { timeoutMs: options.timeout * 1000 }),
        signal: stop.signal,
        onMade: () => {
          made = true;
          if (options.sample) writeFileSync(samplePendingOf(dir), '');
        },
        beforeStart: () => {
          requireAlone(dir);
          mkdirSync(dirname(foregroundFileOf(dir)), { recursive: true });
          writeJson(foregroundFileOf(dir), recordOfSelf());
          isOurs = true;
        },
      },
      launcherHooks((text) => output.note(text)),
    );
    showNodes(output, nodes);
    output.line(`\ndata in ${dir}, logs in ${join(dir, 'logs')}`);
    const sample = existsSync(samplePendingOf(dir)) ? await loadSample(dir, nodes, output, stop) : undefined;
    const seconds = (performance.now() - began) / 1000;
    output.json({ endpoint: endpointsOf(nodes), dir, made, sample, nodes: nodes.map(nodeJson) });
    output.line(`ready in ${durationText(seconds)}. Ctrl-C stops it; the data stays.`);
    if (!stop.signal.aborted) output.line(`\n${nextSteps(nodes, dir)}`);
    await watch(nodes, dir, stop, output);
  } catch (error) {
    if (!isOurs && stop.signal.aborted) {
      output.note('interrupted before any node ran; the next start goes on');
      return ExitCode.interrupted;
    }
    if (!isOurs) throw error;
    if (stop.signal.aborted) await stopNodes(dir, output, stop);
    else await clusterDown(dir).finally(() => removeFile(foregroundFileOf(dir)));
    if (!stop.signal.aborted) throw error;
    return ExitCode.interrupted;
  }
  await stopNodes(dir, output, stop);
  return ExitCode.ok;
}

function requireAlone(dir: string): void {
  const other = readRecord(foregroundFileOf(dir));
  if (stateOf(other) === 'running')
    throw new HansardError('DIRECTORY_IN_USE', `the cluster in ${dir} runs already (pid ${other?.pid})`, {
      dir,
    });
}

/** One import per file; each knows what is there already, so a loading that was cut off goes on. */
async function loadSample(
  dir: string,
  nodes: readonly NodeStatus[],
  output: Output,
  stop: StopSignal,
): Promise<{ conversations: number; messages: number }> {
  const { importSummary } = await import('./import.js');
  const folder = sampleFolder();
  let conversations = 0;
  let messages = 0;
  for (const file of readdirSync(folder)
    .filter((name) => name.endsWith('.jsonl'))
    .sort()) {
    if (stop.signal.aborted) throw new HansardError('SHUTTING_DOWN', 'the start was interrupted');
    const summary = await importSummary(join(folder, file), endpointsOf(nodes));
    conversations += summary.channels;
    messages += summary.messages;
  }
  removeFile(samplePendingOf(dir));
  output.line(`sample: ${messages} messages in ${conversations} conversations`);
  return { conversations, messages };
}

/** cluster/sample of this package, found upwards from this file. */
function sampleFolder(): string {
  let folder = dirname(fileURLToPath(import.meta.url));
  for (let up = 0; up < 6; up++, folder = dirname(folder)) {
    const candidate = join(folder, 'cluster', 'sample');
    if (existsSync(candidate)) return candidate;
  }
  throw new HansardError('INTERNAL', 'the folder cluster/sample is missing from this installation');
}

/** Tells of nodes that end; returns when asked to stop, or when none is left. */
async function watch(
  nodes: readonly NodeStatus[],
  dir: string,
  stop: StopSignal,
  output: Output,
): Promise<void> {
  const running = new Map(nodes.map((node) => [node.nodeId, true]));
  const up = `${command()} cluster up --dir ${shown(dir)}`;
  while (!stop.signal.aborted) {
    for (const node of nodes) {
      const record = readRecord(node.recordFile);
      const runs = stateOf(record) === 'running';
      if (runs === running.get(node.nodeId)) continue;
      running.set(node.nodeId, runs);
      const isStopped = record === undefined;
      if (runs) output.note(`node ${node.nodeId} runs again`);
      else if (isStopped) output.note(`node ${node.nodeId} was stopped`);
      else output.note(`node ${node.nodeId} ended (${lastError(node)}); start it again: ${up}`);
    }
    if (![...running.values()].includes(true)) return output.note('no node is left');
    await stop.sleep(watchMs);
  }
}

async function stopNodes(dir: string, output: Output, stop: StopSignal): Promise<void> {
  output.note('\nstopping (once more ends the nodes at once)');
  stop.onSecond(() => clusterKill(dir));
  const results = await clusterDown(dir, launcherDefaults.stopGraceMs);
  removeFile(foregroundFileOf(dir));
  const killed = results.filter((r) => r.result === 'killed').map((r) => r.nodeId);
  output.note(
    killed.length === 0
      ? 'stopped; `npm start` goes on with the same data'
      : `stopped, node ${killed.join(', ')} by force; nothing acknowledged is lost`,
  );
}

/** Commands that work as they stand, in another terminal in this folder. */
export function nextSteps(nodes: readonly NodeStatus[], dir: string): string {
  const first = nodes[0];
  const last = nodes.at(-1);
  const hansard = command();
  const lines: string[] = ['Try in another terminal, in this folder:'];
  if (first?.clientAddress !== '127.0.0.1:4650')
    lines.push(`  export HANSARD_ENDPOINT=${endpointsOf(nodes)}`);
  lines.push(
    `  ${hansard} channels`,
    `  ${hansard} read support/1042-late-parcel`,
    `  ${hansard} append greetings 'Hello, Hansard' --role user --author ada`,
    `  ${hansard} read greetings`,
    `  ${hansard} status`,
  );
  if (nodes.length > 2 && last?.pid !== undefined)
    lines.push(
      '',
      'Kill a node: nothing is lost, and the others go on:',
      `  kill -9 ${last.pid}`,
      `  ${hansard} read greetings --endpoint ${endpointsOf(nodes)}`,
      `  ${hansard} cluster up --dir ${shown(dir)}`,
    );
  lines.push('', 'From a program: README.md, "From a program". All commands: docs/cli.md.');
  return lines.join('\n');
}

/** In a checkout there is no `hansard` on the path. */
function command(): string {
  return process.env.npm_lifecycle_event === undefined ? 'hansard' : 'npx hansard';
}

function shown(dir: string): string {
  const path = relative(process.cwd(), dir);
  return path.startsWith('..') || path === '' ? quoted(dir) : quoted(path);
}

function quoted(text: string): string {
  return /^[\w./+-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}

function cureOf(error: HansardError, options: RunOptions): string | undefined {
  const isNpm = process.env.npm_lifecycle_event !== undefined;
  const again = (dir: string, more: string) =>
    isNpm
      ? `${dir === '' ? '' : `HANSARD_DIR=${dir} `}npm start${more === '' ? '' : ` -- ${more}`}`
      : `hansard cluster run${dir === '' ? '' : ` --dir ${dir}`}${more === '' ? '' : ` ${more}`}`;
  const port = (options.basePort ?? launcherDefaults.basePort) + 100;
  const isMade = existsSync(join(resolve(options.dir), 'cluster.json'));
  // Of a node that ended: the catalogue knows best what to do.
  if (error.fields.log !== undefined && error.reason !== 'INTERNAL') return undefined;
  switch (error.reason) {
    case 'ADDRESS_IN_USE':
      return isMade
        ? `Stop that process (\`lsof -i :${error.fields.port ?? port}\` names it); or a new cluster beside this one: ${again('./data-2', `--base-port ${port}`)}`
        : `Take other ports: ${again('', `--base-port ${port}`)}`;
    case 'DIRECTORY_IN_USE':
      return `Use it (\`${command()} status\`), or stop it with Ctrl-C where it runs.`;
    case 'DIRECTORY_NOT_EMPTY':
      return `Take a new folder: ${again('./data-2', '')}`;
    case 'INVALID_SETTINGS':
      return error.fields.setting === undefined && error.fields.dir !== undefined
        ? `Take a folder that you may write to: ${again('~/hansard-data', '')}`
        : undefined;
    case 'DEADLINE_EXCEEDED':
      return `Start again; a machine that is busy needs longer: ${again('', '--timeout 300')}`;
    case 'INTERNAL':
      return error.fields.log === undefined
        ? undefined
        : `Read ${error.fields.log}, mend the cause, start again.`;
    default:
      return undefined;
  }
}

/** The first Ctrl-C, SIGTERM or hang-up asks; a later one may insist. */
class StopSignal {
  readonly #controller = new AbortController();
  #firstMs = 0;
  #second: (() => void) | undefined;
  readonly #onSignal = (): void => {
    if (!this.signal.aborted) {
      this.#firstMs = performance.now();
      this.#controller.abort();
    } else if (performance.now() - this.#firstMs > sameSignalMs) this.#second?.();
  };
  static readonly #names = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

  constructor() {
    for (const name of StopSignal.#names) process.on(name, this.#onSignal);
  }
  get signal(): AbortSignal {
    return this.#controller.signal;
  }
  onSecond(insist: () => void): void {
    this.#second = insist;
  }
  /** Ends early when asked to stop. */
  sleep(ms: number): Promise<void> {
    return new Promise((done) => {
      const end = (): void => {
        clearTimeout(timer);
        this.signal.removeEventListener('abort', end);
        done();
      };
      const timer = setTimeout(end, ms);
      this.signal.addEventListener('abort', end);
      if (this.signal.aborted) end();
    });
  }
  close(): void {
    for (const name of StopSignal.#names) process.off(name, this.#onSignal);
  }
}
