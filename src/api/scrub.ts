/** ReplicaService.ScrubNode: the scrubber of this node, asked and told. */
import type { Handler } from './calls.js';
import { toNumber } from './requests.js';
import type { Services } from './services.js';

const stateNumber = { off: 1, waiting: 2, working: 3 } as const;

export function scrubNode({ node, codecs }: Services): Handler {
  const decode = codecs.decoder<{ start: boolean; bytes_per_second: string }>('hansard.v1.ScrubNodeRequest');
  const encode = codecs.encoder('hansard.v1.ScrubNodeResponse');
  return (_context, request) => {
    const { start, bytes_per_second } = decode(request);
    const rate = toNumber(bytes_per_second);
    if (start) node.scrubber.scrubNow(rate === 0 ? undefined : rate);
    const { state, pass, lastEndedUs, bytes, findingsByKind, findings } = node.scrubber.status();
    return encode({
      node_id: node.identity.nodeId,
      state: stateNumber[state],
      ...(pass === undefined
        ? {}
        : {
            pass: {
              started_us: pass.startedUs,
              ended_us: pass.endedUs,
              step: pass.step,
              steps: pass.steps,
              bytes: pass.bytes,
              findings: pass.findings,
              compared: pass.compared,
              not_compared: pass.notCompared,
            },
          }),
      last_ended_us: lastEndedUs,
      bytes,
      findings: Object.values(findingsByKind).reduce((sum, count) => sum + count, 0),
      newest: findings.map(({ kind, partition, problem, atUs }) => ({
        kind,
        partition: partition ?? 0,
        has_partition: partition !== undefined,
        problem,
        at_us: atUs,
      })),
    });
  };
}
