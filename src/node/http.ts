/** The node's small HTTP server for machines that watch: /metrics, /healthz, /readyz. */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { parseAddress } from '../common/address.js';
import { HansardError } from '../common/errors.js';
import type { Logger } from '../common/logger.js';

export interface Readiness {
  readonly ready: boolean;
  /** Why not, for people; also what to wait for. */
  readonly problems: readonly string[];
  /** Whatever helps to see where the node is. */
  readonly details: Readonly<Record<string, unknown>>;
}

export interface HttpHandlers {
  metrics(): Promise<{ text: string; contentType: string }>;
  readiness(): Readiness;
}

export interface HttpServer {
  /** host:port as bound. */
  readonly address: string;
  close(): Promise<void>;
}

/** Longer than any scrape; a client that sends nothing is dropped. */
const requestTimeoutMs = 10_000;

export async function startHttp(
  address: string,
  handlers: HttpHandlers,
  logger: Logger,
): Promise<HttpServer> {
  const at = parseAddress(address);
  if (at === undefined) throw new HansardError('INVALID_SETTINGS', `"${address}" is no host:port`);
  const server = createServer((request, response) => {
    answer(request, response, handlers).catch((error: unknown) => {
      logger.error({ err: error, url: request.url }, 'HTTP request failed');
      if (!response.headersSent) response.writeHead(500);
      response.end();
    });
  });
  server.requestTimeout = requestTimeoutMs;
  server.headersTimeout = requestTimeoutMs;
  await listen(server, at.host, at.port, address);
  server.on('error', (error) => logger.error({ err: error }, 'HTTP server failed'));
  const bound = server.address();
  const port = typeof bound === 'object' && bound !== null ? bound.port : at.port;
  return {
    address: at.host.includes(':') ? `[${at.host}]:${port}` : `${at.host}:${port}`,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

function listen(server: Server, host: string, port: number, address: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const onError = (error: NodeJS.ErrnoException) =>
      reject(
        error.code === 'EADDRINUSE'
          ? new HansardError(
              'ADDRESS_IN_USE',
              `http_address ${address} is taken`,
              { address },
              { cause: error },
            )
          : new HansardError(
              'INVALID_SETTINGS',
              `http_address ${address}: ${error.message}`,
              {},
              { cause: error },
            ),
      );
    server.once('error', onError);
    server.listen(port, host, () => {
      server.off('error', onError);
      resolve();
    });
  });
}

async function answer(
  request: IncomingMessage,
  response: ServerResponse,
  handlers: HttpHandlers,
): Promise<void> {
  if (request.method !== 'GET' && request.method !== 'HEAD') {
    response.writeHead(405, { allow: 'GET, HEAD' }).end();
    return;
  }
  switch (request.url?.split('?')[0]) {
    case '/metrics': {
      const { text, contentType } = await handlers.metrics();
      response.writeHead(200, { 'content-type': contentType }).end(text);
      return;
    }
    case '/healthz':
      // The process turns its loop; what it can serve is /readyz.
      sendJson(response, 200, { status: 'ok' });
      return;
    case '/readyz': {
      const readiness = handlers.readiness();
      sendJson(response, readiness.ready ? 200 : 503, {
        status: readiness.ready ? 'ready' : 'not ready',
        problems: readiness.problems,
        ...readiness.details,
      });
      return;
    }
    default:
      sendJson(response, 404, { status: 'not found', paths: ['/metrics', '/healthz', '/readyz'] });
  }
}

function sendJson(response: ServerResponse, status: number, body: unknown): void {
  response.writeHead(status, { 'content-type': 'application/json' }).end(`${JSON.stringify(body)}\n`);
}
