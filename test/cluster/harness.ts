/**
 * Clusters of real processes for tests: folders below a temporary one, free
 * ports, signals, and an end that also comes when the test itself is killed.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Test } from 'tap';
import { type Client, type ClientOptions, connect } from '../../src/client/index.js';
import { partitionOf } from '../../src/common/partitioning.js';
import { defaultSettings } from '../../src/conversation/settings.js';
import { initNode } from '../../src/node/open.js';
import { patientCommand } from '../support/command.js';
import { freePorts } from '../support/free-ports.js';
import { patienceMs, sleep, until } from '../support/until.js';
import type { TestNetwork } from './network.js';

export { patienceMs, sleep, until };

export const mainScript = fileURLToPath(new URL('../../src/cli/main.js', import.meta.url));

/** Pre-writing 64 MiB segments is most of a small cluster's start. */
const segmentBytes = 4 * 1024 * 1024;

/** The test runner's hooks (NODE_OPTIONS) would load into every node and make it several times slower. */
export function cleanEnv(): NodeJS.ProcessEnv {
  const names = Object.keys(process.env).filter((name) => !/^(NODE_OPTIONS|TAP|_TAPJS|HANSARD)/.test(name));
  return {
    ...Object.fromEntries(names.map((name) => [name, process.env[name]])),
    UV_THREADPOOL_SIZE: '16',
    ...patientCommand,
  };
}

/**
 * A shell that ends what it was told of as soon as this process is gone, however
 * it went: its input closes then.
 */
class Reaper {
  readonly #shell = spawn(
    '/bin/sh',
    [
      '-c',
      'while read -r op pid; do case $op in +) a="$a $pid ";; -) a=$(echo "$a" | sed "s/ $pid / /");; esac; done; [ -z "$a" ] || kill -9 $a 2>/dev/null',
    ],
    { stdio: ['pipe', 'ignore', 'ignore'], detached: true, env: cleanEnv() },
  );
  constructor() {
    this.#shell.stdin.on('error', () => {});
    this.#shell.unref();
    (this.#shell.stdin as unknown as { unref(): void }).unref();
  }
  watch(child: ChildProcess): void {
    if (child.pid === undefined) return;
    this.#shell.stdin.write(`+ ${child.pid}\n`);
    child.once('exit', () => this.#shell.stdin.write(`- ${child.pid}\n`));
  }
}
let reaper: Reaper | undefined;

/** A child of this test, its output gathered; it never outlives us. */
export function run(script: string, args: readonly string[], env: NodeJS.ProcessEnv = {}): Running {
  return new Running(script, args, env);
}

export class Running {
  readonly child: ChildProcess;
  /** Resolves when the process is gone and its output is read to the end. */
  readonly ended: Promise<{ code: number | null; signal: NodeJS.Signals | null }>;
  stdout = '';
  stderr = '';
  isGone = false;

  /** `place`: a command that becomes the program given behind it, with the same process id. */
  constructor(
    script: string,
    args: readonly string[],
    env: NodeJS.ProcessEnv,
    place: readonly string[] = [],
  ) {
    const [command, ...rest] = [...place, process.execPath, script, ...args] as [string, ...string[]];
    this.child = spawn(command, rest, {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...cleanEnv(), ...env },
    });
    reaper ??= new Reaper();
    reaper.watch(this.child);
    this.child.stdout?.setEncoding('utf8').on('data', (text: string) => {
      this.stdout += text;
    });
    this.child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.stderr += text;
    });
    this.ended = once(this.child, 'close').then(([code, signal]) => {
      this.isGone = true;
      return { code, signal } as { code: number | null; signal: NodeJS.Signals | null };
    });
  }

  signal(name: NodeJS.Signals): void {
    this.child.kill(name);
  }

  /** Waits for the end; kills the process and throws where it does not come. */
  async end(timeoutMs = patienceMs): Promise<{ code: number | null; signal: NodeJS.Signals | null }> {
    const timer = setTimeout(() => this.child.kill('SIGKILL'), timeoutMs);
    const before = performance.now();
    const ended = await this.ended;
    clearTimeout(timer);
    if (performance.now() - before >= timeoutMs)
      throw new Error(`no end within ${timeoutMs} ms: ${this.tail()}`);
    return ended;
  }

  /** What it said last. */
  tail(bytes = 2_000): string {
    return (this.stdout + this.stderr).slice(-bytes);
  }
}

export interface Readiness {
  readonly ready: boolean;
  readonly leads: number;
}

export class TestNode {
  #process: Running | undefined;
  /** Of all its lives. */
  readonly logs: string[] = [];

  constructor(
    readonly id: number,
    readonly dir: string,
    readonly clientAddress: string,
    readonly peerAddress: string,
    readonly httpAddress: string,
    readonly network: TestNetwork | undefined = undefined,
  ) {}

