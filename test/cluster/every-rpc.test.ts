/**
 * Every method of the API under what no well-behaved client sends: broken texts, huge numbers, page sizes and page
 * tokens that make no sense, requests of 10 MB, deadlines that pass at once, calls and streams given up. Each gets
 * an answer or an error of the catalogue, none a defect, and nothing is held afterwards. The nodes hold one replica of each partition, so that most
 * calls go one hop further.
 */
import type { ClientDuplexStream } from '@grpc/grpc-js';
import t, { type Test } from 'tap';
import { reasons } from '../../src/common/errors.js';
import { type Decoded, decode, encode, type Failure, same, text } from '../api/harness.js';
import { Direct, failureOf } from './direct.js';
import {
  bytesField,
  everyRpc,
  fieldsOf,
  goodRequest,
  goodRequests,
  type Rpc,
  varintField,
  world,
} from './every-rpc.js';
import { ProcessCluster, sleep, type TestNode, until } from './harness.js';

t.setTimeout(600_000);

const rpcs = everyRpc();
const unary = rpcs.filter(({ isStream }) => !isStream);
const streams = rpcs.filter(({ isStream }) => isStream);
/** Calls at once: as many as make no node refuse for load. */
const together = 16;

const cluster = await ProcessCluster.start(t, { nodes: 3, partitions: 3, replicationFactor: 1 });
const direct = new Direct((cluster.nodes[0] as TestNode).clientAddress);
/** The node that leads the subscription's partition. */
let leading = direct;
t.teardown(() => {
  direct.close();
  leading.close();
});

type Outcome = { readonly response: Decoded } | { readonly failure: Failure };

function call(rpc: Rpc, request: Buffer, deadlineMs?: number): Promise<Outcome> {
  if (rpc.isStream) return firstOf(rpc, request, deadlineMs);
  return direct.bytes(rpc.path, request, deadlineMs).then(
    (bytes) => ({ response: decode(rpc.response, bytes) }),
    (failure: Failure) => ({ failure }),
  );
}

/** The first message of a stream, or how it ended without one; then it is given up. */
function firstOf(rpc: Rpc, request: Buffer, deadlineMs?: number): Promise<Outcome> {
  return new Promise((resolve) => {
    const stream = open(rpc, deadlineMs);
    stream.on('data', (bytes: Buffer) => {
      resolve({ response: decode(rpc.response, bytes) });
      stream.cancel();
    });
    stream.on('error', (error) => resolve({ failure: failureOf(error as never) }));
    stream.on('end', () => resolve({ response: undefined }));
    stream.write(request);
  });
}

/** Consume alone is served by the leader only. */
function open({ path }: Rpc, deadlineMs = 10_000): ClientDuplexStream<Buffer, Buffer> {
  const { client } = path.endsWith('/Consume') ? leading : direct;
  return client.makeBidiStreamRequest(`/${path}`, same, same, { deadline: Date.now() + deadlineMs });
}

/** Empty: an answer, or an error that a user can look up. */
function defectOf(outcome: Outcome): string {
  if (!('failure' in outcome)) return '';
  const { code, message, error } = outcome.failure;
  // The client's own clock, which cuts what waits for something that never comes.
  if (code === 4 && error === undefined) return '';
  const isTyped = error !== undefined && Object.hasOwn(reasons, error.reason) && error.reason !== 'INTERNAL';
  return isTyped ? '' : `code ${code}, ${error?.reason ?? 'no reason'}: ${message}`;
}

function good(rpc: Rpc): Buffer {
  return encode(rpc.request, goodRequest(rpc));
}

/** Tries all, some at a time; gives what `judge` finds wrong. */
async function tryAll<T>(inputs: readonly T[], judge: (input: T) => Promise<string>): Promise<string[]> {
  const found: string[] = [];
  const left = [...inputs];
  const lane = async (): Promise<void> => {
    for (let input = left.shift(); input !== undefined; input = left.shift()) {
      const problem = await judge(input);
      if (problem !== '') found.push(problem);
    }
  };
  await Promise.all(Array.from({ length: together }, lane));
  return found;
}

