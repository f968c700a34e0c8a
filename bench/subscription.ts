/**
 * Durable subscriptions: events a second from a backlog to the last acknowledgement, and from append to handler at fixed times, with so
 * many consumers. Three nodes as processes; appends and consumers share one further process.
 *
 *     npm run bench -- subscription [--consumers 1,4] [--events 20000] [--channels 200] [--rate 200] [--seconds 10] [--json]
 */
import { Command } from 'commander';
import { build, type Histogram } from 'hdr-histogram-js';
import { type Client, connect, type SubscriptionWorker } from '../src/client/index.js';
import { Hansard } from './harness/hansard.js';
import { difference, usageOf } from './harness/measure.js';
import { number, numbers } from './harness/options.js';
import { count, loadAverage } from './harness/proc-figures.js';

const options = new Command('bench subscription')
  .description(
    'Durable subscriptions on three nodes: a backlog worked off, and the way from append to handler.',
  )
  .option(
    '--consumers <counts>',
    'that share the subscription, one count after the other',
    numbers(1),
    [1, 4],
  )
  .option('--events <n>', 'of the backlog', number(1), 20_000)
  .option('--channels <n>', 'that they are spread over', number(1), 200)
  .option('--concurrency <n>', 'channels that one consumer handles at once', number(1), 16)
  .option('--rate <n>', 'live: appends a second, at fixed times', number(0.1), 200)
  .option('--seconds <n>', 'live: of each count', number(0.1), 10)
  .option('--bytes <n>', 'of a message', number(1), 1024)
  .option('--json', 'the figures as JSON instead of lines')
  .parse()
  .opts<
    Record<'events' | 'channels' | 'concurrency' | 'rate' | 'seconds' | 'bytes', number> & {
      consumers: number[];
      json?: boolean;
    }
  >();
const say = (text: string): void => {
  if (options.json !== true) process.stdout.write(`${text}\n`);
};
const batch = 20;
const appendsInFlight = 16;
/** Of what was appended last, ms. */
const arrivalMs = 120_000;
const timeoutMs = 60_000;
const text = 'x'.repeat(options.bytes);

interface Figures {
  readonly consumers: number;
  readonly eventsPerSecond: number;
  /** Of three nodes and of this process, µs an event. */
  readonly nodesCpuUs: number;
  readonly clientCpuUs: number;
  /** From the moment at which the append was due to the handler's call, ms. */
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly redelivered: number;
}

/** So many consumers, each with connections of its own; ended with `stop`. */
class Workers {
  handled = 0;
  readonly #clients: Client[] = [];
  readonly #workers: SubscriptionWorker[] = [];

  constructor(
    endpoints: string,
    name: string,
    consumers: number,
    onEvent: (channel: string, seq: number) => void,
  ) {
    for (let i = 0; i < consumers; i++) {
      const client = connect(`hansard://${endpoints}`, { timeoutMs });
      this.#clients.push(client);
      const handler = ({ channel, event }: { channel: string; event: { seq: number } }): void => {
        this.handled++;
        onEvent(channel, event.seq);
      };
      this.#workers.push(client.subscription(name).consume({ concurrency: options.concurrency, handler }));
    }
  }

