/** Opens the database in the folder it is given, as a node does, and compacts all of it; stays if it is told to: compaction.test.ts. */
import { levelKvFactory } from '../../src/store/level-kv.js';

const [path = '', stay] = process.argv.slice(2);
try {
  const kv = await levelKvFactory().open(path, { create: false });
  await kv.compact({ gte: Buffer.of(0), lt: Buffer.of(0xff) });
  if (stay === undefined) await kv.close();
  else {
    console.log('open');
    process.stdin.resume();
  }
} catch (error) {
  console.log((error as { reason?: string }).reason, String(error));
}
