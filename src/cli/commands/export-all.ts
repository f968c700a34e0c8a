/** `hansard export --all`: a folder with a file per tenant, and EXPORT.json, which comes last and says what belongs to it. */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { mkdir, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { HansardError } from '../../common/errors.js';
import type { ActionContext } from '../action.js';
import { exportFormat, exportVersion, manifestName, type TenantFile } from '../export-manifest.js';
import { count, durationText } from '../output.js';
import { openSession } from '../session.js';
import { type SubscriptionRecord, subscriptionRecord } from '../subscription-record.js';
import { allTenants } from '../tenants.js';
import { type ExportCommandOptions, exportTo } from './export.js';

export async function exportAll({
  output,
  options,
  args,
}: ActionContext<ExportCommandOptions>): Promise<undefined> {
  const folder = args[0] ?? '-';
  if (folder === '-')
    throw new HansardError('INVALID_ARGUMENT', '--all writes a folder: name it', { field: 'FILE' });
  if (options.channel !== undefined || options.prefix !== undefined)
    throw new HansardError('INVALID_ARGUMENT', '--all takes everything, not a part', { field: '--all' });
  await mkdir(folder, { recursive: true });
  if ((await readdir(folder)).length > 0)
    throw new HansardError('DIRECTORY_NOT_EMPTY', `${folder} is not empty: nothing was written`, {
      directory: folder,
    });
  const session = openSession(options);
  const cluster = await session.client.cluster().finally(() => session.close());
  const tenants: TenantFile[] = [];
  let seconds = 0;
  for (const tenant of await allTenants(cluster, options.timeout * 1000)) {
    const file = `${tenant}.jsonl.gz`;
    const exported = await exportTo(join(folder, file), { ...options, tenant }, output);
    seconds += exported.seconds;
    const { channels, events } = exported;
    const sha256 = await hashOf(join(folder, file));
    tenants.push({ tenant, file, channels, events, sha256, subscriptions: await recordsOf(options, tenant) });
  }
  const manifest = {
    format: exportFormat,
    version: exportVersion,
    cluster_id: cluster.clusterId,
    incarnation: cluster.incarnation,
    made: new Date().toISOString(),
    tenants,
  };
  // Without it the folder is no whole export.
  await writeFile(join(folder, manifestName), `${JSON.stringify(manifest, undefined, 2)}\n`);
  const sum = (of: (file: TenantFile) => number) => tenants.reduce((all, file) => all + of(file), 0);
  const [channels, events] = [sum((file) => file.channels), sum((file) => file.events)];
  const subscriptions = sum((file) => file.subscriptions?.length ?? 0);
  const written = { folder, tenants: tenants.length, channels, events, subscriptions };
  output.json({ ...written, seconds: Number(seconds.toFixed(3)) });
  output.line(
    `${folder}: ${count(events)} events of ${count(channels)} channels, ${count(tenants.length)} tenants, ${count(subscriptions)} durable subscriptions, ${durationText(seconds)}`,
  );
}

async function recordsOf(options: ExportCommandOptions, tenant: string): Promise<SubscriptionRecord[]> {
  const { client, timeoutMs, close } = openSession({ ...options, tenant });
  try {
    const records: SubscriptionRecord[] = [];
    for await (const info of client.subscriptions({ timeoutMs })) records.push(subscriptionRecord(info));
    return records;
  } finally {
    await close();
  }
}

async function hashOf(path: string): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(path)) hash.update(chunk as Buffer);
  return hash.digest('hex');
}
