/**
 * CPU of a page of 50 events of 200 bytes without network, log or quorum: encoded
 * from stored records as the server does it, decoded and verified as the SDK does
 * it. `node dist/bench/pages.js`
 */
import { bytesOf, Calls, defaultCallLimits } from '../src/api/calls.js';
import { EncodedPage, PageAnswer } from '../src/api/encode.js';
import { messageMethods } from '../src/api/messages.js';
import { Services } from '../src/api/services.js';
import { encodeList, encodeTarget, methods } from '../src/client/requests.js';
import { readListResponse } from '../src/client/responses.js';
import { silentLogger } from '../src/common/logger.js';
import { partitionOf } from '../src/common/partitioning.js';
import { loadPublicProtos } from '../src/common/proto.js';
import type { StoredEvent } from '../src/conversation/types.js';
import type { NodeService, ReadView } from '../src/node/types.js';
import { perPage, storedPages } from './harness/stored-pages.js';

const pages = 20;
/** The lowest of many short runs: other processes disturb few of them. */
const runs = 200;
const rounds = 40;

function measure(name: string, run: (page: number) => number): void {
  let best = Number.POSITIVE_INFINITY;
  let sink = 0;
  for (let i = 0; i < runs; i++) {
    const before = performance.now();
    for (let round = 0; round < rounds; round++) sink += run(round % pages);
    best = Math.min(best, ((performance.now() - before) * 1_000) / rounds);
  }
  const each = best / perPage;
  console.log(
    `${name.padEnd(40)} ${best.toFixed(1)} us a page, ${each.toFixed(2)} an event${sink === 0 ? '?' : ''}`,
  );
}

const served = {
  nodeId: 2,
  role: 'primary',
  partition: 17,
  appliedIndex: 123_456,
  stalenessMs: 1,
  commitToken: Buffer.alloc(14),
} as const;
const stored = storedPages(pages);
const encode = (page: number): Uint8Array =>
  bytesOf(
    new PageAnswer(
      new EncodedPage(stored[page] as StoredEvent[], 'token-of-the-next-page', 1_049, 'c0001000000000001'),
      served,
    ),
  );
const encoded = stored.map((_, page) => encode(page));
measure('server: encode', (page) => encode(page).length);
// The call as Exchange begins it, with a node whose reads are confirmed and in memory.
let head = 1_049;
/** Every call wants a page of another head: none is kept. */
let isMoving = false;
const view = {
  appliedIndex: 123_456,
  role: 'primary',
  reader: {
    channelNow: (_tenant: string, name: string) => ({
      id: Number(name.slice(name.indexOf('-') + 1)),
      baseSeq: 0,
      headSeq: isMoving ? head++ : 1_049,
      uid: 'c0001000000000001',
    }),
    eventsNow: ({ id }: { id: number }) => (stored[id] as StoredEvent[]).slice(),
  },
} as unknown as ReadView;
const node = {
  identity: { clusterId: 'c1'.repeat(16), incarnation: 1, nodeId: 2 },
  partitionOf: (tenant: string, channel: string) => partitionOf(tenant, channel, 64),
  leaderOf: () => 2,
  readBarrier: () => Promise.resolve(view),
} as unknown as NodeService;
const calls = new Calls(
  messageMethods(new Services(node, loadPublicProtos())),
  () => performance.now(),
  { onFatal: (error) => console.error(error) },
  defaultCallLimits,
  silentLogger,
);
// Of different channels: those of one share a page.
const requests = stored.map((_, i) =>
  encodeList(
    encodeTarget('', `bench/channel-${i}`),
    { before: 50 },
    { level: 'linearizable', commitTokens: [] },
  ),
);
let answered = 0;
const call = (_: unknown, i: number): Promise<void> =>
  new Promise((resolve) => {
    calls.start(
      methods.list,
      requests[i] as Buffer,
      performance.now() + 5_000,
      'exchange',
      '',
      (error, response) => {
        if (error !== undefined) throw error;
        answered += response === undefined ? 0 : bytesOf(response).length;
        resolve();
      },
    );
  });
async function measureCalls(name: string): Promise<void> {
  let best = Number.POSITIVE_INFINITY;
  const together = 20;
  for (let i = 0; i < runs; i++) {
    const before = performance.now();
    for (let round = 0; round < rounds; round += together) {
      await Promise.all(Array.from({ length: together }, call));
      // Those of one turn share what they can.
      await new Promise((resolve) => setImmediate(resolve));
    }
    best = Math.min(best, ((performance.now() - before) * 1_000) / rounds);
  }
  console.log(`${name.padEnd(40)} ${best.toFixed(1)} us a page${answered === 0 ? '?' : ''}`);
}
await measureCalls('server: the whole call, page kept');
isMoving = true;
await measureCalls('server: the whole call');
measure('SDK: decode and verify', (page) => readListResponse(encoded[page] as Uint8Array).events.length);