  async until(events: number): Promise<void> {
    const endMs = performance.now() + arrivalMs;
    while (this.handled < events) {
      if (performance.now() > endMs) throw new Error(`${this.handled} of ${events} events came`);
      await Promise.race([pause(5), ...this.#workers.map((worker) => worker.done)]);
    }
  }

  async stop(): Promise<void> {
    await Promise.all(this.#workers.map((worker) => worker.stop()));
    await Promise.all(this.#clients.map((client) => client.close()));
  }
}

async function fillBacklog(client: Client, prefix: string): Promise<void> {
  let next = 0;
  const lane = async (): Promise<void> => {
    while (next < options.events) {
      const from = next;
      next += batch;
      const messages = Array.from({ length: Math.min(batch, options.events - from) }, () => ({ text }));
      await client.channel(`${prefix}${(from / batch) % options.channels}`).append(messages);
    }
  };
  await Promise.all(Array.from({ length: appendsInFlight }, lane));
}

async function measure(system: Hansard, consumers: number, round: number): Promise<Figures> {
  const client = connect(`hansard://${system.endpoints}`, { timeoutMs });
  const name = `${round}: of ${consumers}`;
  const prefix = `${name}/`;
  const subscription = client.subscription(name);
  await subscription.create({ prefix });
  await fillBacklog(client, prefix);
  const due = new Map<string, number>();
  const latency = build({ lowestDiscernibleValue: 1, highestTrackableValue: 6e7 });
  const groups = system.processes();
  const before = groups.map(usageOf);
  const ownBefore = process.cpuUsage();
  const startedMs = performance.now();
  const workers = new Workers(system.endpoints, name, consumers, (channel, seq) => {
    const dueMs = due.get(`${channel} ${seq}`);
    if (dueMs !== undefined)
      latency.recordValue(Math.max(1, Math.round(1_000 * (performance.now() - dueMs))));
  });
  await workers.until(options.events);
  await untilAcknowledged(subscription);
  const seconds = (performance.now() - startedMs) / 1_000;
  const own = process.cpuUsage(ownBefore);
  const nodesUs = groups.reduce((sum, group, i) => {
    const usage = before[i];
    return usage === undefined ? sum : sum + difference(usageOf(group), usage).cpuUs;
  }, 0);
  const live = await appendLive(client, prefix, due);
  await workers.until(options.events + live);
  await untilAcknowledged(subscription);
  const { redelivered } = (await subscription.info()).progress;
  await workers.stop();
  await client.close();
  return {
    consumers,
    eventsPerSecond: options.events / seconds,
    nodesCpuUs: nodesUs / options.events,
    clientCpuUs: (own.user + own.system) / options.events,
    ...percentiles(latency),
    redelivered,
  };
}

/** At fixed times, however long one takes; gives how many. */
async function appendLive(client: Client, prefix: string, due: Map<string, number>): Promise<number> {
  const total = Math.floor(options.rate * options.seconds);
  const appends: Promise<unknown>[] = [];
  const startMs = performance.now();
  for (let i = 0; i < total; i++) {
    const dueMs = startMs + (1_000 * i) / options.rate;
    const leftMs = dueMs - performance.now();
    if (leftMs > 0) await pause(leftMs);
    // Channels of their own: their events count from 1, in the order of the calls.
    const channel = `${prefix}live/${i % options.channels}`;
    due.set(`${channel} ${Math.floor(i / options.channels) + 1}`, dueMs);
    appends.push(client.channel(channel).append({ text }));
  }
  await Promise.all(appends);
  return total;
}

async function untilAcknowledged(subscription: ReturnType<Client['subscription']>): Promise<void> {
  while ((await subscription.info()).progress.pendingEvents > 0) await pause(5);
}

function percentiles(latency: Histogram): Pick<Figures, 'p50Ms' | 'p99Ms'> {
  const at = (percentile: number) => latency.getValueAtPercentile(percentile) / 1_000;
  return { p50Ms: at(50), p99Ms: at(99) };
}

function pause(ms: number): Promise<void> {
  return new Promise((done) => setTimeout(done, ms));
}

const system = new Hansard();
try {
  await system.start(new AbortController().signal);
  const all: Figures[] = [];
  for (const [round, consumers] of options.consumers.entries()) {
    const figures = await measure(system, consumers, round);
    all.push(figures);
    say(
      `${consumers} consumers: ${count(figures.eventsPerSecond)} events/s from a backlog, ${figures.nodesCpuUs.toFixed(0)} us CPU of all nodes and ${figures.clientCpuUs.toFixed(0)} us of the consumers an event; live at ${options.rate}/s append to handler p50 ${figures.p50Ms.toFixed(1)} ms, p99 ${figures.p99Ms.toFixed(1)} ms; ${count(figures.redelivered)} redelivered`,
    );
  }
  say(`load average ${loadAverage()}`);
  if (options.json === true)
    process.stdout.write(`${JSON.stringify({ options, figures: all, loadAverage: loadAverage() })}\n`);
} finally {
  await system.stop();
}
process.exit();