async function prepare(): Promise<void> {
  for (const name of [world.subscription, 'edges-2']) {
    const made = goodRequests['SubscriptionService/CreateSubscription'];
    const answer = await direct.call(
      'SubscriptionService/CreateSubscription',
      { ...made, name },
      10_000,
      'SubscriptionResponse',
    );
    const { partitions } = await direct.call('ClusterService/GetCluster', {});
    if (name !== world.subscription) continue;
    leading = new Direct(
      cluster.node(partitions[answer.subscription.partition].leader_node_id).clientAddress,
    );
  }
  for (const channel of [world.channel, world.other, 'edges/deleted', 'edges/sealed'])
    for (let n = 1; n <= 3; n++)
      await direct.call('MessageService/AppendMessages', {
        channel,
        messages: [text(`${n}`), text('again')],
      });
  await direct.call('ChannelService/DeleteChannel', { channel: 'edges/deleted' });
  for (const reader of ['ann', 'bob', 'cid']) {
    await direct.call('InboxService/MoveReadCursor', { channel: world.channel, reader, seq: 2 });
    const report = { channel: world.channel, recipient: reader, up_to_seq: 2 };
    await direct.call('DeliveryService/ReportDelivery', report);
  }
}

t.before(prepare);

t.test('each has a request that is answered', async (t) => {
  for (const rpc of rpcs) {
    const outcome = await call(rpc, good(rpc));
    const reason = 'failure' in outcome ? (outcome.failure.error?.reason ?? outcome.failure.message) : 'OK';
    const refused = expectedRefusals[rpc.path.slice('hansard.v1.'.length)];
    t.equal(reason, refused ?? 'OK', rpc.path);
  }
});

/** Made so that they can be sent again and again. */
const expectedRefusals: Readonly<Record<string, string>> = {
  'ChannelService/CreateChannel': 'CHANNEL_EXISTS',
  'SubscriptionService/DeleteSubscription': 'SUBSCRIPTION_NOT_FOUND',
};

t.test('a text that is no UTF-8 is refused, in every field', async (t) => {
  const broken = Buffer.from([0x61, 0xed, 0xa0, 0x80]);
  const inputs = rpcs.flatMap((rpc) =>
    fieldsOf(rpc.request)
      // Another element would be another call of Exchange, whose own answer says so.
      .filter(({ type, name }) => type === 'STRING' && !name.startsWith('calls.'))
      .map((field) => ({ rpc, field })),
  );
  const found = await tryAll(inputs, async ({ rpc, field }) => {
    const outcome = await call(rpc, Buffer.concat([good(rpc), bytesField(field, broken)]));
    const defect = defectOf(outcome) || ('failure' in outcome ? '' : 'taken');
    return defect && `${rpc.path}, ${field.name}: ${defect}`;
  });
  t.same(found, []);
  t.ok(inputs.length > 100, `${inputs.length} fields`);
});

t.test('huge and negative numbers, in every field', async (t) => {
  const numbers = [2n ** 64n - 1n, 2n ** 53n, 2n ** 31n - 1n];
  const inputs = rpcs.flatMap((rpc) =>
    fieldsOf(rpc.request)
      .filter(({ type }) => /INT|ENUM|BOOL/.test(type))
      .flatMap((field) => numbers.map((number) => ({ rpc, field, number }))),
  );
  const found = await tryAll(inputs, async ({ rpc, field, number }) => {
    // An index that is not there yet is waited for.
    const request = Buffer.concat([good(rpc), varintField(field, number)]);
    const defect = defectOf(await call(rpc, request, 1_000));
    return defect && `${rpc.path}, ${field.name} = ${number}: ${defect}`;
  });
  t.same(found, []);
});

t.test('page sizes and page tokens', async (t) => {
  const lists = unary.filter(({ request }) => fieldsOf(request).some(({ name }) => name === 'page_token'));
  t.ok(lists.length >= 8, lists.map(({ path }) => path).join(' '));
  const tokens: { readonly of: string; readonly token: string }[] = [];
  for (const rpc of lists) {
    const sized = (pageSize: number): Buffer =>
      encode(rpc.request, { ...goodRequest(rpc), page_size: pageSize });
    for (const pageSize of [0, 1, 2 ** 31 - 1]) {
      const outcome = await call(rpc, sized(pageSize));
      t.equal(defectOf(outcome), '', `${rpc.path}, page size ${pageSize}`);
      t.ok('response' in outcome, `${rpc.path} answers a page size of ${pageSize}`);
      if (pageSize !== 1 || !('response' in outcome)) continue;
      const token = outcome.response.next_page_token as string;
      if (token !== '') tokens.push({ of: rpc.path, token });
    }
    const field = fieldsOf(rpc.request).find(({ name }) => name === 'page_size');
    if (field?.type !== 'INT32') continue;
    const negative = await call(rpc, sized(-1));
    t.equal(
      'failure' in negative && negative.failure.error?.reason,
      'INVALID_ARGUMENT',
      `${rpc.path}, negative`,
    );
  }
  t.ok(tokens.length >= 6, `pages to go on with: ${tokens.map(({ of }) => of).join(' ')}`);
  const garbage = ['x', '====', '\n', 'A'.repeat(5_000), Buffer.alloc(40, 7).toString('base64url')];
  for (const rpc of lists)
    for (const { of, token } of [...tokens, ...garbage.map((token) => ({ of: 'nobody', token }))]) {
      if (of === rpc.path) continue;
      const outcome = await call(rpc, encode(rpc.request, { ...goodRequest(rpc), page_token: token }));
      const reason = 'failure' in outcome ? outcome.failure.error?.reason : 'OK';
      t.equal(reason, 'INVALID_TOKEN', `${rpc.path} with a token of ${of}: ${token.slice(0, 20)}`);
    }
});

