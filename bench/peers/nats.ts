/** NATS JetStream: one stream with three replicas in files. */
import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { freePorts } from '../harness/ports.js';
import type { Item, ProcessGroup, System } from '../harness/system.js';
import { clientPackage, program, Server, until, versionOf, workFolder } from './common.js';

interface Connection {
  jetstream(): { publish(subject: string, data: Uint8Array): Promise<unknown> };
  jetstreamManager(): Promise<{ streams: { add(config: Record<string, unknown>): Promise<unknown> } }>;
  close(): Promise<void>;
}
interface Nats {
  connect(options: { servers: string[] }): Promise<Connection>;
}

export function findNats(): System {
  return new JetStream(program('nats-server'), clientPackage('nats') as Nats);
}

class JetStream implements System {
  readonly name = 'NATS';
  readonly version: string;
  readonly durability =
    'JetStream, file storage, 3 replicas: a majority has it in the page cache; synced every two minutes (the default)';
  readonly #dir = workFolder('nats');
  readonly #servers: Server[] = [];
  #connection: Connection | undefined;
  #js: ReturnType<Connection['jetstream']> | undefined;

  constructor(
    private readonly path: string,
    private readonly nats: Nats,
  ) {
    this.version = `${versionOf(path, ['--version'], /v([\d.]+)/)}, nats.js with one connection`;
  }

  async start(): Promise<void> {
    const base = await freePorts(6);
    const routes = [0, 1, 2].map((i) => `nats-route://127.0.0.1:${base + 3 + i}`);
    for (let i = 0; i < 3; i++) {
      const file = join(this.#dir, `${i}.conf`);
      writeFileSync(
        file,
        `server_name: n${i}\nlisten: 127.0.0.1:${base + i}\njetstream { store_dir: "${join(this.#dir, String(i))}" }\n` +
          `cluster { name: bench, listen: 127.0.0.1:${base + 3 + i}, routes: [${routes.join(', ')}] }\n`,
      );
      this.#servers.push(new Server(this.path, ['-c', file], join(this.#dir, `log-${i}`)));
    }
    for (let i = 0; i < 3; i++) await this.#servers[i]?.listening(base + i);
    this.#connection = await this.nats.connect({ servers: [`127.0.0.1:${base}`] });
    const connection = this.#connection;
    await until('the stream', async () => {
      try {
        const manager = await connection.jetstreamManager();
        await manager.streams.add({
          name: 'messages',
          subjects: ['channel.*'],
          num_replicas: 3,
          storage: 'file',
        });
        return true;
      } catch {
        // No leader yet.
        return false;
      }
    });
    this.#js = connection.jetstream();
  }

  async stop(): Promise<void> {
    await this.#connection?.close();
    for (const server of this.#servers) await server.stop();
    rmSync(this.#dir, { recursive: true, force: true });
  }

  processes(): readonly ProcessGroup[] {
    return this.#servers.map(({ pid }, i) => ({ name: `node ${i + 1}`, pid }));
  }

  append({ channel, text }: Item): Promise<unknown> {
    const body = Buffer.from(JSON.stringify({ role: 'user', author: 'ann', text }));
    return (this.#js as ReturnType<Connection['jetstream']>).publish(`channel.${channel}`, body);
  }

  appendFrame(items: readonly Item[]): Promise<unknown> {
    return Promise.all(items.map((item) => this.append(item)));
  }
}
