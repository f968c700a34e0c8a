/** What `hansard verify` can find, and what to do about each. docs/operations.md has the same table. */

export const cures = {
  'node-unreachable':
    'Start the node, or look at its log for why it refuses to start; then verify again: its replicas were not looked at.',
  'replica-missing':
    'The map of partitions and the node disagree: look at `hansard status --partitions`, then verify again.',
  'replica-behind':
    'Wait until the node has caught up (docs/operations.md, "A node that was away"), then verify again; if it never does, look at its log.',
  'replica-error': "Look at that node's log; then verify again.",
  'channel-damaged': 'The database of that node is damaged: keep its folder; docs/operations.md, "Damage".',
  'events-damaged': 'The database of that node is damaged: keep its folder; docs/operations.md, "Damage".',
  'events-missing': 'That replica has lost events: keep its folder; docs/operations.md, "Damage".',
  'checksum-mismatch': 'The content is not what was appended: keep the folder; docs/operations.md, "Damage".',
  'commitment-mismatch':
    'Content or salt is not what was committed to: keep the folder; docs/operations.md, "Damage".',
  'time-falls':
    'Events have other times or another order than they were given: keep the folder; docs/operations.md, "Damage".',
  'count-differs':
    'The channel\'s record does not match its own events: keep the folder; docs/operations.md, "Damage".',
  'event-differs': 'Replicas have different events: keep all folders; docs/operations.md, "Damage".',
  'channel-differs': 'Replicas have different channels: keep all folders; docs/operations.md, "Damage".',
  'digest-damaged': 'The database of that node is damaged: keep its folder; docs/operations.md, "Damage".',
  'digest-differs':
    'Replicas differ in what is no event (producers, keys, message ids): keep all folders; docs/operations.md, "Damage".',
  unsettled:
    'The channel changed each time it was looked at: verify it again with --channel at a quieter time.',
} as const;
export type FindingKind = keyof typeof cures;

export interface Finding {
  readonly kind: FindingKind;
  /** Absent: the replicas disagree and no majority says which is wrong. */
  readonly node?: number | undefined;
  readonly partition?: number | undefined;
  readonly tenant?: string | undefined;
  readonly channel?: string | undefined;
  readonly firstSeq?: number | undefined;
  readonly lastSeq?: number | undefined;
  /** What is wrong, in words. */
  readonly problem: string;
  readonly expected?: string | undefined;
  readonly found?: string | undefined;
}

/** One line; stored text in it is not printable yet. */
export function findingText(finding: Finding): string {
  const { kind, node, partition, tenant, channel, firstSeq, lastSeq, problem, expected, found } = finding;
  const where = [
    ...(node === undefined ? [] : [`node ${node}`]),
    ...(partition === undefined ? [] : [`partition ${partition}`]),
    ...(channel === undefined ? [] : [`channel ${tenant}/${channel}`]),
    ...(firstSeq === undefined
      ? []
      : [
          lastSeq === undefined || lastSeq === firstSeq
            ? `seq ${firstSeq}`
            : `seqs ${firstSeq} to ${lastSeq}`,
        ]),
  ];
  const both = [
    ...(expected === undefined ? [] : [`expected ${expected}`]),
    ...(found === undefined ? [] : [`found ${found}`]),
  ];
  const tail = both.length === 0 ? '' : `; ${both.join(', ')}`;
  return `${kind}: ${where.join(', ')}: ${problem}${tail}`;
}

/** As JSON has it. */
export function findingJson(finding: Finding): Record<string, unknown> {
  const { kind, node, partition, tenant, channel, firstSeq, lastSeq, problem, expected, found } = finding;
  const all = {
    kind,
    node,
    partition,
    tenant,
    channel,
    first_seq: firstSeq,
    last_seq: lastSeq ?? firstSeq,
    problem,
    expected,
    found,
    cure: cures[kind],
  };
  return Object.fromEntries(Object.entries(all).filter(([, value]) => value !== undefined));
}

/** Ranges of one kind on one node and channel that are told one by one; what follows is summed up. */
const rangesMax = 20;

type EventFinding = Omit<Finding, 'firstSeq' | 'lastSeq'>;

/** Gathers findings of single events into ranges: a lost file is one line, not a million. */
export class Ranges {
  readonly #open = new Map<
    string,
    { finding: EventFinding; first: number; last: number; told: number; more: number }
  >();

  constructor(readonly report: (finding: Finding) => void) {}

  /** Seqs of one kind and node come ascending. `finding`'s own words are those of its first event. */
  add(finding: EventFinding, first: number, last = first): void {
    const key = `${finding.kind}/${finding.node}`;
    const open = this.#open.get(key);
    if (open === undefined) {
      this.#open.set(key, { finding, first, last, told: 0, more: 0 });
    } else if (first <= open.last + 1) open.last = Math.max(open.last, last);
    else {
      this.#tell(open);
      Object.assign(open, { finding, first, last });
    }
  }

  end(): void {
    for (const open of this.#open.values()) {
      this.#tell(open);
      if (open.more > 0) {
        const problem = `${open.more} further ranges of seqs up to ${open.last}`;
        this.report({ ...open.finding, problem, expected: undefined, found: undefined });
      }
    }
    this.#open.clear();
  }

  #tell(open: { finding: EventFinding; first: number; last: number; told: number; more: number }): void {
    if (open.told >= rangesMax) {
      open.more++;
      return;
    }
    open.told++;
    this.report({ ...open.finding, firstSeq: open.first, lastSeq: open.last });
  }
}
