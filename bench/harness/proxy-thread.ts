/** Delaying proxies in a thread of their own, so that a busy client or server does not delay the delay. */
import { once } from 'node:events';
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
import { DelayProxy, type DelayProxyOptions } from './delay-proxy.js';

export interface ProxyThread {
  /** host:port of each, in the order given. */
  readonly addresses: readonly string[];
  close(): Promise<void>;
}

export async function startProxyThread(proxies: readonly DelayProxyOptions[]): Promise<ProxyThread> {
  const worker = new Worker(new URL(import.meta.url), { workerData: { proxies } });
  const [addresses] = (await once(worker, 'message')) as [string[]];
  return {
    addresses,
    async close() {
      await worker.terminate();
    },
  };
}

if (!isMainThread && parentPort !== null && 'proxies' in (workerData ?? {})) {
  const { proxies } = workerData as { proxies: readonly DelayProxyOptions[] };
  const started = await Promise.all(proxies.map((options) => DelayProxy.start(options)));
  parentPort.postMessage(started.map(({ address }) => address));
}
