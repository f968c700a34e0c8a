/**
 * An entry, decoded once: what it will look up, and then applying it, work on the
 * same form. Decoding sees the bytes alone, so it may be done at any time before.
 */
import { MalformedError } from '../common/bytes.js';
import type { TimeUs } from '../common/ids.js';
import { type Command, CommandKind, decodeCommand, entryVersion, readEntry } from './command.js';

/** Bytes that are no command; `problem` tells why. */
export interface MalformedCommand {
  readonly kind: 'malformed';
  readonly problem: string;
}

export interface DecodedEntry {
  readonly bytes: Buffer;
  readonly version: number;
  readonly leaderTimeUs: TimeUs;
  /** In their order; none where the entry is empty, malformed or of a later version. */
  readonly commands: readonly (Command | MalformedCommand)[];
  /** Set where the entry as a whole can't be read. */
  readonly problem: string | undefined;
  /** The highest apply version that a command of the entry asks for; 0: none. */
  readonly raisedVersion: number;
}

/** Total: bytes that say nothing become malformed commands. The entry's commands point into `data`. */
export function decodeEntry(data: Uint8Array): DecodedEntry {
  const bytes = Buffer.isBuffer(data) ? data : Buffer.from(data.buffer, data.byteOffset, data.length);
  const commands: (Command | MalformedCommand)[] = [];
  if (bytes.length === 0) {
    return { bytes, version: entryVersion, leaderTimeUs: 0, commands, problem: undefined, raisedVersion: 0 };
  }
  let frame: ReturnType<typeof readEntry>;
  try {
    frame = readEntry(bytes);
  } catch (error) {
    const problem = problemOf(error);
    return { bytes, version: entryVersion, leaderTimeUs: 0, commands, problem, raisedVersion: 0 };
  }
  const { version, leaderTimeUs, bounds } = frame;
  let raisedVersion = 0;
  for (let i = 0; i < bounds.length; i += 2) {
    const from = bounds[i] as number;
    const command = decoded(bytes, from, bounds[i + 1] as number);
    commands.push(command);
    if (bytes[from] === CommandKind.setSettings && command.kind === 'setSettings') {
      raisedVersion = Math.max(raisedVersion, command.settings.applyVersion ?? 0);
    }
  }
  return { bytes, version, leaderTimeUs, commands, problem: undefined, raisedVersion };
}

function decoded(bytes: Buffer, from: number, to: number): Command | MalformedCommand {
  try {
    return decodeCommand(bytes, from, to);
  } catch (error) {
    return { kind: 'malformed', problem: problemOf(error) };
  }
}

function problemOf(error: unknown): string {
  if (error instanceof MalformedError) return error.message;
  throw error;
}
