/**
 * Unary calls as any gRPC client sends them, seen by a client that knows HTTP/2 alone: however its request is cut,
 * whatever is wrong with it, it gets one answer; and what is out of the ordinary is grpc-js' matter.
 */
import { once } from 'node:events';
import { type ClientHttp2Session, connect as connectHttp2, type IncomingHttpHeaders } from 'node:http2';
import { gzipSync } from 'node:zlib';
import { Server } from '@grpc/grpc-js';
import t, { type Test } from 'tap';
import { Calls, defaultCallLimits } from '../../src/api/calls.js';
import { serveUnary } from '../../src/api/plain-unary.js';
import { limits } from '../../src/common/limits.js';
import { silentLogger } from '../../src/common/logger.js';
import { until } from '../support/until.js';
import { decode, encode, Harness, text } from './harness.js';

const appendPath = '/hansard.v1.MessageService/AppendMessages';

interface Answer {
  /** Of the trailers, or of the only headers. */
  readonly status: number;
  readonly message: string;
  readonly body: Buffer;
  readonly headers: IncomingHttpHeaders;
}

function request(more: object = {}): Buffer {
  return encode('AppendMessagesRequest', { channel: 'c', messages: [{ message: text('hello') }], ...more });
}

function framed(bytes: Buffer, flag = 0): Buffer {
  const head = Buffer.alloc(5);
  head[0] = flag;
  head.writeUInt32BE(bytes.length, 1);
  return Buffer.concat([head, bytes]);
}

async function call(
  session: ClientHttp2Session,
  parts: readonly Buffer[],
  more: Record<string, string> = {},
): Promise<Answer> {
  const stream = session.request({
    ':method': 'POST',
    ':path': appendPath,
    'content-type': 'application/grpc',
    te: 'trailers',
    ...more,
  });
  let headers: IncomingHttpHeaders = {};
  let trailers: IncomingHttpHeaders = {};
  const body: Buffer[] = [];
  stream.on('response', (received) => {
    headers = received;
  });
  stream.on('trailers', (received: IncomingHttpHeaders) => {
    trailers = received;
  });
  stream.on('data', (data: Buffer) => body.push(data));
  const ended = once(stream, 'end');
  for (const part of parts) {
    // On its own on the wire.
    await new Promise<void>((done) => stream.write(part, () => done()));
    await new Promise((done) => setImmediate(done));
  }
  stream.end();
  await ended;
  const told = { ...headers, ...trailers };
  return {
    status: Number(told['grpc-status']),
    message: decodeURI(String(told['grpc-message'] ?? '')),
    body: Buffer.concat(body),
    headers,
  };
}

async function started(t: Test): Promise<{ h: Harness; session: ClientHttp2Session }> {
  const h = await Harness.start();
  const session = connectHttp2(`http://${h.api.address}`);
  t.teardown(async () => {
    session.close();
    await h.stop();
  });
  return { h, session };
}

/** grpc-js names the encoding of its answers. */
const isOfGrpcJs = ({ headers }: Answer): boolean => headers['grpc-encoding'] !== undefined;

t.test('a request is answered however it is cut', async (t) => {
  const { session } = await started(t);
  const whole = framed(request());
  for (const cuts of [[], [1], [5], [2, 4, 9], [5, 6, 7, 8], [whole.length - 1]]) {
    const parts = [0, ...cuts].map((from, i) => whole.subarray(from, cuts[i] ?? whole.length));
    const answer = await call(session, parts);
    t.equal(answer.status, 0, answer.message);
    t.notOk(isOfGrpcJs(answer), 'not by way of grpc-js');
    t.equal(answer.body.readUInt32BE(1), answer.body.length - 5);
    t.equal(decode('AppendMessagesResponse', answer.body.subarray(5)).count, 1, `cut at ${cuts}`);
  }
});

