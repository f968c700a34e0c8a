/**
 * One chain for every unary call, whichever way it came (gRPC, Exchange, another
 * node): deadline → identity → limits → trace → handler → errors. A call ends
 * exactly once; what it holds is counted until its handler has really ended.
 */
import { randomBytes } from 'node:crypto';
import { MalformedError } from '../common/bytes.js';
import { HansardError, InvariantError, type Reason } from '../common/errors.js';
import type { NodeId } from '../common/ids.js';
import { limits } from '../common/limits.js';
import type { Logger } from '../common/logger.js';

/** How a call came in. */
export type Origin = 'grpc' | 'exchange' | 'forward';

export interface CallContext {
  /** Full name: `hansard.v1.MessageService/AppendMessages`. */
  readonly method: string;
  /** On the node's monotonic clock. */
  readonly deadlineMs: number;
  readonly origin: Origin;
  /** W3C traceparent; may be empty. */
  readonly traceparent: string;
  /** The client has gone: whoever waits may stop. */
  cancelled: boolean;
  /** The leader that carried it out in this node's place; 0: none. */
  forwardedTo: NodeId;
}

export interface UnaryContext extends CallContext {
  /** Ends a call whose handler gave nothing back: once, with an error or a response. Never throws. */
  end(error: unknown, response: Response | undefined): void;
}

/**
 * A response that is encoded where it is to lie, without bytes of its own. Until then it holds what it
 * was read from, so it is written soon, or `bytesOf` takes its place.
 */
export interface LateResponse {
  /** Bytes. */
  readonly length: number;
  /** Gives the place behind it. May be called more than once. */
  writeTo(target: Buffer, at: number): number;
}

export type Response = Uint8Array | LateResponse;

export function bytesOf(response: Response): Uint8Array {
  if (response instanceof Uint8Array) return response;
  const bytes = Buffer.allocUnsafe(response.length);
  response.writeTo(bytes, 0);
  return bytes;
}

/**
 * Takes an encoded request, gives an encoded response, or nothing: then it ends the
 * call by `context.end` (without a promise's price). Runs synchronously up to the
 * proposal: calls on one channel propose in the order in which they arrived.
 */
export type Handler = (context: UnaryContext, request: Buffer) => Promise<Response> | Response | undefined;
export type Methods = ReadonlyMap<string, Handler>;

export interface CallHooks {
  /** Where identity and rights will be: throws a HansardError to refuse the call before its handler sees it. */
  admit?(call: CallContext): void;
  /** A call ended. `reason` is undefined where it went well. */
  onCall?(
    method: string,
    origin: Origin,
    reason: Reason | 'CANCELLED' | undefined,
    milliseconds: number,
  ): void;
  /** A broken invariant: the process must end. */
  onFatal(error: unknown): void;
}

/** Bounds on what this node takes on at once. */
export interface CallLimits {
  readonly callsInFlight: number;
  /** Bytes of the requests of calls in flight. */
  readonly bytesInFlight: number;
}

export const defaultCallLimits: CallLimits = Object.freeze({
  /** A call holds a few KiB; more would only wait longer. */
  callsInFlight: 8_192,
  /** As much as the uncommitted bytes of a node (docs/internals.md, "Limits in flight"). */
  bytesInFlight: 64 * 1024 * 1024,
});

/** How often calls are looked through for passed deadlines, ms. */
const sweepMs = 100;
/** A handler has this long past the deadline to report the better error, ms. */
const sweepGraceMs = 200;
const overloadedRetryMs = 100;
const noQuorumRetryMs = 200;

export type Done = (
  error: HansardError | undefined,
  response: Response | undefined,
  call: CallContext,
) => void;

/** The place of a call's `done` when it is over. */
const isOver: Done = () => {};

/**
 * What is over holds nothing: a Map or Set that takes in and gives up thousands a second leaves its former
 * tables behind, and what stood in them lives until the collector comes to the old space, with all that it
 * holds. `done` alone holds the frame that the call came in.
 */
