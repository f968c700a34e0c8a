/**
 * One node as verifying sees it: asked again while it stumbles, given up once for
 * all where it is out of reach, and told apart from a replica that lags.
 */
import type {
  ReplicaChannelPage,
  ReplicaChannelsQuery,
  ReplicaEvents,
  ReplicaEventsQuery,
} from '../../client/replica.js';
import { HansardError, type Reason } from '../../common/errors.js';
import type { FindingKind } from './finding.js';

/** The client's edge: one try each, rejecting with a HansardError. */
export interface NodeClient {
  channels(partition: number, query: ReplicaChannelsQuery, timeoutMs: number): Promise<ReplicaChannelPage>;
  events(partition: number, query: ReplicaEventsQuery, timeoutMs: number): Promise<ReplicaEvents>;
  digest(
    partition: number,
    minAppliedIndex: number,
    timeoutMs: number,
  ): Promise<{ readonly digest: string; readonly servedBy: { readonly appliedIndex: number } }>;
}

export interface AskLimits {
  /** How long a node may be out of reach, or overloaded, before it is given up, ms. */
  readonly patienceMs: number;
  /** How long a replica may take to apply what another one has, ms. */
  readonly lagMs: number;
  /** Bytes of events a second that may be read in all; undefined: any. */
  readonly bytesPerSecond: number | undefined;
}

export const askDefaults: AskLimits = Object.freeze({
  // A restart of a node.
  patienceMs: 10_000,
  lagMs: 30_000,
  bytesPerSecond: undefined,
});

const timeoutMs = 10_000;
/** Reads all that a partition holds. */
const digestTimeoutMs = 600_000;
const retryMs = 200;
const probeTimeoutMs = 3_000;

/** The node answers nobody: nothing of it can be verified. */
export class NodeDown extends Error {
  constructor(readonly error: HansardError) {
    super(error.message);
  }
}

/** This replica can not be verified, others of the node may. */
export class ReplicaUnusable extends Error {
  constructor(
    readonly kind: FindingKind,
    message: string,
    readonly details: { readonly expected?: string; readonly found?: string } = {},
  ) {
    super(message);
  }
}

/** After these the same call may be answered soon. */
const passing: ReadonlySet<Reason> = new Set([
  'UNREACHABLE',
  'SHUTTING_DOWN',
  'OVERLOADED',
  'NO_QUORUM',
  'CLIENT_CLOSED',
]);

export class VerifiedNode {
  /** Why it was given up. */
  down: HansardError | undefined;

  constructor(
    readonly nodeId: number,
    readonly address: string,
    readonly client: NodeClient,
    readonly limits: AskLimits,
    readonly throttle: Throttle,
  ) {}

  channels(partition: number, query: ReplicaChannelsQuery): Promise<ReplicaChannelPage> {
    return this.#ask(partition, query.minAppliedIndex, timeoutMs, (ms) =>
      this.client.channels(partition, query, ms),
    );
  }

  async events(partition: number, query: ReplicaEventsQuery): Promise<ReplicaEvents> {
    const page = await this.#ask(partition, query.minAppliedIndex, timeoutMs, (ms) =>
      this.client.events(partition, query, ms),
    );
    await this.throttle.take(page.bytes);
    return page;
  }

  digest(partition: number, minAppliedIndex: number) {
    return this.#ask(partition, minAppliedIndex, digestTimeoutMs, (ms) =>
      this.client.digest(partition, minAppliedIndex, ms),
    );
  }

  /** Where the replica stands now. */
  async appliedIndex(partition: number): Promise<number> {
    const query = { minAppliedIndex: 0, tenant: '', prefix: '', pageSize: 1, pageToken: '' };
    return (await this.channels(partition, query)).servedBy.appliedIndex;
  }

  async #ask<T>(
    partition: number,
    minIndex: number,
    ownMs: number,
    call: (timeoutMs: number) => Promise<T>,
  ): Promise<T> {
    const { patienceMs, lagMs } = this.limits;
    let failingSinceMs: number | undefined;
    const ms = minIndex > 0 ? Math.max(ownMs, lagMs) : ownMs;
    for (;;) {
      if (this.down !== undefined) throw new NodeDown(this.down);
      try {
        return await call(ms);
      } catch (error) {
        if (!(error instanceof HansardError)) throw error;
        if (error.reason === 'NOT_LEADER') {
          throw new ReplicaUnusable(
            'replica-missing',
            'the node says that it holds no replica of this partition',
          );
        }
        if (error.reason === 'DEADLINE_EXCEEDED') throw await this.#late(partition, minIndex, error);
        if (!passing.has(error.reason)) {
          const kind = error.reason === 'STORE_DAMAGED' ? 'channel-damaged' : 'replica-error';
          throw new ReplicaUnusable(kind, `${error.message} (${error.reason})`);
        }
        failingSinceMs ??= performance.now();
        if (performance.now() - failingSinceMs >= patienceMs) {
          this.down ??= error;
          throw new NodeDown(error);
        }
        await sleep(retryMs);
      }
    }
  }

  /** Is it the replica that lags, or the node that hangs? */
  async #late(partition: number, minIndex: number, late: HansardError): Promise<Error> {
    try {
      const query = { minAppliedIndex: 0, tenant: '', prefix: '', pageSize: 1, pageToken: '' };
      const { servedBy } = await this.client.channels(partition, query, probeTimeoutMs);
      if (servedBy.appliedIndex < minIndex) {
        return new ReplicaUnusable('replica-behind', 'the replica has not applied what others have', {
          expected: `applied index ${minIndex} or more`,
          found: `${servedBy.appliedIndex} after ${this.limits.lagMs / 1000} s`,
        });
      }
      return new ReplicaUnusable('replica-error', `${late.message} (${late.reason})`);
    } catch (error) {
      if (!(error instanceof HansardError)) throw error;
      this.down ??= error;
      return new NodeDown(error);
    }
  }
}

/** Lets so many bytes a second through; whoever took more than there was waits. */
export class Throttle {
  #freeAtMs = 0;
  constructor(readonly bytesPerSecond: number | undefined) {}

  async take(bytes: number): Promise<void> {
    if (this.bytesPerSecond === undefined) return;
    const nowMs = performance.now();
    this.#freeAtMs = Math.max(nowMs, this.#freeAtMs) + (bytes / this.bytesPerSecond) * 1000;
    if (this.#freeAtMs > nowMs) await sleep(this.#freeAtMs - nowMs);
  }
}

export function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
