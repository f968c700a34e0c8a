/** Calls that another node handles: at most one hop, each with a deadline, an end that is always reported. */
import type { Clock, Timer } from '../common/env.js';
import { HansardError, InvariantError } from '../common/errors.js';
import type { NodeId } from '../common/ids.js';
import type { Logger } from '../common/logger.js';
import type { ForwardRequest, ForwardResponse } from './peer-codec.js';

export type ForwardHandler = (method: string, request: Uint8Array, deadlineMs: number) => Promise<Uint8Array>;

export type PeerHandler = (from: NodeId, request: Uint8Array) => Promise<Uint8Array>;

interface Waiting {
  readonly to: NodeId;
  readonly resolve: (body: Uint8Array) => void;
  readonly reject: (error: HansardError) => void;
  readonly timer: Timer;
}

export interface ForwardingContext {
  readonly clock: Clock;
  readonly logger: Logger;
  sendRequest(to: NodeId, request: ForwardRequest): boolean;
  sendResponse(to: NodeId, response: ForwardResponse): boolean;
  fatal(error: unknown): void;
}

/** Calls under way to all peers; more are refused. Each holds its request's answer only. */
const maxWaiting = 20_000;

export class Forwarding {
  readonly #context: ForwardingContext;
  readonly #waiting = new Map<number, Waiting>();
  #lastId = 0;
  #handler: ForwardHandler | undefined;
  readonly #served = new Map<string, PeerHandler>();

  constructor(context: ForwardingContext) {
    this.#context = context;
  }

  onForward(handler: ForwardHandler): void {
    this.#handler = handler;
  }

  /** A method between nodes, which no API has. */
  serve(method: string, handler: PeerHandler): void {
    this.#served.set(method, handler);
  }

  forward(to: NodeId, method: string, body: Uint8Array, deadlineMs: number): Promise<Uint8Array> {
    const timeoutMs = deadlineMs - this.#context.clock.monotonicMs();
    if (timeoutMs <= 0)
      return Promise.reject(new HansardError('DEADLINE_EXCEEDED', `${method}: the deadline has passed`));
    if (this.#waiting.size >= maxWaiting) {
      return Promise.reject(
        new HansardError('OVERLOADED', 'too many calls wait for other nodes', {}, { retryDelayMs: 50 }),
      );
    }
    const id = ++this.#lastId;
    return new Promise((resolve, reject) => {
      if (!this.#context.sendRequest(to, { id, method, timeoutMs, body })) {
        return reject(
          new HansardError('NOT_LEADER', `node ${to} leads, but can't be reached from here`, {
            leader_node_id: to,
          }),
        );
      }
      const timer = this.#context.clock.after(timeoutMs, () => {
        this.#waiting.delete(id);
        reject(new HansardError('DEADLINE_EXCEEDED', `${method}: node ${to} did not answer in time`));
      });
      this.#waiting.set(id, { to, resolve, reject, timer });
    });
  }

  /** The link broke, one way or both: whether the peer carried the call out is not known. */
  linkLost(node: NodeId): void {
    for (const [id, waiting] of this.#waiting) {
      if (waiting.to !== node) continue;
      this.#end(id, waiting).reject(
        new HansardError('COMMIT_UNKNOWN', `the link to node ${node} broke before it answered`),
      );
    }
  }

  handleResponse(from: NodeId, response: ForwardResponse): void {
    const waiting = this.#waiting.get(response.id);
    if (waiting === undefined || waiting.to !== from) return;
    this.#end(response.id, waiting);
    if (response.error !== undefined) waiting.reject(response.error);
    else waiting.resolve(response.body);
  }

  handleRequest(from: NodeId, request: ForwardRequest): void {
    const answer = (response: ForwardResponse): void => {
      // The link is gone or full: the caller's deadline or its own view of the link ends the call.
      this.#context.sendResponse(from, response);
    };
    const deadlineMs = this.#context.clock.monotonicMs() + request.timeoutMs;
    const served = this.#served.get(request.method);
    if (served === undefined && this.#handler === undefined) {
      return answer({
        id: request.id,
        error: new HansardError('SHUTTING_DOWN', 'this node takes no calls now'),
      });
    }
    const handler = this.#handler as ForwardHandler;
    // In a promise: what it throws at once is answered like what it rejects with.
    const handled = (async () =>
      served === undefined
        ? handler(request.method, request.body, deadlineMs)
        : served(from, request.body))();
    handled
      .then(
        (body) => answer({ id: request.id, body }),
        (error) => {
          if (error instanceof InvariantError) return this.#context.fatal(error);
          if (error instanceof HansardError) return answer({ id: request.id, error });
          this.#context.logger.error({ err: error, method: request.method }, 'a forwarded call failed');
          answer({ id: request.id, error: new HansardError('INTERNAL', `${request.method} failed`) });
        },
      )
      .catch((error: unknown) => this.#context.fatal(error));
  }

  stop(): void {
    for (const [id, waiting] of this.#waiting) {
      this.#end(id, waiting).reject(new HansardError('COMMIT_UNKNOWN', 'the node is stopping'));
    }
  }

  #end(id: number, waiting: Waiting): Waiting {
    waiting.timer.cancel();
    this.#waiting.delete(id);
    return waiting;
  }
}
