/** One node at work in this process: opened, its door open, ended cleanly or as by a crash. */
import { type Api, startApi } from '../api/server.js';
import { type Logger, silentLogger } from '../common/logger.js';
import { version } from '../common/version.js';
import { openNode, type RunningNode } from '../node/open.js';
import { resolveSettings } from '../node/settings.js';
import type { SettingName } from '../node/settings-table.js';

export interface RunOptions {
  readonly dir: string;
  readonly clientAddress: string;
  readonly peerAddress: string;
  readonly settings?: Readonly<Partial<Record<SettingName, string>>> | undefined;
  readonly logger?: Logger | undefined;
  readonly onFailure?: ((error: unknown) => void) | undefined;
}

/** Small where `hansard start` is generous: tests open many. */
const smallSettings: Readonly<Partial<Record<SettingName, string>>> = Object.freeze({
  tailLimit: '32MiB',
  checkpointBytes: '12MiB',
  dbWriteBuffer: '16MiB',
  dbCache: '8MiB',
  storeCache: '16MiB',
  entryCache: '16MiB',
  logSegment: '4MiB',
  diskReserve: '64MiB',
  // A debugger's stop or a starved machine is no broken disk, and the watchdog would end this whole process.
  diskStall: '10m',
});
const callGraceMs = 1_000;
const readyPollMs = 10;

export interface Door {
  readonly running: RunningNode;
  readonly api: Api;
  /** Resolves when this node knows a leader of every partition. */
  ready(timeoutMs: number): Promise<void>;
  stop(): Promise<void>;
  halt(): Promise<void>;
}

export async function runNode(options: RunOptions): Promise<Door> {
  const logger = options.logger ?? silentLogger;
  const onFatal = options.onFailure ?? endLoudly;
  const { settings } = await resolveSettings({
    flags: { ...smallSettings, ...options.settings, dir: options.dir },
  });
  const running = await openNode({
    dir: options.dir,
    settings,
    peerAddress: options.peerAddress,
    version,
    logger,
    onFatal,
  });
  let api: Api;
  try {
    api = await startApi(running.node, {
      address: options.clientAddress,
      insecure: false,
      receiveWindowBytes: settings.clientWindow,
      logger,
      hooks: { onCall() {}, onFatal },
    });
  } catch (error) {
    await running.halt();
    throw error;
  }
  return {
    running,
    api,
    async ready(timeoutMs) {
      const until = performance.now() + timeoutMs;
      const leaderless = () => running.node.cluster().partitions.filter((p) => p.leader === undefined).length;
      while (leaderless() > 0) {
        if (performance.now() >= until)
          throw new Error(`${leaderless()} partitions have no leader after ${timeoutMs} ms`);
        await new Promise((done) => setTimeout(done, readyPollMs));
      }
    },
    async stop() {
      await running.node.drain();
      await api.stop(callGraceMs);
      await running.stop();
    },
    async halt() {
      await api.stop(0);
      await running.halt();
    },
  };
}

/** Whoever gave no handler must not go on without noticing. */
function endLoudly(error: unknown): void {
  setImmediate(() => {
    throw error;
  });
}
