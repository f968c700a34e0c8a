/** Opens the database in the folder it is given, as a node does, and compacts all of it: compaction.test.ts. */
import { levelKvFactory } from '../../src/store/level-kv.js';

const [path = ''] = process.argv.slice(2);
try {
  const kv = await levelKvFactory().open(path, { create: false });
  await kv.compact({ gte: Buffer.of(0), lt: Buffer.of(0xff) });
  await kv.close();
} catch (error) {
  console.log((error as { reason?: string }).reason, String(error));
}
