/**
 * Who leads which partition, as far as this client knows, and the links to the
 * nodes. Learned from GetCluster, corrected by NOT_LEADER's hints and by broken
 * connections; every mistake costs a detour, never a wrong result.
 */
import { HansardError, reasons } from '../common/errors.js';
import type { PartitionId } from '../common/ids.js';
import { partitionOf } from '../common/partitioning.js';
import { readClusterResponse } from './cluster-responses.js';
import { PlainCall } from './frames.js';
import { type Link, openLink } from './link.js';
import type { ClientOptions } from './options.js';
import { type Method, methods } from './requests.js';
import { RoundTrips } from './round-trips.js';
import type { Outcome } from './rpc-errors.js';
import { Session } from './session.js';
import type { ClusterInfo, ReadPreference } from './types.js';

/** A node that just failed is passed over for this long where others are left. */
const avoidFailedMs = 300;
/** At most this often, however many calls fail. */
const refreshSpacingMs = 100;
/** A read or open is tried elsewhere after this long without an answer. */
const attemptTimeoutMs = 2_000;
/** A leader that gave no answer for this long has the map read again. */
export const suspectMs = 1_000;
/** A node that was asked for the map and gave no answer for this long is not waited for. */
const silentMs = 300;
/** How often attempts are looked through for those out of time. */
const watchMs = 25;
const backoffFirstMs = 20;
/** A new leader is found this soon after it is there; elections take a few hundred ms. */
const backoffMaxMs = 250;
/** Of a call beyond the server's own deadline. */
const attemptGraceMs = 50;
/** NOT_LEADER hints followed at once, before waiting. */
const hintsFollowed = 3;

const none = new Uint8Array(0);

/** A channel as calls name it; its partition is looked for once. */
export class Target {
  partition: PartitionId | undefined;
  /** Of how many; another number of partitions is another cluster. */
  partitionCount = 0;
  constructor(
    readonly channel: string,
    /** Encoded tenant and channel. */
    readonly prefix: Buffer,
  ) {}
}

export interface Route {
  /** Undefined: any node. */
  readonly partition?: PartitionId | undefined;
  readonly preference?: ReadPreference | undefined;
}

/** An attempt that has no outcome yet. */
interface Watched {
  readonly link: Link;
  readonly partition: PartitionId;
  readonly endMs: number;
  /** When to look whether another leads by now. */
  lookMs: number;
  /** Of the caller's promise; undefined when it has its outcome. */
  end: ((outcome: Attempt<never> | undefined) => void) | undefined;
}

interface Place {
  leader: string | undefined;
  term: number;
  replicas: readonly string[];
}

export class Router {
  /** P; undefined until the first map has come. */
  partitionCount: number | undefined;
  #places: Place[] = [];
  #addresses: string[];
  #addressOf: ReadonlyMap<number, string> = new Map();
  readonly #links = new Map<string, Link>();
  /** What this client has written and seen. */
  readonly session = new Session();
  readonly #roundTrips = new RoundTrips();
  #measuredAtMs = Number.NEGATIVE_INFINITY;
  /** Where the next call without a known leader goes. */
  #turn = 0;
  #refreshing: Promise<ClusterInfo | HansardError> | undefined;
  /** Why the last attempt to read the map failed. */
  #mapError: HansardError = new HansardError('UNREACHABLE', 'no node answered in time');
  #refreshedAtMs = Number.NEGATIVE_INFINITY;
  #closed = false;
  readonly #watched = new Set<Watched>();
  #watcher: NodeJS.Timeout | undefined;

  constructor(
    readonly endpoints: readonly string[],
    readonly tenant: string,
    readonly options: Required<ClientOptions>,
  ) {
    this.#addresses = [...endpoints];
  }

  /** Undefined until the map is known. */
  partitionOf(channel: string): PartitionId | undefined {
    return this.partitionCount === undefined
      ? undefined
      : partitionOf(this.tenant, channel, this.partitionCount);
  }

  /** Undefined until the map is known. */
  partitionOfTarget(target: Target): PartitionId | undefined {
    const { partitionCount } = this;
    if (partitionCount === undefined) return undefined;
    if (target.partitionCount !== partitionCount) {
      target.partition = this.partitionOf(target.channel);
      target.partitionCount = partitionCount;
    }
    return target.partition;
  }

