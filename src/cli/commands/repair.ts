/**
 * `hansard repair`: folders of a stopped cluster in which a majority of a partition's
 * replicas is damaged or gone. Shows replica by replica what is there and what each
 * choice would lose; carries out the operator's choice, and nothing without one.
 */
import { createInterface } from 'node:readline/promises';
import { silentLogger } from '../../common/logger.js';
import { type Choice, carryOut } from '../../node/trust/carry-out.js';
import type { ActionContext, CommonOptions } from '../action.js';
import { ExitCode } from '../exit-codes.js';
import type { Output } from '../output.js';
import {
  checkAbsent,
  checkIncarnation,
  checkStopped,
  chosen,
  incarnationOf,
  namedAndSound,
  parseTrust,
} from '../repair/choice.js';
import { caseOf, checkNodes, format, look, readOthers, refusedOf, wrong } from '../repair/look.js';
import { caseAsJson, printCases, printChoices, printNext } from '../repair/telling.js';

export interface RepairOptions extends CommonOptions {
  readonly trust?: readonly string[];
  readonly acceptLoss?: boolean;
  readonly dryRun?: boolean;
  readonly with?: readonly string[];
  readonly missing?: readonly string[];
  readonly incarnation?: number;
}

export async function repair({ output, options, args }: ActionContext<RepairOptions>): Promise<ExitCode> {
  const others = await readOthers(options.with ?? []);
  const nodes = [...(await look(args, others)), ...others];
  checkNodes(nodes);
  const cases = refusedOf(nodes).map((refused) => caseOf(refused, nodes));
  const trust = parseTrust(options.trust ?? []);
  const sound = namedAndSound(cases, nodes, trust);
  const choices = chosen(cases, nodes, trust);
  const incarnation = incarnationOf(cases, nodes, trust, options);
  const members = nodes[0]?.members ?? [];
  const absent = members
    .map(({ nodeId }) => nodeId)
    .filter((id) => !nodes.some((node) => node.nodeId === id));
  output.json({
    format,
    cluster_id: nodes[0]?.clusterId,
    incarnation_after: choices.length > 0 ? incarnation : undefined,
    refused: cases.map((each) => caseAsJson(each, choices)),
    absent_nodes: absent,
    found: nodes,
  });
  printCases(output, nodes, cases, absent);
  for (const partition of sound)
    output.note(`partition ${partition} needs no repair, or none any more: nothing is done about it`);
  if (cases.length === 0) {
    output.note(
      'every partition can elect a leader among these nodes; they mend what is damaged by themselves: start them',
    );
    return ExitCode.ok;
  }
  if (choices.length === 0) {
    printNext(output, args, cases);
    return ExitCode.damaged;
  }
  checkAbsent(absent, options.missing ?? []);
  checkIncarnation(incarnation, options.incarnation);
  await checkStopped(nodes.slice(0, args.length), members);
  printChoices(output, cases, choices, incarnation);
  if (options.dryRun === true) {
    output.note('nothing was changed');
    return ExitCode.ok;
  }
  if (options.acceptLoss !== true) await confirm(output, choices);
  const standings = new Map(nodes.map(({ nodeId, standing }) => [nodeId, standing]));
  await carryOut(args, { choices, incarnation, standings }, silentLogger);
  output.line(
    `done: ${choices.length} partitions go on from the replicas chosen; incarnation ${incarnation}`,
  );
  output.note(
    'start the nodes; the other replicas are fetched anew (hansard status). Tokens from before fail with INCARNATION_CHANGED. Then: hansard verify',
  );
  return choices.length < cases.length ? ExitCode.damaged : ExitCode.ok;
}

async function confirm(output: Output, choices: readonly Choice[]): Promise<void> {
  const word = `lose what is lost in ${choices.length} partitions`;
  if (output.isJson || process.stdin.isTTY !== true)
    throw wrong(
      'nobody can be asked here: say --accept-loss, or --dry-run to see what would be done',
      'accept-loss',
    );
  const asked = createInterface({ input: process.stdin, output: process.stderr });
  try {
    const answer = await asked.question(`Type "${word}" to go on: `);
    if (answer.trim() !== word) throw wrong('that was not typed: nothing was changed', 'accept-loss');
  } finally {
    asked.close();
  }
}
