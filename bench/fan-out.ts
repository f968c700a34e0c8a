/**
 * What one channel's tails cost the node that serves them, and what one reader that takes
 * nothing does to the others. One node as a process; the readers are plain streams.
 *
 *     npm run bench -- fan-out [--tails 1,100,1000] [--seconds 10] [--deliveries 5000] [--bytes 1024]
 *     npm run bench -- fan-out --stall 60 [--tails 1000] [--rate 5]
 *
 * With --stall: three stretches of so many seconds; in the middle one a reader stops reading. Told are the node's
 * memory and the others' latency in it against the stretches around it, and whether the
 * reader, when it reads again, gets exactly what it missed.
 */
import { Client, type ClientReadableStream, credentials, Metadata } from '@grpc/grpc-js';
import { Command } from 'commander';
import { build, type Histogram } from 'hdr-histogram-js';
import { readTailResponse } from '../src/client/follow-responses.js';
import { encodeTail, encodeTarget } from '../src/client/requests.js';
import { Hansard, nameOf } from './harness/hansard.js';
import { usageOf } from './harness/measure.js';
import { number, numbers } from './harness/options.js';
import { count, inMB, loadAverage, statusBytes } from './harness/proc-figures.js';
import { ProfiledNodes } from './harness/profiled.js';

const options = new Command('bench fan-out')
  .option('--tails <counts>', 'of one channel, one after the other', numbers(1), [1, 100, 1_000])
  .option('--seconds <n>', 'of each count', number(0.1), 10)
  .option('--deliveries <n>', 'a second, from all readers together', number(1), 5000)
  .option('--rate <n>', 'with --stall: appends a second, at fixed times', number(0.1), 5)
  .option('--bytes <n>', 'of a message', number(1), 1024)
  .option('--stall <seconds>', 'one reader takes nothing for so long', number(0.1))
  .option('--profile <dir>', 'CPU profile of the node, for each count of tails')
  .option('--connections <n>', 'that the readers share', number(1), 8)
  .parse()
  .opts<
    Record<'seconds' | 'deliveries' | 'rate' | 'bytes' | 'connections', number> & {
      tails: number[];
      stall?: number;
      profile?: string;
    }
  >();
const say = (text: string): void => void process.stdout.write(`${text}\n`);
const never = new AbortController().signal;
/** Of what was appended last, ms. */
const arrivalMs = 15_000;
const sampleMs = 250;
/** Appends a second, however few read. */
const rateMax = 500;

/** One stream of TailChannel. */
class Reader {
  lastSeq = 0;
  readonly #stream: ClientReadableStream<Buffer>;

  constructor(client: Client, request: Uint8Array, onEvent: (seq: number) => void) {
    this.#stream = client.makeServerStreamRequest<Uint8Array, Buffer>(
      '/hansard.v1.EventService/TailChannel',
      (bytes) => Buffer.from(bytes),
      (bytes) => bytes,
      request,
      new Metadata(),
    );
    this.#stream.on('error', (error) => {
      if (!/cancelled/i.test(error.message)) throw error;
    });
    this.#stream.on('data', (bytes: Buffer) => {
      const { update } = readTailResponse(bytes);
      for (const { seq } of update?.kind === 'events' ? update.events : []) {
        if (seq !== this.lastSeq + 1) throw new Error(`a reader got event ${seq} after ${this.lastSeq}`);
        this.lastSeq = seq;
        onEvent(seq);
      }
    });
  }

  pause(): void {
    this.#stream.pause();
  }

  resume(): void {
    this.#stream.resume();
  }

  end(): void {
    this.#stream.cancel();
  }
}

/** A channel with so many readers, appended to at fixed times. */
class FanOut {
  readonly readers: Reader[];
  /** By seq: when its append was due. */
  readonly #dueMs: number[] = [];
  readonly #clients: Client[];
  #latency: Histogram | undefined;
  #appended = 0;

  constructor(
    private readonly system: Hansard,
    private readonly channel: number,
    tails: number,
    private readonly rate = options.rate,
  ) {
    const own = { 'grpc.use_local_subchannel_pool': 1 };
    this.#clients = Array.from(
      { length: Math.min(tails, options.connections) },
      () => new Client(system.endpoints, credentials.createInsecure(), own),
    );
    const request = encodeTail(
      encodeTarget('default', nameOf(channel)),
      { afterSeq: 0 },
      { level: 'eventual' },
    );
    this.readers = Array.from({ length: tails }, (_, i) => {
      const client = this.#clients[i % this.#clients.length] as Client;
      return new Reader(client, request, (seq) => this.#arrived(seq));
    });
  }

  get appended(): number {
    return this.#appended;
  }

  #arrived(seq: number): void {
    const ms = performance.now() - (this.#dueMs[seq] ?? Number.NaN);
    if (!Number.isNaN(ms)) this.#latency?.recordValue(Math.max(1, Math.round(ms * 1000)));
  }

