/** A HansardError as grpc-js wants to be told of it: status, and google.rpc.Status in a trailer. */
import { Metadata, type StatusObject } from '@grpc/grpc-js';
import type { HansardError } from '../common/errors.js';
import { encodeStatus, statusTrailer, wireMessage } from '../common/status.js';

export function grpcStatusOf(error: HansardError): StatusObject {
  const metadata = new Metadata();
  metadata.set(statusTrailer, encodeStatus(error));
  return { code: error.code, details: wireMessage(error), metadata };
}
