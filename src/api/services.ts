/** What the handlers of all services work with. */
import type { PackageDefinition } from '@grpc/proto-loader';
import type { PartitionId } from '../common/ids.js';
import type { NodeService, ReadView } from '../node/types.js';
import type { Served } from './encode.js';
import { PageFlights } from './page-flights.js';
import { Reads } from './reads.js';
import { Codecs } from './requests.js';
import { Router } from './route.js';
import { Tokens } from './tokens.js';

export class Services {
  readonly codecs: Codecs;
  readonly router: Router;
  readonly reads: Reads;
  readonly tokens: Tokens;
  readonly pages = new PageFlights();

  constructor(
    readonly node: NodeService,
    protos: PackageDefinition,
  ) {
    this.codecs = new Codecs(protos);
    this.router = new Router(node);
    this.reads = new Reads(node, this.router);
    this.tokens = new Tokens(node.identity.clusterId, node.identity.incarnation);
  }

  /** To be called after the last read of what is answered: its token must cover all of it. */
  served(partition: PartitionId, view: ReadView): Served {
    const { role, appliedIndex, stalenessMs } = view;
    return {
      nodeId: this.node.identity.nodeId,
      role,
      partition,
      appliedIndex,
      stalenessMs,
      commitToken: this.tokens.commit(partition, appliedIndex),
    };
  }
}
