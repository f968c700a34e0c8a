/** The `hansard` command, run in this process. */
import { Writable } from 'node:stream';
import { type RunOptions, runCommand } from '../../src/cli/program.js';

/** For the command, wherever it is run. */
export const patientCommand = { HANSARD_TIMEOUT: '30' };

/** Keeps what is written to it. */
export class Sink extends Writable {
  text = '';
  isTTY?: boolean;
  override _write(chunk: Buffer, _encoding: string, done: () => void): void {
    this.text += chunk.toString();
    done();
  }
}

export async function hansard(
  argv: readonly string[],
  env: RunOptions['env'] = {},
): Promise<{ code: number; out: string; err: string }> {
  const [stdout, stderr] = [new Sink(), new Sink()];
  const code = await runCommand(argv, { stdout, stderr, env: { ...patientCommand, ...env } });
  return { code, out: stdout.text, err: stderr.text };
}
