/**
 * A consumer of a durable subscription as docs/guide/durable-subscriptions.md describes it, to be killed at any time:
 * `node postgres-consumer.js ENDPOINT SUBSCRIPTION PSQL PORT DIES`. The channel's last seq goes with the result, in one transaction. It dies
 * in the worst moment: behind its DIES-th transaction, before anybody hears of it.
 */
import { connect } from '../../src/index.js';
import { Session } from './postgres.js';

const [endpoint = '', name = '', psql = '', port = '', dies = ''] = process.argv.slice(2);
const database = new Session(psql, Number(port));
let done = 0;
const quoted = (text: string) => `'${text.replaceAll("'", "''")}'`;

const worker = connect(`hansard://${endpoint}`)
  .subscription(name)
  .consume({
    creditEvents: 20,
    timeoutMs: 60_000,
    handler: async ({ channel, event, deliveries }) => {
      const part = event.message?.parts?.[0];
      const text = part?.type === 'text' ? part.text : '';
      await database.run(
        `WITH moved AS (
           INSERT INTO place (channel, seq) VALUES (${quoted(channel)}, ${event.seq})
           ON CONFLICT (channel) DO UPDATE SET seq = EXCLUDED.seq WHERE place.seq < EXCLUDED.seq
           RETURNING channel, seq
         ), tried AS (
           INSERT INTO attempt (channel, seq, deliveries) VALUES (${quoted(channel)}, ${event.seq}, ${deliveries})
         )
         INSERT INTO result (channel, seq, text) SELECT channel, seq, ${quoted(text)} FROM moved`,
      );
      if (++done === Number(dies)) process.kill(process.pid, 'SIGKILL');
    },
  });
await worker.done;
