/** Both networks behind one face, so that the suites run on each. */
import { createServer } from 'node:net';
import type { Clock, Network, Random } from '../../src/common/env.js';
import type { NodeId } from '../../src/common/ids.js';
import { createTcpNetwork } from '../../src/transport/tcp-network.js';
import { SimClock, SimRandom } from '../sim/sim-clock.js';
import { SimNetwork } from '../sim/sim-network.js';
import { realClock, realRandom, untilReal } from '../support/real-env.js';

export interface Harness {
  readonly name: string;
  readonly clock: Clock;
  readonly random: Random;
  /** An address on which nobody listens yet. */
  freeAddress(): Promise<string>;
  network(nodeId: NodeId, address: string): Network;
  until(done: () => boolean, limitMs?: number): Promise<boolean>;
  pass(ms: number): Promise<void>;
}

export interface SimHarness extends Harness {
  readonly net: SimNetwork;
  readonly clock: SimClock;
}

export function tcpHarness(): Harness {
  return {
    name: 'TCP',
    clock: realClock,
    random: realRandom,
    freeAddress,
    network: (_nodeId, address) => createTcpNetwork({ bindAddress: address }),
    until: untilReal,
    pass: (ms) => new Promise((resolve) => setTimeout(resolve, ms)),
  };
}

export function simHarness(seed = 1): SimHarness {
  const clock = new SimClock();
  const random = new SimRandom(seed);
  const net = new SimNetwork(clock, random.fork());
  let port = 1;
  return {
    name: 'simulated',
    net,
    clock,
    random,
    freeAddress: async () => `node:${port++}`,
    network: (nodeId, address) => net.node(nodeId, address),
    until: (done, limitMs = 60_000) => clock.until(done, limitMs),
    pass: (ms) => clock.run(ms),
  };
}

function freeAddress(): Promise<string> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address() as { port: number };
      server.close(() => resolve(`127.0.0.1:${port}`));
    });
  });
}