  /** Appends for so long; waits until all of `readers` have everything. */
  async stretch(seconds: number, readers: readonly Reader[] = this.readers): Promise<Stretch> {
    const latency = build({ lowestDiscernibleValue: 1, highestTrackableValue: 600_000_000 });
    this.#latency = latency;
    const group = this.system.processes()[0] as { name: string; pid: number };
    const before = usageOf(group);
    const rss: number[] = [];
    const sampler = setInterval(() => rss.push(statusBytes(group.pid, 'VmRSS')), sampleMs);
    const text = '.'.repeat(options.bytes);
    const startedMs = performance.now();
    const first = this.#appended;
    const appends: Promise<unknown>[] = [];
    for (let i = 0; i < seconds * this.rate; i++) {
      const dueMs = startedMs + (i * 1000) / this.rate;
      await sleep(dueMs - performance.now());
      this.#dueMs[++this.#appended] = dueMs;
      appends.push(this.system.append({ channel: this.channel, text }));
    }
    await Promise.all(appends);
    await until(() => readers.every((reader) => reader.lastSeq === this.#appended));
    clearInterval(sampler);
    const after = usageOf(group);
    const appended = this.#appended - first;
    const delivered = appended * readers.length;
    return {
      appended,
      rss: rss.sort((a, b) => a - b),
      p50Ms: latency.getValueAtPercentile(50) / 1000,
      p99Ms: latency.getValueAtPercentile(99) / 1000,
      perSecond: delivered / ((performance.now() - startedMs) / 1000),
      cpuUs: after.cpuUs - before.cpuUs,
      mainUs: after.mainUs - before.mainUs,
    };
  }

  end(): void {
    for (const reader of this.readers) reader.end();
    for (const client of this.#clients) client.close();
  }
}

interface Stretch {
  readonly appended: number;
  /** Ascending. */
  readonly rss: readonly number[];
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly perSecond: number;
  /** Of the node: all of it, and of its main thread. */
  readonly cpuUs: number;
  readonly mainUs: number;
}

function tell(name: string, { rss, p50Ms, p99Ms, perSecond }: Stretch, more = ''): void {
  say(
    `${name.padEnd(18)} append to tail p50 ${p50Ms.toFixed(1)}, p99 ${p99Ms.toFixed(1)} ms; ${more}${count(perSecond)} deliveries/s; RSS ${inMB(rss[rss.length >> 1] ?? 0)}, at most ${inMB(rss.at(-1) ?? 0)} (load average ${loadAverage()})`,
  );
}

async function costs(system: Hansard): Promise<void> {
  for (const [i, tails] of options.tails.entries()) {
    const rate = Math.min(rateMax, Math.ceil(options.deliveries / tails));
    const channel = 5_000 + 2 * i;
    // What the same appends cost where nobody reads is not the tails'.
    const bare = new FanOut(system, channel, 0, rate);
    const fan = new FanOut(system, channel + 1, tails, rate);
    await bare.stretch(2);
    await fan.stretch(2);
    const without = await bare.stretch(options.seconds);
    const measured = (): Promise<Stretch> => fan.stretch(options.seconds);
    const found = await (profiled?.during(system.processes(), `${tails}-tails`, measured) ?? measured());
    const each = (of: 'cpuUs' | 'mainUs'): string =>
      ((found[of] - without[of]) / (found.appended * tails)).toFixed(1);
    const cost = `the node's CPU ${each('cpuUs')} µs an event and reader (main thread ${each('mainUs')}) beside ${(without.cpuUs / without.appended).toFixed(0)} µs an append; `;
    tell(`${count(tails)} tails`, found, cost);
    fan.end();
  }
}

async function stall(system: Hansard, seconds: number): Promise<void> {
  const fan = new FanOut(system, 5_100, options.tails.at(-1) as number);
  // Warm code, and memory that has found its size.
  await fan.stretch(Math.min(30, seconds));
  const before = await fan.stretch(seconds);
  tell('all read', before);
  const [slow, ...others] = fan.readers as [Reader, ...Reader[]];
  slow.pause();
  const during = await fan.stretch(seconds, others);
  tell('one reads nothing', during);
  const missed = fan.appended - slow.lastSeq;
  const resumedMs = performance.now();
  slow.resume();
  await until(() => slow.lastSeq === fan.appended);
  say(
    `it reads again: the ${count(missed)} events that it missed came in order, each once, within ${(performance.now() - resumedMs).toFixed(0)} ms`,
  );
  const after = await fan.stretch(seconds);
  tell('all read again', after);
  fan.end();
  const p99Ms = (before.p99Ms + after.p99Ms) / 2;
  const mean = (rss: readonly number[]): number => rss.reduce((sum, each) => sum + each, 0) / rss.length;
  const rss = (mean(before.rss) + mean(after.rss)) / 2;
  say(
    `while one reads nothing: RSS × ${(mean(during.rss) / rss).toFixed(2)} (wanted: at most 1.10), the others' p99 × ${(during.p99Ms / p99Ms).toFixed(2)} (at most 1.5)`,
  );
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, Math.max(0, ms)));
}

async function until(holds: () => boolean): Promise<void> {
  const deadlineMs = performance.now() + arrivalMs;
  while (!holds()) {
    if (performance.now() > deadlineMs) throw new Error('what was appended did not come to all readers');
    await sleep(1);
  }
}

const profiled = options.profile === undefined ? undefined : new ProfiledNodes(options.profile);
const system = new Hansard({ nodes: 1, env: profiled?.env ?? {} });
try {
  await system.start(never);
  if (options.stall === undefined) await costs(system);
  else await stall(system, options.stall);
} finally {
  await system.stop();
}
process.exit();
