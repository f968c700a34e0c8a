/** RabbitMQ: a cluster of three, quorum queues with a member on each, publisher confirms. */
import { randomBytes } from 'node:crypto';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { removeFolder } from '../harness/leftovers.js';
import { freePorts } from '../harness/ports.js';
import type { Item, ProcessGroup, System } from '../harness/system.js';
import { clientPackage, program, Server, until, workFolder } from './common.js';

interface ConfirmChannel {
  assertQueue(name: string, options: Record<string, unknown>): Promise<unknown>;
  checkQueue(name: string): Promise<unknown>;
  sendToQueue(
    name: string,
    content: Buffer,
    options: Record<string, unknown>,
    confirmed: (error: unknown) => void,
  ): boolean;
  on(event: 'error', told: (error: Error) => void): void;
}
interface Connection {
  readonly connection: { readonly serverProperties: { readonly version?: string } };
  createConfirmChannel(): Promise<ConfirmChannel>;
  close(): Promise<void>;
  on(event: 'error', told: (error: Error) => void): void;
}
interface Amqp {
  connect(url: string): Promise<Connection>;
}

/** Three, each led by another node, brought the same rate and cost a fifth more CPU. */
const queues = 1;

export function findRabbitmq(): System {
  const programs = { server: program('rabbitmq-server'), epmd: program('epmd') };
  return new RabbitMq(programs, clientPackage('amqplib') as Amqp);
}

class RabbitMq implements System {
  readonly name = 'RabbitMQ';
  readonly durability =
    'a quorum queue with 3 members, publisher confirms: in the Raft log of a majority, which syncs each write (fdatasync, the default)';
  readonly #dir = workFolder('rabbitmq');
  readonly #servers: Server[] = [];
  #epmd: Server | undefined;
  #version = '';
  #connections: Connection[] = [];
  #channels: ConfirmChannel[] = [];

  constructor(
    private readonly programs: { readonly server: string; readonly epmd: string },
    private readonly amqp: Amqp,
  ) {}

  /** Known when it runs: its own program needs seconds and a home to tell. */
  get version(): string {
    return `${this.#version}, amqplib with one connection to the node that leads the queue`;
  }

