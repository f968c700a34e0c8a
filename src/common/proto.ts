/** Where the .proto files are, and how server and SDK load them. */
import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { loadSync, type PackageDefinition } from '@grpc/proto-loader';

/** All files of the public API. */
export const publicProtos: readonly string[] = [
  'hansard/v1/message_service.proto',
  'hansard/v1/channel_service.proto',
  'hansard/v1/cluster_service.proto',
  'hansard/v1/event_service.proto',
  'hansard/v1/inbox_service.proto',
  'hansard/v1/subscription_service.proto',
  'hansard/v1/delivery_service.proto',
  'hansard/v1/replica_service.proto',
  'hansard/v1/exchange_service.proto',
  'google/rpc/error_details.proto',
  'google/rpc/status.proto',
];

/** The folder `proto/` of this package, found upwards from this file (dist/src/common). */
export function protoFolder(): string {
  let folder = dirname(fileURLToPath(import.meta.url));
  for (let up = 0; up < 6; up++) {
    const candidate = join(folder, 'proto');
    if (existsSync(join(candidate, 'hansard', 'v1', 'message_service.proto'))) return candidate;
    folder = dirname(folder);
  }
  throw new Error('the folder proto/ is missing from this installation');
}

let loaded: PackageDefinition | undefined;

/**
 * The public protos, loaded once: field names as in the files (reflection shows
 * them so), longs as decimal strings (a checksum does not fit a double), enums as
 * numbers, defaults filled in, oneofs named.
 */
export function loadPublicProtos(): PackageDefinition {
  loaded ??= loadSync([...publicProtos], {
    keepCase: true,
    longs: String,
    defaults: true,
    oneofs: true,
    includeDirs: [protoFolder()],
  });
  return loaded;
}
