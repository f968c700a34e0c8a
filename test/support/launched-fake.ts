/**
 * Stands where a node's process stands, for the launcher's tests: answers
 * /readyz on its --http-address. FAKE_NODE says how it misbehaves.
 */
import { createServer } from 'node:http';

const at = process.argv.indexOf('--http-address');
const port = Number((process.argv[at + 1] ?? '').split(':')[1]);
const misbehaviour = process.env.FAKE_NODE ?? '';

if (misbehaviour === 'ends') {
  console.error('error: the folder is on fire');
  process.exit(1);
}
if (misbehaviour === 'fails') {
  // As the log has it: the reason stands behind a long stack, and a word of an earlier life before it.
  const err = { type: 'HansardError', stack: 'at somewhere\n'.repeat(100), reason: 'STORE_DAMAGED' };
  const line = { level: 'error', err, reason: 'STORE_DAMAGED', msg: 'the node ends: a block is damaged' };
  console.error(JSON.stringify(line));
  process.exit(1);
}
if (misbehaviour === 'dies') {
  console.error('Killed');
  process.exit(1);
}
if (misbehaviour === 'refuses') {
  console.error(
    'error: log_max: "8 MiB"; it must be at least four segments (INVALID_SETTINGS)\ncure:  See --help.',
  );
  process.exit(1);
}
if (misbehaviour === 'deaf') process.on('SIGTERM', () => {});
const server = createServer((_request, response) => {
  response.writeHead(misbehaviour === 'never' ? 503 : 200, { 'content-type': 'application/json' });
  response.end(
    JSON.stringify({
      problems: misbehaviour === 'never' ? ['4 of 4 partitions have no leader'] : [],
      leads: 2,
      partitions: 4,
    }),
  );
});
server.listen(port, '127.0.0.1');
// Whatever happens to the test, this process does not stay.
setTimeout(() => process.exit(3), 600_000);
