/** A recipient as a process: node recipient.js ENDPOINT CHANNEL RECIPIENT FILE. Notes each event that it is handed before it answers. */
import { appendFileSync } from 'node:fs';
import { connect } from '../../src/client/index.js';
import { patienceMs } from '../support/until.js';

const [endpoint = '', channel = '', recipient = '', file = ''] = process.argv.slice(2);
await connect(endpoint, { timeoutMs: patienceMs })
  .channel(channel)
  .deliver(
    recipient,
    ({ seq }, attempt) => {
      if (attempt === 1) appendFileSync(file, `${seq}\n`);
      if (seq % 10 === 0) throw new Error('by ten');
    },
    { attempts: 2, retryDelayMs: 1, reportEveryMs: 20 },
  );
