import t from 'tap';
import { grpcHarness, simHarness } from './harness.js';
import { networkSuite } from './network-suite.js';
import { transportSuite } from './transport-suite.js';

networkSuite(t, () => simHarness());
networkSuite(t, grpcHarness);
transportSuite(t, () => simHarness());
transportSuite(t, grpcHarness);