  /** The leader's link; where none is known `current` if it is sound, else another node, which forwards or knows more. */
  leaderLink(partition: PartitionId, current?: Link): Link {
    const leader = this.#places[partition]?.leader;
    if (leader !== undefined) {
      const link = this.#link(leader);
      if (!isFailed(link)) return link;
    }
    if (current !== undefined && !isFailed(current)) return current;
    return this.#anyLink();
  }

  /** The address of the node that is taken for the leader; undefined: none is, or it is out of reach. */
  leaderOf(partition: PartitionId): string | undefined {
    const leader = this.#places[partition]?.leader;
    return leader === undefined || isFailed(this.#link(leader)) ? undefined : leader;
  }

  /** NOT_LEADER named the leader. */
  hint(partition: PartitionId, address: string): void {
    const place = this.#places[partition];
    if (place !== undefined) place.leader = address;
    this.#link(address).forgive();
    if (!this.#addresses.includes(address)) this.#addresses.push(address);
  }

  /**
   * A call was passed on to the node that leads. The next ones go there at once;
   * where one leader moved others did: the map is read again.
   */
  forwarded(partition: PartitionId, nodeId: number): void {
    const address = this.#addressOf.get(nodeId);
    const place = this.#places[partition];
    if (address === undefined || place === undefined || place.leader === address) return;
    // Not at once: answers beside this one in its frame would count for nothing once their lane has moved.
    setImmediate(() => {
      if (this.#closed) return;
      place.leader = address;
      this.refresh();
    });
  }

  /** The node at `address` does not lead (any more), or is out of reach. */
  distrust(partition: PartitionId, address: string): void {
    const place = this.#places[partition];
    if (place?.leader === address) place.leader = undefined;
  }

  /** The node failed by what others may do better: where there are any they are asked for a while. */
  passOver(address: string, { reason }: HansardError): void {
    if (saysNothingOfOthers.has(reason)) this.#roundTrips.slow(address, performance.now());
  }

  /**
   * Makes a call that may be repeated (a read, or a write that is recognised),
   * with retries until `deadlineMs` on performance.now(). Resolves to bytes of
   * this turn, read by `read` at once.
   */
  async call<T>(
    method: Method,
    body: Uint8Array,
    route: Route,
    deadlineMs: number,
    read: (response: Uint8Array) => T,
  ): Promise<T> {
    let last: HansardError | undefined;
    let hints = 0;
    for (let attempt = 0; ; attempt++) {
      const leftMs = deadlineMs - performance.now();
      if (leftMs <= 0 || this.#closed) throw this.#closed ? closedError() : (last ?? lateError(method));
      const link = this.routed(route, attempt);
      const timeoutMs = Math.min(leftMs, attemptTimeoutMs);
      const outcome = await this.#attempt(link, method, body, timeoutMs, route, read);
      if (outcome === undefined) continue;
      if (outcome.ok) {
        if (outcome.forwardedTo !== 0 && route.partition !== undefined)
          this.forwarded(route.partition, outcome.forwardedTo);
        return outcome.value;
      }
      last = outcome.error;
      if (route.preference !== undefined) this.passOver(link.address, last);
      if (last.reason === 'NOT_LEADER' && route.partition !== undefined) {
        const address = String(last.fields.leader_address ?? '');
        if (address !== '' && address !== link.address) {
          this.hint(route.partition, address);
          if (++hints <= hintsFollowed) continue;
        } else this.distrust(route.partition, link.address);
      } else if (!outcome.inDoubt && reasons[last.reason].retry !== 'yes') throw last;
      else if (last.reason === 'INTERNAL') throw last;
      if (last.reason !== 'OVERLOADED' && method !== methods.getCluster) this.refresh();
      await sleep(Math.min(waitMs(last.retryDelayMs, attempt), Math.max(0, deadlineMs - performance.now())));
    }
  }

  /** Such a call that is a write: the session keeps its token, or the doubt that it leaves. */
  async write<T extends { readonly commitToken: Uint8Array }>(
    method: Method,
    body: Uint8Array,
    partition: PartitionId,
    deadlineMs: number,
    read: (response: Uint8Array) => T,
  ): Promise<T> {
    try {
      const answer = await this.call(method, body, { partition }, deadlineMs, read);
      this.session.observe(answer.commitToken);
      return answer;
    } catch (error) {
      this.session.doubt(partition);
      throw error;
    }
  }

  /**
   * One attempt. Undefined where it went to the leader, which has been silent for
   * a while, and another leads by now: elections take a second then, waiting for
   * the attempt's end could take the caller's whole time.
   */
  #attempt<T>(
    link: Link,
    method: Method,
    body: Uint8Array,
    timeoutMs: number,
    { partition }: Route,
    read: (response: Uint8Array) => T,
  ): Promise<Attempt<T> | undefined> {
    return new Promise((resolve) => {
      const nowMs = performance.now();
      const isLed = partition !== undefined && this.#places[partition]?.leader === link.address;
      const watched: Watched = {
        link,
        partition: partition ?? 0,
        endMs: nowMs + timeoutMs + attemptGraceMs,
        lookMs: isLed ? nowMs + suspectMs : Number.POSITIVE_INFINITY,
        end: resolve,
      };
      this.#watched.add(watched);
      this.#watcher ??= setInterval(() => this.#watch(), watchMs);
      const done = (outcome: Outcome): void => {
        // An answer that comes after its attempt was given up is nobody's.
        if (!this.#unwatch(watched)) return;
        resolve(outcome.ok ? readOutcome(link, outcome, read) : outcome);
      };
      link.send(new PlainCall(method, body, Math.ceil(timeoutMs), done));
    });
  }

  /**
   * A Set leaves its former tables to the collector of the old space, and with them what stood in them: with
   * `end` the promise, and with that the page that was read.
   */
  #unwatch(watched: Watched): boolean {
    watched.end = undefined;
    return this.#watched.delete(watched);
  }

  /** One timer for all attempts: ends those out of time (also those that wait for a connection) or overtaken. */
  #watch(): void {
    if (this.#watched.size === 0) {
      clearInterval(this.#watcher);
      this.#watcher = undefined;
      return;
    }
    const nowMs = performance.now();
    for (const watched of this.#watched) {
      if (watched.endMs <= nowMs) {
        const { end } = watched;
        this.#unwatch(watched);
        this.#roundTrips.slow(watched.link.address, nowMs);
        end?.(lateAttempt(watched.link));
      } else if (watched.lookMs <= nowMs) {
        const leader = this.#places[watched.partition]?.leader;
        if (leader !== undefined && leader !== watched.link.address) {
          const { end } = watched;
          this.#unwatch(watched);
          end?.(undefined);
        } else {
          this.refresh();
          watched.lookMs = nowMs + refreshSpacingMs;
        }
      }
    }
  }

  /** Asks for the map in the background, not too often. */
  refresh(): void {
    if (this.#closed || this.#refreshing !== undefined) return;
    if (performance.now() - this.#refreshedAtMs < refreshSpacingMs) return;
    void this.#refresh();
  }

  refreshIfOld(): void {
    if (performance.now() - this.#refreshedAtMs > this.options.mapRefreshMs) this.refresh();
  }

  /** Resolves once P is known; rejects with why not at the deadline. */
  async known(deadlineMs: number): Promise<number> {
    for (let attempt = 0; ; attempt++) {
      if (this.partitionCount !== undefined) return this.partitionCount;
      const leftMs = Math.max(0, deadlineMs - performance.now());
      const result = (await within(this.#refresh(), leftMs)) ?? this.#mapError;
      if (this.partitionCount !== undefined) return this.partitionCount;
      if (this.#closed) throw closedError();
      if (performance.now() >= deadlineMs)
        throw result instanceof HansardError
          ? result
          : new HansardError('NO_QUORUM', 'the cluster has no pool yet');
      await sleep(Math.min(backoffMs(attempt), Math.max(0, deadlineMs - performance.now())));
    }
  }

  async cluster(deadlineMs: number): Promise<ClusterInfo> {
    const info = await this.call(methods.getCluster, none, {}, deadlineMs, readClusterResponse);
    this.#learn(info);
    return info;
  }

  get isClosed(): boolean {
    return this.#closed;
  }

  close(): void {
    this.#closed = true;
    for (const link of this.#links.values()) link.close();
    this.#links.clear();
  }

  #refresh(): Promise<ClusterInfo | HansardError> {
    this.#refreshing ??= this.#readMap().then((result) => {
      this.#refreshing = undefined;
      this.#refreshedAtMs = performance.now();
      if (result instanceof HansardError) this.#mapError = result;
      else this.#learn(result);
      return result;
    });
    return this.#refreshing;
  }

  /** One round over the nodes; where one is silent the next is asked beside it, and the first answer counts. */
  #readMap(): Promise<ClusterInfo | HansardError> {
    return new Promise((resolve) => {
      let left = this.#addresses.length;
      let open = 0;
      let isOver = false;
      let timer: NodeJS.Timeout | undefined;
      const end = (result: ClusterInfo | HansardError): void => {
        isOver = true;
        clearTimeout(timer);
        resolve(result);
      };
      const askNext = (): void => {
        clearTimeout(timer);
        if (isOver) return;
        if (this.#closed) return end(closedError());
        if (left === 0) return open === 0 ? end(this.#mapError) : undefined;
        left--;
        open++;
        timer = setTimeout(askNext, silentMs);
        void attemptOn(this.#anyLink(), methods.getCluster, none, attemptTimeoutMs, readClusterResponse).then(
          (outcome) => {
            open--;
            if (outcome.ok) return end(outcome.value);
            this.#mapError = outcome.error;
            askNext();
          },
        );
      };
      askNext();
    });
  }

  #learn(info: ClusterInfo): void {
    const pool = info.pools.find((each) => each.name === 'default') ?? info.pools[0];
    if (pool === undefined || pool.partitionCount === 0) return;
    this.partitionCount = pool.partitionCount;
    const addressOf = new Map(info.nodes.map((node) => [node.nodeId, node.clientAddress]));
    this.#addressOf = addressOf;
    for (const { partition, leaderNodeId, term, replicas } of info.partitions) {
      const known = this.#places[partition];
      const addresses = replicas
        .map((replica) => addressOf.get(replica.nodeId) ?? '')
        .filter((each) => each !== '');
      const leader = addressOf.get(leaderNodeId);
      // An older view than ours (a node that is cut off, a hint since) changes no leader; nor does it
      // bring one back whose term has passed: the view that names its successor would be no news then.
      const isNews =
        known === undefined || term > known.term || (term === known.term && known.leader === undefined);
      this.#places[partition] = {
        leader: isNews ? leader || undefined : known.leader,
        term: Math.max(term, known?.term ?? 0),
        replicas: addresses,
      };
    }
    const addresses = info.nodes.map((node) => node.clientAddress).filter((each) => each !== '');
    if (addresses.length > 0) this.#addresses = [...new Set([...addresses, ...this.endpoints])];
  }

  /** The link for that attempt of a call. */
  routed(route: Route, attempt: number): Link {
    const { partition, preference } = route;
    if (partition === undefined) return this.#anyLink();
    const replicas = this.#places[partition]?.replicas ?? [];
    if (preference === undefined || preference.startsWith('primary') || replicas.length === 0)
      return this.leaderLink(partition);
    const links = this.#candidates(partition, replicas, preference, attempt).map((each) => this.#link(each));
    const sound = links.filter((link) => !isFailed(link));
    if (sound.length > 0) return sound[this.#turn++ % sound.length] as Link;
    return this.leaderLink(partition);
  }

  /** By turn, so that reads spread over them. After a failed attempt distance counts no more. */
  #candidates(
    partition: PartitionId,
    replicas: readonly string[],
    preference: ReadPreference,
    attempt: number,
  ): readonly string[] {
    const nowMs = performance.now();
    const leader = this.#places[partition]?.leader;
    const others = preference === 'nearest' ? replicas : replicas.filter((each) => each !== leader);
    const quick = others.filter((each) => !this.#roundTrips.isSlow(each, nowMs));
    const candidates = quick.length > 0 ? quick : others;
    if (preference !== 'nearest') return candidates;
    this.#measureIfDue(nowMs);
    return attempt === 0 ? this.#roundTrips.near(candidates) : candidates;
  }

  /** Asks every node for the map and takes the time. */
  #measureIfDue(nowMs: number): void {
    if (nowMs - this.#measuredAtMs < this.options.mapRefreshMs) return;
    this.#measuredAtMs = nowMs;
    for (const address of this.#addresses) {
      const link = this.#link(address);
      if (isFailed(link)) continue;
      // The first call on a connection measures its making: not this one.
      void attemptOn(link, methods.getCluster, none, attemptTimeoutMs, readClusterResponse).then(
        async (first) => {
          if (!first.ok || this.#closed) return;
          this.#learn(first.value);
          const startedMs = performance.now();
          const second = await attemptOn(link, methods.getCluster, none, attemptTimeoutMs, () => true);
          if (second.ok) this.#roundTrips.measured(address, performance.now() - startedMs);
        },
      );
    }
  }

  /** By turn: one that is not passed over, else one that is within reach, else any. */
  #anyLink(): Link {
    const nowMs = performance.now();
    let slow: Link | undefined;
    for (let i = 0; i < this.#addresses.length; i++) {
      const address = this.#addresses[this.#turn++ % this.#addresses.length] as string;
      const link = this.#link(address);
      if (isFailed(link)) continue;
      if (!this.#roundTrips.isSlow(address, nowMs)) return link;
      slow ??= link;
    }
    return slow ?? this.#link(this.#addresses[this.#turn++ % this.#addresses.length] as string);
  }

  #link(address: string): Link {
    let link = this.#links.get(address);
    if (link === undefined) {
      link = openLink(this.options.transport, address);
      if (this.#closed) link.close();
      else this.#links.set(address, link);
    }
    return link;
  }
}

/** A read that failed so may succeed elsewhere at once. */
const saysNothingOfOthers: ReadonlySet<string> = new Set([
  'NO_QUORUM',
  'NO_SECONDARY',
  'NOT_LEADER',
  'DEADLINE_EXCEEDED',
  'SHUTTING_DOWN',
]);

export type Attempt<T> =
  | { readonly ok: true; readonly value: T; readonly forwardedTo: number }
  | { readonly ok: false; readonly error: HansardError; readonly inDoubt: boolean };

/** The response is read in the turn in which it came: its bytes do not outlive it. */
export function attemptOn<T>(
  link: Link,
  method: Method,
  body: Uint8Array,
  timeoutMs: number,
  read: (response: Uint8Array) => T,
): Promise<Attempt<T>> {
  return new Promise((resolve) => {
    // Also ends what waits for a connection; an answer that comes after is nobody's.
    const timer = setTimeout(() => {
      resolve(lateAttempt(link));
    }, timeoutMs + attemptGraceMs);
    const done = (outcome: Outcome): void => {
      clearTimeout(timer);
      resolve(outcome.ok ? readOutcome(link, outcome, read) : outcome);
    };
    link.send(new PlainCall(method, body, Math.ceil(timeoutMs), done));
  });
}

function lateAttempt(link: Link): Attempt<never> {
  const reason = link.failedAtMs > 0 ? 'UNREACHABLE' : 'DEADLINE_EXCEEDED';
  return { ok: false, error: new HansardError(reason, `${link.address}: no answer in time`), inDoubt: true };
}

function readOutcome<T>(
  link: Link,
  { response, forwardedTo }: Outcome & { readonly ok: true },
  read: (response: Uint8Array) => T,
): Attempt<T> {
  try {
    return { ok: true, value: read(response), forwardedTo };
  } catch (cause) {
    const error =
      cause instanceof HansardError
        ? cause
        : new HansardError('INTERNAL', `unreadable answer from ${link.address}: ${cause}`, {}, { cause });
    return { ok: false, error, inDoubt: false };
  }
}

export function isFailed(link: Link): boolean {
  return link.failedAtMs > 0 && performance.now() - link.failedAtMs < avoidFailedMs;
}

/** Doubles up to `backoffMaxMs`; between half and the whole, so that clients do not come back together. */
export function backoffMs(failures: number): number {
  const full = Math.min(backoffMaxMs, backoffFirstMs * 2 ** Math.min(failures, 10));
  return full * (0.5 + Math.random() / 2);
}

/** As long as the server asks, or up to half as long again: those it refused together do not come back together. */
export function waitMs(askedMs: number | undefined, failures: number): number {
  return askedMs === undefined ? backoffMs(failures) : askedMs * (1 + Math.random() / 2);
}

export function closedError(): HansardError {
  return new HansardError('CLIENT_CLOSED', 'the client was closed');
}

function lateError(method: Method): HansardError {
  return new HansardError('DEADLINE_EXCEEDED', `${method} was not answered in time`);
}

/** Undefined where the time is up first. */
function within<T>(promise: Promise<T>, ms: number): Promise<T | undefined> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<undefined>((resolve) => {
    timer = setTimeout(resolve, ms, undefined);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
