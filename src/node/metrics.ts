/**
 * What Prometheus sees of a node. Most numbers are read from their owners when
 * a scrape comes, so that nothing on a hot path pays for them; calls alone are
 * counted as they happen.
 */

import type { RecordableHistogram } from 'node:perf_hooks';
import { Counter, collectDefaultMetrics, Gauge, type Histogram, Registry } from 'prom-client';
import { type FaultKind, faultKinds } from '../common/faults.js';
import type { ElectionCounts } from '../partition/types.js';
import type { StoreStats } from '../store/types.js';
import type { PeerState } from '../transport/types.js';
import type { WalStats } from '../wal/types.js';
import type { Space } from './disk-space.js';
import type { ScrubStatus } from './scrubber.js';
import type { ClusterView, NodeIdentity, SnapshotStats } from './types.js';

/** Read at every scrape. What is not there yet (or any more) is left out. */
export interface MetricSources {
  identity(): NodeIdentity;
  cluster(): ClusterView;
  wal(): WalStats;
  store(): StoreStats;
  peers(): readonly PeerState[];
  snapshots?(): SnapshotStats;
  space?(): Space;
  /** Of this node's own replicas. */
  faults?(): readonly { readonly kind: FaultKind }[];
  /** Replicas that became sound again. */
  repaired?(): number;
  scrub?(): ScrubStatus;
  /** Bytes proposed and not yet committed, whole node. */
  uncommittedBytes?(): number;
  /** Replicas in whose partitions nothing happens. */
  quiescentReplicas?(): number;
  clockAheadUs?(): number;
  /** Share of the last seconds in which the loop had something to do. */
  loopBusy?(): number;
  /** How late the loop was, ns; reset by each scrape. */
  loopLag?(): RecordableHistogram;
  elections?(): Readonly<ElectionCounts>;
  /** Calls of the API whose handlers have not ended, whichever way they came. */
  callsInFlight?(): number;
  /** Streams of Exchange that are open. */
  exchangeStreams?(): number;
  /** Streams of TailChannel that are open. */
  channelTails?(): number;
  /** gRPC messages of Exchange since the start, both ways. */
  exchangeMessages?(): number;
  /** Streams of Subscribe that are open. */
  subscriptions?(): number;
  /** Durable subscriptions that have consumers here. */
  durable?(): DurableSource;
}

export interface DurableSource {
  /** Streams of Consume that are open. */
  readonly consumers: number;
  /** Since the start, of all that this node led. */
  readonly counts: Readonly<Record<'delivered' | 'redelivered' | 'acked' | 'dead' | 'steps', number>>;
  readonly subscriptions: Iterable<{
    readonly tenant: string;
    readonly name: string;
    readonly pendingEvents: number;
    readonly oldestPendingMs: number;
    readonly lastProgressMs: number;
    readonly deadLetters: number;
  }>;
}

export interface Metrics {
  /** The page in Prometheus' text format. */
  text(): Promise<string>;
  readonly contentType: string;
  /** One finished call of the API; `outcome` is OK or the reason of its error. */
  observeCall(method: string, outcome: string, durationMs: number): void;
  close(): void;
}

/** Labels of different methods that are kept. */
const methodsMax = 64;

/** Seconds; from what one synced append takes to the default deadline. */
const callBuckets = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10];

/**
 * The library samples the loop's lag by a timer of its own, which would wake an idle node more often than all else,
 * and counts the timer's own interval in. So it hardly samples, and the node's ticks tell (defineLoopLag).
 */
const librarySampleMs = 3_600_000;

export function createMetrics(sources: MetricSources): Metrics {
  const registry = new Registry();
  collectDefaultMetrics({ register: registry, eventLoopMonitoringPrecision: librarySampleMs });
  const calls = new CallMetrics(registry);
  defineLoopLag(registry, sources);
  defineNodeGauges(registry, sources);
  defineDiskGauges(registry, sources);
  return {
    contentType: registry.contentType,
    text: () => registry.metrics(),
    observeCall: (method, outcome, durationMs) => calls.observe(method, outcome, durationMs),
    close() {
      registry.clear();
    },
  };
}

