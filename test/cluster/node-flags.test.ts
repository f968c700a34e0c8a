import { spawnSync } from 'node:child_process';
import t from 'tap';
import { nodeFlags } from '../../cluster/node-flags.js';

t.test('this version of Node knows all flags that nodes are started with', async (t) => {
  const { status, stderr } = spawnSync(process.execPath, [...nodeFlags, '--eval', '0'], { encoding: 'utf8' });
  t.equal(status, 0, 'else no node of a cluster would start');
  t.equal(stderr, '');
});