  get process(): Running {
    if (this.#process === undefined) throw new Error(`node ${this.id} was never started`);
    return this.#process;
  }
  get isUp(): boolean {
    return this.#process !== undefined && !this.#process.isGone;
  }

  start(args: readonly string[] = [], dir = this.dir): Running {
    if (this.isUp) throw new Error(`node ${this.id} is up`);
    if (this.#process !== undefined) this.logs.push(this.#process.stdout + this.#process.stderr);
    const given = ['start', '--dir', dir, '--http-address', this.httpAddress, '--log-format', 'json'];
    const log = ['--log-segment', `${segmentBytes}`, '--log-max', `${16 * segmentBytes}`];
    const network = this.network?.startArgs ?? [];
    const place = this.network?.commandOf(this.id);
    this.#process = new Running(mainScript, [...given, ...log, ...network, ...args], {}, place);
    return this.#process;
  }

  /** kill -9, waited for. */
  async kill(): Promise<void> {
    this.process.signal('SIGKILL');
    await this.process.end();
  }

  /** SIGTERM: drains and seals. */
  async stop(): Promise<{ code: number | null; signal: NodeJS.Signals | null }> {
    this.process.signal('SIGTERM');
    return await this.process.end();
  }

  pause(): void {
    this.process.signal('SIGSTOP');
  }
  resume(): void {
    this.process.signal('SIGCONT');
  }

  async readiness(): Promise<Readiness | undefined> {
    try {
      const response = await fetch(`http://${this.httpAddress}/readyz`, {
        signal: AbortSignal.timeout(10_000),
      });
      return { leads: 0, ...((await response.json()) as object), ready: response.status === 200 };
    } catch {
      return undefined;
    }
  }

  /** Knows a leader of every partition. Throws with its last words where it ended instead. */
  async ready(timeoutMs = patienceMs): Promise<void> {
    await until(
      `node ${this.id} is ready`,
      async () => {
        if (!this.isUp) throw new Error(`node ${this.id} ended: ${this.process.tail()}`);
        return (await this.readiness())?.ready === true;
      },
      timeoutMs,
    );
  }

  rssBytes(): number {
    const status = readFileSync(`/proc/${this.process.child.pid}/status`, 'utf8');
    return Number(/VmRSS:\s+(\d+) kB/.exec(status)?.[1]) * 1024;
  }
  handles(): number {
    return readdirSync(`/proc/${this.process.child.pid}/fd`).length;
  }
}

/**
 * Whether the machine gave the processes any processor time: what they promise
 * about deadlines they promise only then. Linux only; elsewhere it sees nothing.
 */
class Starvation {
  readonly #waited = new Map<number, { totalNs: number; streakMs: number }>();
  readonly #timer: NodeJS.Timeout;
  #at = performance.now();
  /** The longest time in which a process that could run mostly waited, ms. */
  longestMs = 0;

  constructor(pids: () => number[]) {
    this.#timer = setInterval(() => this.#sample(pids()), 250);
  }
  stop(): void {
    clearInterval(this.#timer);
  }

  #sample(pids: readonly number[]): void {
    const now = performance.now();
    const elapsedMs = now - this.#at;
    this.#at = now;
    for (const pid of pids) {
      const totalNs = waitedNs(pid);
      if (totalNs === undefined) continue;
      const known = this.#waited.get(pid) ?? { totalNs, streakMs: 0 };
      const isStarved = (totalNs - known.totalNs) / 1e6 > elapsedMs / 2;
      const streakMs = isStarved ? known.streakMs + elapsedMs : 0;
      this.#waited.set(pid, { totalNs, streakMs });
      this.longestMs = Math.max(this.longestMs, streakMs);
    }
  }
}

/** How long the process' main thread stood in the queue for a processor. */
function waitedNs(pid: number): number | undefined {
  try {
    return Number(readFileSync(`/proc/${pid}/schedstat`, 'latin1').split(' ')[1]);
  } catch {
    return undefined;
  }
}

export interface ClusterOptions {
  readonly nodes?: number;
  readonly partitions?: number;
  readonly replicationFactor?: number;
  /** Further arguments of `hansard start`. */
  readonly args?: readonly string[];
  /** That partitions begin with, where it is not the newest. */
  readonly applyVersion?: number;
  /** Default: all on 127.0.0.1, with nothing in between. It ends with the cluster. */
  readonly network?: TestNetwork;
}

/** What a cluster ends with: a test, or a program that says when. */
export type Owner = Pick<Test, 'teardown'>;

export class ProcessCluster {
  readonly #clients = new Set<Client>();
  readonly #starvation = new Starvation(() => [
    process.pid,
    ...this.nodes.filter((node) => node.isUp).map((node) => node.process.child.pid ?? 0),
  ]);
  private constructor(
    readonly root: string,
    readonly clusterId: string,
    readonly nodes: readonly TestNode[],
    readonly partitions: number,
    readonly replicationFactor: number,
    readonly args: readonly string[],
    readonly applyVersion: number | undefined,
    readonly network: TestNetwork | undefined,
  ) {}

