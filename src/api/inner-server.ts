/**
 * The HTTP/2 servers that a gRPC server makes, caught as they are made. One method of grpc-js that is
 * not public is needed for it, `createHttp2Server` (seen in 1.14). Where a version lacks it, nothing is
 * caught, and who asked goes the public way; tests of receive-window.ts and plain-unary.ts fail then.
 */
import type { Http2Server } from 'node:http2';
import type { Server } from '@grpc/grpc-js';

export interface Caught {
  /** Whether a server was. */
  readonly isInForce: boolean;
}

interface Inner {
  createHttp2Server?: (this: Server, ...args: unknown[]) => Http2Server;
}

/** To be called before the server is bound. `made` is called with handlers of grpc-js in place; false: it found no use for the server. */
export function onHttp2Server(server: Server, made: (http2Server: Http2Server) => boolean): Caught {
  const state = { isInForce: false };
  const inner = server as unknown as Inner;
  const create = inner.createHttp2Server;
  if (typeof create !== 'function') return state;
  inner.createHttp2Server = function (...args) {
    const http2Server = create.apply(this, args);
    state.isInForce = made(http2Server);
    return http2Server;
  };
  return state;
}