t.test('requests of 10 MB are refused by name', async (t) => {
  const huge = bytesField({ numbers: [15_000] }, Buffer.alloc(10_000_000));
  // Unary calls all pass the same door: one of each service.
  const first = unary.filter(
    ({ path }, i) => unary.findIndex((one) => serviceOf(one.path) === serviceOf(path)) === i,
  );
  for (const rpc of [...streams, ...first]) {
    const outcome = await call(rpc, Buffer.concat([good(rpc), huge]));
    t.equal(defectOf(outcome), '', rpc.path);
  }
});

function serviceOf(path: string): string {
  return path.slice(0, path.indexOf('/'));
}

/** The deadline that came with the call inside of a stream: nothing of gRPC's own cuts it. */
t.test('a deadline of 1 ms, on every unary method', async (t) => {
  const exchange = rpcs.find(({ path }) => path.endsWith('/Exchange')) as Rpc;
  const calls = unary.map((rpc, i) => ({ id: i + 1, method: rpc.path, timeout_ms: 1, request: good(rpc) }));
  const answers = new Map<number, Decoded>();
  const stream = open(exchange, 60_000);
  stream.on('error', () => {});
  stream.on('data', (bytes: Buffer) => {
    for (const answer of decode('ExchangeResponse', bytes).answers) answers.set(Number(answer.id), answer);
  });
  stream.write(encode('ExchangeRequest', { calls }));
  await until('all are answered', () => answers.size === calls.length);
  stream.cancel();
  for (const { id, method } of calls) {
    const { code, message, details } = answers.get(id);
    const isTold = code === 0 || details.length > 0;
    t.ok(isTold && code !== 2 && code !== 13, `${method}: code ${code} ${message}`);
  }
});

t.test('calls and streams that are given up hold nothing', async (t) => {
  for (let round = 0; round < 10; round++) {
    for (const rpc of unary) giveUp(rpc, round);
    for (const rpc of streams) giveUpStream(t, rpc, round);
    await sleep(10);
  }
  for (const node of cluster.nodes) {
    await until(`node ${node.id} holds nothing`, async () =>
      Object.values(await heldBy(node)).every((count) => count === 0),
    );
    t.pass(`node ${node.id} holds nothing`);
  }
  const sent = { channel: 'edges/after', messages: [text('x')] };
  t.match(await direct.call('MessageService/AppendMessages', sent), { first_seq: '1' });
  for (const node of cluster.nodes)
    t.notMatch(node.process.tail(1_000_000), /by a defect/, `node ${node.id}`);
});

/** Gauges of what is under way. */
async function heldBy(node: TestNode): Promise<Record<string, number>> {
  const names = ['calls_in_flight', 'exchange_streams', 'channel_tails', 'subscriptions', 'consumers'];
  const metrics = await (await fetch(`http://${node.httpAddress}/metrics`)).text();
  const gaugeOf = (name: string): number => {
    const value = new RegExp(`^hansard_${name} (\\S+)$`, 'm').exec(metrics)?.[1];
    if (value === undefined) throw new Error(`node ${node.id} has no metric ${name}`);
    return Number(value);
  };
  return Object.fromEntries(names.map((name) => [name, gaugeOf(name)]));
}

/** At once, or a few milliseconds later, when it waits for something. */
function giveUp(rpc: Rpc, afterMs: number): void {
  const options = { deadline: Date.now() + 10_000 };
  const ended = direct.client.makeUnaryRequest(`/${rpc.path}`, same, same, good(rpc), options, () => {});
  setTimeout(() => ended.cancel(), afterMs);
}

function giveUpStream(t: Test, rpc: Rpc, afterMs: number): void {
  const stream = open(rpc);
  stream.on('error', (error: { code?: number }) => {
    if (error.code !== 1) t.comment(`${rpc.path}: ${error}`);
  });
  stream.resume();
  stream.write(good(rpc));
  setTimeout(() => stream.cancel(), afterMs);
}