const loopLagParts = {
  min: (lag) => lag.min,
  max: (lag) => lag.max,
  mean: (lag) => lag.mean,
  stddev: (lag) => lag.stddev,
  p50: (lag) => lag.percentile(50),
  p90: (lag) => lag.percentile(90),
  // Collected last: what follows is the next scrape's.
  p99: (lag) => {
    const ns = lag.percentile(99);
    lag.reset();
    return ns;
  },
} as const satisfies Record<string, (lag: RecordableHistogram) => number>;

/** Under the library's names, in the place of its own. */
function defineLoopLag(registry: Registry, { loopLag }: MetricSources): void {
  const gauge = gaugeMaker(registry);
  for (const [part, nsOf] of Object.entries(loopLagParts)) {
    const name = `nodejs_eventloop_lag_${part}_seconds`;
    registry.removeSingleMetric(name);
    if (loopLag === undefined) continue;
    gauge(name, `How late the loop of the process was since the last scrape: ${part}`, [], (set) => {
      const lag = loopLag();
      set(lag.count > 0 ? nsOf(lag) / 1e9 : 0);
    });
  }
}

const callsName = 'hansard_calls_total';
const durationName = 'hansard_call_duration_seconds';

/** What is counted of one method: plain numbers, turned into samples when a scrape comes. */
class MethodCounts {
  readonly outcomes = new Map<string, number>();
  /** Calls by bucket; the last is beyond all bounds. */
  readonly buckets = new Array<number>(callBuckets.length + 1).fill(0);
  seconds = 0;
  calls = 0;

  observe(outcome: string, seconds: number): void {
    this.outcomes.set(outcome, (this.outcomes.get(outcome) ?? 0) + 1);
    this.seconds += seconds;
    this.calls++;
    let bucket = 0;
    while (bucket < callBuckets.length && seconds > (callBuckets[bucket] as number)) bucket++;
    (this.buckets[bucket] as number)++;
  }
}

/** A tenth of the price of prom-client's own counters and histograms, which every call would pay. */
class CallMetrics {
  readonly #methods = new Map<string, MethodCounts>();

  constructor(registry: Registry) {
    const methods = this.#methods;
    new Counter({
      name: callsName,
      help: 'Finished calls of the API, by method and outcome (OK, or the reason of the error)',
      labelNames: ['method', 'outcome'],
      registers: [registry],
      collect() {
        this.reset();
        for (const [method, { outcomes }] of methods) {
          for (const [outcome, count] of outcomes) this.inc({ method, outcome }, count);
        }
      },
    });
    const histogram = {
      name: durationName,
      reset() {},
      get: async () => ({
        name: durationName,
        help: 'From the arrival of a call to its answer',
        type: 'histogram',
        aggregator: 'sum',
        values: [...methods].flatMap(([method, counts]) => durationSamples(method, counts)),
      }),
    };
    // The registry asks a metric for its name and samples, nothing else.
    registry.registerMetric(histogram as unknown as Histogram);
  }

