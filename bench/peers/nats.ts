/** NATS JetStream: one stream with three replicas in files. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { removeFolder } from '../harness/leftovers.js';
import { freePorts } from '../harness/ports.js';
import type { Following, Item, ProcessGroup, System } from '../harness/system.js';
import { clientPackage, program, Server, until, versionOf, workFolder } from './common.js';

interface Messages {
  stop(): void;
  close(): Promise<unknown>;
}
interface Consumer {
  consume(options: { callback: (message: { json(): { text: string } }) => void }): Promise<Messages>;
}
interface JetStreamClient {
  publish(subject: string, data: Uint8Array, options: { timeout: number }): Promise<unknown>;
  readonly consumers: {
    get(stream: string, ordered: { filterSubjects: string; deliver_policy: 'new' }): Promise<Consumer>;
  };
}
interface Connection {
  jetstream(): JetStreamClient;
  jetstreamManager(): Promise<{ streams: { add(config: Record<string, unknown>): Promise<unknown> } }>;
  close(): Promise<void>;
}
interface Nats {
  connect(options: { servers: string[] }): Promise<Connection>;
}

/** Its default of 5 s is less than thousands in flight may wait on a busy machine. */
const timeoutMs = 30_000;

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
  #js: JetStreamClient | undefined;

  constructor(
    private readonly path: string,
    private readonly nats: Nats,
  ) {
    this.version = `${versionOf(path, ['--version'], /v([\d.]+)/)}, nats.js with one connection; readers: ordered consumers`;
  }

  async start(signal: AbortSignal): Promise<void> {
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
    for (let i = 0; i < 3; i++) await this.#servers[i]?.listening(base + i, signal);
    this.#connection = await this.nats.connect({ servers: [`127.0.0.1:${base}`] });
    const connection = this.#connection;
    await until('the stream', signal, async () => {
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
    removeFolder(this.#dir);
  }

  processes(): readonly ProcessGroup[] {
    return this.#servers.map(({ pid }, i) => ({ name: `node ${i + 1}`, pid }));
  }

  append({ channel, text }: Item): Promise<unknown> {
    const body = Buffer.from(JSON.stringify({ role: 'user', author: 'ann', text }));
    return (this.#js as JetStreamClient).publish(`channel.${channel}`, body, { timeout: timeoutMs });
  }

  appendFrame(items: readonly Item[]): Promise<unknown> {
    return Promise.all(items.map((item) => this.append(item)));
  }

  async tail(channel: number, told: (text: string) => void): Promise<Following> {
    const consumer = await (this.#js as JetStreamClient).consumers.get('messages', {
      filterSubjects: `channel.${channel}`,
      deliver_policy: 'new',
    });
    const messages = await consumer.consume({ callback: (message) => told(message.json().text) });
    return {
      stop: async () => {
        await messages.close();
      },
    };
  }
}
