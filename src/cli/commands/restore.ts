/** `hansard restore`: folders of a stopped cluster were put back from copies; its incarnation rises. */
import { raiseIncarnation } from '../../node/restore.js';
import type { ActionContext, CommonOptions } from '../action.js';

export interface RestoreOptions extends CommonOptions {
  readonly incarnation?: number;
}

export async function restore({ output, options, args }: ActionContext<RestoreOptions>): Promise<undefined> {
  const { clusterId, incarnation, folders, missing } = await raiseIncarnation(args, options.incarnation);
  output.json({
    cluster_id: clusterId,
    incarnation,
    folders: folders.map(({ dir, nodeId, before }) => ({ dir, node: nodeId, incarnation_before: before })),
    missing_nodes: missing,
  });
  for (const { dir, nodeId, before } of folders) {
    const what =
      before === incarnation ? `has incarnation ${incarnation} already` : `${before} → ${incarnation}`;
    output.line(`${dir}: node ${nodeId}, incarnation ${what}`);
  }
  if (missing.length > 0)
    output.warn(
      `nodes ${missing.join(', ')} need the same: hansard restore --incarnation ${incarnation} <folder>`,
    );
  output.note('tokens from before fail with INCARNATION_CHANGED from now on; start the nodes');
}