export class ActiveCall implements UnaryContext {
  cancelled = false;
  forwardedTo: NodeId = 0;
  settled = false;
  readonly #calls: Calls;
  #done: Done;
  constructor(
    calls: Calls,
    readonly method: string,
    readonly deadlineMs: number,
    readonly origin: Origin,
    readonly traceparent: string,
    readonly startedMs: number,
    readonly requestBytes: number,
    done: Done,
  ) {
    this.#calls = calls;
    this.#done = done;
  }

  /** Once, and before the call is settled. */
  takeDone(): Done {
    const done = this.#done;
    this.#done = isOver;
    return done;
  }

  end(error: unknown, response: Response | undefined): void {
    this.#calls.ended(this, error, response);
  }
}

export class Calls {
  readonly #methods: Methods;
  readonly #hooks: CallHooks;
  readonly #limits: CallLimits;
  readonly #logger: Logger;
  readonly #nowMs: () => number;
  readonly #active = new Set<ActiveCall>();
  readonly #onIdle: (() => void)[] = [];
  #bytes = 0;
  #closed = false;
  #sweep: NodeJS.Timeout | undefined;

  constructor(methods: Methods, nowMs: () => number, hooks: CallHooks, bounds: CallLimits, logger: Logger) {
    this.#methods = methods;
    this.#nowMs = nowMs;
    this.#hooks = hooks;
    this.#limits = bounds;
    this.#logger = logger;
  }

  get inFlight(): number {
    return this.#active.size;
  }

  /** Takes no further calls. */
  get closed(): boolean {
    return this.#closed;
  }

  nowMs(): number {
    return this.#nowMs();
  }

  /** Begins a call; `done` is called once, perhaps before this returns, and not after `cancel`. */
  start(
    method: string,
    request: Buffer,
    deadlineMs: number,
    origin: Origin,
    traceparent: string,
    done: Done,
    nowMs = this.#nowMs(),
  ): ActiveCall {
    const call = new ActiveCall(this, method, deadlineMs, origin, traceparent, nowMs, request.length, done);
    const handler = this.#methods.get(method);
    const refusal = this.#refusal(call, handler);
    if (refusal !== undefined || handler === undefined) {
      this.#settle(call, refusal, undefined);
      return call;
    }
    this.#active.add(call);
    this.#bytes += call.requestBytes;
    this.#sweep ??= setInterval(() => this.#expire(), sweepMs).unref();
    try {
      this.#hooks.admit?.(call);
      const result = handler(call, request);
      if (result instanceof Promise) {
        result.then(
          (response) => this.ended(call, undefined, response),
          (error) => this.ended(call, error, undefined),
        );
      } else if (result !== undefined) this.ended(call, undefined, result);
    } catch (error) {
      this.ended(call, error, undefined);
    }
    return call;
  }

  /** The client does not want the answer any more. A proposal that is out goes on. */
  cancel(call: ActiveCall): void {
    if (call.settled) return;
    call.cancelled = true;
    call.settled = true;
    call.takeDone();
    this.#report(call, 'CANCELLED');
  }

