/** Free ports of this machine. */
import { once } from 'node:events';
import { type AddressInfo, createServer } from 'node:net';
import { HansardError } from '../common/errors.js';

export const loopback = '127.0.0.1';

/** Different ports that nobody listens on now. Another process may still be faster: who binds tells. */
export async function freePorts(count: number): Promise<number[]> {
  const servers = await Promise.all(
    Array.from({ length: count }, async () => {
      const server = createServer().listen(0, loopback);
      await once(server, 'listening');
      return server;
    }),
  );
  const ports = servers.map((server) => (server.address() as AddressInfo).port);
  await Promise.all(servers.map((server) => new Promise((closed) => server.close(closed))));
  return ports;
}

const attempts = 3;

/** Again with other ports where another process was faster. */
export async function withFreePorts<T>(start: () => Promise<T>): Promise<T> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await start();
    } catch (error) {
      const isTaken = error instanceof HansardError && error.reason === 'ADDRESS_IN_USE';
      if (!isTaken || attempt === attempts) throw error;
    }
  }
}
