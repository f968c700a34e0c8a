/** Nodes inside this process, for tests and small tools. See README.md in this folder. */
export { type EmbeddedNode, type OpenOptions, open } from './open.js';
export { type TestCluster, type TestClusterOptions, testCluster } from './test-cluster.js';
