/** ClusterService.UpgradeCluster: partition after partition by its leader, once every node can carry the version out. */
import { HansardError } from '../common/errors.js';
import type { PartitionId } from '../common/ids.js';
import { encodeSetSettings } from '../conversation/command.js';
import type { ClusterView } from '../node/types.js';
import type { CallContext, Handler } from './calls.js';
import { invalidArgument } from './names.js';
import type { Services } from './services.js';
import { proposalError } from './writes.js';

interface UpgradeRequest {
  to: number;
  partitions: number[];
  validate_only: boolean;
}

/** hansard.v1.UpgradeClusterResponse. */
interface Upgraded {
  apply_version: number;
  partitions: { partition: number; from_version: number }[];
}

export function upgradeCluster({ node, codecs, router }: Services): Handler {
  const decode = codecs.decoder<UpgradeRequest>('hansard.v1.UpgradeClusterRequest');
  const encodeRequest = codecs.encoder('hansard.v1.UpgradeClusterRequest');
  const encode = codecs.encoder('hansard.v1.UpgradeClusterResponse');
  const decodeResponse = codecs.answerDecoder<Upgraded>('hansard.v1.UpgradeClusterResponse');
  return async (context, request) => {
    const asked = decode(request);
    const view = node.cluster();
    const self = view.nodes.find(({ nodeId }) => nodeId === node.identity.nodeId);
    const to = asked.to === 0 ? (self?.applyVersion ?? 0) : asked.to;
    // Also where the call was forwarded: the leader may see other nodes than the one that was asked.
    requireAllCanApply(view, to);
    if (asked.partitions.some((partition) => partition >= node.partitionCount))
      throw invalidArgument('partitions', `partitions are 0 to ${node.partitionCount - 1}`);
    const partitions =
      asked.partitions.length > 0
        ? [...new Set(asked.partitions)].sort((a, b) => a - b)
        : Array.from({ length: node.partitionCount }, (_, partition) => partition);
    const answers = await Promise.all(
      partitions.map(async (partition) => {
        const ofOne = encodeRequest({ ...asked, to, partitions: [partition] });
        return decodeResponse(
          await router.atLeader(context, partition, ofOne, async () =>
            encode({
              apply_version: to,
              partitions: [
                { partition, from_version: await raise(context, partition, to, asked.validate_only) },
              ],
            }),
          ),
        );
      }),
    );
    return encode({ apply_version: to, partitions: answers.flatMap((answer) => answer.partitions) });
  };

  /** Here, where the partition's leader is. Returns the version before. */
  async function raise(
    context: CallContext,
    partition: PartitionId,
    to: number,
    validateOnly: boolean,
  ): Promise<number> {
    const from = node.cluster().partitions[partition]?.applyVersion ?? 0;
    // It only rises: where an applied entry has it, all later ones do.
    if (from === to) return from;
    if (from > to)
      throw new HansardError('INVALID_SETTINGS', 'the apply version can not go back', {
        setting: 'applyVersion',
        partition,
        actual: from,
        value: to,
      });
    if (validateOnly) return from;
    const { deadlineMs } = context;
    const { answer } = await node.propose(partition, encodeSetSettings({ applyVersion: to }), { deadlineMs });
    if (answer.kind !== 'done') throw proposalError(answer);
    return from;
  }
}

/** A replica that met an entry of a version that it can't carry out would stop: nothing is proposed before all can. */
function requireAllCanApply(view: ClusterView, to: number): void {
  const unreachable = view.nodes.filter((each) => !each.connected || each.applyVersion === 0);
  const tooOld = view.nodes.filter((each) => !unreachable.includes(each) && each.applyVersion < to);
  if (unreachable.length === 0 && tooOld.length === 0) return;
  const problems = [
    ...tooOld.map(
      (each) =>
        `node ${each.nodeId} (${each.clientAddress}) can carry out version ${each.applyVersion} at most`,
    ),
    ...unreachable.map((each) => `node ${each.nodeId} (${each.clientAddress}) can not be asked`),
  ];
  throw new HansardError('UPGRADE_BLOCKED', `not to apply version ${to}: ${problems.join('; ')}`, {
    apply_version: to,
    too_old: tooOld.map(({ nodeId }) => nodeId).join(' '),
    unreachable: unreachable.map(({ nodeId }) => nodeId).join(' '),
  });
}
