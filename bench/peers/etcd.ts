/** etcd: three members; a message is a key, a frame a transaction. */
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import {
  type ClientDuplexStream,
  credentials,
  type GrpcObject,
  loadPackageDefinition,
  type ServiceClientConstructor,
} from '@grpc/grpc-js';
import { loadSync } from '@grpc/proto-loader';
import { removeFolder } from '../harness/leftovers.js';
import { freePorts } from '../harness/ports.js';
import type { Following, Item, ProcessGroup, System } from '../harness/system.js';
import { program, Server, until, versionOf, workFolder } from './common.js';

type Callback = (error: Error | null, response: { kvs?: unknown[] }) => void;
interface Kv {
  Put(request: unknown, callback: Callback): void;
  Txn(request: unknown, callback: Callback): void;
  Range(request: unknown, callback: Callback): void;
  close(): void;
}

interface WatchResponse {
  readonly created?: boolean;
  readonly events?: readonly { readonly kv?: { readonly value: Buffer } }[];
}
interface Watch {
  Watch(): ClientDuplexStream<unknown, WatchResponse>;
  close(): void;
}

const protoFile = fileURLToPath(new URL('../../../bench/peers/etcd.proto', import.meta.url));
/** etcd's own default, --max-txn-ops. */
const transactionMax = 128;
const descending = 2;

export function findEtcd(): System {
  return new Etcd(program('etcd'));
}

class Etcd implements System {
  readonly name = 'etcd';
  readonly version: string;
  readonly durability = 'synced on a majority of three; linearizable reads';
  readonly #dir = workFolder('etcd');
  readonly #servers: Server[] = [];
  /** One per member, in turn. */
  #clients: Kv[] = [];
  #watchers: Watch[] = [];
  #turn = 0;
  #next = 1e12;

  constructor(private readonly path: string) {
    this.version = `${versionOf(path, ['--version'], /etcd Version: ([\d.]+)/)}, grpc-js with one connection per member; readers: a Watch stream each`;
  }

  async start(signal: AbortSignal): Promise<void> {
    const base = await freePorts(6);
    const client = (i: number): string => `http://127.0.0.1:${base + i}`;
    const peer = (i: number): string => `http://127.0.0.1:${base + 3 + i}`;
    const all = [0, 1, 2].map((i) => `n${i}=${peer(i)}`).join(',');
    for (let i = 0; i < 3; i++) {
      const args = [
        ...['--name', `n${i}`, '--data-dir', join(this.#dir, String(i))],
        ...['--listen-client-urls', client(i), '--advertise-client-urls', client(i)],
        ...['--listen-peer-urls', peer(i), '--initial-advertise-peer-urls', peer(i)],
        ...['--initial-cluster', all, '--initial-cluster-state', 'new'],
        ...['--quota-backend-bytes', String(8 * 1024 ** 3), '--log-level', 'error'],
      ];
      this.#servers.push(new Server(this.path, args, join(this.#dir, `log-${i}`)));
    }
    for (let i = 0; i < 3; i++) await this.#servers[i]?.listening(base + i, signal);
    const loaded = loadPackageDefinition(loadSync(protoFile, { keepCase: true })) as {
      etcdserverpb: GrpcObject;
    };
    const { KV, Watch } = loaded.etcdserverpb as unknown as Record<'KV' | 'Watch', ServiceClientConstructor>;
    this.#clients = [0, 1, 2].map(
      (i) => new KV(`127.0.0.1:${base + i}`, credentials.createInsecure()) as unknown as Kv,
    );
    this.#watchers = [0, 1, 2].map(
      (i) => new Watch(`127.0.0.1:${base + i}`, credentials.createInsecure()) as unknown as Watch,
    );
    await until('a leader', signal, () =>
      this.append({ channel: 0, text: 'first' }).then(
        () => true,
        () => false,
      ),
    );
  }

  async stop(): Promise<void> {
    for (const client of [...this.#clients, ...this.#watchers]) client.close();
    for (const server of this.#servers) await server.stop();
    removeFolder(this.#dir);
  }

  processes(): readonly ProcessGroup[] {
    return this.#servers.map(({ pid }, i) => ({ name: `node ${i + 1}`, pid }));
  }

  #client(): Kv {
    return this.#clients[this.#turn++ % this.#clients.length] as Kv;
  }

  #put({ channel, text }: Item): { key: Buffer; value: Buffer } {
    const value = Buffer.from(JSON.stringify({ role: 'user', author: 'ann', text }));
    return { key: Buffer.from(`channel/${channel}/${this.#next++}`), value };
  }

  append(item: Item): Promise<unknown> {
    return call((done) => this.#client().Put(this.#put(item), done));
  }

  /** There is no other way. */
  appendPlain(item: Item): Promise<unknown> {
    return this.append(item);
  }

  appendFrame(items: readonly Item[]): Promise<unknown> {
    const frames: Item[][] = [];
    for (let i = 0; i < items.length; i += transactionMax) frames.push(items.slice(i, i + transactionMax));
    return Promise.all(
      frames.map((frame) => {
        const success = frame.map((item) => ({ request_put: this.#put(item) }));
        return call((done) => this.#client().Txn({ success }, done));
      }),
    );
  }

  async page(channel: number): Promise<number> {
    const request = {
      key: Buffer.from(`channel/${channel}/`),
      range_end: Buffer.from(`channel/${channel}0`),
      limit: 50,
      sort_order: descending,
    };
    return (await call((done) => this.#client().Range(request, done))).kvs?.length ?? 0;
  }

  async tail(channel: number, told: (text: string) => void): Promise<Following> {
    const stream = (this.#watchers[this.#turn++ % this.#watchers.length] as Watch).Watch();
    const range = { key: Buffer.from(`channel/${channel}/`), range_end: Buffer.from(`channel/${channel}0`) };
    await new Promise<void>((resolve, reject) => {
      stream.on('error', reject);
      stream.on('data', ({ created, events = [] }: WatchResponse) => {
        if (created === true) resolve();
        for (const { kv } of events)
          if (kv !== undefined) told((JSON.parse(kv.value.toString()) as { text: string }).text);
      });
      stream.write({ create_request: range });
    });
    return {
      stop: () => {
        stream.cancel();
        return Promise.resolve();
      },
    };
  }
}

function call(start: (done: Callback) => void): Promise<{ kvs?: unknown[] }> {
  return new Promise((resolve, reject) => {
    start((error, response) => (error === null ? resolve(response) : reject(error)));
  });
}
