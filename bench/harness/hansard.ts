/** Hansard as the harness sees it: three nodes as background processes, one SDK client. */
import { existsSync, readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import {
  credentials,
  type GrpcObject,
  loadPackageDefinition,
  type ServiceClientConstructor,
} from '@grpc/grpc-js';
import {
  clusterDown,
  clusterKill,
  clusterUp,
  endpointsOf,
  launcherDefaults,
  type NodeStatus,
} from '../../cluster/launcher.js';
import { stateFileOf } from '../../cluster/layout.js';
import { launcherHooks } from '../../src/cli/commands/cluster.js';
import { type Channel, type Client, connect } from '../../src/client/index.js';
import { loadPublicProtos } from '../../src/common/proto.js';
import { removeFolder, temporaryFolder } from './leftovers.js';
import { freePorts } from './ports.js';
import { type Following, Interrupted, type Item, type ProcessGroup, type System } from './system.js';

export interface HansardOptions {
  readonly name?: string;
  /** Another checkout's compiled cli/main.js: to compare two versions' nodes. */
  readonly mainScript?: string | undefined;
  readonly nodes?: number;
  /** As `hansard cluster up` would where undefined. */
  readonly partitions?: number | undefined;
  /** Environment for the nodes, NODE_OPTIONS above all. */
  readonly env?: Readonly<Record<string, string>>;
}

/** The generated client of any language, here grpc-js's. */
interface PlainClient {
  AppendMessages(request: unknown, done: (error: Error | null) => void): void;
  close(): void;
}

const roleUser = 1;

export class Hansard implements System {
  readonly name: string;
  readonly durability =
    'acknowledged when synced (fdatasync) on a majority of three and applied; linearizable reads';
  readonly #options: HansardOptions;
  readonly #dir = temporaryFolder('hansard-bench-');
  #nodes: readonly NodeStatus[] = [];
  #client: Client | undefined;
  /** One per node; made where they are asked for. */
  #plain: PlainClient[] = [];
  #turn = 0;
  readonly #channels = new Map<number, Channel>();
  /** Nodes are no children: should this process end before `stop`, they are killed by their records. */
  readonly #kill = (): void => {
    if (existsSync(stateFileOf(this.#dir))) clusterKill(this.#dir);
  };

  constructor(options: HansardOptions = {}) {
    this.#options = options;
    this.name = options.name ?? 'Hansard';
  }

  get version(): string {
    const file = new URL('../../../package.json', import.meta.url);
    const { version } = JSON.parse(readFileSync(file, 'utf8')) as { version: string };
    const partitions = this.#options.partitions ?? launcherDefaults.partitions;
    return `${version}, its SDK, one connection per node, ${partitions} partitions`;
  }

  get endpoints(): string {
    return endpointsOf(this.#nodes);
  }

  async start(signal: AbortSignal): Promise<void> {
    process.prependListener('exit', this.#kill);
    const hooks = launcherHooks(() => {});
    const { mainScript, env = {} } = this.#options;
    const kept = Object.keys(env).map((key) => [key, process.env[key]] as const);
    Object.assign(process.env, env);
    try {
      this.#nodes = await clusterUp(
        {
          dir: this.#dir,
          nodes: this.#options.nodes ?? 3,
          basePort: await freePorts(9),
          partitions: this.#options.partitions,
          signal,
        },
        mainScript === undefined ? hooks : { ...hooks, mainScript: resolve(mainScript) },
      );
    } catch (error) {
      throw signal.aborted ? new Interrupted() : error;
    } finally {
      for (const [key, value] of kept) {
        if (value === undefined) delete process.env[key];
        else process.env[key] = value;
      }
    }
    this.#client = connect(`hansard://${this.endpoints}`, { timeoutMs: 30_000, readLevel: 'linearizable' });
  }

  async stop(): Promise<void> {
    await this.#client?.close();
    for (const client of this.#plain) client.close();
    if (existsSync(stateFileOf(this.#dir))) await clusterDown(this.#dir, stopGraceMs);
    process.removeListener('exit', this.#kill);
    removeFolder(this.#dir);
  }

  processes(): readonly ProcessGroup[] {
    return this.#nodes.map(({ nodeId, pid }) => ({ name: `node ${nodeId}`, pid: pid ?? 0 }));
  }

  #channel(number: number): Channel {
    let channel = this.#channels.get(number);
    if (channel === undefined) {
      channel = (this.#client as Client).channel(nameOf(number));
      this.#channels.set(number, channel);
    }
    return channel;
  }

  append({ channel, text }: Item): Promise<unknown> {
    return this.#channel(channel).append({ role: 'user', author: 'ann', text });
  }

  appendPlain({ channel, text }: Item): Promise<unknown> {
    if (this.#plain.length === 0)
      this.#plain = this.#nodes.map(({ clientAddress }) => plainTo(clientAddress));
    const client = this.#plain[this.#turn++ % this.#plain.length] as PlainClient;
    const message = { role: roleUser, author: 'ann', parts: [{ text: { text } }] };
    const request = { channel: nameOf(channel), messages: [{ message }] };
    return new Promise<void>((resolve, reject) => {
      client.AppendMessages(request, (error) => (error === null ? resolve() : reject(error)));
    });
  }

  appendFrame(items: readonly Item[]): Promise<unknown> {
    return Promise.all(items.map((item) => this.append(item)));
  }

  appendBatch(channel: number, texts: readonly string[]): Promise<unknown> {
    return this.#channel(channel).append(texts.map((text) => ({ role: 'user', author: 'ann', text })));
  }

  async page(channel: number): Promise<number> {
    const page = await this.#channel(channel).list({ before: 50 }).page();
    return page.events.length;
  }

  async tail(channel: number, told: (text: string) => void): Promise<Following> {
    const ending = new AbortController();
    const events = this.#channel(channel).tail({ fromHead: true, mustExist: true, signal: ending.signal });
    const over = (async () => {
      for await (const { message } of events) {
        const part = message?.parts?.[0];
        told(part?.type === 'text' ? part.text : '');
      }
    })();
    // A tail that fails is missed where its deliveries are counted, and tells why when it is stopped.
    over.catch(() => {});
    return {
      stop: async () => {
        ending.abort();
        await over;
      },
    };
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

export const nameOf = (channel: number): string => `bench/channel-${channel}`;

function plainTo(address: string): PlainClient {
  const { v1 } = loadPackageDefinition(loadPublicProtos()).hansard as { v1: GrpcObject };
  const MessageService = v1.MessageService as ServiceClientConstructor;
  return new MessageService(address, credentials.createInsecure()) as unknown as PlainClient;
}

/** For a node to end in order; then it is killed. */
const stopGraceMs = 10_000;

const countersRead = [
  ['syncs', 'hansard_log_syncs_total'],
  ['logBytes', 'hansard_log_written_bytes_total'],
  ['sealedBytes', 'hansard_checkpoint_bytes_total'],
  ['checkpoints', 'hansard_checkpoints_total'],
] as const;
