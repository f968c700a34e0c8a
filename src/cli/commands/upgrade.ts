/** `hansard cluster upgrade`: raises the apply version, some partitions at a time. */
import type { ActionContext } from '../action.js';
import { count } from '../output.js';
import { type ClientOptions, openSession } from '../session.js';

interface UpgradeOptions extends ClientOptions {
  readonly to?: number;
  readonly dryRun?: boolean;
}

/** Partitions of one call: few enough to see it going on, each is one small entry. */
const partitionsAtOnce = 8;

export async function upgrade({ output, options }: ActionContext<UpgradeOptions>): Promise<undefined> {
  const session = await openSession(options);
  try {
    const { client } = session;
    const asked = options.to === undefined ? {} : { to: options.to };
    // Of all first: whatever is in the way is told before anything is changed.
    const plan = await client.upgradeCluster({ ...asked, validateOnly: true });
    const to = plan.applyVersion;
    const open = plan.partitions.filter(({ fromVersion }) => fromVersion !== to);
    if (options.dryRun !== true) {
      for (let at = 0; at < open.length; at += partitionsAtOnce) {
        const partitions = open.slice(at, at + partitionsAtOnce).map(({ partition }) => partition);
        await client.upgradeCluster({ to, partitions });
        output.note(`${count(at + partitions.length)} of ${count(open.length)} partitions`);
      }
    }
    const from = [...new Set(open.map(({ fromVersion }) => fromVersion))].sort((a, b) => a - b);
    output.json({
      apply_version: to,
      dry_run: options.dryRun ?? false,
      partitions: plan.partitions.length,
      raised: open.length,
      from_versions: from,
    });
    const rest = plan.partitions.length - open.length;
    if (open.length === 0) output.line(`all ${count(rest)} partitions have apply version ${to} already`);
    else {
      const done = options.dryRun ? 'would be raised' : 'raised';
      const others = rest > 0 ? `, ${count(rest)} had it already` : '';
      output.line(
        `${count(open.length)} partitions ${done} from apply version ${from.join(' and ')} to ${to}${others}`,
      );
    }
  } finally {
    await session.close();
  }
}
