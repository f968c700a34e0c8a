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

/** What was sent is the sender's again: whoever has kept a view of it says nonsense from here on. */
export function overwriting(transport: Transport): Transport {
  return sendingBy(transport, (to, message, urgent) => {
    const sent = transport.send(to, message, urgent);
    message.fill(0xdb);
    return sent;
  });
}
