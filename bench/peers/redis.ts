/** Redis Streams: a primary and two replicas; every append is synced there and known to one replica. */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { removeFolder } from '../harness/leftovers.js';
import { freePorts } from '../harness/ports.js';
import type { Following, Item, ProcessGroup, System } from '../harness/system.js';
import { clientPackage, program, Server, until, versionOf, workFolder } from './common.js';

interface Pipeline {
  xadd(key: string, ...fields: string[]): Pipeline;
  wait(replicas: number, timeoutMs: number): Pipeline;
  exec(): Promise<[Error | null, unknown][]>;
}
interface Redis {
  pipeline(): Pipeline;
  info(section: string): Promise<string>;
  xrevrange(
    key: string,
    end: string,
    start: string,
    count: 'COUNT',
    n: number,
  ): Promise<[string, string[]][]>;
  xread(
    ...args: ['BLOCK', number, 'STREAMS', string, string]
  ): Promise<[string, [string, string[]][]][] | null>;
  disconnect(): void;
}
type RedisClass = new (options: Record<string, unknown>) => Redis;

/** WAIT blocks a connection, so appends of a turn share one, and some connections take turns. */
const connections = 8;
const waitMs = 10_000;

export function findRedis(): System {
  return new RedisStreams(
    program('redis-server'),
    (clientPackage('ioredis') as { default: RedisClass }).default,
  );
}

interface Waiting {
  readonly items: readonly Item[];
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;
}

class RedisStreams implements System {
  readonly name = 'Redis';
  readonly version: string;
  readonly durability =
    'appendonly yes, appendfsync always, WAIT 1 of two replicas (which acknowledge before they sync)';
  readonly #dir = workFolder('redis');
  readonly #servers: Server[] = [];
  #port = 0;
  #clients: Redis[] = [];
  #idle: Redis[] = [];
  #queue: Waiting[] = [];

  constructor(
    private readonly path: string,
    private readonly redis: RedisClass,
  ) {
    this.version = `${versionOf(path, ['--version'], /v=([\d.]+)/)}, ioredis with ${connections} connections, pipelines that end in WAIT; readers: XREAD BLOCK, a connection each, which are told before a replica has it`;
  }

  async start(signal: AbortSignal): Promise<void> {
    const base = await freePorts(3);
    this.#port = base;
    for (let i = 0; i < 3; i++) {
      const dir = join(this.#dir, String(i));
      mkdirSync(dir);
      const args =
        `--port ${base + i} --bind 127.0.0.1 --dir ${dir} --appendonly yes --appendfsync always --save`.split(
          ' ',
        );
      args.push('');
      if (i > 0) args.push('--replicaof', `127.0.0.1 ${base}`);
      this.#servers.push(new Server(this.path, args, join(this.#dir, `log-${i}`)));
      await this.#servers[i]?.listening(base + i, signal);
    }
    this.#clients = Array.from(
      { length: connections },
      () => new this.redis({ port: base, host: '127.0.0.1', enableAutoPipelining: true }),
    );
    this.#idle = [...this.#clients];
    const first = this.#clients[0] as Redis;
    await until(
      'two replicas',
      signal,
      async () => (await first.info('replication')).split('state=online').length === 3,
    );
  }

  async stop(): Promise<void> {
    for (const client of this.#clients) client.disconnect();
    for (const server of this.#servers) await server.stop();
    removeFolder(this.#dir);
  }

  processes(): readonly ProcessGroup[] {
    return this.#servers.map(({ pid }, i) => ({ name: `node ${i + 1}`, pid }));
  }

  append(item: Item): Promise<unknown> {
    return this.appendFrame([item]);
  }

  appendFrame(items: readonly Item[]): Promise<unknown> {
    return new Promise<void>((resolve, reject) => {
      this.#queue.push({ items, resolve, reject });
      if (this.#queue.length === 1) queueMicrotask(() => this.#pump());
    });
  }

  appendBatch(channel: number, texts: readonly string[]): Promise<unknown> {
    return this.appendFrame(texts.map((text) => ({ channel, text })));
  }

  /** Idle connections share what waits. */
  #pump(): void {
    while (this.#queue.length > 0 && this.#idle.length > 0) {
      const share = Math.ceil(this.#queue.length / this.#idle.length);
      const client = this.#idle.pop() as Redis;
      void this.#send(client, this.#queue.splice(0, Math.max(share, 32)));
    }
  }

  async #send(client: Redis, waiting: readonly Waiting[]): Promise<void> {
    try {
      const pipeline = client.pipeline();
      for (const { items } of waiting)
        for (const { channel, text } of items)
          pipeline.xadd(`channel:${channel}`, '*', 'role', 'user', 'author', 'ann', 'text', text);
      pipeline.wait(1, waitMs);
      const results = await pipeline.exec();
      const failed = results.find(([error]) => error !== null)?.[0];
      if (failed !== undefined && failed !== null) throw failed;
      if ((results.at(-1)?.[1] as number) < 1) throw new Error('no replica acknowledged');
      for (const { resolve } of waiting) resolve();
    } catch (error) {
      for (const { reject } of waiting) reject(error as Error);
    }
    this.#idle.push(client);
    this.#pump();
  }

  async page(channel: number): Promise<number> {
    const client = this.#clients[channel % connections] as Redis;
    return (await client.xrevrange(`channel:${channel}`, '+', '-', 'COUNT', 50)).length;
  }

  /** XREAD BLOCK holds its connection, so each reader has one. */
  async tail(channel: number, told: (text: string) => void): Promise<Following> {
    const key = `channel:${channel}`;
    const client = new this.redis({ port: this.#port, host: '127.0.0.1' });
    let [[last] = ['0']] = await client.xrevrange(key, '+', '-', 'COUNT', 1);
    let isOver = false;
    const over = (async () => {
      while (!isOver) {
        const [[, entries] = ['', []]] = (await client.xread('BLOCK', 0, 'STREAMS', key, last)) ?? [];
        for (const [id, fields] of entries) {
          last = id;
          told(fields[fields.indexOf('text') + 1] ?? '');
        }
      }
    })();
    // Ends by its connection's end; before that what it misses is missed where deliveries are counted.
    over.catch(() => {});
    return {
      stop: async () => {
        isOver = true;
        client.disconnect();
        await over.catch(() => {});
      },
    };
  }
}
