/** What the caller of a stream says: a request that begins it, then nothing but grants of credit. */
import { HansardError } from '../common/errors.js';
import type { OutCall, OutStream } from './out-stream.js';
import { toNumber } from './requests.js';

/** hansard.v1.FlowControl, decoded. */
export interface FlowMessage {
  events: number;
  bytes: string;
}

interface Requests<R> {
  decode(bytes: Buffer): R;
  /** Of the first one; its rejection ends the stream. */
  open(request: R, bytes: Buffer): Promise<void>;
  errorOf(error: unknown): HansardError;
}

export function takeRequests<R extends { flow: FlowMessage | null }>(
  call: OutCall,
  out: OutStream,
  { decode, open, errorOf }: Requests<R>,
): void {
  let hasBegun = false;
  const take = async (bytes: Buffer): Promise<void> => {
    const request = decode(bytes);
    const { flow } = request;
    const credit = flow === null ? undefined : { events: flow.events, bytes: toNumber(flow.bytes) };
    if (!hasBegun) {
      hasBegun = true;
      if (credit !== undefined) out.beginCredit(credit);
      await open(request, bytes);
    } else if (credit === undefined || !out.hasCredit) {
      throw new HansardError(
        'INVALID_ARGUMENT',
        'after the first request a stream takes nothing but flow, and that where it began with it',
        { field: 'flow' },
      );
    } else out.grant(credit);
  };
  call.on('data', (bytes: Buffer) => {
    if (out.isClosed) return;
    take(bytes).catch((error: unknown) => out.fail(errorOf(error)));
  });
  call.on('end', () => {
    if (hasBegun) out.endGrants();
    else out.fail(new HansardError('INVALID_ARGUMENT', 'the stream ended without a request', {}));
  });
  call.on('cancelled', () => out.cancelled());
  call.on('close', () => out.cancelled());
}
