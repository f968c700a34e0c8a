#!/usr/bin/env -S UV_THREADPOOL_SIZE=16 node
/** The `hansard` command. Only what every invocation needs is imported here; commands load the rest. */
import { runCommand } from './program.js';

// A reader that has seen enough (`| head`) ends the command, it is no error.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  process.exit(error.code === 'EPIPE' ? 0 : 1);
});

process.exitCode = await runCommand(process.argv.slice(2));
// Handles that a failed command leaves open must not keep it from ending; `start` returns when the node is closed.
process.stdout.write('', () => process.stderr.write('', () => process.exit()));
