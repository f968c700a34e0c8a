/** What a read is served from, once its barrier let it through. */
import type { PartitionReader } from '../store/types.js';
import type { ReadView } from './types.js';

export class LiveView implements ReadView {
  readonly #store: PartitionReader & { readonly appliedIndex: number };

  constructor(
    store: PartitionReader & { readonly appliedIndex: number },
    readonly role: ReadView['role'],
    readonly stalenessMs: number | undefined,
  ) {
    this.#store = store;
  }

  get reader(): PartitionReader {
    return this.#store;
  }

  /** Not that of the barrier: the state goes on, and a token must cover all that was read of it. */
  get appliedIndex(): number {
    return this.#store.appliedIndex;
  }
}