t.test('what is no request of one message is refused, and appends nothing', async (t) => {
  const { h, session } = await started(t);
  const one = framed(request());
  const cases: [string, Buffer[], number][] = [
    ['nothing', [], 12],
    ['less than a head', [one.subarray(0, 3)], 12],
    ['less than its length', [one.subarray(0, one.length - 1)], 12],
    ['two messages', [one, one], 12],
    ['a byte too many', [one, Buffer.alloc(1)], 12],
    ['compressed, and not told how', [framed(request(), 1)], 13],
    ['no protobuf', [framed(Buffer.from([0xff, 0xff]))], 3],
  ];
  for (const [what, parts, status] of cases) {
    const answer = await call(session, parts);
    t.equal(answer.status, status, `${what}: ${answer.message}`);
    t.equal(answer.body.length, 0);
  }
  const large = await call(session, [framed(Buffer.alloc(limits.grpcMessageBytes + 1))]);
  t.equal(large.status, 8, large.message);
  t.equal(h.ended.filter(({ reason }) => reason === undefined).length, 0);
  t.equal((await call(session, [one])).status, 0, 'the connection goes on');
});

t.test('deadlines as gRPC writes them', async (t) => {
  const { h, session } = await started(t);
  const whole = [framed(request())];
  for (const timeout of ['1H', '5M', '30S', '5000m', '9000000u'])
    t.equal((await call(session, whole, { 'grpc-timeout': timeout })).status, 0, timeout);
  t.equal((await call(session, whole, { 'grpc-timeout': '1n' })).status, 4, 'long passed');
  const odd = await call(session, whole, { 'grpc-timeout': 'soon' });
  t.equal(odd.status, 13, 'of grpc-js, which knows what to say');
  h.node.gate = () => new Promise(() => {});
  const late = await call(session, whole, { 'grpc-timeout': '50m' });
  t.equal(late.status, 4, late.message);
});

t.test('a request whose end never comes is let go of at its deadline', async (t) => {
  const { h, session } = await started(t);
  const stream = session.request({
    ':method': 'POST',
    ':path': appendPath,
    'content-type': 'application/grpc',
    te: 'trailers',
    'grpc-timeout': '100m',
  });
  stream.on('error', () => {});
  stream.resume();
  const closed = once(stream, 'close');
  const [headers] = (await Promise.all([
    once(stream, 'response'),
    new Promise((done) => stream.write(framed(request()).subarray(0, 20), done)),
  ]).then(([response]) => response)) as [IncomingHttpHeaders];
  t.equal(Number(headers['grpc-status']), 4, String(headers['grpc-message']));
  await closed;
  t.equal(h.ended.length, 0, 'nothing was begun');
  t.equal((await call(session, [framed(request())])).status, 0, 'the connection goes on');
});

t.test('a call that its client gives up is cancelled here', async (t) => {
  const { h, session } = await started(t);
  h.node.gate = () => new Promise(() => {});
  const stream = session.request({
    ':method': 'POST',
    ':path': appendPath,
    'content-type': 'application/grpc',
    te: 'trailers',
  });
  stream.on('error', () => {});
  stream.end(framed(request()));
  await until('it is under way', () => h.api.callsInFlight === 1);
  stream.close(8);
  await until('it is cancelled', () => h.ended.some(({ reason }) => reason === 'CANCELLED'));
  t.pass();
});

t.test('compressed requests and other content types are left to grpc-js', async (t) => {
  const { session } = await started(t);
  const packed = await call(session, [framed(gzipSync(request()), 1)], { 'grpc-encoding': 'gzip' });
  t.equal(packed.status, 0, packed.message);
  t.ok(isOfGrpcJs(packed));
  t.notOk(isOfGrpcJs(await call(session, [framed(request())], { 'grpc-encoding': 'identity' })));
  const json = await call(session, [framed(request())], { 'content-type': 'application/json' });
  t.equal(json.headers[':status'], 415);
});

t.test('a grpc-js without the method that is held on to serves all by itself', async (t) => {
  const server = new Server();
  Object.defineProperty(server, 'createHttp2Server', { value: undefined, writable: true });
  const hooks = { onFatal: () => {} };
  const calls = new Calls(new Map(), () => 0, hooks, defaultCallLimits, silentLogger);
  t.equal(serveUnary(server, [appendPath.slice(1)], calls).isInForce, false);
});
