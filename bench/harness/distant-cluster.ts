/** Nodes as processes, each behind a delaying proxy: what they tell their clients is the proxies' addresses. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { clusterDown, clusterUp } from '../../cluster/launcher.js';
import { nodesOf } from '../../cluster/layout.js';
import { launcherHooks } from '../../src/cli/commands/cluster.js';
import { forgetProcess, removeFolder, temporaryFolder, watchProcess } from './leftovers.js';
import { usageOf } from './measure.js';
import { freePorts } from './ports.js';
import { startProxyThread } from './proxy-thread.js';

export class DistantCluster {
  readonly #dir = temporaryFolder('hansard-bench-upload-');
  #proxies: { close(): Promise<void> } | undefined;
  #pids: number[] = [];
  endpoints = '';

  /** `settings`: lines of the nodes' hansard.toml. */
  async start(rttMs: number, nodes: number, settings: readonly string[]): Promise<void> {
    const basePort = await freePorts(3 * nodes);
    const layout = nodesOf(this.#dir, nodes, basePort);
    const proxies = await startProxyThread(
      layout.map(({ clientAddress }) => ({ to: clientAddress, oneWayMs: rttMs / 2 })),
    );
    this.#proxies = proxies;
    this.endpoints = proxies.addresses.join(',');
    const hooks = launcherHooks(() => {});
    const started = await clusterUp(
      { dir: this.#dir, nodes, basePort, timeoutMs: 60_000 },
      {
        ...hooks,
        async initNode(options) {
          // The folder names the proxies, and so what clients are told; the settings what is listened at.
          let toml = readFileSync(options.clusterFile, 'utf8');
          layout.forEach(({ clientAddress }, i) => {
            toml = toml.replace(
              `client_address = "${clientAddress}"`,
              `client_address = "${proxies.addresses[i]}"`,
            );
          });
          writeFileSync(options.clusterFile, toml);
          await hooks.initNode(options);
          const own = layout.find(({ nodeId }) => nodeId === options.nodeId);
          writeFileSync(
            join(options.dir, 'hansard.toml'),
            `${[`client_address = "${own?.clientAddress}"`, ...settings].join('\n')}\n`,
          );
        },
      },
    );
    this.#pids = started.map(({ pid }) => pid ?? 0);
    for (const pid of this.#pids) watchProcess(pid);
  }

  /** Of all nodes. */
  cpuUs(): number {
    return this.#pids.reduce((sum, pid) => sum + usageOf({ name: '', pid }).cpuUs, 0);
  }

  async stop(): Promise<void> {
    if (this.#pids.length > 0) await clusterDown(this.#dir);
    for (const pid of this.#pids) forgetProcess(pid);
    await this.#proxies?.close();
    removeFolder(this.#dir);
  }
}
