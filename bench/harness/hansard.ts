/** Hansard as the harness sees it: three nodes as background processes, one SDK client. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { clusterDown, clusterUp, endpointsOf, type NodeStatus } from '../../cluster/launcher.js';
import { launcherHooks } from '../../src/cli/commands/cluster.js';
import { type Channel, type Client, connect } from '../../src/client/index.js';
import { freePorts } from './ports.js';
import type { Item, ProcessGroup, System } from './system.js';
import { channelCount } from './workloads.js';

export interface HansardOptions {
  readonly name?: string;
  /** Another checkout's compiled cli/main.js: to compare two versions' nodes. */
  readonly mainScript?: string | undefined;
  readonly nodes?: number;
  /** Environment for the nodes, NODE_OPTIONS above all. */
  readonly env?: Readonly<Record<string, string>>;
}

export class Hansard implements System {
  readonly name: string;
  readonly durability =
    'acknowledged when synced (fdatasync) on a majority of three and applied; linearizable reads';
  readonly #options: HansardOptions;
  readonly #dir = mkdtempSync(join(tmpdir(), 'hansard-bench-'));
  #nodes: readonly NodeStatus[] = [];
  #client: Client | undefined;
  #channels: Channel[] = [];

  constructor(options: HansardOptions = {}) {
    this.#options = options;
    this.name = options.name ?? 'Hansard';
  }

  get version(): string {
    const file = new URL('../../../package.json', import.meta.url);
    const { version } = JSON.parse(readFileSync(file, 'utf8')) as { version: string };
    return `${version}, its SDK, one connection per node`;
  }

  get endpoints(): string {
    return endpointsOf(this.#nodes);
  }

  async start(): Promise<void> {
    const hooks = launcherHooks(() => {});
    const { mainScript, env = {} } = this.#options;
    const kept = Object.keys(env).map((key) => [key, process.env[key]] as const);
    Object.assign(process.env, env);
    try {
      this.#nodes = await clusterUp(
        { dir: this.#dir, nodes: this.#options.nodes ?? 3, basePort: await freePorts(9) },
        mainScript === undefined ? hooks : { ...hooks, mainScript: resolve(mainScript) },
      );
    } finally {
      for (const [key, value] of kept) {
        if (value === undefined) delete process.env[key];
        else process.env[key] = value;
      }
    }
    this.#client = connect(`hansard://${this.endpoints}`, { timeoutMs: 30_000 });
    const client = this.#client;
    this.#channels = Array.from({ length: channelCount }, (_, i) => client.channel(`bench/channel-${i}`));
  }

  async stop(): Promise<void> {
    await this.#client?.close();
    await clusterDown(this.#dir);
    rmSync(this.#dir, { recursive: true, force: true });
  }

  processes(): readonly ProcessGroup[] {
    return this.#nodes.map(({ nodeId, pid }) => ({ name: `node ${nodeId}`, pid: pid ?? 0 }));
  }

  append({ channel, text }: Item): Promise<unknown> {
    return (this.#channels[channel] as Channel).append({ role: 'user', author: 'ann', text });
  }

  appendFrame(items: readonly Item[]): Promise<unknown> {
    return Promise.all(items.map((item) => this.append(item)));
  }

  appendBatch(channel: number, texts: readonly string[]): Promise<unknown> {
    return (this.#channels[channel] as Channel).append(
      texts.map((text) => ({ role: 'user', author: 'ann', text })),
    );
  }

  async page(channel: number): Promise<number> {
    const page = await (this.#channels[channel] as Channel).list({ before: 50 }).page();
    return page.events.length;
  }

  async counters(): Promise<Record<string, number>> {
    const sums: Record<string, number> = {};
    for (const { httpAddress } of this.#nodes) {
      const text = await (await fetch(`http://${httpAddress}/metrics`)).text();
      for (const [label, metric] of countersRead)
        sums[label] = (sums[label] ?? 0) + Number(new RegExp(`^${metric} (\\S+)`, 'm').exec(text)?.[1] ?? 0);
    }
    return sums;
  }
}

const countersRead = [
  ['syncs', 'hansard_log_syncs_total'],
  ['logBytes', 'hansard_log_written_bytes_total'],
  ['sealedBytes', 'hansard_checkpoint_bytes_total'],
] as const;
