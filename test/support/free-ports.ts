import { once } from 'node:events';
import { createServer } from 'node:net';

/** Below those that the system gives to connections and to port 0: these take a port while the node that has it is down. */
const lowest = 10_000;
const highest = 32_000;
/** Ports that a test file comes by: those that run at the same time begin apart. */
const perProcess = 60;

let next = process.pid * perProcess;

/** The first of `count` consecutive ports that are free now; another one with each call. */
export async function freeBase(count = 9): Promise<number> {
  for (;;) {
    const base = lowest + (next % (highest - lowest - count));
    next += count;
    const servers = await Promise.all(
      Array.from({ length: count }, async (_, i) => {
        const server = createServer().listen(base + i, '127.0.0.1');
        return once(server, 'listening').then(
          () => server,
          () => undefined,
        );
      }),
    );
    await Promise.all(servers.map((server) => server && new Promise((closed) => server.close(closed))));
    if (servers.every((server) => server !== undefined)) return base;
  }
}

export async function freePorts(count: number): Promise<number[]> {
  const base = await freeBase(count);
  return Array.from({ length: count }, (_, i) => base + i);
}
