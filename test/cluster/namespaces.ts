/**
 * A network namespace per node, each with one end of a veth pair; the other ends
 * are ports of a bridge, on which this process has an address too. What is cut
 * is cut by neighbour entries: frames go to a station that does not exist, one
 * direction of one pair at a time, and nobody is told. That needs no firewall.
 *
 * Names begin with a prefix of this process, and a shell of its own removes all
 * of them as soon as this process is gone, however it went.
 */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { networkInterfaces } from 'node:os';
import type { TestNetwork } from './network.js';

/** 198.18.0.0/15 is kept for tests of networks (RFC 2544): nothing else should be there. */
const subnets = 256;
/** A station that does not exist, of the range for local use. */
const nobody = '02:68:7a:00:00:ff';
const clientPlace = 254;
const commandTimeoutMs = 20_000;

/** Empty: they can be made here. Tried, once. */
export async function whyNoNamespaces(): Promise<string> {
  if (process.platform !== 'linux') return `${process.platform} has no network namespaces`;
  if (process.getuid?.() !== 0) return 'network namespaces need root';
  const probe = `hzp${process.pid}`;
  try {
    await command('ip', ['netns', 'add', probe]);
    await command('ip', ['link', 'add', probe, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', probe]);
    await command('ip', ['link', 'add', `${probe}b`, 'type', 'bridge']);
    return '';
  } catch (error) {
    return `network namespaces can't be made: ${error instanceof Error ? error.message : String(error)}`;
  } finally {
    for (const args of [
      ['link', 'del', `${probe}b`],
      ['link', 'del', probe],
      ['netns', 'del', probe],
    ])
      await command('ip', args).catch(() => {});
  }
}

export async function createNamespaces(nodes: number): Promise<TestNetwork> {
  const network = new Namespaces(nodes);
  try {
    await network.make();
  } catch (error) {
    await network.end();
    throw error;
  }
  return network;
}

class Namespaces implements TestNetwork {
  readonly kind = 'namespaces';
  /** Addresses other than loopback are refused without it. */
  readonly startArgs = ['--insecure'];
  readonly #prefix = `hz${randomBytes(3).toString('hex')}`;
  readonly #subnet = freeSubnet();
  readonly #places: readonly number[];
  readonly #remover: ChildProcess;
  /** Cuts as `from>to`, by place. */
  readonly #cuts = new Set<string>();
  readonly #slow = new Set<number>();

  constructor(nodes: number) {
    this.#places = Array.from({ length: nodes }, (_, i) => i + 1);
    this.#remover = this.#startRemover();
  }

  hostOf(node: number): string {
    return `${this.#subnet}.${node}`;
  }
  commandOf(node: number): readonly string[] {
    return ['ip', 'netns', 'exec', this.#space(node)];
  }
  peerAddress(_from: number, _to: number, address: string): Promise<string> {
    return Promise.resolve(address);
  }

  async make(): Promise<void> {
    const bridge = this.#prefix;
    const lines = [
      `link add ${bridge} address ${stationOf(clientPlace)} type bridge`,
      `addr add ${this.hostOf(clientPlace)}/24 dev ${bridge}`,
      `link set ${bridge} up`,
    ];
    for (const node of this.#places) {
      const port = this.#port(node);
      lines.push(
        `netns add ${this.#space(node)}`,
        `link add ${port} type veth peer name eth0 netns ${this.#space(node)}`,
        `link set ${port} master ${bridge}`,
        `link set ${port} up`,
      );
    }
    await batch([], lines);
    for (const node of this.#places)
      await batch(
        ['-n', this.#space(node)],
        [
          'link set lo up',
          `link set eth0 address ${stationOf(node)}`,
          `addr add ${this.hostOf(node)}/24 dev eth0`,
          'link set eth0 up',
        ],
      );
    for (const from of [...this.#places, clientPlace])
      for (const to of [...this.#places, clientPlace]) if (from !== to) await this.#neighbour(from, to, true);
  }

  async cut(from: number, to: number): Promise<void> {
    this.#cuts.add(`${from}>${to}`);
    await this.#neighbour(from, to, false);
  }

  readonly cutFromClients = async (node: number): Promise<void> => {
    await this.cut(node, clientPlace);
    await this.cut(clientPlace, node);
  };

  readonly slowDown = async (node: number, bitsPerSecond: number): Promise<void> => {
    this.#slow.add(node);
    const inSpace = ['-n', this.#space(node), 'qdisc', 'replace', 'dev', 'eth0', 'root'];
    // A queue of half a second, as a slow line's modem has.
    const line = ['tbf', 'rate', `${bitsPerSecond}bit`, 'burst', '16kb', 'latency', '500ms'];
    await command('tc', [...inSpace, ...line]);
  };

  async heal(): Promise<void> {
    for (const cut of this.#cuts) {
      const [from, to] = cut.split('>').map(Number) as [number, number];
      await this.#neighbour(from, to, true);
    }
    this.#cuts.clear();
    for (const node of this.#slow)
      await command('tc', ['-n', this.#space(node), 'qdisc', 'del', 'dev', 'eth0', 'root']);
    this.#slow.clear();
  }

  async end(): Promise<void> {
    if (this.#remover.exitCode !== null) return;
    this.#remover.ref();
    const ended = once(this.#remover, 'exit');
    this.#remover.stdin?.end();
    await ended;
    const left = [...this.#places.map((node) => this.#space(node))].filter((name) =>
      existsSync(`/var/run/netns/${name}`),
    );
    if (left.length > 0) throw new Error(`namespaces are left: ${left.join(', ')}`);
  }

  #space(node: number): string {
    return `${this.#prefix}n${node}`;
  }
  #port(node: number): string {
    return `${this.#prefix}p${node}`;
  }

  async #neighbour(from: number, to: number, isThere: boolean): Promise<void> {
    const station = isThere ? stationOf(to) : nobody;
    const [where, device] = from === clientPlace ? [[], this.#prefix] : [['-n', this.#space(from)], 'eth0'];
    const entry = [this.hostOf(to), 'lladdr', station, 'dev', device, 'nud', 'permanent'];
    await command('ip', [...where, 'neigh', 'replace', ...entry]);
  }

  /** Begins to remove when its input ends: at `end`, or with this process. */
  #startRemover(): ChildProcess {
    const removals = [
      ...this.#places.map((node) => `ip link del ${this.#port(node)}`),
      ...this.#places.map((node) => `ip netns del ${this.#space(node)}`),
      `ip link del ${this.#prefix}`,
    ];
    const shell = spawn('/bin/sh', ['-c', `cat >/dev/null; ${removals.join('; ')}; true`], {
      stdio: ['pipe', 'ignore', 'ignore'],
      detached: true,
    });
    shell.stdin.on('error', () => {});
    shell.unref();
    (shell.stdin as unknown as { unref(): void }).unref();
    return shell;
  }
}

function stationOf(place: number): string {
  return `02:68:7a:00:00:${place.toString(16).padStart(2, '0')}`;
}

function freeSubnet(): string {
  const taken = Object.values(networkInterfaces()).flatMap((each) => each?.map(({ address }) => address));
  for (;;) {
    const subnet = `198.18.${randomBytes(1).readUInt8() % subnets}`;
    if (!taken.some((address) => address?.startsWith(`${subnet}.`))) return subnet;
  }
}

function batch(options: readonly string[], lines: readonly string[]): Promise<void> {
  return command('ip', [...options, '-batch', '-'], `${lines.join('\n')}\n`);
}

function command(name: string, args: readonly string[], input?: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const child = execFile(name, args, { timeout: commandTimeoutMs }, (error, _stdout, stderr) => {
      if (error === null) resolve();
      else reject(new Error(`${name} ${args.join(' ')}: ${stderr.trim() || error.message}`));
    });
    child.stdin?.on('error', () => {});
    child.stdin?.end(input ?? '');
  });
}
