/** A process that is stopped (SIGSTOP) hears nothing: what arrives waits in its kernel. */
import type { InStreamHandlers, Network, OutStream } from '../../src/common/env.js';
import type { NodeClock } from './node-clock.js';
import { overwrite } from './sending.js';

export function pausable(network: Network, clock: NodeClock): Network {
  return {
    listen: (onDial) =>
      network.listen((hello, stream) => clock.whenRunning(() => onDial(hello, sender(stream, clock)))),
    dial: (to, hello, handlers) => network.dial(to, hello, receiver(handlers, clock)),
  };
}

function receiver(handlers: InStreamHandlers, clock: NodeClock): InStreamHandlers {
  return {
    onOpen: () => clock.whenRunning(() => handlers.onOpen()),
    onFrame: (frame) => {
      const copy = Uint8Array.from(frame);
      clock.whenRunning(() => {
        handlers.onFrame(copy);
        overwrite(copy);
      });
    },
    onClose: (kind, reason) => clock.whenRunning(() => handlers.onClose(kind, reason)),
  };
}

function sender(stream: OutStream, clock: NodeClock): OutStream {
  return {
    write: (frame, more) => stream.write(frame, more),
    onDrain: (fn) => stream.onDrain(() => clock.whenRunning(fn)),
    onClose: (fn) => stream.onClose(() => clock.whenRunning(fn)),
    close: (reason) => stream.close(reason),
  };
}
