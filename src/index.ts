/**
 * What `import … from 'hansard'` gives: the SDK, and nodes in this process.
 * LevelDB and the server are loaded by the first `open` or `testCluster`, never
 * by the import: applications that only connect do not carry them.
 */
import type { EmbeddedNode, OpenOptions, TestCluster, TestClusterOptions } from './embedded/index.js';

export * from './client/index.js';
export type { EmbeddedNode, OpenOptions, TestCluster, TestClusterOptions };

/** One node in this process: see embedded/open.ts. */
export async function open(options?: OpenOptions): Promise<EmbeddedNode> {
  return (await import('./embedded/index.js')).open(options);
}

/** Several nodes in this process, with faults to switch on: see embedded/test-cluster.ts. */
export async function testCluster(options?: TestClusterOptions): Promise<TestCluster> {
  return (await import('./embedded/index.js')).testCluster(options);
}
