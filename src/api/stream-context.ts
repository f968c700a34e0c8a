/** The context of a call that streams: what it waits for at the start has a deadline, the stream need not. */
import { limits } from '../common/limits.js';
import type { CallContext } from './calls.js';
import type { OutCall } from './out-stream.js';

export function streamContext(call: OutCall, method: string, nowMs: number): CallContext {
  const deadline = call.getDeadline();
  const leftMs = typeof deadline === 'number' ? deadline - Date.now() : Number(deadline) - Date.now();
  const traceparent = call.metadata.get('traceparent')[0];
  return {
    method,
    // A stream may last for ever; what it waits for at the start may not.
    deadlineMs: nowMs + Math.min(leftMs, limits.defaultDeadlineMs),
    origin: 'grpc',
    traceparent: typeof traceparent === 'string' ? traceparent : '',
    cancelled: false,
    forwardedTo: 0,
  };
}
