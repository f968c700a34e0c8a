/** The file that says which nodes a cluster has: TOML, or JSON with the same names. */
import { readFileSync } from 'node:fs';
import { parseAddress } from '../common/address.js';
import { HansardError } from '../common/errors.js';
import { defaultPartitions } from '../common/limits.js';

export interface ClusterFile {
  readonly clusterId: string;
  readonly partitions: number;
  readonly replicationFactor: number;
  readonly nodes: readonly {
    readonly nodeId: number;
    readonly clientAddress: string;
    readonly peerAddress: string;
  }[];
}

export const maxPartitions = 65_536;
export const maxNodes = 1_000;

export async function readClusterFile(name: string): Promise<ClusterFile> {
  let text: string;
  try {
    text = readFileSync(name, 'utf8');
  } catch (error) {
    throw invalid(name, error instanceof Error ? error.message : String(error));
  }
  return await parseClusterFile(name, text);
}

export async function parseClusterFile(name: string, text: string): Promise<ClusterFile> {
  const value = await parseText(name, text);
  // 56 ms to load: only who reads such a file pays for it.
  const { z } = await import('zod');
  const address = z.string().refine((a) => parseAddress(a) !== undefined, 'must be host:port');
  const schema = z.strictObject({
    cluster_id: z
      .string()
      .regex(/^[0-9a-fA-F-]{32,36}$/, 'must be 16 bytes in hex, such as a UUID')
      .transform((id) => id.replaceAll('-', '').toLowerCase())
      .refine((id) => id.length === 32, 'must be 16 bytes in hex, such as a UUID'),
    partitions: z.int().min(1).max(maxPartitions).default(defaultPartitions),
    replication_factor: z.int().min(1).max(9).optional(),
    nodes: z
      .array(
        z.strictObject({
          node: z.int().min(1).max(maxNodes),
          client_address: address,
          peer_address: address,
        }),
      )
      .min(1)
      .max(maxNodes),
  });
  const parsed = schema.safeParse(value);
  if (!parsed.success) {
    const issue = parsed.error.issues[0];
    throw invalid(name, `${issue?.path.join('.') || 'the file'}: ${issue?.message}`);
  }
  const { nodes } = parsed.data;
  const repeated = firstRepeat(nodes.flatMap((n) => [`node ${n.node}`, n.client_address, n.peer_address]));
  if (repeated !== undefined) throw invalid(name, `${repeated} is there twice`);
  const replicationFactor = parsed.data.replication_factor ?? Math.min(3, nodes.length);
  if (replicationFactor > nodes.length)
    throw invalid(name, `replication_factor ${replicationFactor} is more than the ${nodes.length} nodes`);
  return {
    clusterId: parsed.data.cluster_id,
    partitions: parsed.data.partitions,
    replicationFactor,
    nodes: nodes.map((n) => ({
      nodeId: n.node,
      clientAddress: n.client_address,
      peerAddress: n.peer_address,
    })),
  };
}

async function parseText(name: string, text: string): Promise<unknown> {
  try {
    if (text.trimStart().startsWith('{')) return JSON.parse(text);
    const { parse } = await import('smol-toml');
    return parse(text);
  } catch (error) {
    throw invalid(name, error instanceof Error ? (error.message.split('\n')[0] ?? '') : String(error));
  }
}

function firstRepeat(values: readonly string[]): string | undefined {
  return values.find((value, i) => values.indexOf(value) !== i);
}

function invalid(name: string, problem: string): HansardError {
  return new HansardError('INVALID_SETTINGS', `cluster file ${name}: ${problem}`, { origin: name });
}
