/**
 * 10,000 appends at once against a node that holds 256 of them; prints what became
 * of them. A process of its own: the test runner's hooks make each call ten times dearer.
 */
import { encode, type Failure, Harness, text } from './harness.js';

const calls = 10_000;
const held = 256;

const h = await Harness.start(undefined, { callLimits: { callsInFlight: held, bytesInFlight: 1 << 20 } });
let open = (): void => {};
const opened = new Promise<void>((resolve) => {
  open = resolve;
});
h.node.gate = () => opened;
const request = encode('AppendMessagesRequest', { channel: 'c', messages: [text('x')] });
const result = { appended: 0, overloaded: 0, mostInFlight: 0, others: 0, other: '', after: '' };
async function call(): Promise<void> {
  try {
    await h.raw('MessageService/AppendMessages', request, 600_000);
    result.appended++;
  } catch (error) {
    const failure = error as Failure;
    const refused = failure.error?.reason === 'OVERLOADED' && (failure.error.retryDelayMs ?? 0) > 0;
    if (refused && failure.code === 8) result.overloaded++;
    else {
      result.others++;
      result.other ||= `${failure.code}: ${failure.message}`;
    }
    result.mostInFlight = Math.max(result.mostInFlight, h.api.callsInFlight);
  }
  if (result.overloaded + result.others >= calls - held) open();
}

const all: Promise<void>[] = [];
while (all.push(call()) < calls) {
  // A turn of the loop now and then: one that takes long keeps the connection's pings from being answered.
  if (all.length % 100 === 0) await new Promise((resolve) => setImmediate(resolve));
}
await Promise.all(all);
result.after = (await h.append({ channel: 'c', messages: [text('y')] })).first_seq;
await h.stop();
console.log(JSON.stringify(result));
