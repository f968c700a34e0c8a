/** The command by which a recipient reports deliveries, and failures as they are stored. docs/format.md. */
import { type ByteReader, ByteWriter } from '../common/bytes.js';
import type { Seq } from '../common/ids.js';
import type { FailedDelivery } from './types.js';

export const reportDeliveryNumber = 27;

export interface ReportDeliveryInput {
  readonly tenant: string;
  readonly channel: string;
  readonly recipient: string;
  /** Done with, delivered or failed; 0: nothing new. */
  readonly upToSeq: Seq;
  readonly failed: readonly Omit<FailedDelivery, 'timeUs'>[];
  /** Failed before, delivered since. */
  readonly recovered: readonly Seq[];
}

export interface ReportDeliveryCommand extends ReportDeliveryInput {
  readonly kind: 'reportDelivery';
}

export function encodeReportDelivery(report: ReportDeliveryInput): Uint8Array {
  const { tenant, channel, recipient, upToSeq, failed, recovered } = report;
  const writer = new ByteWriter(256).u8(reportDeliveryNumber);
  writer.string(tenant).string(channel).string(recipient).uvarint(upToSeq).uvarint(failed.length);
  for (const { seq, attempts, reason } of failed) writer.uvarint(seq).uvarint(attempts).string(reason);
  writer.uvarint(recovered.length);
  for (const seq of recovered) writer.uvarint(seq);
  return writer.finish();
}

export function decodeReportDelivery(reader: ByteReader): ReportDeliveryCommand {
  const head = {
    kind: 'reportDelivery' as const,
    tenant: reader.string(),
    channel: reader.string(),
    recipient: reader.string(),
    upToSeq: reader.uvarint(),
  };
  const failed = listed(reader, () => ({
    seq: reader.uvarint(),
    attempts: reader.uvarint(),
    reason: reader.string(),
  }));
  return { ...head, failed, recovered: listed(reader, () => reader.uvarint()) };
}

/** Of a cursor's row. */
export function writeFailures(writer: ByteWriter, failed: readonly FailedDelivery[]): void {
  writer.uvarint(failed.length);
  for (const { seq, timeUs, attempts, reason } of failed)
    writer.uvarint(seq).u64(timeUs).uvarint(attempts).string(reason);
}

export function readFailures(reader: ByteReader): FailedDelivery[] {
  return listed(reader, () => ({
    seq: reader.uvarint(),
    timeUs: reader.u64(),
    attempts: reader.uvarint(),
    reason: reader.string(),
  }));
}

/** Each takes a byte at least, so a count that lies ends where the bytes do. */
function listed<T>(reader: ByteReader, read: () => T): T[] {
  const count = reader.uvarint();
  const found: T[] = [];
  for (let i = 0; i < count; i++) found.push(read());
  return found;
}
