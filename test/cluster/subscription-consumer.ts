/** A consumer of a durable subscription for subscription.test.ts: says on stdout what it has handled. */
import { connect } from '../../src/index.js';
import { patienceMs } from '../support/until.js';

const [, , endpoint = '', name = '', id = ''] = process.argv;
const worker = connect(`hansard://${endpoint}`)
  .subscription(name)
  .consume({
    consumerId: id,
    creditEvents: 20,
    timeoutMs: patienceMs,
    handler: async ({ channel, event }) => {
      await new Promise((resolve) => setTimeout(resolve, 3));
      process.stdout.write(`${channel} ${event.seq}\n`);
    },
  });
await worker.done;
