/**
 * CPU per call of an append's whole way through a node but consensus, log and state:
 * a frame of Exchange in, calls begun, checked, packed, proposed, put into entries;
 * answers made and packed into a frame. No network.
 *
 *     node [--cpu-prof] dist/bench/exchange.js [passes per case, default 6]
 */
import { EventEmitter } from 'node:events';
import type { ServerDuplexStream } from '@grpc/grpc-js';
import { Calls, defaultCallLimits } from '../src/api/calls.js';
import { ExchangeStream } from '../src/api/exchange.js';
import { messageMethods } from '../src/api/messages.js';
import { Services } from '../src/api/services.js';
import { encodeFrame, PlainCall } from '../src/client/frames.js';
import { methods } from '../src/client/requests.js';
import type { Clock } from '../src/common/env.js';
import { silentLogger } from '../src/common/logger.js';
import { loadPublicProtos } from '../src/common/proto.js';
import { encodeEntry } from '../src/conversation/command.js';
import { producerId } from '../src/conversation/names.js';
import { createMetrics } from '../src/node/metrics.js';
import { realClock } from '../src/node/real-env.js';
import type { NodeService } from '../src/node/types.js';
import { ProducerGate } from '../src/partition/producer-gate.js';
import { type Proposal, Proposals } from '../src/partition/proposals.js';

const passes = Number(process.argv[2] ?? 6);
const callsPerPass = 20_000;
const partitionCount = 64;
const framesPrepared = 512;
const protos = loadPublicProtos();
const encoders = protos as unknown as Record<string, { serialize(value: object): Buffer }>;
const clock: Clock = realClock;

/** Proposes as a replica does, and answers as applying would, without either. */
class BenchNode {
  readonly identity = { clusterId: 'c', incarnation: 1, nodeId: 1, storeId: 's', bootId: 'b', version: '0' };
  readonly partitionCount = partitionCount;
  readonly #tables = Array.from(
    { length: partitionCount },
    () => new Proposals({ usedBytes: 0, proposals: 0, limitBytes: 1e9 }),
  );
  readonly #gates = this.#tables.map(
    (table) =>
      new ProducerGate<Proposal>(
        clock,
        200,
        () => 0,
        (proposal) => table.add(proposal),
      ),
  );
  #index = 0;
  bytes = 0;
  entries = 0;

  monotonicMs(): number {
    return clock.monotonicMs();
  }
  leaderOf(): number {
    return 1;
  }
  submit(partition: number, proposal: Proposal): void {
    (this.#gates[partition] as ProducerGate<Proposal>).enter(proposal);
  }
  turn(): void {
    for (const table of this.#tables) {
      if (!table.hasPending) continue;
      const proposals = table.takeEntry(1024 * 1024);
      const index = ++this.#index;
      this.bytes += encodeEntry(
        proposals.map((proposal) => proposal.command),
        clock.nowUs(),
        1,
      ).length;
      this.entries++;
      table.proposed(index, 1, proposals);
      table.applied(
        index,
        1,
        proposals.map(() => ({
          kind: 'appended',
          firstSeq: index,
          count: 1,
          commitTimeUs: 1_700_000_000_000_000,
          seqs: undefined,
          duplicate: false,
          channelUid: 'c0001000000000001',
        })),
      );
    }
  }
}

class BenchStream extends EventEmitter {
  written = 0;
  paused = false;
  write(message: Buffer, onWritten: () => void): boolean {
    this.written += message.length;
    onWritten();
    return true;
  }
  isPaused(): boolean {
    return this.paused;
  }
  pause(): void {
    this.paused = true;
  }
  resume(): void {
    this.paused = false;
  }
}

interface Case {
  readonly calls: number;
  readonly messages: number;
  readonly channels: number;
}

let counter = 0;
function frame({ calls, messages, channels }: Case): Buffer {
  const prepared = Array.from({ length: calls }, () => {
    const n = counter++;
    const request = encoders['hansard.v1.AppendMessagesRequest']?.serialize({
      channel: `bench/channel-${(n * 7919) % channels}`,
      producer: {
        producer_id: producerId(7, 1 + (n % channels)),
        first_counter: Math.floor(n / channels) * messages + 1,
      },
      messages: Array.from({ length: messages }, (_, i) => ({
        message: { role: 1, author: 'ann', parts: [{ text: { text: 'abcdefgh'.repeat(25 - (i % 2)) } }] },
      })),
    }) as Buffer;
    return new PlainCall(methods.append, request, 5_000, () => {});
  });
  return encodeFrame(prepared, 1);
}

async function measure(shape: Case): Promise<void> {
  counter = 0;
  const node = new BenchNode();
  const services = new Services(node as unknown as NodeService, protos);
  const metrics = createMetrics({
    identity: () => node.identity,
    cluster: () => ({ partitions: [] }),
  } as unknown as Parameters<typeof createMetrics>[0]);
  const hooks = {
    onCall: (method: string, _origin: string, reason: string | undefined, ms: number) =>
      metrics.observeCall(method, reason ?? 'OK', ms),
    onFatal(error: unknown) {
      throw error;
    },
  };
  const calls = new Calls(
    messageMethods(services),
    () => node.monotonicMs(),
    hooks,
    defaultCallLimits,
    silentLogger,
  );
  const stream = new BenchStream();
  new ExchangeStream(calls, stream as unknown as ServerDuplexStream<Buffer, Buffer>);
  const frames = Array.from({ length: framesPrepared }, () => frame(shape));
  let next = 0;
  const round = async (): Promise<void> => {
    stream.emit('data', frames[next++ % frames.length]);
    await undefined;
    node.turn();
    await new Promise((resolve) => setImmediate(resolve));
  };
  // By count and not by time: on a busy machine a second is hardly enough to get warm.
  const perPass = Math.ceil(callsPerPass / shape.calls / Math.sqrt(shape.messages));
  for (let i = 0; i < 3 * perPass; i++) await round();
  let best = Number.POSITIVE_INFINITY;
  for (let pass = 0; pass < passes; pass++) {
    const written = stream.written;
    const start = process.cpuUsage();
    for (let i = 0; i < perPass; i++) await round();
    const { user, system } = process.cpuUsage(start);
    if (stream.written === written || calls.inFlight > 0) throw new Error('calls are not answered');
    best = Math.min(best, (user + system) / (perPass * shape.calls));
  }
  const name = `frames of ${shape.calls} appends of ${shape.messages}, ${shape.channels} channels`;
  const each = (best / shape.messages).toFixed(2);
  console.log(`${name.padEnd(48)} ${best.toFixed(2)} us of CPU per call, ${each} per message`);
  metrics.close();
}

await measure({ calls: 64, messages: 1, channels: 1_000 });
await measure({ calls: 64, messages: 1, channels: 8 });
await measure({ calls: 4, messages: 1, channels: 1_000 });
await measure({ calls: 4, messages: 64, channels: 1_000 });
