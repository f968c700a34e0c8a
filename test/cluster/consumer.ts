/**
 * A consumer as docs/guide/subscribe.md describes it, to be killed at any time:
 * `node consumer.js ENDPOINT DATABASE`. Each update's events and the token behind
 * them go to SQLite (python3's) in one transaction; it goes on from the token there.
 */
import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { connect } from '../../src/index.js';

const [endpoint = '', file = ''] = process.argv.slice(2);

const writer = `
import json, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("PRAGMA busy_timeout = 20000")
db.execute("CREATE TABLE IF NOT EXISTS event (channel TEXT, seq INTEGER, text TEXT)")
db.execute("CREATE TABLE IF NOT EXISTS position (token TEXT)")
row = db.execute("SELECT token FROM position").fetchone()
print(json.dumps(row[0] if row else None), flush=True)
for line in sys.stdin:
    update = json.loads(line)
    db.execute("BEGIN IMMEDIATE")
    db.executemany("INSERT INTO event VALUES (?, ?, ?)", update["events"])
    db.execute("DELETE FROM position")
    db.execute("INSERT INTO position VALUES (?)", [update["token"]])
    db.execute("COMMIT")
    print("true", flush=True)
`;
const database = spawn('python3', ['-c', writer, file], { stdio: ['pipe', 'pipe', 'ignore'] });
const answers = createInterface({ input: database.stdout })[Symbol.asyncIterator]();
const answer = async (): Promise<unknown> => JSON.parse(String((await answers.next()).value));

const token = await answer();
const client = connect(`hansard://${endpoint}/default`, {});
const start = typeof token === 'string' ? { resumeToken: token } : { fromBeginning: true };
for await (const update of client.subscribe({ prefix: 'order/', maxBatch: 20, ...start }).updates()) {
  if (update.kind !== 'events') continue;
  const events = update.channels.flatMap(({ channel, events }) =>
    events.map(({ seq, message }) => {
      const part = message?.parts?.[0];
      return [channel, seq, part?.type === 'text' ? part.text : ''];
    }),
  );
  database.stdin.write(`${JSON.stringify({ events, token: update.resumeToken })}\n`);
  await answer();
}
