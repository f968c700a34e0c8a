/**
 * What tails and subscriptions share: one server stream at a time, taken up again
 * wherever it breaks, from the place behind the last update that was handed out.
 * What was received and not handed out is simply asked for again, so nothing is
 * lost and nothing comes twice.
 */
import { HansardError, reasons } from '../common/errors.js';
import { type MessageStream, pause } from './message-stream.js';
import type { StreamCredit } from './requests.js';
import { backoffMs, closedError, type Router } from './router.js';

/** Where a stream is taken up again. */
export interface Place {
  token: string | undefined;
  /** No message has come yet. */
  isFirst: boolean;
}

export interface FollowOptions {
  /** Ends the iteration. */
  readonly signal?: AbortSignal;
  /** How long the first connection may take, ms; default 5,000. Later ones are tried for as long as it takes. */
  readonly timeoutMs?: number;
  /**
   * How much may be on its way or waiting here, the update that is being handled included: the node sends no
   * more until it is. Without it the connection's window bounds what the node sends (4 MiB a stream).
   */
  readonly credit?: StreamCredit;
}

interface Message<U> {
  readonly resumeToken: string;
  /** Undefined: a heartbeat, or a kind that this version does not know. */
  readonly update: U | undefined;
}

interface Following<U> {
  readonly place: Place;
  /** From `place`; `failures` in a row came before, and this was the last of them. */
  open(failures: number, last: HansardError | undefined): Promise<MessageStream<Message<U>> | HansardError>;
  /** Sees each update before it is handed out. Throws INTERNAL where the server's order is broken. */
  check(update: U): void;
}

interface Interrupted {
  readonly kind: 'interrupted';
  readonly error: HansardError;
}

/** Rejects what no retry can mend, UNREACHABLE and the like before the first answer alone, CLIENT_CLOSED. */
export async function* follow<U extends object>(
  router: Router,
  { signal, timeoutMs }: FollowOptions,
  { place, open, check }: Following<U>,
): AsyncGenerator<(U & { readonly resumeToken: string }) | Interrupted, void, void> {
  const deadlineMs = performance.now() + (timeoutMs ?? router.options.timeoutMs);
  if (signal?.aborted) return;
  await router.known(deadlineMs);
  let failures = 0;
  let last: HansardError | undefined;
  while (!signal?.aborted) {
    const stream = await open(failures, last);
    const close = (): void => {
      if (!(stream instanceof HansardError)) stream.close();
    };
    signal?.addEventListener('abort', close);
    let error: HansardError | undefined;
    let wasHeard = false;
    try {
      while (error === undefined) {
        const next = stream instanceof HansardError ? stream : await stream.next();
        if (signal?.aborted) return;
        if (next instanceof HansardError) error = next;
        else {
          failures = 0;
          wasHeard = true;
          const { update, resumeToken } = next;
          if (update !== undefined) check(update);
          place.isFirst = false;
          if (resumeToken !== '') place.token = resumeToken;
          if (update !== undefined) yield { ...update, resumeToken };
        }
      }
    } finally {
      signal?.removeEventListener('abort', close);
      close();
    }
    judge(router, error, place, deadlineMs);
    last = error;
    if (wasHeard) yield { kind: 'interrupted', error };
    await pause(Math.max(error.retryDelayMs ?? 0, backoffMs(failures)), signal);
    failures++;
  }
}

/** Throws what ends the iteration. */
function judge(router: Router, error: HansardError, place: Place, deadlineMs: number): void {
  if (router.isClosed) throw closedError();
  const passes = reasons[error.reason].retry === 'yes' || error.reason === 'DEADLINE_EXCEEDED';
  if (!passes || (place.isFirst && performance.now() >= deadlineMs)) throw error;
}
