/** PostgreSQL: a primary and two streaming standbys; commits wait for the flush of either. */
import { execFileSync } from 'node:child_process';
import { appendFileSync, chownSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { removeFolder } from '../harness/leftovers.js';
import { freePorts } from '../harness/ports.js';
import type { Following, Item, ProcessGroup, System } from '../harness/system.js';
import {
  type Account,
  accountInsteadOfRoot,
  clientPackage,
  program,
  Server,
  until,
  versionOf,
  workFolder,
} from './common.js';

interface Pool {
  query(query: { name: string; text: string; values: unknown[] }): Promise<{ rows: unknown[] }>;
  query(text: string): Promise<{ rows: Record<string, unknown>[] }>;
  on(event: 'error', told: (error: Error) => void): void;
  end(): Promise<void>;
}
interface Client {
  connect(): Promise<void>;
  on(event: 'error', told: (error: Error) => void): void;
  on(event: 'notification', told: (notification: { payload?: string }) => void): void;
  query(text: string): Promise<unknown>;
  end(): Promise<void>;
}
interface Pg {
  readonly Pool: new (options: Record<string, unknown>) => Pool;
  readonly Client: new (options: Record<string, unknown>) => Client;
}

/** More connections than this bring less on two cores: tried 16, 32, 64. */
const connections = 32;

const insertOne = 'INSERT INTO messages (channel, role, author, body) VALUES ($1, $2, $3, $4)';
const insertMany =
  'INSERT INTO messages (channel, role, author, body) SELECT c, $2, $3, b FROM unnest($1::int[], $4::text[]) AS t(c, b)';
/** The message itself goes with the notification, at its commit: its readers ask nothing more. */
const insertTold =
  "WITH stored AS (INSERT INTO messages (channel, role, author, body) VALUES ($1, $2, $3, $4) RETURNING channel, body) SELECT pg_notify('channel_' || channel, body) FROM stored";
const latest =
  'SELECT id, created, role, author, body FROM messages WHERE channel = $1 ORDER BY id DESC LIMIT 50';

export function findPostgres(): System {
  const programs = {
    initdb: program('initdb'),
    postgres: program('postgres'),
    baseBackup: program('pg_basebackup'),
  };
  const account = accountInsteadOfRoot('postgres');
  return new Postgres(programs, account, clientPackage('pg') as Pg);
}

class Postgres implements System {
  readonly name = 'PostgreSQL';
  readonly version: string;
  readonly durability =
    "fsync on, synchronous_commit on, synchronous_standby_names 'ANY 1 (s1, s2)': flushed on the primary and one standby";
  readonly #dir = workFolder('postgres');
  readonly #servers: Server[] = [];
  #server: Record<string, unknown> = {};
  #pool: Pool | undefined;

  constructor(
    readonly programs: { initdb: string; postgres: string; baseBackup: string },
    readonly account: Account | undefined,
    private readonly pg: Pg,
  ) {
    this.version = `${versionOf(programs.postgres, ['--version'], /(\d[\d.]*)/)}, pg with ${connections} connections and prepared statements; readers: LISTEN, a connection each`;
  }

  async start(signal: AbortSignal): Promise<void> {
    const { account, programs } = this;
    if (account !== undefined) chownSync(this.#dir, account.uid, account.gid);
    const base = await freePorts(3);
    const command = (path: string, args: string[]): void => {
      execFileSync(path, args, { stdio: ['ignore', 'ignore', 'pipe'], cwd: this.#dir, ...account });
    };
    const folder = (i: number): string => join(this.#dir, `data-${i}`);
    command(programs.initdb, ['-D', folder(0), '-U', 'bench', '-A', 'trust', '-E', 'UTF8', '--no-sync']);
    appendFileSync(
      join(folder(0), 'postgresql.conf'),
      [
        'max_connections = 1100',
        'shared_buffers = 256MB',
        'max_wal_size = 4GB',
        'fsync = on',
        'synchronous_commit = on',
        "listen_addresses = '127.0.0.1'",
        `unix_socket_directories = '${this.#dir}'`,
        '',
      ].join('\n'),
    );
    await this.#begin(folder(0), base, signal);
    for (const i of [1, 2]) {
      const from = `host=127.0.0.1 port=${base} user=bench application_name=s${i}`;
      mkdirSync(folder(i), { mode: 0o700 });
      if (account !== undefined) chownSync(folder(i), account.uid, account.gid);
      command(programs.baseBackup, ['-D', folder(i), '-R', '-X', 'stream', '-c', 'fast', '-d', from]);
      await this.#begin(folder(i), base + i, signal);
    }
    this.#server = { host: '127.0.0.1', port: base, user: 'bench', database: 'postgres' };
    this.#pool = new this.pg.Pool({ ...this.#server, max: connections });
    const pool = this.#pool;
    // Of idle connections: whoever needs one next is told on its own.
    pool.on('error', () => {});
    await until('two standbys', signal, async () => {
      const { rows } = await pool.query("SELECT 1 FROM pg_stat_replication WHERE state = 'streaming'");
      return rows.length === 2;
    });
    await pool.query("ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (s1, s2)'");
    await pool.query('SELECT pg_reload_conf()');
    await until('synchronous standbys', signal, async () => {
      const { rows } = await pool.query("SELECT 1 FROM pg_stat_replication WHERE sync_state = 'quorum'");
      return rows.length === 2;
    });
    await pool.query(
      `CREATE TABLE messages (channel int NOT NULL, id bigint GENERATED ALWAYS AS IDENTITY,
       created timestamptz NOT NULL DEFAULT now(), role text NOT NULL, author text NOT NULL, body text NOT NULL,
       PRIMARY KEY (channel, id))`,
    );
  }

  async #begin(folder: string, port: number, signal: AbortSignal): Promise<void> {
    const { account, programs } = this;
    const logFile = join(this.#dir, `log-${port}`);
    const server = new Server(programs.postgres, ['-D', folder, '-p', String(port)], logFile, { account });
    this.#servers.push(server);
    await server.listening(port, signal);
  }

  async stop(): Promise<void> {
    await this.#pool?.end();
    for (const server of [...this.#servers].reverse()) await server.stop('SIGINT');
    removeFolder(this.#dir);
  }

  processes(): readonly ProcessGroup[] {
    return this.#servers.map(({ pid }, i) => ({ name: `node ${i + 1}`, pid }));
  }

  append({ channel, text }: Item): Promise<unknown> {
    const values = [channel, 'user', 'ann', text];
    return (this.#pool as Pool).query({ name: 'one', text: insertOne, values });
  }

  appendFrame(items: readonly Item[]): Promise<unknown> {
    const values = [items.map(({ channel }) => channel), 'user', 'ann', items.map(({ text }) => text)];
    return (this.#pool as Pool).query({ name: 'many', text: insertMany, values });
  }

  appendBatch(channel: number, texts: readonly string[]): Promise<unknown> {
    return this.appendFrame(texts.map((text) => ({ channel, text })));
  }

  async page(channel: number): Promise<number> {
    const { rows } = await (this.#pool as Pool).query({ name: 'latest', text: latest, values: [channel] });
    return rows.length;
  }

  appendTold({ channel, text }: Item): Promise<unknown> {
    const values = [channel, 'user', 'ann', text];
    return (this.#pool as Pool).query({ name: 'told', text: insertTold, values });
  }

  async tail(channel: number, told: (text: string) => void): Promise<Following> {
    const client = new this.pg.Client(this.#server);
    // A connection that ends is missed where deliveries are counted.
    client.on('error', () => {});
    await client.connect();
    client.on('notification', ({ payload = '' }) => told(payload));
    await client.query(`LISTEN channel_${channel}`);
    return { stop: () => client.end() };
  }
}
