/** Profiles of nodes while a workload runs. */
import { mkdirSync, readdirSync, renameSync } from 'node:fs';
import { join, resolve } from 'node:path';
import type { ProcessGroup } from './system.js';

const profiler = new URL('./profiler.js', import.meta.url).href;
/** A profile of some seconds is written in well under this, ms. */
const writtenMs = 1_500;

export class ProfiledNodes {
  readonly #dir: string;

  constructor(dir: string) {
    this.#dir = resolve(dir);
    mkdirSync(this.#dir, { recursive: true });
  }

  get env(): Record<string, string> {
    return { NODE_OPTIONS: `--import=${profiler}`, HANSARD_PROFILE_DIR: this.#dir };
  }

  async during<T>(nodes: readonly ProcessGroup[], name: string, work: () => Promise<T>): Promise<T> {
    const signal = (): void => {
      for (const { pid } of nodes) process.kill(pid, 'SIGUSR2');
    };
    signal();
    try {
      return await work();
    } finally {
      signal();
      await new Promise((done) => setTimeout(done, writtenMs));
      this.#rename(nodes, name);
    }
  }

  #rename(nodes: readonly ProcessGroup[], name: string): void {
    for (const file of readdirSync(this.#dir)) {
      const node = nodes.find(({ pid }) => file.startsWith(`${pid}-`));
      if (node === undefined) continue;
      const ending = file.slice(file.indexOf('.'));
      renameSync(join(this.#dir, file), join(this.#dir, `${name}-${node.name.replace(' ', '-')}${ending}`));
    }
  }
}
