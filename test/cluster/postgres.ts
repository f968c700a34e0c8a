/** A PostgreSQL server for a test, and sessions of it by psql: whoever wants one needs no package. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { appendFileSync, chownSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { removeFolder } from '../../bench/harness/leftovers.js';
import { Absent } from '../../bench/harness/system.js';
import {
  type Account,
  accountInsteadOfRoot,
  program,
  Server,
  until,
  workFolder,
} from '../../bench/peers/common.js';
import { freePorts } from '../support/free-ports.js';

interface Programs {
  readonly initdb: string;
  readonly postgres: string;
  readonly psql: string;
}

/** Why there is none on this machine, or its programs. */
export function findPostgres(): { programs: Programs; account: Account | undefined } | string {
  try {
    const programs = { initdb: program('initdb'), postgres: program('postgres'), psql: program('psql') };
    return { programs, account: accountInsteadOfRoot('postgres') };
  } catch (error) {
    if (error instanceof Absent) return error.message;
    throw error;
  }
}

export class Postgres {
  private constructor(
    readonly port: number,
    readonly psql: string,
    readonly dir: string,
    readonly server: Server,
  ) {}

  static async start({
    programs,
    account,
  }: Exclude<ReturnType<typeof findPostgres>, string>): Promise<Postgres> {
    const dir = workFolder('consumer');
    if (account !== undefined) chownSync(dir, account.uid, account.gid);
    const data = join(dir, 'data');
    const [port = 0] = await freePorts(1);
    const initdb = ['-D', data, '-U', 'consumer', '-A', 'trust', '-E', 'UTF8', '--no-sync'];
    execFileSync(programs.initdb, initdb, { stdio: ['ignore', 'ignore', 'pipe'], cwd: dir, ...account });
    const lines = [
      "listen_addresses = '127.0.0.1'",
      `port = ${port}`,
      `unix_socket_directories = '${dir}'`,
      '',
    ];
    appendFileSync(join(data, 'postgresql.conf'), lines.join('\n'));
    const server = new Server(programs.postgres, ['-D', data], join(dir, 'log'), { account });
    const never = new AbortController().signal;
    await server.listening(port, never);
    const database = new Postgres(port, programs.psql, dir, server);
    await until('a session', never, async () => {
      try {
        await database.query('SELECT 1');
        return true;
      } catch {
        // It listens, and starts up still.
        return false;
      }
    });
    return database;
  }

  /** Rows, each as its columns. */
  async query(sql: string): Promise<string[][]> {
    const session = new Session(this.psql, this.port);
    try {
      return await session.run(sql);
    } finally {
      session.end();
    }
  }

  async stop(): Promise<void> {
    // Sessions of killed consumers may be there still.
    await this.server.stop('SIGINT');
    removeFolder(this.dir);
  }
}

const endMark = 'that was all';

/** One psql: statements one after the other, each a transaction of its own. */
export class Session {
  readonly #process: ChildProcess;
  readonly #lines: AsyncIterator<string>;
  #turn: Promise<unknown> = Promise.resolve();
  #said = '';

  constructor(psql: string, port: number) {
    const args = ['-X', '-q', '-A', '-t', '-F', '\t', '-v', 'ON_ERROR_STOP=1'];
    this.#process = spawn(psql, [...args, '-h', '127.0.0.1', '-p', `${port}`, '-U', 'consumer', 'postgres']);
    this.#process.stdin?.on('error', () => undefined);
    this.#process.stderr?.on('data', (bytes: Buffer) => {
      this.#said = `${this.#said}${bytes}`.slice(-1_000);
    });
    const lines = createInterface({ input: this.#process.stdout as NodeJS.ReadableStream });
    this.#lines = lines[Symbol.asyncIterator]();
  }

  /** Rejects where the statement fails, and from there on. */
  run(sql: string): Promise<string[][]> {
    const turn = this.#turn.then(async () => {
      this.#process.stdin?.write(`${sql};\n\\echo ${endMark}\n`);
      const rows: string[][] = [];
      for (;;) {
        const { value, done } = await this.#lines.next();
        if (done === true) throw new Error(`psql ended: ${this.#said}`);
        if (value === endMark) return rows;
        rows.push(String(value).split('\t'));
      }
    });
    this.#turn = turn.catch(() => undefined);
    return turn;
  }

  end(): void {
    this.#process.stdin?.end();
  }
}
