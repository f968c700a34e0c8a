/**
 * A cluster of background processes on this machine: up (make, resume), down,
 * status. Everything it knows is in files under its folder, so that any later
 * invocation can find, check and stop what an earlier one started.
 */
import { randomBytes } from 'node:crypto';
import {
  closeSync,
  existsSync,
  fstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { resolve } from 'node:path';
import { HansardError, type Reason, reasons } from '../src/common/errors.js';
import { defaultPartitions } from '../src/common/limits.js';
import {
  type ClusterState,
  clusterFileOf,
  clusterToml,
  type LaunchedNode,
  lockFileOf,
  nodesOf,
  stateFileOf,
} from './layout.js';
import { nodeFlags } from './node-flags.js';
import {
  type ProcessState,
  readJson,
  readRecord,
  removeFile,
  signal,
  spawnDetached,
  stateOf,
  stopProcess,
  writeJson,
} from './processes.js';

export interface LauncherHooks {
  /** What formats one node's folder: `hansard init`. */
  initNode(options: { dir: string; clusterFile: string; nodeId: number }): Promise<void>;
  /** The compiled cli/main.js that the nodes run. */
  readonly mainScript: string;
  /** Told as things happen, for people. */
  note(text: string): void;
}

export interface UpOptions {
  readonly dir: string;
  /** Undefined: as it was made, or 3. */
  readonly nodes?: number | undefined;
  /** Undefined: as it was made, or 4650. */
  readonly basePort?: number | undefined;
  readonly partitions?: number | undefined;
  /** Further arguments of every node's `start`. */
  readonly startArgs?: readonly string[];
  readonly timeoutMs?: number;
  /** Ends a start that is under way with SHUTTING_DOWN; what runs by then stays up. */
  readonly signal?: AbortSignal;
  /** The folder was just made, and is not `ready` yet: what must follow a first start is written down here. */
  readonly onMade?: () => void;
  /** Under the folder's lock, before the first process: may refuse by throwing. */
  readonly beforeStart?: () => void;
}

export interface NodeStatus extends LaunchedNode {
  readonly pid: number | undefined;
  readonly process: ProcessState;
  readonly ready: boolean;
  /** Why it is not ready. */
  readonly problem: string;
  /** Partitions that it leads, where it answers. */
  readonly leads: number | undefined;
  readonly partitions: number | undefined;
}

export const launcherDefaults = Object.freeze({
  nodes: 3,
  basePort: 4650,
  partitions: defaultPartitions,
  /** A start replays at most the log's size; a laptop does that in seconds. */
  readyTimeoutMs: 60_000,
  /** Above the nodes' own stop_timeout. */
  stopGraceMs: 20_000,
  probeTimeoutMs: 2_000,
  /** How long a port may take to become free. */
  portWaitMs: 2_000,
});

export async function clusterUp(options: UpOptions, hooks: LauncherHooks): Promise<NodeStatus[]> {
  const dir = resolve(options.dir);
  makeFolder(dir);
  return await withLock(dir, async () => {
    const nodes = await prepare(dir, options, hooks);
    options.beforeStart?.();
    requireGoingOn(options.signal);
    const down = nodes.filter((node) => stateOf(readRecord(node.recordFile)) !== 'running');
    for (const node of down) {
      const stale = readRecord(node.recordFile);
      if (stale !== undefined)
        hooks.note(`node ${node.nodeId} was not running any more (pid ${stale.pid}); starting it`);
      removeFile(node.recordFile);
    }
    await Promise.all(down.map(requireFreePorts));
    for (const node of down) startNode(node, options, hooks);
    return await waitReady(nodes, options.timeoutMs ?? launcherDefaults.readyTimeoutMs, options.signal);
  });
}

export interface DownResult {
  readonly nodeId: number;
  readonly pid: number | undefined;
  readonly result: 'stopped' | 'killed' | 'gone' | 'not running';
}

export async function clusterDown(
  dir: string,
  graceMs: number = launcherDefaults.stopGraceMs,
): Promise<DownResult[]> {
  const nodes = requireCluster(dir);
  return await withLock(resolve(dir), () =>
    Promise.all(
      nodes.map(async (node): Promise<DownResult> => {
        const record = readRecord(node.recordFile);
        const running = record !== undefined && stateOf(record) === 'running';
        const result = running ? await stopProcess(record, { graceMs }) : 'not running';
        removeFile(node.recordFile);
        return { nodeId: node.nodeId, pid: record?.pid, result };
      }),
    ),
  );
}

/** SIGKILL to what still runs: loses nothing that was acknowledged, and a `down` that waits returns. */
export function clusterKill(dir: string): void {
  for (const node of requireCluster(dir)) {
    const record = readRecord(node.recordFile);
    if (record !== undefined) signal(record, 'SIGKILL');
  }
}

export async function clusterStatus(dir: string): Promise<NodeStatus[]> {
  return await Promise.all(requireCluster(dir).map(statusOf));
}

/** The client addresses, for `--endpoint`. */
export function endpointsOf(nodes: readonly LaunchedNode[]): string {
  return nodes.map((node) => node.clientAddress).join(',');
}

function makeFolder(dir: string): void {
  try {
    mkdirSync(dir, { recursive: true });
  } catch (error) {
    const problem = error instanceof Error ? error.message : String(error);
    throw new HansardError(
      'INVALID_SETTINGS',
      `the folder ${dir} can not be made: ${problem}`,
      { dir },
      { cause: error },
    );
  }
}

/** Reads what was made earlier, or makes it; a half-finished making is made again. */
async function prepare(dir: string, options: UpOptions, hooks: LauncherHooks): Promise<LaunchedNode[]> {
  const known = readState(dir);
  if (known?.state === 'ready') {
    requireSame('nodes', options.nodes, known.nodes, dir);
    requireSame('base-port', options.basePort, known.basePort, dir);
    requireSame('partitions', options.partitions, known.partitions, dir);
    return nodesOf(dir, known.nodes, known.basePort);
  }
  if (known === undefined) requireEmpty(dir);
  else
    hooks.note(
      `an earlier start was interrupted while ${dir} was being made; no node had run, making it again`,
    );
  return await format(dir, options, known, hooks);
}

async function format(
  dir: string,
  options: UpOptions,
  halfMade: ClusterState | undefined,
  hooks: LauncherHooks,
): Promise<LaunchedNode[]> {
  const state: ClusterState = {
    version: 1,
    state: 'formatting',
    clusterId: randomBytes(16).toString('hex'),
    nodes: options.nodes ?? halfMade?.nodes ?? launcherDefaults.nodes,
    basePort: options.basePort ?? halfMade?.basePort ?? launcherDefaults.basePort,
    partitions: options.partitions ?? halfMade?.partitions ?? launcherDefaults.partitions,
  };
  const nodes = nodesOf(dir, state.nodes, state.basePort);
  await Promise.all(nodes.map(requireFreePorts));
  if (halfMade !== undefined)
    for (const node of nodesOf(dir, halfMade.nodes, halfMade.basePort))
      rmSync(node.dir, { recursive: true, force: true });
  // `formatting` is on disk before the first folder, `ready` before the first start.
  writeJson(stateFileOf(dir), state);
  writeFileSync(clusterFileOf(dir), clusterToml(state, nodes));
  for (const node of nodes) {
    requireGoingOn(options.signal);
    await hooks.initNode({ dir: node.dir, clusterFile: clusterFileOf(dir), nodeId: node.nodeId });
  }
  options.onMade?.();
  writeJson(stateFileOf(dir), { ...state, state: 'ready' });
  return nodes;
}

function startNode(node: LaunchedNode, options: UpOptions, hooks: LauncherHooks): void {
  spawnDetached(
    [
      process.execPath,
      ...nodeFlags,
      hooks.mainScript,
      'start',
      '--dir',
      node.dir,
      '--http-address',
      node.httpAddress,
      ...(options.startArgs ?? []),
    ],
    {
      logFile: node.logFile,
      recordFile: node.recordFile,
      // LevelDB, files, DNS and zlib share libuv's threads; four are too few.
      env: { ...process.env, UV_THREADPOOL_SIZE: process.env.UV_THREADPOOL_SIZE ?? '16' },
    },
  );
}

/** Every node answers /readyz with 200, and none has ended: how they were then (an election may begin at any time). */
async function waitReady(
  nodes: readonly LaunchedNode[],
  timeoutMs: number,
  stop: AbortSignal | undefined,
): Promise<Awaited<ReturnType<typeof statusOf>>[]> {
  const until = performance.now() + timeoutMs;
  for (;;) {
    requireGoingOn(stop);
    const states = await Promise.all(nodes.map(statusOf));
    if (states.every((state) => state.ready)) return states;
    const ended = states.find((state) => state.process !== 'running');
    if (ended !== undefined) {
      const word = lastWord(ended);
      throw new HansardError(
        reasonIn(word) ?? 'INTERNAL',
        `node ${ended.nodeId} ended while starting: ${word.slice(0, shownLengthMax)}; its log is ${ended.logFile}`,
        { node: ended.nodeId, log: ended.logFile },
      );
    }
    if (performance.now() >= until) {
      const slow = states.filter((state) => !state.ready);
      throw new HansardError(
        'DEADLINE_EXCEEDED',
        `not ready after ${timeoutMs / 1000} s: ${slow.map((s) => `node ${s.nodeId} (${s.problem})`).join(', ')}; logs are in ${resolve(nodes[0]?.logFile ?? '', '..')}`,
      );
    }
    await new Promise((done) => setTimeout(done, 100));
  }
}

function requireGoingOn(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw new HansardError('SHUTTING_DOWN', 'the start was interrupted');
}

async function statusOf(node: LaunchedNode): Promise<NodeStatus> {
  const record = readRecord(node.recordFile);
  const state = stateOf(record);
  const base = { ...node, pid: record?.pid, process: state };
  if (state !== 'running')
    return {
      ...base,
      ready: false,
      problem: state === 'stale' ? 'ended unexpectedly' : 'down',
      leads: undefined,
      partitions: undefined,
    };
  try {
    const response = await fetch(`http://${node.httpAddress}/readyz`, {
      signal: AbortSignal.timeout(launcherDefaults.probeTimeoutMs),
    });
    const body = (await response.json()) as { problems?: string[]; leads?: number; partitions?: number };
    return {
      ...base,
      ready: response.status === 200,
      problem: (body.problems ?? []).join('; '),
      leads: body.leads,
      partitions: body.partitions,
    };
  } catch {
    return { ...base, ready: false, problem: 'does not answer yet', leads: undefined, partitions: undefined };
  }
}

function readState(dir: string): ClusterState | undefined {
  const file = stateFileOf(dir);
  const value = readJson(file) as ClusterState | undefined;
  if (value === undefined) {
    if (!existsSync(file)) return undefined;
    throw new HansardError(
      'INVALID_SETTINGS',
      `${file} does not parse; put the original back, or use another --dir`,
      {
        dir,
      },
    );
  }
  if (value.version !== 1)
    throw new HansardError(
      'FORMAT_TOO_NEW',
      `${file} has version ${String(value.version)}; this is version 1`,
      { dir },
    );
  return value;
}

function requireCluster(dir: string): LaunchedNode[] {
  const state = readState(resolve(dir));
  if (state === undefined)
    throw new HansardError(
      'INVALID_SETTINGS',
      `there is no cluster in ${resolve(dir)}; make one with: hansard cluster up --dir ${dir}`,
      {
        dir,
      },
    );
  return nodesOf(dir, state.nodes, state.basePort);
}

function requireEmpty(dir: string): void {
  const found = readdirSync(dir).filter((name) => `${dir}/${name}` !== lockFileOf(dir));
  if (found.length > 0)
    throw new HansardError(
      'DIRECTORY_NOT_EMPTY',
      `${dir} holds ${found[0]}, and no cluster made by this command`,
      { dir },
    );
}

function requireSame(name: string, wanted: number | undefined, made: number, dir: string): void {
  if (wanted === undefined || wanted === made) return;
  throw new HansardError(
    'INVALID_SETTINGS',
    `--${name} ${wanted}: the cluster in ${dir} was made with ${made}; leave the option out, or use another --dir`,
    { setting: name },
  );
}

async function requireFreePorts(node: LaunchedNode): Promise<void> {
  for (const address of [node.clientAddress, node.peerAddress, node.httpAddress]) {
    const port = Number(address.slice(address.lastIndexOf(':') + 1));
    if (await becomesFree(port)) continue;
    throw new HansardError(
      'ADDRESS_IN_USE',
      `port ${port}, which node ${node.nodeId} needs, is taken by another process`,
      { port },
    );
  }
}

/** A process that was just killed keeps its ports until the last of its threads is gone. */
async function becomesFree(port: number): Promise<boolean> {
  const until = performance.now() + launcherDefaults.portWaitMs;
  for (;;) {
    if (await isFree(port)) return true;
    if (performance.now() >= until) return false;
    await new Promise((done) => setTimeout(done, 50));
  }
}

function isFree(port: number): Promise<boolean> {
  return new Promise((done) => {
    const server = createServer();
    server.once('error', () => done(false));
    server.listen(port, '127.0.0.1', () => server.close(() => done(true)));
  });
}

/** One `up` or `down` of a folder at a time. A lock whose process is gone is taken over. */
async function withLock<T>(dir: string, run: () => Promise<T>): Promise<T> {
  const file = lockFileOf(dir);
  for (let attempt = 0; ; attempt++) {
    try {
      const handle = openSync(file, 'wx');
      writeSync(handle, String(process.pid));
      closeSync(handle);
      break;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST')
        throw new HansardError(
          'INVALID_SETTINGS',
          `${dir} can not be written to: ${(error as Error).message}`,
          { dir },
        );
      const holder = holderOf(file);
      if (attempt > 0 || isAlive(holder))
        throw new HansardError('DIRECTORY_IN_USE', `another launcher (pid ${holder}) is at work in ${dir}`, {
          dir,
        });
      removeFile(file);
    }
  }
  try {
    return await run();
  } finally {
    removeFile(file);
  }
}

function holderOf(file: string): number {
  try {
    return Number(readFileSync(file, 'utf8')) || 0;
  } catch {
    return 0;
  }
}

function isAlive(pid: number): boolean {
  if (pid <= 1) return false;
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}

/** What is looked through for a node's last word. */
const wordBytesMax = 64 * 1024;
const shownLengthMax = 500;

/** What the node that the record is of said last before it ended: one line for people. */
export function lastError(node: LaunchedNode): string {
  return lastWord(node).slice(0, shownLengthMax);
}

/** The catalogue's reason in that word, so that a wrong setting is not told as a defect of ours. */
function reasonIn(word: string): Reason | undefined {
  const reason = word.startsWith('{') ? loggedReason(word) : /\(([A-Z_]+)\)$/.exec(word)?.[1];
  return reason !== undefined && Object.hasOwn(reasons, reason) ? (reason as Reason) : undefined;
}

/** Of a line of the log, or of an error that was written as JSON. */
function loggedReason(line: string): string | undefined {
  try {
    const { reason, error } = JSON.parse(line) as { reason?: unknown; error?: { reason?: unknown } };
    const found = reason ?? error?.reason;
    return typeof found === 'string' ? found : undefined;
  } catch {
    return undefined;
  }
}

/** Of its own words only: the file has those of earlier lives before them. */
function lastWord({ logFile, recordFile }: LaunchedNode): string {
  let bytes: Buffer;
  try {
    bytes = readEnd(logFile, readRecord(recordFile)?.logFrom ?? 0);
  } catch {
    return 'it left no log';
  }
  const lines = bytes.toString('utf8').trimEnd().split('\n').reverse();
  const said = lines.find(
    (line) => /^(error: |\{"error":)/.test(line) || /"level":"(error|fatal)"/.test(line),
  );
  return said ?? (lines[0] || 'it left no word');
}

/** A file that is shorter than `from` was cut by whoever rotates it: all of it is younger. */
function readEnd(file: string, from: number): Buffer {
  const handle = openSync(file, 'r');
  try {
    const { size } = fstatSync(handle);
    const bytes = Buffer.alloc(Math.min(wordBytesMax, from <= size ? size - from : size));
    return bytes.subarray(0, readSync(handle, bytes, 0, bytes.length, size - bytes.length));
  } finally {
    closeSync(handle);
  }
}
