/** Bytes that this process's JavaScript allocates, by V8's sampling: what has been collected since counts too. */
import { Session } from 'node:inspector/promises';

interface ProfileNode {
  readonly selfSize: number;
  readonly children: readonly ProfileNode[];
}

/** One sample per so many bytes, on average: a few percent of error over hundreds of MB. */
const samplingInterval = 64 * 1024;

export async function allocatedDuring(work: () => Promise<void>): Promise<number> {
  const session = new Session();
  session.connect();
  try {
    await session.post('HeapProfiler.startSampling', {
      samplingInterval,
      includeObjectsCollectedByMajorGC: true,
      includeObjectsCollectedByMinorGC: true,
    });
    await work();
    const { profile } = await session.post('HeapProfiler.stopSampling');
    return sizeOf(profile.head as ProfileNode);
  } finally {
    session.disconnect();
  }
}

function sizeOf(node: ProfileNode): number {
  return node.children.reduce((sum, child) => sum + sizeOf(child), node.selfSize);
}
