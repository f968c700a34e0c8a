/** Nodes that still run: a partition must not be repaired while others of its cluster serve it. */
import { connect } from 'node:net';
import { parseAddress } from '../../common/address.js';
import type { Member } from '../identity-file.js';

/** For a machine that is off, ms: nobody refuses there. */
const connectMs = 2_000;

/** Those at whose peer address somebody takes a connection. */
export async function answering(members: readonly Member[]): Promise<Member[]> {
  const answers = await Promise.all(members.map(({ peerAddress }) => answersAt(peerAddress)));
  return members.filter((_, i) => answers[i]);
}

function answersAt(address: string): Promise<boolean> {
  const at = parseAddress(address);
  if (at === undefined) return Promise.resolve(false);
  return new Promise((resolve) => {
    const socket = connect({ host: at.host, port: at.port });
    const end = (isThere: boolean): void => {
      socket.destroy();
      resolve(isThere);
    };
    socket.setTimeout(connectMs, () => end(false));
    socket.once('connect', () => end(true));
    // Refused, no route, no such name: whatever it is, no node answers.
    socket.once('error', () => end(false));
  });
}