  /** Refuses all further calls; resolves when those in flight have ended. */
  close(): Promise<void> {
    this.#closed = true;
    if (this.#active.size === 0) return Promise.resolve();
    return new Promise((resolve) => this.#onIdle.push(resolve));
  }

  #refusal(call: ActiveCall, handler: Handler | undefined): HansardError | undefined {
    if (handler === undefined) {
      return new HansardError('NOT_IMPLEMENTED', `no unary method ${call.method.slice(0, 200)}`);
    }
    if (this.#closed) return new HansardError('SHUTTING_DOWN', 'this node is stopping');
    if (call.requestBytes > limits.frameBytes) return frameTooLarge(call.requestBytes);
    if (call.deadlineMs <= call.startedMs) {
      return new HansardError('DEADLINE_EXCEEDED', 'the deadline had passed when the call arrived', {
        proposed: false,
      });
    }
    if (
      this.#active.size >= this.#limits.callsInFlight ||
      this.#bytes + call.requestBytes > this.#limits.bytesInFlight
    ) {
      return new HansardError(
        'OVERLOADED',
        `${this.#active.size} calls with ${this.#bytes} bytes are in flight on this node`,
        { calls: this.#active.size, bytes: this.#bytes },
        { retryDelayMs: overloadedRetryMs },
      );
    }
    return undefined;
  }

  /** The handler of a call has really ended. For ActiveCall alone. */
  ended(call: ActiveCall, error: unknown, response: Response | undefined): void {
    if (!this.#active.delete(call)) {
      // Its answer is gone and its bytes are given back: a second end must not count again.
      this.errorOf(call.method, error ?? new InvariantError('a call ended twice'));
      return;
    }
    this.#bytes -= call.requestBytes;
    if (error === undefined && response === undefined) {
      this.#settle(call, this.errorOf(call.method, new TypeError('a handler gave no response')), undefined);
    } else this.#settle(call, error === undefined ? undefined : this.errorOf(call.method, error), response);
    if (this.#active.size > 0) return;
    clearInterval(this.#sweep);
    this.#sweep = undefined;
    for (const resolve of this.#onIdle.splice(0)) resolve();
  }

  #settle(call: ActiveCall, error: HansardError | undefined, response: Response | undefined): void {
    if (call.settled) return;
    call.settled = true;
    this.#report(call, error?.reason);
    try {
      call.takeDone()(error, response, call);
    } catch (problem) {
      this.#logger.error({ err: problem, method: call.method }, 'an answer could not be given');
    }
  }

  #report(call: ActiveCall, reason: Reason | 'CANCELLED' | undefined): void {
    this.#hooks.onCall?.(call.method, call.origin, reason, this.#nowMs() - call.startedMs);
  }

  /** Whatever a handler waits for: a call ends soon after its deadline. */
  #expire(): void {
    const nowMs = this.#nowMs();
    for (const call of this.#active) {
      if (call.settled || call.deadlineMs + sweepGraceMs > nowMs) continue;
      call.cancelled = true;
      this.#settle(call, new HansardError('DEADLINE_EXCEEDED', 'the deadline passed first'), undefined);
    }
  }

  /** What the client is told of whatever was thrown; defects are logged, broken invariants end the process. */
  errorOf(method: string, error: unknown): HansardError {
    if (error instanceof HansardError) return withRetryDelay(error);
    if (error instanceof MalformedError) {
      return new HansardError('INVALID_ARGUMENT', `the request is no valid protobuf: ${error.message}`, {
        field: 'request',
        problem: error.message,
      });
    }
    const id = randomBytes(6).toString('hex');
    this.#logger.error({ err: error, method, error_id: id }, 'a call failed by a defect');
    if (error instanceof InvariantError) this.#hooks.onFatal(error);
    return new HansardError('INTERNAL', `a defect of this node, logged as ${id}`, { error_id: id });
  }
}

function withRetryDelay(error: HansardError): HansardError {
  if (error.retryDelayMs !== undefined) return error;
  const retryDelayMs =
    error.reason === 'NO_QUORUM'
      ? noQuorumRetryMs
      : error.reason === 'OVERLOADED'
        ? overloadedRetryMs
        : undefined;
  if (retryDelayMs === undefined) return error;
  return new HansardError(error.reason, error.message, error.fields, {
    cause: error.cause,
    code: error.code,
    retryDelayMs,
  });
}

/** Of one request, also where it comes on a stream. */
export function frameTooLarge(bytes: number): HansardError {
  return new HansardError(
    'FRAME_TOO_LARGE',
    `the request has ${bytes} bytes, at most ${limits.frameBytes} are allowed`,
    { bytes, limit_bytes: limits.frameBytes },
  );
}
