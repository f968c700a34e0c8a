/**
 * The network between the processes of a test cluster, and what can be done to
 * it. Where the machine allows it every node has a network namespace of its own,
 * joined by a bridge (namespaces.ts); elsewhere the nodes dial one another
 * through proxies on 127.0.0.1 (proxies.ts). Both lose silently: no side is told.
 */
import { createNamespaces, whyNoNamespaces } from './namespaces.js';
import { ProxyNetwork } from './proxies.js';

export interface TestNetwork {
  readonly kind: 'namespaces' | 'proxies';
  /** Where a node listens; the tests' own clients reach it there. */
  hostOf(node: number): string;
  /** What a node's program is started with: the command that puts it into its place. */
  commandOf(node: number): readonly string[];
  /** Further arguments of `hansard start`. */
  readonly startArgs: readonly string[];
  /** Under which address `from` dials `to`, which listens for peers at `address`. */
  peerAddress(from: number, to: number, address: string): Promise<string>;
  /** What `from` sends no longer reaches `to`. */
  cut(from: number, to: number): Promise<void>;
  /** Nor do clients reach it, or it them. Undefined where clients' connections can't be cut. */
  readonly cutFromClients: ((node: number) => Promise<void>) | undefined;
  /** What a node sends takes as long as on a line of so many bits a second. Undefined where it can't be done. */
  readonly slowDown: ((node: number, bitsPerSecond: number) => Promise<void>) | undefined;
  /** All of it is as it was. */
  heal(): Promise<void>;
  end(): Promise<void>;
}

/** Groups of nodes that do not hear of one another. */
export async function partition(network: TestNetwork, ...groups: readonly number[][]): Promise<void> {
  const cuts: Promise<void>[] = [];
  for (const group of groups)
    for (const other of groups)
      if (group !== other) for (const from of group) for (const to of other) cuts.push(network.cut(from, to));
  await Promise.all(cuts);
}

/** Namespaces, or proxies with the reason why. HANSARD_TEST_NETWORK=proxies asks for these. */
export async function openNetwork(nodes: number): Promise<{ network: TestNetwork; whyProxies: string }> {
  const asked = process.env.HANSARD_TEST_NETWORK === 'proxies' ? 'HANSARD_TEST_NETWORK asks for them' : '';
  const whyProxies = asked || (await whyNoNamespaces());
  const network = whyProxies === '' ? await createNamespaces(nodes) : new ProxyNetwork();
  return { network, whyProxies };
}
