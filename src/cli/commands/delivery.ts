/** `hansard delivery`: what has reached whom, and reporting it. */
import type { Delivery } from '../../client/index.js';
import type { ActionContext } from '../action.js';
import { count, printable } from '../output.js';
import { type ClientOptions, openSession } from '../session.js';
import { formatTime } from '../times.js';

interface ListOptions extends ClientOptions {
  readonly seq?: number;
  readonly messageId?: string;
  readonly recipient?: string;
  readonly failed?: boolean;
}

export async function listDeliveries({
  output,
  options,
  args,
}: ActionContext<ListOptions>): Promise<undefined> {
  const [name = ''] = args;
  const { seq, messageId, recipient } = options;
  const session = openSession(options);
  const { client, timeoutMs } = session;
  try {
    const query = {
      ...(seq === undefined ? {} : { seq }),
      ...(messageId === undefined ? {} : { messageId }),
      ...(recipient === undefined ? {} : { recipient }),
      level: 'linearizable' as const,
      timeoutMs,
    };
    const all: Delivery[] = [];
    let page = await client.channel(name).deliveries(query);
    for (all.push(...page.deliveries); page.nextPageToken !== ''; all.push(...page.deliveries))
      page = await client.channel(name).deliveries({ ...query, pageToken: page.nextPageToken });
    const shown = options.failed ? all.filter(({ failed }) => failed.length > 0) : all;
    output.json({
      channel: name,
      head_seq: page.headSeq,
      seq: page.seq,
      deliveries: shown.map(deliveryJson),
    });
    output.table(
      [
        { title: 'RECIPIENT' },
        { title: 'UP TO', align: 'right' },
        { title: 'PENDING', align: 'right' },
        { title: 'FAILED', align: 'right' },
        { title: 'REPORTED' },
        { title: page.seq === 0 ? 'LAST FAILURE' : `#${page.seq}` },
      ],
      shown.map((each) => [
        printable(each.recipient),
        count(each.upToSeq),
        count(each.pendingEvents),
        count(each.failed.length),
        each.reportTimeUs === 0 ? 'never' : formatTime(each.reportTimeUs),
        each.state ?? lastFailure(each),
      ]),
    );
  } finally {
    await session.close();
  }
}

interface ReportOptions extends ClientOptions {
  readonly upTo?: number;
  readonly failed: readonly number[];
  readonly reason?: string;
  readonly attempts: number;
  readonly recovered: readonly number[];
}

export async function reportDelivery({
  output,
  options,
  args,
}: ActionContext<ReportOptions>): Promise<undefined> {
  const [name = '', recipient = ''] = args;
  const { upTo = 0, reason = '', attempts } = options;
  const session = openSession(options);
  const { client, timeoutMs } = session;
  try {
    const failed = options.failed.map((seq) => ({ seq, reason, attempts }));
    const report = { upToSeq: upTo, failed, recovered: options.recovered };
    const { delivery, headSeq } = await client.channel(name).reportDelivery(recipient, report, { timeoutMs });
    output.json({ channel: name, head_seq: headSeq, ...deliveryJson(delivery) });
    const failures = delivery.failed.length === 0 ? '' : `, ${count(delivery.failed.length)} failed`;
    output.line(
      `${printable(recipient)} is done with ${printable(name)} up to #${delivery.upToSeq} of ${headSeq}${failures}`,
    );
  } finally {
    await session.close();
  }
}

function lastFailure({ failed }: Delivery): string {
  const last = failed.at(-1);
  return last === undefined ? '' : `#${last.seq}: ${printable(last.reason).slice(0, 60)}`;
}

function deliveryJson(delivery: Delivery): object {
  return {
    recipient: delivery.recipient,
    up_to_seq: delivery.upToSeq,
    pending_events: delivery.pendingEvents,
    failed: delivery.failed.map(({ seq, reason, attempts }) => ({ seq, reason, attempts })),
    ...(delivery.state === undefined ? {} : { state: delivery.state }),
  };
}
