/** The way from one node to another: a TCP relay on a loopback port that can be cut and mended. */
import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';
import { loopback } from './ports.js';

export class Wire {
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  #isCut = false;

  private constructor(targetPort: number) {
    this.#server = createServer({ allowHalfOpen: true }, (from) => {
      this.#keep(from);
      if (this.#isCut) return void from.destroy();
      const to = connect({ port: targetPort, host: loopback, allowHalfOpen: true });
      this.#keep(to);
      from.pipe(to);
      to.pipe(from);
      from.once('close', () => to.destroy());
      to.once('close', () => from.destroy());
    });
  }

  static async to(targetPort: number): Promise<Wire> {
    const wire = new Wire(targetPort);
    wire.#server.listen(0, loopback);
    await once(wire.#server, 'listening');
    return wire;
  }

  /** Where the sender dials. */
  get address(): string {
    return `${loopback}:${(this.#server.address() as AddressInfo).port}`;
  }

  /** Breaks what is connected and refuses what comes, until mended. */
  set isCut(cut: boolean) {
    this.#isCut = cut;
    if (cut) for (const socket of this.#sockets) socket.destroy();
  }

  async close(): Promise<void> {
    const closed = new Promise<void>((done) => this.#server.close(() => done()));
    for (const socket of this.#sockets) socket.destroy();
    await closed;
  }

  #keep(socket: Socket): void {
    this.#sockets.add(socket);
    socket.setNoDelay(true);
    // A broken connection is what a wire is for; both ends see it by themselves.
    socket.on('error', () => {});
    socket.once('close', () => this.#sockets.delete(socket));
  }
}
