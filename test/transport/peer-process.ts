/** A process with one transport, for tests that kill it: node peer-process.js OWN_ADDRESS PEER_ADDRESS. */
import { silentLogger } from '../../src/common/logger.js';
import { createTcpNetwork } from '../../src/transport/tcp-network.js';
import { createTransport } from '../../src/transport/transport.js';
import { realClock, realRandom } from '../support/real-env.js';

const [own = '', peer = ''] = process.argv.slice(2);
const transport = createTransport({
  self: {
    clusterId: 'c1'.repeat(16),
    nodeId: 2,
    storeId: '0000000000000002',
    bootId: '22'.repeat(8),
    incarnation: 1,
  },
  peers: [{ nodeId: 1, address: peer }],
  network: createTcpNetwork({ bindAddress: own }),
  clock: realClock,
  random: realRandom,
  pins: { getPinned: () => undefined, pin: async () => {} },
  logger: silentLogger,
});
await transport.start({ onMessage: () => {}, onUp: () => console.log('up'), onDown: () => {} });
// Nobody lives on if the test dies.
setTimeout(() => process.exit(1), 300_000);
