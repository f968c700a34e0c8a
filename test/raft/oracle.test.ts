/** The core's judge: etcd-raft's own scripts, and a check that the driver sees a difference. */
import { basename } from 'node:path';
import t from 'tap';
import { sharedPath } from '../support/shared.js';
import { runFile, runScript, scriptFiles } from './oracle/run.js';

for (const folder of ['quorum', 'confchange', 'interaction']) {
  const path = sharedPath('oracles', 'etcd-raft', folder);
  t.test(`etcd-raft ${folder}`, { skip: path === undefined && 'the oracles are not here' }, async (t) => {
    const files = scriptFiles(path!);
    t.ok(files.length > 0, 'there are scripts');
    for (const file of files) t.equal(runFile(file), undefined, basename(file));
  });
}

t.test('the driver fails what is wrong', async (t) => {
  const script = (lead: number) => `
# A comment.
add-nodes 1 voters=(1) index=2
----
INFO dropped on both sides

campaign 1
----
ok

stabilize log-level=none
----
ok

raft-state
----
1: StateLeader (Voter) Term:1 Lead:${lead}
`;
  t.equal(runScript(script(1)), undefined);
  t.match(runScript(script(2)), /- 1: StateLeader \(Voter\) Term:1 Lead:2\n\+ 1: StateLeader/);
  t.match(runScript('no-such-command\n----\nok\n'), 'unknown command');
  t.match(runScript('committed cfg=(1,2,3) idx=(1,2,_)\n----\n2\n'), '- 2');
  t.match(runScript('stabilize\n'), 'not a script');
  t.match(runScript('# nothing\n'), 'no steps');
});