  async start(signal: AbortSignal): Promise<void> {
    const base = await freePorts(7);
    const [amqpPort, nodesPort, epmdPort] = [base, base + 3, base + 6];
    // Erlang's own register of nodes: one of ours, on its own port, instead of a daemon that stays.
    const epmdArgs = ['-port', String(epmdPort), '-address', '127.0.0.1'];
    this.#epmd = new Server(this.programs.epmd, epmdArgs, join(this.#dir, 'epmd.log'));
    await this.#epmd.listening(epmdPort, signal);
    const cookie = randomBytes(12).toString('hex');
    for (let i = 0; i < 3; i++) {
      const dir = this.#configure(i, amqpPort + i);
      const env = environment(dir, i, { cookie, epmdPort, nodePort: nodesPort + i });
      const log = join(this.#dir, `log-${i}`);
      this.#servers.push(new Server(this.programs.server, [], log, { env }));
      // One after the other: those that come later join the first.
      await this.#servers[i]?.listening(amqpPort + i, signal);
    }
    for (let i = 0; i < 3; i++) {
      const connection = await this.amqp.connect(`amqp://127.0.0.1:${amqpPort + i}`);
      // Calls under way are told on their own.
      connection.on('error', () => {});
      this.#connections.push(connection);
      this.#version = connection.connection.serverProperties.version ?? 'of unknown version';
      const channel = await connection.createConfirmChannel();
      channel.on('error', () => {});
      this.#channels.push(channel);
    }
    for (let i = 0; i < queues; i++) await this.#channels[i]?.assertQueue(queueOf(i), quorum);
    // Without nodes that did not join the cluster the queue would have fewer members: all must know it.
    for (const channel of this.#channels)
      for (let i = 0; i < queues; i++) await channel.checkQueue(queueOf(i));
    await until('the queues', signal, async () => {
      await Promise.all(Array.from({ length: queues }, (_, i) => this.append({ channel: i, text: 'first' })));
      return true;
    });
  }

  #configure(node: number, port: number): string {
    const dir = join(this.#dir, `node-${node}`);
    mkdirSync(dir, { recursive: true });
    const lines = [
      `listeners.tcp.local = 127.0.0.1:${port}`,
      'cluster_formation.peer_discovery_backend = classic_config',
      ...[0, 1, 2].map((i) => `cluster_formation.classic_config.nodes.${i + 1} = ${nodeName(i)}`),
      'log.console = true',
      'log.console.level = error',
      'log.file = false',
      // Three of them share this machine: each may take a fifth of its memory before it slows publishers.
      'vm_memory_high_watermark.relative = 0.2',
      'disk_free_limit.absolute = 200MB',
    ];
    writeFileSync(join(dir, 'rabbitmq.conf'), `${lines.join('\n')}\n`);
    writeFileSync(join(dir, 'enabled_plugins'), '[].\n');
    writeFileSync(join(dir, 'advanced.config'), '[].\n');
    writeFileSync(join(dir, 'env.conf'), '');
    return dir;
  }

  async stop(): Promise<void> {
    // A connection that broke says so when it is closed; it is gone either way.
    for (const connection of this.#connections) await connection.close().catch(() => {});
    await Promise.all(this.#servers.map((server) => server.stop()));
    await this.#epmd?.stop();
    removeFolder(this.#dir);
  }

  processes(): readonly ProcessGroup[] {
    return this.#servers.map(({ pid }, i) => ({ name: `node ${i + 1}`, pid }));
  }

  /** A conversation stays in one queue, so its order holds. */
  append({ channel, text }: Item): Promise<unknown> {
    const body = Buffer.from(JSON.stringify({ channel, role: 'user', author: 'ann', text }));
    const index = channel % queues;
    return new Promise<void>((resolve, reject) => {
      this.#channels[index]?.sendToQueue(queueOf(index), body, { persistent: true }, (error) => {
        if (error === null || error === undefined) resolve();
        else reject(error instanceof Error ? error : new Error(String(error)));
      });
    });
  }

  appendFrame(items: readonly Item[]): Promise<unknown> {
    return Promise.all(items.map((item) => this.append(item)));
  }
}

const quorum = {
  durable: true,
  arguments: {
    'x-queue-type': 'quorum',
    'x-quorum-initial-group-size': 3,
    'x-queue-leader-locator': 'client-local',
  },
};
const queueOf = (index: number): string => `messages-${index}`;
const nodeName = (index: number): string => `hansard-bench-${index}@localhost`;

/** All of its files in its folder, all of its ports on the loopback and known. */
function environment(
  dir: string,
  node: number,
  { cookie, epmdPort, nodePort }: { cookie: string; epmdPort: number; nodePort: number },
): Record<string, string> {
  return {
    HOME: dir,
    // Its script then becomes the server instead of waiting for it.
    detached: '1',
    ERL_EPMD_PORT: String(epmdPort),
    ERL_EPMD_ADDRESS: '127.0.0.1',
    RABBITMQ_NODENAME: nodeName(node),
    RABBITMQ_DIST_PORT: String(nodePort),
    RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS: `-setcookie ${cookie} -kernel inet_dist_use_interface {127,0,0,1}`,
    RABBITMQ_CONF_ENV_FILE: join(dir, 'env.conf'),
    RABBITMQ_CONFIG_FILE: join(dir, 'rabbitmq.conf'),
    RABBITMQ_ADVANCED_CONFIG_FILE: join(dir, 'advanced.config'),
    RABBITMQ_ENABLED_PLUGINS_FILE: join(dir, 'enabled_plugins'),
    RABBITMQ_MNESIA_BASE: join(dir, 'data'),
    RABBITMQ_LOG_BASE: join(dir, 'log'),
    RABBITMQ_GENERATED_CONFIG_DIR: join(dir, 'generated'),
    RABBITMQ_PID_FILE: join(dir, 'pid'),
  };
}
