/** `hansard append`. */
import type { AppendCondition } from '../../client/requests.js';
import type { NewMessage, Role } from '../../client/types.js';
import { HansardError } from '../../common/errors.js';
import type { ActionContext } from '../action.js';
import { type ClientOptions, openSession } from '../session.js';
import { formatTime } from '../times.js';

interface AppendOptions extends ClientOptions {
  readonly lines?: boolean;
  readonly role: Role;
  readonly author?: string;
  readonly metadata?: string;
  readonly key?: string;
  readonly messageId?: string;
  readonly expectHead?: number;
  readonly mustExist?: boolean;
  readonly mustNotExist?: boolean;
}

export async function append({ output, options, args }: ActionContext<AppendOptions>): Promise<undefined> {
  const channel = args[0] ?? '';
  const messages = await messagesOf(args[1], options);
  const condition = conditionOf(options);
  const session = await openSession(options);
  try {
    const result = await session.client
      .channel(channel)
      .append(messages, condition === undefined ? {} : { condition });
    const last = result.seqs[result.seqs.length - 1] ?? 0;
    output.json({
      channel,
      first_seq: result.seqs[0] ?? 0,
      last_seq: last,
      seqs: result.seqs,
      commit_time: formatTime(result.commitTimeUs),
      commit_token: Buffer.from(result.commitToken).toString('base64'),
      duplicate: result.duplicate,
    });
    const range = result.seqs.length === 1 ? `event ${last}` : `events ${result.seqs[0]} to ${last}`;
    output.line(
      `${channel}: ${range}${result.duplicate ? ' (was there before)' : ''}, committed ${formatTime(result.commitTimeUs)}`,
    );
  } finally {
    await session.close();
  }
}

async function messagesOf(text: string | undefined, options: AppendOptions): Promise<NewMessage[]> {
  const whole = text === undefined || text === '-' ? await readStdin() : text;
  const texts = options.lines ? whole.split('\n').filter((line) => line !== '') : [whole];
  if (texts.length === 0)
    throw new HansardError('INVALID_ARGUMENT', 'stdin holds no line', { field: 'text' });
  if (texts.length > 1 && (options.key !== undefined || options.messageId !== undefined))
    throw new HansardError(
      'INVALID_ARGUMENT',
      '--key and --message-id are for one message, not for --lines',
      {
        field: '--lines',
      },
    );
  return texts.map((line) => ({
    role: options.role,
    text: line,
    ...(options.author === undefined ? {} : { author: options.author }),
    ...(options.metadata === undefined ? {} : { metadataJson: options.metadata }),
    ...(options.key === undefined ? {} : { key: options.key }),
    ...(options.messageId === undefined ? {} : { messageId: options.messageId }),
  }));
}

function conditionOf(options: AppendOptions): AppendCondition | undefined {
  const given: AppendCondition[] = [];
  if (options.expectHead !== undefined) given.push({ expectedHeadSeq: options.expectHead });
  if (options.mustExist) given.push({ mustExist: true });
  if (options.mustNotExist) given.push({ mustNotExist: true });
  if (given.length > 1)
    throw new HansardError(
      'INVALID_ARGUMENT',
      'only one of --expect-head, --must-exist and --must-not-exist',
      {
        field: 'condition',
      },
    );
  return given[0];
}

/** One trailing newline belongs to the shell, not to the message. */
async function readStdin(): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of process.stdin) chunks.push(chunk as Buffer);
  return new TextDecoder('utf-8').decode(Buffer.concat(chunks)).replace(/\r?\n$/, '');
}
