/** What the process's exit status says; scripts rely on it. `hansard --help` and docs/cli.md show this table. */
import { Code, type HansardError, type Reason, reasons } from '../common/errors.js';

export const ExitCode = {
  ok: 0,
  failed: 1,
  usage: 2,
  unreachable: 3,
  notFound: 4,
  conflict: 5,
  unusableHere: 6,
  damaged: 7,
  /** 128 + SIGINT, as shells have it. */
  interrupted: 130,
} as const;
export type ExitCode = (typeof ExitCode)[keyof typeof ExitCode];

export const exitCodeTable: readonly (readonly [ExitCode, string])[] = [
  [ExitCode.ok, 'done'],
  [ExitCode.failed, 'failed, for another reason than these'],
  [ExitCode.usage, 'wrong usage, settings or input; nothing was sent or changed'],
  [ExitCode.unreachable, 'no server answered, no quorum, or the deadline passed; a write may have happened'],
  [ExitCode.notFound, 'the channel or message does not exist'],
  [ExitCode.conflict, 'a condition did not hold, or a name, id or key is taken'],
  [ExitCode.unusableHere, 'the folder or port can not be used on this machine as it is'],
  [ExitCode.damaged, 'data does not match its checksum, or the disk failed'],
  [ExitCode.interrupted, 'interrupted'],
];

const unusableHere: ReadonlySet<Reason> = new Set([
  'REPLICA_LOST',
  'DIRECTORY_IN_USE',
  'NODE_RUNNING',
  'REPAIR_OUTDATED',
  'DIRECTORY_NOT_EMPTY',
  'DIRECTORY_UNFINISHED',
  'FORMAT_TOO_NEW',
  'ADDRESS_IN_USE',
]);

export function exitCodeOf(error: HansardError): ExitCode {
  if (unusableHere.has(error.reason)) return ExitCode.unusableHere;
  switch (reasons[error.reason].code) {
    case Code.invalidArgument:
      return ExitCode.usage;
    case Code.unavailable:
    case Code.deadlineExceeded:
    case Code.resourceExhausted:
      return ExitCode.unreachable;
    case Code.notFound:
      return ExitCode.notFound;
    case Code.aborted:
    case Code.alreadyExists:
      return ExitCode.conflict;
    case Code.dataLoss:
      return ExitCode.damaged;
    default:
      return ExitCode.failed;
  }
}
