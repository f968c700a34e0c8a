/** A cluster that began with apply version 1, upgraded while it runs. */
import t from 'tap';
import { supportedApplyVersion } from '../../src/conversation/command.js';
import { hansard } from '../support/command.js';
import { ProcessCluster, until } from './harness.js';

t.setTimeout(600_000);

t.test('from apply version 1 to the newest, by way of 2', async (t) => {
  const partitions = 8;
  const cluster = await ProcessCluster.start(t, { partitions, applyVersion: 1 });
  const endpoint = cluster.nodes.map((node) => node.clientAddress).join(',');
  const upgrade = async (...args: string[]) => {
    const { code, out, err } = await hansard([
      'cluster',
      'upgrade',
      '--json',
      '--endpoint',
      endpoint,
      ...args,
    ]);
    const said = (code === 0 ? out : err).trim().split('\n').at(-1) ?? '';
    return { code, ...(JSON.parse(said) as Record<string, unknown>) };
  };
  const client = cluster.connect();
  const versions = async () =>
    new Set((await client.cluster()).partitions.map((partition) => partition.applyVersion));

  const channel = client.channel('old');
  await channel.append({ text: 'of the first version' });
  const refused = await channel.delete().catch((error: unknown) => error);
  t.match(refused, { reason: 'NOT_IMPLEMENTED' }, 'version 1 deletes no channels');
  await until('nodes have told their versions', async () =>
    (await client.cluster()).nodes.every((node) => node.applyVersion === supportedApplyVersion),
  );
  t.match(await upgrade('--dry-run'), {
    code: 0,
    apply_version: supportedApplyVersion,
    raised: partitions,
    from_versions: [1],
  });
  t.same(await versions(), new Set([1]), 'a dry run changes nothing');
  t.match(await upgrade('--to', `${supportedApplyVersion + 1}`), {
    code: 1,
    error: { reason: 'UPGRADE_BLOCKED', fields: { too_old: '1 2 3', unreachable: '' } },
  });

  const [, , third] = cluster.nodes;
  if (third === undefined) throw new Error('no third node');
  await third.kill();
  await until('the others notice', async () => {
    const { code, error } = (await upgrade()) as {
      code: number;
      error?: { fields: { unreachable: string } };
    };
    return code === 1 && error?.fields.unreachable === '3';
  });
  t.same(await versions(), new Set([1]), 'nothing is raised while a node is away');
  await channel.append({ text: 'goes on' });
  cluster.startNode(third);
  await cluster.ready();

  const raised = await until('all can be asked again', async () => {
    const answer = await upgrade('--to', '2');
    return answer.code === 0 ? answer : undefined;
  });
  t.match(raised, { apply_version: 2, raised: partitions, partitions, from_versions: [1] });
  t.match(await upgrade('--to', '2'), { code: 0, raised: 0, from_versions: [] }, 'again: nothing to do');
  t.match(await upgrade('--to', '1'), { code: 2, error: { reason: 'INVALID_SETTINGS' } });
  t.equal((await channel.delete()).headSeq, 2, 'what version 2 brought works');
  t.match(await upgrade(), { code: 0, raised: partitions, from_versions: [2] });

  for (const node of cluster.nodes) await node.kill();
  cluster.startAll();
  await cluster.ready();
  for (const node of cluster.nodes) {
    const own = cluster.connect({ nodes: [node] });
    await until(`node ${node.id} has the new version`, async () => {
      const all = (await own.cluster()).partitions.map((partition) => partition.applyVersion);
      return all.every((version) => version === supportedApplyVersion);
    });
  }
  t.equal((await channel.append({ text: 'after it' })).seq, 3);
});
