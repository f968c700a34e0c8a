/** The recordings: lives of a real node, each ended by kill -9, traced call by call. */
import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { inspect } from 'node:util';
import { connect } from '../../src/client/index.js';
import { cleanEnv, patienceMs } from '../cluster/harness.js';
import { SimRandom } from '../sim/sim-clock.js';
import { freePorts } from '../support/free-ports.js';
import { writeTree } from './disk-model.js';
import { type Promises, promisesAt } from './promises.js';
import { ackSign, channels, type RecordedOptions, textOf } from './recorded-node.js';
import { Recorder } from './recorder.js';
import { straceCommand, tracedEnv } from './strace.js';

const script = fileURLToPath(new URL('./recorded-node.js', import.meta.url));

/** A folder for all of it in memory, where that is there. It is the caller's to remove. */
export function scratchFolder(): string {
  return mkdtempSync(join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'hansard-crash-'));
}

/** A node's process, traced or not. */
export class NodeProcess {
  readonly #child: ChildProcess;
  readonly ended: Promise<unknown>;
  #pid = 0;
  #output = '';
  acks = 0;

  constructor(options: RecordedOptions, prefix: readonly string[] = []) {
    const [command = '', ...args] = [...prefix, process.execPath, script, JSON.stringify(options)];
    this.#child = spawn(command, args, {
      // Its input stays open as long as we live; then it ends itself, whatever became of the tracer.
      stdio: ['pipe', 'pipe', 'pipe'],
      env: { ...cleanEnv(), ...tracedEnv },
    });
    this.#child.stdout?.setEncoding('utf8').on('data', (text: string) => {
      this.acks += text.split(ackSign).length - 1;
      this.#output += text.replaceAll(ackSign, '');
      this.#pid = Number(/^up (\d+)$/m.exec(this.#output)?.[1] ?? 0);
    });
    this.#child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.#output += text;
    });
    this.ended = once(this.#child, 'close');
  }

  get output(): string {
    return this.#output;
  }
  get isGone(): boolean {
    return this.#child.exitCode !== null || this.#child.signalCode !== null;
  }

  async until(what: string, check: () => boolean, timeoutMs = patienceMs): Promise<void> {
    const endMs = performance.now() + timeoutMs;
    while (!check()) {
      if (this.isGone) throw new Error(`the node ended before ${what}: ${this.#output.slice(-1000)}`);
      if (performance.now() > endMs) {
        await this.kill();
        throw new Error(`not within ${timeoutMs} ms: ${what}; ${this.#output.slice(-1000)}`);
      }
      await sleep(5);
    }
  }
  up(): Promise<void> {
    return this.until('it was up', () => this.#pid > 0);
  }

  /** kill -9; the tracer ends by itself and has written everything then. */
  async kill(): Promise<void> {
    if (!this.isGone) {
      if (this.#pid > 0) process.kill(this.#pid, 'SIGKILL');
      // Not up yet, and perhaps below a tracer that would leave it running.
      else this.#child.stdin?.destroy();
    }
    await this.ended;
  }
}

type Act = (node: NodeProcess) => Promise<void>;

/** Lives of a node that is a cluster of its own and appends by itself, on the folder `name`. */
async function livesAlone(folder: string, name: string, recorder: Recorder, from: number) {
  const [client = 0, peer = 0] = await freePorts(2);
  const options: RecordedOptions = {
    dir: recorder.root,
    markFile: recorder.markFile,
    nodeId: 1,
    clusterId: randomBytes(16).toString('hex'),
    members: [{ nodeId: 1, clientAddress: `127.0.0.1:${client}`, peerAddress: `127.0.0.1:${peer}` }],
    partitions: 4,
    init: false,
  };
  let n = from;
  return async (act: Act, how: { init?: boolean; inject?: readonly string[] } = {}): Promise<void> => {
    const trace = join(folder, `trace-${name}-${n}`);
    const inits = { init: how.init ?? false, appendFrom: n };
    n += numbersOfLife;
    const node = new NodeProcess({ ...options, ...inits }, straceCommand(trace, how.inject));
    try {
      await act(node);
    } finally {
      await node.kill();
    }
    recorder.life(trace);
    rmSync(trace);
  };
}

/** More than any life appends. */
const numbersOfLife = 100_000;
const acked =
  (count: number): Act =>
  (node) =>
    node.until(`${count} appends`, () => node.acks >= count);

/**
 * One node alone, which acknowledges appends to clients: made, killed, started
 * again; ended by a sync that fails, whose bytes the next start sees and the disk has not.
 */
export async function recordAlone(folder: string): Promise<Recorder> {
  const recorder = new Recorder(join(folder, 'alone'), join(folder, 'marks-alone'));
  const life = await livesAlone(folder, 'alone', recorder, 0);
  await life(acked(170), { init: true });
  await life(acked(120));
  await life((node) => node.until('its sync failed', () => node.isGone).catch(() => {}), {
    inject: ['fdatasync:error=EIO:when=120'],
  });
  await life(acked(120));
  return recorder;
}

/** The power was lost, and the node goes on with what the disk had: a recording of its own, with the promises of before. */
export async function recordAfterPowerLoss(
  folder: string,
  before: Recorder,
  seed: number,
): Promise<{ recorder: Recorder; carried: Promises }> {
  const random = new SimRandom(seed);
  before.model.seal();
  const start = before.lifeEnds[0] as number;
  const moment = start + random.below(before.end - start);
  const root = join(folder, 'again');
  const tree = before.model.stateAt(moment, 'journal', random);
  writeTree(root, tree);
  const recorder = new Recorder(root, join(folder, 'marks-again'), tree);
  const life = await livesAlone(folder, 'again', recorder, 50 * numbersOfLife);
  await life(acked(60));
  await life(acked(60));
  return { recorder, carried: promisesAt(before.marks, moment) };
}

/**
 * One of three nodes, recorded: it follows, leads, votes; falls behind until the
 * others' logs have nothing for it, and takes snapshots, killed while it does.
 */
export async function recordMember(folder: string): Promise<{
  recorder: Recorder;
  finals: Map<string, number[]>;
}> {
  const markFile = join(folder, 'marks-member');
  const ports = await freePorts(6);
  const members = [0, 1, 2].map((i) => ({
    nodeId: i + 1,
    clientAddress: `127.0.0.1:${ports[i]}`,
    peerAddress: `127.0.0.1:${ports[3 + i]}`,
  }));
  const common = { clusterId: randomBytes(16).toString('hex'), members, partitions: 3, init: false };
  const dirOf = (nodeId: number): string => join(folder, `member-${nodeId}`);
  const recorder = new Recorder(dirOf(3), markFile);
  const open = new Set<NodeProcess>();
  let traces = 0;
  const start = (nodeId: number, how: Partial<RecordedOptions> = {}): NodeProcess => {
    const trace = nodeId === 3 ? straceCommand(join(folder, `member-trace-${++traces}`)) : [];
    const marks = nodeId === 3 ? { markFile } : {};
    const node = new NodeProcess({ ...common, dir: dirOf(nodeId), nodeId, ...marks, ...how }, trace);
    open.add(node);
    return node;
  };
  const end = async (node: NodeProcess, isRecorded = false): Promise<void> => {
    await node.kill();
    open.delete(node);
    if (!isRecorded) return;
    const trace = join(folder, `member-trace-${traces}`);
    recorder.life(trace);
    rmSync(trace);
  };
  const client = connect(`hansard://${members.map(({ clientAddress }) => clientAddress).join(',')}`, {
    timeoutMs: patienceMs,
  });
  let n = 0;
  const appendSome = async (count: number): Promise<void> => {
    const one = async (): Promise<void> => {
      for (let i = 0; i < count / 4; i++) {
        const number = ++n;
        const channel = channels[number % channels.length] as string;
        await client.channel(channel).append({ role: 'user', text: textOf(channel, number) });
      }
    };
    await Promise.all([one(), one(), one(), one()]);
  };
  try {
    let [first, second, third] = [1, 2, 3].map((id) => start(id, { init: true })) as [
      NodeProcess,
      NodeProcess,
      NodeProcess,
    ];
    await Promise.all([first.up(), second.up(), third.up()]);
    await appendSome(160);
    await end(third, true);
    // Beyond what the others' logs keep.
    await appendSome(600);
    third = start(3, { settings: { snapshotRate: 64 * 1024 } });
    await third.up();
    await appendSome(40);
    await end(third, true);
    third = start(3);
    await third.up();
    await appendSome(120);
    // Its leaders go: it votes, and leads.
    await end(first);
    await appendSome(40);
    first = start(1);
    await first.up();
    await end(second);
    await appendSome(40);
    second = start(2);
    await second.up();
    await appendSome(80);
    await end(third, true);
    const finals = new Map<string, number[]>();
    for (const name of channels) {
      const numbers: number[] = [];
      for await (const event of client.channel(name).list({ after: 1000 })) {
        const text = inspect(event, { depth: 8, maxStringLength: 40 });
        numbers.push(Number(new RegExp(`${name}#(\\d+);`).exec(text)?.[1]));
      }
      finals.set(name, numbers);
    }
    return { recorder, finals };
  } finally {
    await client.close();
    await Promise.all([...open].map((node) => node.kill()));
  }
}
