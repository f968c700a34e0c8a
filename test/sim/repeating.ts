/**
 * Messages of consensus that come twice, the second time late and out of order:
 * Raft takes a network for granted that does that, though streams do not.
 * Requests between nodes are none of it: each is carried out once because its
 * stream gives it once.
 */
import type { Clock } from '../../src/common/env.js';
import { MessageType } from '../../src/raft/types.js';
import type { Transport } from '../../src/transport/types.js';
import { sendingBy } from './sending.js';
import type { SimRandom } from './sim-clock.js';

/** First bytes: raft, heartbeats and their answers, read rounds and theirs, acknowledgements (node/peer-codec.ts). */
const kinds: ReadonlySet<number> = new Set([1, 2, 3, 9, 10, 11]);
/** Most repeats are near the first, some outlive what they belong to, ms. */
const nearMs = 30;
const farMs = 4_000;

/** Votes and snapshots are few: what comes of their repeats would seldom be met. */
const fewChance = 0.5;

function isFew(message: Uint8Array): boolean {
  // Kind, version, partition (below 128 in the simulator), type.
  const type = message[0] === 1 ? message[3] : undefined;
  return type === MessageType.MsgSnap || type === MessageType.MsgVote || type === MessageType.MsgVoteResp;
}

/** Fewest of all, and late ones find a receiver far ahead. */
const snapshotRepeats = 6;

function isSnapshot(message: Uint8Array): boolean {
  return message[0] === 1 && message[3] === MessageType.MsgSnap;
}

/** `chance` is asked for each message; `clock` is the process's own. */
export function repeating(
  transport: Transport,
  clock: Clock,
  random: SimRandom,
  chance: () => number,
): Transport {
  return sendingBy(transport, (to, message, urgent) => {
    const set = chance();
    const probability = set > 0 && isFew(message) ? fewChance : set;
    if (probability > 0 && kinds.has(message[0] as number) && random.chance(probability)) {
      // What is sent is the sender's again at once, and says something else by then.
      const copy = Uint8Array.from(message);
      for (let n = isSnapshot(message) ? snapshotRepeats : 1; n > 0; n--) {
        const laterMs = random.fraction() * (random.below(isFew(message) ? 2 : 4) === 0 ? farMs : nearMs);
        clock.after(laterMs, () => {
          transport.send(to, copy, random.below(2) === 0);
          transport.flush();
        });
      }
    }
    return transport.send(to, message, urgent);
  });
}
