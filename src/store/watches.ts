/**
 * Who wants to know that a channel has changed. Told while an entry is being
 * applied, so listeners only take a note; what happened they read later.
 */
import { channelName } from './tail.js';

export type WatchListener = () => void;

export class Watches {
  /** By `channelName`; no empty sets. */
  readonly #listeners = new Map<string, Set<WatchListener>>();

  /** Gives what ends the watch; the channel need not exist. */
  add(tenant: string, name: string, listener: WatchListener): () => void {
    const key = channelName(tenant, name);
    let listeners = this.#listeners.get(key);
    if (listeners === undefined) {
      listeners = new Set();
      this.#listeners.set(key, listeners);
    }
    const own = listeners;
    own.add(listener);
    return () => {
      own.delete(listener);
      if (own.size === 0 && this.#listeners.get(key) === own) this.#listeners.delete(key);
    };
  }

  /** Channels that are watched. */
  get size(): number {
    return this.#listeners.size;
  }

  /** Once per append that was applied: one comparison where nobody watches, one lookup where somebody does. */
  changed(tenant: string, name: string): void {
    if (this.#listeners.size === 0) return;
    const listeners = this.#listeners.get(channelName(tenant, name));
    if (listeners !== undefined) for (const listener of listeners) listener();
  }

  /** The partition's state was replaced as a whole. */
  allChanged(): void {
    for (const listeners of this.#listeners.values()) for (const listener of listeners) listener();
  }
}
