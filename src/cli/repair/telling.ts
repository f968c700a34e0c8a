/** What a repair tells of what was found, and of what is to be done. */
import { noPlace, unknownIndex } from '../../common/faults.js';
import type { NodeId } from '../../common/ids.js';
import type { Choice } from '../../node/trust/carry-out.js';
import type { FoundNode, FoundReplica } from '../../node/trust/find.js';
import type { Loss } from '../../node/trust/judge.js';
import { type Output, printable } from '../output.js';
import type { Case } from './look.js';

/** More fill no screen. */
const linesShown = 20;

export function printCases(
  output: Output,
  nodes: readonly FoundNode[],
  cases: readonly Case[],
  absent: readonly NodeId[],
): void {
  const c = output.colors;
  const ids = nodes.map(({ nodeId, incarnation }) => `${nodeId} (incarnation ${incarnation})`);
  output.line(`cluster ${nodes[0]?.clusterId}; folders of nodes ${ids.join(', ')}`);
  if (absent.length > 0) output.line(c.red(`no folder of nodes ${absent.join(', ')}`));
  for (const { refused, options } of cases) {
    output.line();
    output.line(c.red(`partition ${refused.partition} can elect no leader: ${refused.why}`));
    output.table(
      [
        { title: 'NODE', align: 'right' },
        { title: 'REPLICA', align: 'right' },
        { title: 'TERM', align: 'right' },
        { title: 'CHECKPOINT', align: 'right' },
        { title: 'LOG ENDS', align: 'right' },
        { title: 'STANDS AT', align: 'right' },
        { title: 'WHAT WAS FOUND' },
      ],
      refused.replicas.map((one) => [
        one.nodeId,
        one.replicaId,
        one.term,
        one.sealed.index,
        placeText(one.last),
        one.end === undefined ? c.red('no state') : placeText(one.end),
        one.faults.length === 0
          ? c.green('sound')
          : one.faults.map(({ kind, why, floor }) => `${kind}${floorText(floor)}: ${why}`).join('; '),
      ]),
    );
    for (const { replica, loss } of options) printLoss(output, replica, loss);
    if (options.length === 0)
      output.line('no replica has a state to go on from: put back a sound copy of one of the folders');
  }
}

function printLoss(output: Output, { nodeId }: FoundReplica, { events, back, gone }: Loss): void {
  output.line(`if node ${nodeId} is trusted:`);
  for (const { tenant, channel, firstSeq, lastSeq, nodes } of events.slice(0, linesShown))
    output.line(
      `  lost: ${printable(`${tenant}/${channel}`)}, events ${firstSeq} to ${lastSeq} (node ${nodes.join(', ')} has them)`,
    );
  if (events.length > linesShown)
    output.line(`  … and of ${events.length - linesShown} more channels; --json has all`);
  if (events.length === 0) output.line('  nothing is lost that another folder here still has');
  for (const { tenant, channel, nodes } of back.slice(0, linesShown))
    output.line(
      `  there again: ${printable(`${tenant}/${channel}`)}, whose deletion node ${nodes.join(', ')} has`,
    );
  if (back.length > linesShown)
    output.line(`  … and ${back.length - linesShown} more channels; --json has all`);
  for (const text of gone.slice(0, linesShown)) output.line(`  ${printable(text)}`);
  if (gone.length > linesShown) output.line(`  … and ${gone.length - linesShown} more; --json has all`);
}

export function printNext(output: Output, dirs: readonly string[], cases: readonly Case[]): void {
  const best = cases.flatMap(({ refused, options }) =>
    options[0] === undefined ? [] : [`${refused.partition}=${options[0].replica.nodeId}`],
  );
  if (best.length === 0) return;
  output.line();
  output.line('the furthest of each (least is lost, as far as the logs tell; the choice is yours):');
  output.line(`  hansard repair ${dirs.join(' ')} --trust ${best.join(' ')} --dry-run`);
}

export function printChoices(
  output: Output,
  cases: readonly Case[],
  choices: readonly Choice[],
  incarnation: number,
): void {
  output.line();
  for (const { partition, trusted, fresh } of choices) {
    const others = cases
      .find(({ refused }) => refused.partition === partition)
      ?.refused.replicas.filter(({ nodeId }) => nodeId !== trusted.nodeId)
      .map(({ nodeId }) => nodeId);
    output.line(
      `partition ${partition}: node ${trusted.nodeId} is trusted, from term ${fresh.term} on; what nodes ${others?.join(', ') || 'elsewhere'} have of it is given up and fetched anew`,
    );
  }
  output.line(`the cluster's incarnation becomes ${incarnation}: tokens from before fail`);
}

function placeText({ index, term }: { index: number; term: number }): string {
  return index === 0 ? '0' : `${index} (term ${term})`;
}

function floorText({ index, term }: { index: number; term: number }): string {
  if (term === noPlace.term && index === noPlace.index) return '';
  return index === unknownIndex ? ` (ended in term ${term})` : ` (ended at ${index}, term ${term})`;
}

export function caseAsJson({ refused, options }: Case, choices: readonly Choice[]) {
  const { partition, why, voters, missing } = refused;
  return {
    partition,
    why,
    voters,
    missing_nodes: missing,
    trusted_node: choices.find((choice) => choice.partition === partition)?.trusted.nodeId,
    choices: options.map(({ replica, loss }) => ({
      node: replica.nodeId,
      replica: replica.replicaId,
      stands_at: replica.end,
      lost_events: loss.events,
      channels_back: loss.back,
      lost_or_unknown: loss.gone,
    })),
  };
}
