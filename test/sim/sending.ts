import type { Transport } from '../../src/transport/types.js';

/** The transport, with what it sends looked at or changed on the way. */
export function sendingBy(transport: Transport, send: Transport['send']): Transport {
  return {
    start: (handlers) => transport.start(handlers),
    get address() {
      return transport.address;
    },
    send,
    flush: () => transport.flush(),
    fetch: (from, request, handlers) => transport.fetch(from, request, handlers),
    isConnected: (peer) => transport.isConnected(peer),
    peers: () => transport.peers(),
    stop: () => transport.stop(),
  };
}

/** Bytes that are somebody else's from here on: whoever kept a view of them finds out. */
export function overwrite(bytes: Uint8Array): void {
  bytes.fill(0xdb);
}

/** What was sent is the sender's again. */
export function overwriting(transport: Transport): Transport {
  return sendingBy(transport, (to, message, urgent) => {
    const sent = transport.send(to, message, urgent);
    overwrite(message);
    return sent;
  });
}
