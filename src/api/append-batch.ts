/** AppendBatch: appends to several channels of one partition, proposed as one command. */
import { HansardError } from '../common/errors.js';
import type { PartitionId } from '../common/ids.js';
import { varintSize, Wire, WireReader, writeVarint } from '../common/wire.js';
import { applyLimits } from '../conversation/apply-limits.js';
import { encodeAppendMany } from '../conversation/command.js';
import type { Handler } from './calls.js';
import { encodeAppended } from './encode.js';
import { invalidArgument, takeId, takeTenant } from './names.js';
import { packAppend } from './pack-append.js';
import type { Services } from './services.js';
import { expectWire, skimAppendHead, skimRoute } from './skim.js';
import { proposeFor, unsafeToRetry } from './writes.js';

export function appendBatch({ node, codecs, router, tokens }: Services): Handler {
  const content = codecs.rules.message('hansard.v1.MessageContent');
  return (context, request) => {
    const { tenant, requestId, items } = skimBatch(request);
    const names = new Set<string>();
    let partition: PartitionId = 0;
    for (const [i, item] of items.entries()) {
      const { channel } = inItem(i, () => skimRoute(item));
      const of = node.partitionOf(tenant, channel);
      if (i > 0 && of !== partition)
        throw invalidArgument(`appends[${i}].channel`, 'lies in another partition than the first one');
      if (names.has(channel)) throw invalidArgument(`appends[${i}].channel`, 'comes twice');
      names.add(channel);
      partition = of;
    }
    let isRepeatable = requestId !== '';
    // Packed before anything is waited for, as the request's memory is the stream's.
    const pack = (): Uint8Array => {
      let areAllKeyed = true;
      const commands = items.map((item, i) =>
        inItem(i, () => {
          const head = skimAppendHead(item);
          if (head.producerId !== 0) throw invalidArgument('producer', 'no item of a batch carries one');
          if (hasOtherTenant(item, tenant))
            throw invalidArgument('tenant', "is another one than the batch's");
          const { command, allKeyed } = packAppend(item, { ...head, tenant }, codecs.checker, content);
          areAllKeyed &&= allKeyed;
          // The packer's memory is used again for the next one.
          return Buffer.from(command);
        }),
      );
      isRepeatable ||= areAllKeyed;
      return encodeAppendMany(tenant, requestId, commands);
    };
    const command = pack();
    const local = async (): Promise<Uint8Array> => {
      const { answer, index } = await proposeFor(
        node,
        partition,
        command,
        context.deadlineMs,
        'appendedMany',
      );
      const token = tokens.commit(partition, index);
      return encodeBatch(
        answer.appended.map((each) => encodeAppended(each, token)),
        token,
      );
    };
    // The link to the leader may break, too.
    const answered = router.atLeader(context, partition, request, local);
    return isRepeatable
      ? answered
      : answered.catch((error) => {
          throw unsafeToRetry(error);
        });
  };
}

interface Batch {
  readonly tenant: string;
  readonly requestId: string;
  /** Encoded AppendMessagesRequests. */
  readonly items: readonly Buffer[];
}

function skimBatch(request: Buffer): Batch {
  const reader = new WireReader(request);
  const items: Buffer[] = [];
  let tenant: [number, number] = [0, 0];
  let requestId: [number, number] = [0, 0];
  while (reader.next()) {
    if (reader.field > 3) {
      reader.skip();
      continue;
    }
    expectWire(reader, Wire.bytes, ['tenant', 'appends', 'request_id'][reader.field - 1] as string);
    reader.sized();
    const { start, position } = reader;
    if (reader.field === 1) tenant = [start, position];
    else if (reader.field === 3) requestId = [start, position];
    else if (items.length >= applyLimits.channelsPerBatch)
      throw invalidArgument('appends', `more than ${applyLimits.channelsPerBatch}`);
    else items.push(request.subarray(start, position));
  }
  if (items.length === 0) throw invalidArgument('appends', 'must not be empty');
  return {
    tenant: takeTenant(request, ...tenant),
    requestId: takeId(request, ...requestId, 'request_id'),
    items,
  };
}

/** An empty one means the batch's. */
function hasOtherTenant(item: Buffer, tenant: string): boolean {
  const reader = new WireReader(item);
  while (reader.next()) {
    if (reader.field !== 1 || reader.wire !== Wire.bytes) {
      reader.skip();
      continue;
    }
    reader.sized();
    if (reader.position > reader.start && takeTenant(item, reader.start, reader.position) !== tenant)
      return true;
  }
  return false;
}

/** What is wrong with an item says with which. */
function inItem<T>(item: number, take: () => T): T {
  try {
    return take();
  } catch (error) {
    if (!(error instanceof HansardError)) throw error;
    throw new HansardError(error.reason, `appends[${item}]: ${error.message}`, { ...error.fields, item });
  }
}

function encodeBatch(results: readonly Buffer[], token: Buffer): Buffer {
  let size = 1 + varintSize(token.length) + token.length;
  for (const { length } of results) size += 1 + varintSize(length) + length;
  const target = Buffer.allocUnsafe(size);
  let at = 0;
  const put = (tag: number, bytes: Buffer): void => {
    target[at++] = tag;
    at = writeVarint(target, at, bytes.length);
    at += bytes.copy(target, at);
  };
  for (const result of results) put(0x0a, result);
  put(0x12, token);
  return target;
}
