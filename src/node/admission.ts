/** Where disks are almost full, what takes room is refused; what deletes, moves and settles works to the last. */
import { HansardError } from '../common/errors.js';
import type { NodeId } from '../common/ids.js';
import { CommandKind } from '../conversation/command.js';
import { SubscriptionCommandKind } from '../conversation/subscription-command.js';
import type { Replica } from '../partition/replica.js';
import { type Message, MessageType } from '../raft/types.js';
import { transportDefaults } from '../transport/types.js';
import type { Space } from './disk-space.js';
import type { Hearsay } from './hearsay.js';

/** Looking for room takes at least as long, and leadership moves meanwhile where another node has some. */
const diskFullRetryMs = 1_000;

/** What an entry and a message to a follower have beside one command, generously. */
const aroundCommandBytes = 4 * 1024;

/** Appends, and what makes channels and durable subscriptions; what consumers say and get does not: it ends where appends do. */
export function takesRoom(command: Uint8Array): boolean {
  const kind = command[0];
  return (
    kind === CommandKind.append ||
    kind === CommandKind.appendMany ||
    kind === CommandKind.createChannel ||
    kind === CommandKind.updateChannel ||
    kind === SubscriptionCommandKind.createSubscription
  );
}

/** The door keeps commands far below: what slips through ends its call, and neither the process nor replication. */
export function tooLarge(bytes: number, entryBytesMax: number): HansardError | undefined {
  const limit = Math.min(entryBytesMax, transportDefaults.messageBytes) - aroundCommandBytes;
  if (bytes <= limit) return undefined;
  return new HansardError(
    'FRAME_TOO_LARGE',
    `a command of ${bytes} bytes, at most ${limit} fit into the log`,
    {
      bytes,
      limit_bytes: limit,
    },
  );
}

/** On the follower that it comes to. */
export function takesRoomHere(message: Message): boolean {
  return (
    message.type === MessageType.MsgSnap ||
    (message.type === MessageType.MsgApp && message.entries.length > 0)
  );
}

/** Why what takes room can't be taken in: ours is the disk that is full, or a majority's are. */
export function noRoom(
  replica: Replica,
  self: NodeId,
  space: Space | undefined,
  hearsay: Hearsay,
): HansardError | undefined {
  const isOurs = space?.isLow === true;
  if (!isOurs && !hearsay.hasFullDisks) return undefined;
  if (!replica.isLeader) return undefined;
  const hasRoom = (node: NodeId): boolean => (node === self ? !isOurs : !hearsay.hasFullDisk(node));
  if (!isOurs && replica.membership.hasQuorum(hasRoom)) return undefined;
  const { partition } = replica;
  return isOurs
    ? new HansardError(
        'DISK_FULL',
        `the disk of node ${self} is almost full: ${space.freeBytes} bytes are free, ${space.reserveBytes} are its reserve`,
        { partition, free_bytes: space.freeBytes, disk_reserve: space.reserveBytes },
        { retryDelayMs: diskFullRetryMs },
      )
    : new HansardError(
        'DISK_FULL',
        `the disks of a majority of partition ${partition} are almost full: nodes ${hearsay.withFullDisks.join(', ')}`,
        { partition },
        { retryDelayMs: diskFullRetryMs },
      );
}
