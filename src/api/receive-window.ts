/**
 * How much a client may have on its way to this server. HTTP/2 lets a receiver
 * say so: per stream, and for a connection as a whole. Both are 64 KiB unless
 * raised, which caps an upload at 64 KiB per round trip (6 MB/s at 10 ms),
 * and grpc-js has an option for its clients alone.
 *
 * So each session of the HTTP/2 servers that grpc-js makes (inner-server.ts) is given a wider window by
 * Node's own public calls. Where they can't be caught, the server works as before with narrow windows and
 * says so: `isInForce` is false.
 */
import type { ServerHttp2Session } from 'node:http2';
import type { Server } from '@grpc/grpc-js';
import { type Caught, onHttp2Server } from './inner-server.js';

/** What HTTP/2 begins with (RFC 9113, 6.9.2). */
export const narrowWindowBytes = 65_535;

/**
 * 60 MB/s at a round trip of 10 ms (docs/performance.md). More would serve longer
 * ways, and cost: what lies in the client's socket is ahead of its answer to a
 * keepalive ping, so over a slow line a window must be sent within that timeout.
 */
export const defaultReceiveWindowBytes = 2 * 1024 * 1024;
/** 2 MiB over a line of 1 Mbit/s take 17 s. */
export const keepaliveTimeoutMs = 20_000;

/** To be called before the server is bound. */
export function widenReceiveWindow(server: Server, windowBytes: number): Caught {
  if (windowBytes <= narrowWindowBytes) return { isInForce: false };
  return onHttp2Server(server, (http2Server) => {
    http2Server.on('session', (session) => widen(session, windowBytes));
    return true;
  });
}

/**
 * Node gives a connection's bytes free as they arrive and a stream's as they are
 * read: the connection's window lets bytes flow, the stream's bounds what one that
 * is not read may hold.
 */
function widen(session: ServerHttp2Session, windowBytes: number): void {
  // A connection may be gone before it is looked at; these calls throw then, and nobody would catch it.
  if (session.destroyed) return;
  session.settings({ initialWindowSize: windowBytes });
  session.setLocalWindowSize(windowBytes);
}
