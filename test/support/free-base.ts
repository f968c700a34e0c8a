import { once } from 'node:events';
import { createServer } from 'node:net';

/** Client, peer and HTTP port of three nodes. */
const ports = 9;

/** The first of consecutive ports that are free now, below those that the system gives to connections. */
export async function freeBase(): Promise<number> {
  for (;;) {
    const base = 12_000 + Math.floor(Math.random() * 18_000);
    const servers = await Promise.all(
      Array.from({ length: ports }, (_, i) => {
        const server = createServer().listen(base + i, '127.0.0.1');
        return once(server, 'listening').then(
          () => server,
          () => undefined,
        );
      }),
    );
    for (const server of servers) server?.close();
    if (servers.every((server) => server !== undefined)) return base;
  }
}
