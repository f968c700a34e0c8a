import t from 'tap';
import { simHarness, tcpHarness } from './harness.js';
import { networkSuite } from './network-suite.js';
import { transportSuite } from './transport-suite.js';

networkSuite(t, () => simHarness());
networkSuite(t, tcpHarness);
transportSuite(t, () => simHarness());
transportSuite(t, tcpHarness);
