/**
 * One node at work: opened, made ready, stopped by a signal. The order of
 * stopping: leaderships away first, while calls are still answered; then the
 * door; then what is in memory is sealed and the folder released.
 */
import { logVerbosity, setLogVerbosity } from '@grpc/grpc-js';
import { type Api, startApi } from '../api/server.js';
import { defaultTailLimits } from '../api/tails.js';
import { HansardError, reasons } from '../common/errors.js';
import type { Logger } from '../common/logger.js';
import { loadPublicProtos } from '../common/proto.js';
import { type HttpServer, type Readiness, startHttp } from '../node/http.js';
import { createMetrics, type Metrics } from '../node/metrics.js';
import { openNode, type RunningNode } from '../node/open.js';
import type { Settings } from '../node/settings-table.js';
import { exitCodeOf } from './exit-codes.js';
import { version } from './version.js';

/** Calls under way may end within this, ms; the SDK's own deadline is longer, and it goes on elsewhere. */
const callGraceMs = 2_000;
const readyPollMs = 50;

/** Resolves when the node has stopped cleanly. Rejects where it could not start. */
export async function runServer(settings: Settings, logger: Logger): Promise<void> {
  // It writes lines of its own to stderr; what matters in them comes as an error, too.
  if (process.env.GRPC_VERBOSITY === undefined) setLogVerbosity(logVerbosity.NONE);
  const onFatal = fatalHandler(logger);
  process.on('uncaughtException', onFatal);
  process.on('unhandledRejection', onFatal);
  const stopSignal = firstSignal(logger);
  const door = new HttpDoor(settings.httpAddress, logger);
  let running: RunningNode;
  try {
    running = await openNode({
      dir: settings.dir,
      settings,
      peerAddress: settings.peerAddress,
      version,
      logger,
      onFatal,
      // It answers before there is anything to serve: a long start is no dead process.
      onOwned: async () => {
        await door.open();
        // The API needs them in a moment, but then the log is being applied: a tenth of a second that all would wait for.
        loadPublicProtos();
      },
    });
  } catch (error) {
    await door.close();
    throw error;
  }
  let api: Api | undefined;
  const metrics = metricsOf(running, () => api);
  try {
    api = await startApi(running.node, {
      address: settings.clientAddress,
      insecure: settings.insecure,
      tailLimits: { ...defaultTailLimits, streams: settings.channelTails },
      receiveWindowBytes: settings.clientWindow,
      logger,
      hooks: {
        onCall: (method, _origin, reason, ms) => metrics.observeCall(method, reason ?? 'OK', ms),
        onFatal,
      },
    });
  } catch (error) {
    await running.stop();
    await door.close();
    throw error;
  }
  // Not before calls are answered.
  door.serve(running, metrics);
  const { identity } = running.directory;
  const addresses = { client: api.address, peer: running.transport.address, http: door.address };
  logger.info({ node: identity.nodeId, cluster: identity.clusterId, ...addresses, version }, 'started');
  const readyTimer = logWhenReady(running, logger);

  const signal = await stopSignal;
  clearInterval(readyTimer);
  logger.info({ signal }, 'stopping');
  const overdue = setTimeout(() => {
    logger.error(
      { stop_timeout_ms: settings.stopTimeout },
      'stopping takes too long; ending as it is, the log has everything',
    );
    die();
  }, settings.stopTimeout);
  await running.node.drain();
  await api.stop(callGraceMs);
  await running.stop();
  await door.close();
  metrics.close();
  clearTimeout(overdue);
  logger.info({}, 'stopped');
}

/** Ready: this node has applied what its log had, knows a leader of every partition, and is not stopping. */
export function readinessOf(running: RunningNode): Readiness {
  const { node } = running;
  const { partitions } = node.cluster();
  const leaderless = partitions.filter((p) => p.leader === undefined).length;
  const problems: string[] = [];
  if (node.isDraining) problems.push('stopping');
  const { replaying } = node;
  if (replaying !== undefined)
    problems.push(`applying the log: ${replaying.left} of ${replaying.entries} entries are left`);
  if (leaderless > 0) problems.push(`${leaderless} of ${partitions.length} partitions have no leader`);
  return {
    ready: problems.length === 0,
    problems,
    details: {
      node: node.identity.nodeId,
      leads: partitions.filter((p) => p.leader === node.identity.nodeId).length,
      leaderless,
      partitions: partitions.length,
    },
  };
}