  /** Formatted, started, ready; all of it ends with the test. */
  static async start(t: Owner, options: ClusterOptions = {}): Promise<ProcessCluster> {
    const cluster = await ProcessCluster.format(t, options);
    cluster.startAll();
    await cluster.ready();
    return cluster;
  }

  static async format(t: Owner, options: ClusterOptions = {}): Promise<ProcessCluster> {
    const count = options.nodes ?? 3;
    const root = mkdtempSync(join(tmpdir(), 'hansard-test-'));
    const ports = await freePorts(3 * count);
    const { network } = options;
    const nodes = Array.from({ length: count }, (_, i) => {
      const id = i + 1;
      const at = (port: number): string => `${network?.hostOf(id) ?? '127.0.0.1'}:${ports[port]}`;
      return new TestNode(id, join(root, `node-${id}`), at(i), at(count + i), at(2 * count + i), network);
    });
    const cluster = new ProcessCluster(
      root,
      randomBytes(16).toString('hex'),
      nodes,
      options.partitions ?? 16,
      options.replicationFactor ?? Math.min(3, count),
      options.args ?? [],
      options.applyVersion,
      network,
    );
    t.teardown(() => cluster.end());
    for (const node of nodes) await cluster.init(node);
    return cluster;
  }

  /** Formats a folder for a node, with a new store id. */
  async init(node: TestNode, dir = node.dir): Promise<void> {
    const members = this.nodes.map(async ({ id, clientAddress, peerAddress }) => ({
      nodeId: id,
      clientAddress,
      peerAddress:
        this.network === undefined || id === node.id
          ? peerAddress
          : await this.network.peerAddress(node.id, id, peerAddress),
    }));
    await initNode({
      dir,
      clusterId: this.clusterId,
      nodeId: node.id,
      partitionCount: this.partitions,
      replicationFactor: this.replicationFactor,
      members: await Promise.all(members),
      segmentBytes,
      ...(this.applyVersion === undefined
        ? {}
        : { settings: { ...defaultSettings, applyVersion: this.applyVersion } }),
    });
  }

  startAll(): void {
    for (const node of this.nodes) this.startNode(node);
  }
  startNode(node: TestNode): Running {
    return node.start(this.args);
  }
  async ready(nodes: readonly TestNode[] = this.nodes): Promise<void> {
    await Promise.all(nodes.map((node) => node.ready()));
  }

  node(id: number): TestNode {
    return this.nodes[id - 1] as TestNode;
  }
  others(node: TestNode): TestNode[] {
    return this.nodes.filter((each) => each !== node);
  }

  /** A client that is closed with the test, of all nodes or of those given. */
  connect(
    options: ClientOptions & { readonly nodes?: readonly TestNode[]; readonly tenant?: string } = {},
  ): Client {
    const { nodes = this.nodes, tenant = '', ...rest } = options;
    // What one client of a test wrote another one looks for.
    const client = connect(`hansard://${nodes.map((node) => node.clientAddress).join(',')}/${tenant}`, {
      readLevel: 'linearizable',
      timeoutMs: patienceMs,
      ...rest,
    });
    this.#clients.add(client);
    return client;
  }

  partitionOf(channel: string, tenant = ''): number {
    return partitionOf(tenant, channel, this.partitions);
  }

  /** As a node that is up and not `except` knows it; a leader that is itself up and another than `except`. */
  async leaderOf(channel: string, except?: TestNode, tenant = ''): Promise<TestNode> {
    const partition = this.partitionOf(channel, tenant);
    return await until(`partition ${partition} has a leader`, async () => {
      for (const asked of this.nodes) {
        if (!asked.isUp || asked === except) continue;
        const client = connect(`hansard://${asked.clientAddress}`);
        try {
          const { partitions } = await client.cluster({ timeoutMs: 3_000 });
          const leader = this.node(partitions[partition]?.leaderNodeId ?? 0);
          if (leader?.isUp && leader !== except) return leader;
        } catch {
          // Not ready to say; the next one, or later.
        } finally {
          await client.close();
        }
      }
      return undefined;
    });
  }

  /** What `starved` tells is of the time after this. */
  forgetStarvation(): void {
    this.#starvation.longestMs = 0;
  }

  /** For checks of deadlines: why they would say nothing of Hansard here, as `skip` takes it. */
  get starved(): string | false {
    const { longestMs } = this.#starvation;
    return longestMs > 750 && `the machine let a process wait for ${Math.round(longestMs)} ms`;
  }

  async end(): Promise<void> {
    this.#starvation.stop();
    for (const client of this.#clients) await client.close();
    await Promise.all(this.nodes.filter((node) => node.isUp).map((node) => node.kill()));
    await this.network?.end();
    rmSync(this.root, { recursive: true, force: true });
  }
}
