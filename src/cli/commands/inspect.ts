/** `hansard inspect`: what is in files of a node's folder, damaged ones too. */
import { HansardError } from '../../common/errors.js';
import { defaultTenant } from '../../common/partitioning.js';
import {
  databaseKinds,
  type FileKind,
  type FoundFile,
  findFiles,
  inspectFile,
  logKinds,
} from '../../inspect/files.js';
import type { InspectOptions, Item, Plain } from '../../inspect/item.js';
import { rowsOfChannel, rowsWithKey } from '../../inspect/rows-of.js';
import type { ActionContext, CommonOptions } from '../action.js';
import { readClusterFile } from '../cluster-file.js';
import { ExitCode } from '../exit-codes.js';
import { bytesText, count, type Output, printable, writeAll } from '../output.js';

export interface InspectCommandOptions extends CommonOptions {
  readonly full?: boolean;
  readonly tenant?: string;
  readonly channel?: string;
  readonly key?: string;
}

type Inspect = ActionContext<InspectCommandOptions>;

/** Everything that the files are, each by what it is. */
export async function inspectAny(context: Inspect): Promise<ExitCode> {
  return inspect(context, () => true, undefined);
}

export async function inspectLog(context: Inspect): Promise<ExitCode> {
  return inspect(context, (kind) => logKinds.has(kind), undefined);
}

export async function inspectBlocks(context: Inspect): Promise<ExitCode> {
  return inspect(context, (kind) => databaseKinds.has(kind), undefined);
}

/** All versions of the rows with one key, or of one channel, wherever they are still. */
export async function inspectKey(context: Inspect): Promise<ExitCode> {
  const { key, channel, tenant } = context.options;
  if ((key === undefined) === (channel === undefined)) {
    throw new HansardError('INVALID_SETTINGS', 'one of --key and --channel says which rows');
  }
  const rows: (kind: FileKind) => boolean = (kind) => kind === 'table' || kind === 'level-log';
  if (key !== undefined) {
    if (!/^([0-9a-f]{2})+$/i.test(key))
      throw new HansardError('INVALID_SETTINGS', `--key ${key} is not in hex`);
    return inspect(context, rows, async () => rowsWithKey(Buffer.from(key, 'hex')));
  }
  return inspect(context, rows, (files) => rowsOfChannel(files, tenant ?? defaultTenant, channel as string));
}

async function inspect(
  { output, options, args }: Inspect,
  isAsked: (kind: FileKind) => boolean,
  wantedOf: ((files: readonly FoundFile[]) => Promise<(key: Buffer) => boolean>) | undefined,
): Promise<ExitCode> {
  const found: FoundFile[] = [];
  for (const path of args) found.push(...(await findFiles(path)));
  // A file that is named is looked into whatever it is; of a folder what was asked for.
  const asked = found.filter(
    ({ path, kind }) => isAsked(kind) || (args.includes(path) && wantedOf === undefined),
  );
  if (asked.length === 0) {
    throw new HansardError('INVALID_SETTINGS', `there is no such file in ${args.join(', ')}`);
  }
  const wanted = await wantedOf?.(asked);
  const inspectOptions = { full: options.full ?? wanted !== undefined, wanted };
  let problems = 0;
  for (const file of asked)
    problems += await inspectOne(output, file, inspectOptions, args.includes(file.path));
  if (problems === 0) return ExitCode.ok;
  output.note(`${count(problems)} places that do not match their checksum or their place`);
  return ExitCode.damaged;
}

/** Gives how many things were wrong. */
async function inspectOne(
  output: Output,
  file: FoundFile,
  options: InspectOptions,
  isNamed: boolean,
): Promise<number> {
  const { path, kind, bytes } = file;
  const items = await inspectFile(file, options);
  if (items === undefined) {
    if (isNamed) return clusterFile(output, path);
    if (kind === 'unknown') output.note(`${printable(path)}: no file of Hansard's`);
    return 0;
  }
  const heading = output.colors.bold(`${printable(path)}  ${kind}, ${bytesText(bytes)}`);
  // A search names only the files in which it finds something.
  let isHeaded = false;
  if (options.wanted === undefined) {
    output.line(heading);
    isHeaded = true;
  }
  let problems = 0;
  for (const item of items) {
    if (item.problem !== undefined) problems++;
    if (!isHeaded) output.line(heading);
    isHeaded = true;
    await writeItem(output, path, item);
  }
  return problems;
}

async function clusterFile(output: Output, path: string): Promise<number> {
  const { clusterId, partitions, replicationFactor, nodes } = await readClusterFile(path);
  const fields = {
    cluster_id: clusterId,
    partitions,
    replication_factor: replicationFactor,
    nodes: nodes.map((node) => ({
      node: node.nodeId,
      client_address: node.clientAddress,
      peer_address: node.peerAddress,
    })),
  };
  output.line(output.colors.bold(`${printable(path)}  cluster file`));
  await writeItem(output, path, { what: 'cluster', fields });
  return 0;
}

/** One line of text, or one JSON document, for each thing that is found. */
async function writeItem(output: Output, file: string, item: Item): Promise<void> {
  const { what, offset, end, fields, problem } = item;
  if (output.isJson) {
    await writeAll(output.stdout, `${JSON.stringify({ file, what, offset, end, ...fields, problem })}\n`);
    return;
  }
  const at = offset === undefined ? '' : `${offset}`.padStart(10);
  const text = printable(`${at}  ${what}  ${fieldsText(fields)}`);
  const wrong = problem === undefined ? '' : `  ${output.colors.red(printable(problem))}`;
  await writeAll(output.stdout, `${text}${wrong}\n`);
}

function fieldsText(fields: Readonly<Record<string, Plain>>): string {
  return Object.entries(fields)
    .map(([name, value]) => `${name} ${typeof value === 'object' ? JSON.stringify(value) : value}`)
    .join(', ');
}
