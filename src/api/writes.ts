/** What all writes share. */
import { Code, HansardError, InvariantError } from '../common/errors.js';
import type { Index, PartitionId } from '../common/ids.js';
import { bodyDigest } from '../conversation/apply-request.js';
import { encodeOnce } from '../conversation/command.js';
import type { CommandAnswer } from '../conversation/types.js';
import type { NodeService } from '../node/types.js';

type AnswerOf<K extends CommandAnswer['kind']> = Extract<CommandAnswer, { readonly kind: K }>;

/** Proposes a command that is answered by `kind`; throws what the answer refuses. Appends have their own way (append.ts). */
export async function proposeFor<K extends CommandAnswer['kind']>(
  node: Pick<NodeService, 'propose'>,
  partition: PartitionId,
  command: Uint8Array,
  deadlineMs: number,
  kind: K,
): Promise<{ readonly answer: AnswerOf<K>; readonly index: Index }> {
  const { answer, index } = await node.propose(partition, command, { deadlineMs });
  if (answer.kind !== kind) throw proposalError(answer);
  return { answer: answer as AnswerOf<K>, index };
}

/** A command that has no request id of its own, under the client's, if there is one: carried out once, however often it comes. */
export function onceOnly(
  requestId: string,
  method: string,
  request: Uint8Array,
  command: Uint8Array,
): Uint8Array {
  if (requestId === '') return command;
  return encodeOnce(requestId, bodyDigest(Buffer.concat([Buffer.from(`${method}\0`), request])), command);
}

/** The error for an answer of another kind than the one asked for: a refusal, or a defect. */
export function proposalError(answer: CommandAnswer): Error {
  if (answer.kind === 'refused') return new HansardError(answer.reason, answer.message, answer.fields);
  return new InvariantError(`a command was answered with ${answer.kind}`);
}

/** UNAVAILABLE invites clients to send again; without request id, keys or producer that could append twice. */
export function unsafeToRetry(error: unknown): unknown {
  if (!(error instanceof HansardError) || error.reason !== 'COMMIT_UNKNOWN' || error.code === Code.unknown)
    return error;
  return new HansardError(error.reason, error.message, error.fields, { code: Code.unknown, cause: error });
}