  observe(method: string, outcome: string, durationMs: number): void {
    let counts = this.#methods.get(method);
    if (counts === undefined) {
      // What a client calls methods must not fill the memory.
      if (this.#methods.size >= methodsMax && method !== 'other')
        return this.observe('other', outcome, durationMs);
      counts = new MethodCounts();
      this.#methods.set(method, counts);
    }
    counts.observe(outcome, durationMs / 1000);
  }
}

type Samples = Awaited<ReturnType<Histogram['get']>>['values'];

function durationSamples(method: string, { buckets, seconds, calls }: MethodCounts): Samples {
  let below = 0;
  const samples: Samples = callBuckets.map((le, i) => {
    below += buckets[i] as number;
    return { metricName: `${durationName}_bucket`, value: below, labels: { le, method } };
  });
  samples.push(
    { metricName: `${durationName}_bucket`, value: calls, labels: { le: '+Inf', method } },
    { metricName: `${durationName}_sum`, value: seconds, labels: { method } },
    { metricName: `${durationName}_count`, value: calls, labels: { method } },
  );
  return samples;
}

function defineNodeGauges(registry: Registry, sources: MetricSources): void {
  const gauge = gaugeMaker(registry);
  const identity = sources.identity();
  gauge('hansard_info', 'Always 1; what runs here, as labels', ['version', 'cluster_id', 'node_id'], (set) =>
    set(1, identity.version, identity.clusterId, String(identity.nodeId)),
  );
  gauge('hansard_partitions_led', 'Partitions that this node leads', [], (set) =>
    set(sources.cluster().partitions.filter((p) => p.leader === identity.nodeId).length),
  );
  gauge(
    'hansard_loop_busy_ratio',
    'Share of the last seconds in which the loop had something to do, 0 to 1',
    [],
    (set) => set(sources.loopBusy?.() ?? 0),
  );
  gauge('hansard_partitions_leaderless', 'Partitions of which this node knows no leader', [], (set) =>
    set(sources.cluster().partitions.filter((p) => p.leader === undefined).length),
  );
  gauge('hansard_apply_lag_entries', 'Committed and not yet applied here, all partitions', [], (set) =>
    set(
      sources.cluster().partitions.reduce((sum, p) => sum + Math.max(0, p.commitIndex - p.appliedIndex), 0),
    ),
  );
  if (sources.uncommittedBytes !== undefined)
    gauge('hansard_uncommitted_bytes', 'Proposed here and not yet committed', [], (set) =>
      set(sources.uncommittedBytes?.() ?? 0),
    );
  if (sources.clockAheadUs !== undefined)
    gauge(
      'hansard_clock_ahead_seconds',
      "How far this node's clock is beyond what it stamps; below 0: short of it; 0: neither",
      [],
      (set) => set((sources.clockAheadUs?.() ?? 0) / 1e6),
    );
  if (sources.elections !== undefined)
    gauge(
      'hansard_elections_total',
      'How often replicas of this node stood for election since the start: the leader fell silent, its process was gone, or it handed over',
      ['cause'],
      (set) => {
        for (const [cause, count] of Object.entries(sources.elections?.() ?? {})) set(count, cause);
      },
    );
  if (sources.quiescentReplicas !== undefined)
    gauge('hansard_replicas_quiescent', 'Replicas in whose partitions nothing happens', [], (set) =>
      set(sources.quiescentReplicas?.() ?? 0),
    );
  if (sources.callsInFlight !== undefined)
    gauge('hansard_calls_in_flight', 'Calls of the API that are under way', [], (set) =>
      set(sources.callsInFlight?.() ?? 0),
    );
  if (sources.exchangeStreams !== undefined)
    gauge('hansard_exchange_streams', 'Streams of Exchange that are open', [], (set) =>
      set(sources.exchangeStreams?.() ?? 0),
    );
  if (sources.channelTails !== undefined)
    gauge('hansard_channel_tails', 'Streams of TailChannel that are open', [], (set) =>
      set(sources.channelTails?.() ?? 0),
    );
  if (sources.exchangeMessages !== undefined)
    gauge('hansard_exchange_messages_total', 'gRPC messages of Exchange, both ways', [], (set) =>
      set(sources.exchangeMessages?.() ?? 0),
    );
  if (sources.subscriptions !== undefined)
    gauge('hansard_subscriptions', 'Streams of Subscribe that are open', [], (set) =>
      set(sources.subscriptions?.() ?? 0),
    );
  if (sources.durable !== undefined) defineDurableGauges(registry, () => sources.durable?.());
  const perPeer = (name: string, help: string, value: (peer: PeerState) => number) =>
    gauge(name, help, ['peer'], (set) => {
      for (const peer of sources.peers()) set(value(peer), String(peer.nodeId));
    });
  perPeer('hansard_peer_connected', '1 where both streams to the peer are open', (p) =>
    p.connected ? 1 : 0,
  );
  perPeer('hansard_peer_queued_bytes', 'Waiting to be sent to the peer', (p) => p.queuedBytes);
  perPeer('hansard_peer_sent_bytes_total', 'Sent to the peer since start', (p) => p.sentBytes);
  perPeer('hansard_peer_sent_frames_total', 'frames sent to the peer since start', (p) => p.sentFrames);
  perPeer('hansard_peer_received_bytes_total', 'Received from the peer since start', (p) => p.receivedBytes);
  perPeer(
    'hansard_peer_dropped_messages_total',
    'Not sent: link down or queue full',
    (p) => p.droppedMessages,
  );
}

/** Labels of durable subscriptions that are shown. */
const subscriptionsMax = 200;

function defineDurableGauges(registry: Registry, durable: () => DurableSource | undefined): void {
  const gauge = gaugeMaker(registry);
  gauge('hansard_consumers', 'Streams of Consume that are open', [], (set) => set(durable()?.consumers ?? 0));
  gauge(
    'hansard_subscription_events_total',
    'What became of deliveries of durable subscriptions',
    ['what'],
    (set) => {
      for (const [what, count] of Object.entries(durable()?.counts ?? {})) set(count, what);
    },
  );
  type One = DurableSource['subscriptions'] extends Iterable<infer S> ? S : never;
  const perSubscription = (name: string, help: string, value: (one: One) => number): void =>
    gauge(name, help, ['tenant', 'subscription'], (set) => {
      let shown = 0;
      for (const one of durable()?.subscriptions ?? []) {
        if (shown++ === subscriptionsMax) return;
        set(value(one), one.tenant, one.name);
      }
    });
  perSubscription(
    'hansard_subscription_pending_events',
    'Taken and not acknowledged',
    (one) => one.pendingEvents,
  );
  perSubscription(
    'hansard_subscription_lag_seconds',
    'Age of the oldest event that is taken and not acknowledged',
    (one) => one.oldestPendingMs / 1_000,
  );
  perSubscription(
    'hansard_subscription_last_progress_seconds',
    'Since something was last acknowledged or became a dead letter',
    (one) => one.lastProgressMs / 1_000,
  );
  perSubscription(
    'hansard_subscription_dead_letters',
    'Dead letters that are there',
    (one) => one.deadLetters,
  );
}

function defineDiskGauges(registry: Registry, sources: MetricSources): void {
  const gauge = gaugeMaker(registry);
  const wal = (name: string, help: string, value: (stats: WalStats) => number) =>
    gauge(name, help, [], (set) => set(value(sources.wal())));
  const store = (name: string, help: string, value: (stats: StoreStats) => number) =>
    gauge(name, help, [], (set) => set(value(sources.store())));
  wal('hansard_log_batches_total', 'Batches written to the log', (s) => s.batches);
  wal('hansard_log_syncs_total', 'Syncs of the log', (s) => s.syncs);
  wal('hansard_log_written_bytes_total', 'Bytes written to the log', (s) => s.bytesWritten);
  wal('hansard_log_segments', 'Segments of the log on disk', (s) => s.segments);
  wal('hansard_log_disk_bytes', 'Size of all segments of the log', (s) => s.segmentBytes);
  wal('hansard_log_cached_bytes', 'Entries of the log in memory', (s) => s.cachedBytes);
  wal('hansard_log_last_sync_seconds', 'How long the last sync took', (s) => s.lastSyncMs / 1000);
  store('hansard_tail_bytes', 'Applied events that are only in memory and the log', (s) => s.tailBytes);
  store('hansard_checkpoints_total', 'Tails sealed into LevelDB', (s) => s.checkpoints);
  store('hansard_checkpoint_bytes_total', 'Bytes sealed into LevelDB', (s) => s.checkpointBytes);
  store('hansard_sync_reads_total', 'Lookups in apply that blocked the loop', (s) => s.syncReads);
  store('hansard_blocks_read_total', 'Blocks read from LevelDB', (s) => s.blocksRead);
  const { snapshots, space, faults, repaired } = sources;
  if (space !== undefined) {
    const room = (name: string, help: string, value: (space: Space) => number) =>
      gauge(name, help, [], (set) => {
        if (Number.isFinite(space().freeBytes)) set(value(space()));
      });
    room('hansard_disk_free_bytes', "Room left on the disk of the node's folder", (s) => s.freeBytes);
    room('hansard_disk_reserve_bytes', 'Less room than this, and appends are refused', (s) => s.reserveBytes);
    room('hansard_disk_full', '1 where appends are refused for want of room', (s) => (s.isLow ? 1 : 0));
  }
  if (faults !== undefined) {
    gauge('hansard_replica_faults', 'Damaged replicas of this node, by kind', ['kind'], (set) => {
      for (const kind of faultKinds) set(faults().filter((fault) => fault.kind === kind).length, kind);
    });
  }
  if (repaired !== undefined) {
    gauge('hansard_replicas_repaired_total', 'Damaged replicas that became sound again', [], (set) =>
      set(repaired()),
    );
  }
  defineScrubGauges(gauge, sources);
  if (snapshots === undefined) return;
  const snapshot = (name: string, help: string, value: (stats: SnapshotStats) => number) =>
    gauge(name, help, [], (set) => set(value(snapshots())));
  snapshot('hansard_snapshots_sending', 'Snapshots that peers take from this node now', (s) => s.sending);
  snapshot(
    'hansard_snapshot_bytes_per_second',
    'What snapshots may send now; less than is set where appends would wait',
    (s) => s.bytesPerSecond,
  );
  snapshot('hansard_snapshots_receiving', 'Snapshots that this node takes in now', (s) => s.receiving);
  snapshot('hansard_snapshots_sent_total', 'Snapshots sent to the end', (s) => s.sent);
  snapshot('hansard_snapshots_received_total', 'Snapshots taken in', (s) => s.received);
  snapshot('hansard_snapshot_sent_bytes_total', 'Bytes of snapshots sent', (s) => s.sentBytes);
  snapshot('hansard_snapshot_received_bytes_total', 'Bytes of snapshots taken in', (s) => s.receivedBytes);
}

function defineScrubGauges(gauge: ReturnType<typeof gaugeMaker>, { scrub }: MetricSources): void {
  if (scrub === undefined) return;
  gauge('hansard_scrub_last_end_seconds', 'When the last pass of the scrubber ended, since 1970', [], (set) =>
    set(scrub().lastEndedUs / 1e6),
  );
  gauge('hansard_scrub_progress', 'How much of the pass is done, 0 to 1', [], (set) => {
    const { pass } = scrub();
    set(pass === undefined ? 0 : pass.step / pass.steps);
  });
  gauge('hansard_scrub_read_bytes_total', 'Read by the scrubber', [], (set) => set(scrub().bytes));
  gauge('hansard_scrub_findings_total', 'Damage that the scrubber found, by kind', ['kind'], (set) => {
    for (const [kind, count] of Object.entries(scrub().findingsByKind)) set(count, kind);
  });
}

/** A gauge that asks when it is scraped; labels that are no longer set disappear. */
function gaugeMaker(registry: Registry) {
  return (
    name: string,
    help: string,
    labelNames: string[],
    collect: (set: (value: number, ...labels: string[]) => void) => void,
  ): void => {
    const gauge: Gauge = new Gauge({
      name,
      help,
      labelNames,
      registers: [registry],
      collect() {
        gauge.reset();
        collect((value, ...labels) => {
          if (labels.length === 0) gauge.set(value);
          else gauge.labels(...labels).set(value);
        });
      },
    });
  };
}
