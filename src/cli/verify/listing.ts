/** The channels of one replica, page by page, and those of several side by side by name. */
import type { ReplicaChannel } from '../../client/replica.js';
import type { VerifiedNode } from './replica.js';

/** A page's records are held for each replica. */
const pageSize = 500;

export interface Scope {
  /** Empty: all tenants. */
  readonly tenant: string;
  readonly prefix: string;
  /** This one alone; needs a tenant. */
  readonly channel?: string | undefined;
}

/** A replica's record of a name, and the applied index at which it was read. */
export interface Reading {
  readonly node: VerifiedNode;
  /** Undefined: the replica does not know the name. */
  readonly entry: ReplicaChannel | undefined;
  readonly at: number;
}

export class Listing {
  #entries: readonly ReplicaChannel[] = [];
  #next = 0;
  #token = '';
  #ended = false;
  /** Of the page in hand; behind the last one of that page. */
  at = 0;

  constructor(
    readonly node: VerifiedNode,
    readonly partition: number,
    readonly minAppliedIndex: number,
    readonly scope: Scope,
  ) {}

  async peek(): Promise<ReplicaChannel | undefined> {
    while (this.#next >= this.#entries.length && !this.#ended) {
      const { tenant, prefix, channel } = this.scope;
      const one = channel !== undefined;
      const page = await this.node.channels(this.partition, {
        minAppliedIndex: this.minAppliedIndex,
        tenant,
        prefix: channel ?? prefix,
        pageSize: one ? 1 : pageSize,
        pageToken: this.#token,
      });
      this.#entries = one ? page.channels.filter(({ name }) => name === channel) : page.channels;
      this.#next = 0;
      this.at = page.servedBy.appliedIndex;
      this.#token = page.nextPageToken;
      this.#ended = one || page.nextPageToken === '';
    }
    return this.#entries[this.#next];
  }

  take(): void {
    this.#next++;
  }
}

/** The record of one name as that replica has it now. */
export async function readRecord(
  node: VerifiedNode,
  partition: number,
  tenant: string,
  name: string,
  minAppliedIndex: number,
): Promise<Reading> {
  const query = { minAppliedIndex, tenant, prefix: name, pageSize: 1, pageToken: '' };
  const { channels, servedBy } = await node.channels(partition, query);
  return { node, entry: channels.find((each) => each.name === name), at: servedBy.appliedIndex };
}

/** `tenant \0 name` as the servers sort it. */
export function sortKey({ tenant, name }: Pick<ReplicaChannel, 'tenant' | 'name'>): Buffer {
  return Buffer.from(`${tenant}\0${name}`);
}