/** /readyz and its like, from the moment on in which the folder is ours. */
class HttpDoor {
  readonly #address: string;
  readonly #logger: Logger;
  #server: HttpServer | undefined;
  #running: RunningNode | undefined;
  #metrics: Metrics | undefined;

  constructor(address: string, logger: Logger) {
    this.#address = address;
    this.#logger = logger;
  }

  get address(): string {
    return this.#server?.address ?? 'off';
  }

  async open(): Promise<void> {
    if (this.#address === 'off') return;
    const handlers = {
      metrics: async () => ({
        // Nothing is counted before the node is open.
        text: (await this.#metrics?.text()) ?? '',
        contentType: this.#metrics?.contentType ?? 'text/plain',
      }),
      readiness: () => (this.#running === undefined ? opening : readinessOf(this.#running)),
    };
    this.#server = await startHttp(this.#address, handlers, this.#logger);
  }

  serve(running: RunningNode, metrics: Metrics): void {
    this.#running = running;
    this.#metrics = metrics;
  }

  async close(): Promise<void> {
    await this.#server?.close();
  }
}

const opening: Readiness = Object.freeze({
  ready: false,
  problems: Object.freeze(['starting: the database and the log are being read']),
  details: Object.freeze({}),
});

const noCounts = Object.freeze({ delivered: 0, redelivered: 0, acked: 0, dead: 0, steps: 0 });

function metricsOf(running: RunningNode, api: () => Api | undefined): Metrics {
  return createMetrics({
    identity: () => running.node.identity,
    cluster: () => running.node.cluster(),
    wal: () => running.wal.stats(),
    store: () => running.store.stats(),
    peers: () => running.transport.peers(),
    snapshots: () => running.node.snapshotStats(),
    space: () => running.space,
    faults: () => running.node.faults().filter(({ nodeId }) => nodeId === running.node.identity.nodeId),
    repaired: () => running.node.repaired,
    quiescentReplicas: () => running.node.quiescentReplicas,
    clockAheadUs: () => running.node.clockAheadUs,
    loopBusy: () => running.node.loopBusy,
    loopLag: () => running.node.loopLag,
    elections: () => running.node.electionCounts,
    callsInFlight: () => api()?.callsInFlight ?? 0,
    exchangeStreams: () => api()?.exchangeStreams ?? 0,
    channelTails: () => api()?.openTails ?? 0,
    subscriptions: () => api()?.openSubscriptions ?? 0,
    durable: () => api()?.leaders.measured() ?? { consumers: 0, counts: noCounts, subscriptions: [] },
    exchangeMessages: () => api()?.exchangeMessages ?? 0,
    scrub: () => running.node.scrubber.status(),
  });
}

function logWhenReady(running: RunningNode, logger: Logger): NodeJS.Timeout {
  const timer = setInterval(() => {
    const { ready, details } = readinessOf(running);
    if (!ready) return;
    clearInterval(timer);
    logger.info(details, 'ready');
  }, readyPollMs);
  return timer.unref();
}

/** The first SIGTERM or SIGINT asks, the second one ends the process at once. */
function firstSignal(logger: Logger): Promise<NodeJS.Signals> {
  return new Promise((resolve) => {
    let seen = false;
    const onSignal = (signal: NodeJS.Signals): void => {
      if (seen) {
        logger.warn({ signal }, 'second signal: ending at once');
        die();
      }
      seen = true;
      resolve(signal);
    };
    process.on('SIGTERM', onSignal);
    process.on('SIGINT', onSignal);
  });
}

/** A node that can't keep its promises must not go on, not even to say goodbye. */
function fatalHandler(logger: Logger): (error: unknown) => void {
  let ended = false;
  return (error) => {
    if (ended) return;
    ended = true;
    const what = error instanceof Error ? error.message : String(error);
    const cure =
      error instanceof HansardError ? { reason: error.reason, cure: reasons[error.reason].cure } : {};
    logger.error({ err: error, ...cure }, `the node ends: ${what}`);
    // Said by a peer, the disk is well: the status may tell what scripts know from a refused start.
    if (error instanceof HansardError && error.reason === 'REPLICA_LOST') process.exit(exitCodeOf(error));
    die();
  };
}

/** process.exit() would wait for a worker that sits in a blocked call of a stalled disk. */
function die(): never {
  process.kill(process.pid, 'SIGKILL');
  // SIGKILL to oneself takes effect before kill() returns; this line is for the type.
  throw new Error('unreachable');
}
