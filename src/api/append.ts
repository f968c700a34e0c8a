/**
 * AppendMessages, the hot path: no promise, no closure, one object per call, which is
 * the proposal itself. What seldom happens (this node does not lead, leadership moves)
 * goes the way of all other calls, by Router.
 */
import { HansardError } from '../common/errors.js';
import type { PartitionId } from '../common/ids.js';
import { partitionOfBytes } from '../common/partitioning.js';
import type { CommandAnswer } from '../conversation/types.js';
import type { NodeService } from '../node/types.js';
import type { Proposal } from '../partition/proposals.js';
import type { Handler, UnaryContext } from './calls.js';
import type { Checker } from './check.js';
import { encodeAppended } from './encode.js';
import { packAppend } from './pack-append.js';
import type { Router } from './route.js';
import type { MessageRule } from './rules.js';
import type { Services } from './services.js';
import { type AppendHead, skimAppendHead } from './skim.js';
import type { Tokens } from './tokens.js';
import { proposalError, unsafeToRetry } from './writes.js';

/** Nothing here waits before the proposal is out. */
export function appendMessages({ node, codecs, router, tokens }: Services): Handler {
  const content = codecs.rules.message('hansard.v1.MessageContent');
  const door: Door = { node, router, tokens, checker: codecs.checker, content };
  return (context, request) => {
    const head = skimAppendHead(request);
    const { tenant, channelFrom, channelTo } = head;
    const partition = partitionOfBytes(tenant, request, channelFrom, channelTo, node.partitionCount);
    if (!router.leadsNow(partition)) return routed(door, context, partition, request, head);
    submit(door, new AppendCall(door, context, partition, request, head, undefined));
    return undefined;
  };
}

interface Door {
  readonly node: NodeService;
  readonly router: Router;
  readonly tokens: Tokens;
  readonly checker: Checker;
  readonly content: MessageRule;
}

/** By way of Router: to the leader elsewhere, or after a wait. */
function routed(
  door: Door,
  context: UnaryContext,
  partition: PartitionId,
  request: Buffer,
  head: AppendHead,
  attempt = 1,
): Promise<Uint8Array> {
  const local = (): Promise<Uint8Array> =>
    new Promise((resolve, reject) => {
      const end = (error: unknown, response: Uint8Array | undefined): void => {
        if (response === undefined) reject(error);
        else resolve(response);
      };
      // Time may have passed since the call came.
      if (context.deadlineMs <= door.node.monotonicMs()) {
        throw new HansardError('DEADLINE_EXCEEDED', 'the deadline had passed before anything was proposed');
      }
      submit(door, new AppendCall(door, context, partition, request, head, end));
    });
  return door.router.atLeader(context, partition, request, local, attempt).catch((error) => {
    // The link to the leader may have broken; seldom enough that only then it is looked for keys.
    const isUnknown = error instanceof HansardError && error.reason === 'COMMIT_UNKNOWN';
    throw isUnknown && !isRepeatable(door, request, head) ? unsafeToRetry(error) : error;
  });
}

/** May be sent again without danger of a second append. */
function isRepeatable({ checker, content }: Door, request: Buffer, head: AppendHead): boolean {
  return head.producerId !== 0 || packAppend(request, head, checker, content).allKeyed;
}

function submit(door: Door, call: AppendCall): void {
  try {
    door.node.submit(call.partition, call);
  } catch (error) {
    if (call.ended) throw error;
    call.ended = true;
    call.failed(error);
  }
}

/** An append on its way: packed, proposed, answered. */
class AppendCall implements Proposal {
  readonly command: Buffer;
  readonly deadlineMs: number;
  readonly producerId: number;
  readonly firstCounter: number;
  readonly count: number;
  readonly partition: PartitionId;
  ended = false;
  readonly #door: Door;
  readonly #context: UnaryContext;
  readonly #request: Buffer;
  readonly #head: AppendHead;
  /** May be sent again without danger of a second append. */
  readonly #repeatable: boolean;
  /** Set: Router waits for the end, not the call. */
  readonly #routed: UnaryContext['end'] | undefined;

  constructor(
    door: Door,
    context: UnaryContext,
    partition: PartitionId,
    request: Buffer,
    head: AppendHead,
    end: UnaryContext['end'] | undefined,
  ) {
    const { command, allKeyed } = packAppend(request, head, door.checker, door.content);
    this.command = command;
    this.deadlineMs = context.deadlineMs;
    this.producerId = head.producerId;
    this.firstCounter = head.firstCounter;
    this.count = head.count;
    this.partition = partition;
    this.#door = door;
    this.#context = context;
    this.#request = request;
    this.#head = head;
    this.#repeatable = head.producerId !== 0 || allKeyed;
    this.#routed = end;
  }

  applied(answer: CommandAnswer, index: number): void {
    if (answer.kind !== 'appended') return this.#end(proposalError(answer), undefined);
    let response: Uint8Array;
    try {
      response = encodeAppended(answer, this.#door.tokens.commit(this.partition, index));
    } catch (error) {
      return this.#end(error, undefined);
    }
    this.#end(undefined, response);
  }

  failed(error: unknown): void {
    const reason = error instanceof HansardError ? error.reason : undefined;
    if (reason === 'NOT_LEADER' && this.#routed === undefined && this.#context.origin !== 'forward') {
      // Nothing was proposed: whoever leads now may take it. Not from here, in the midst of a replica's turn.
      queueMicrotask(() => this.#again());
      return;
    }
    this.#end(this.#repeatable ? error : unsafeToRetry(error), undefined);
  }

  #again(): void {
    const context = this.#context;
    try {
      routed(this.#door, context, this.partition, this.#request, this.#head, 2).then(
        (response) => context.end(undefined, response),
        (error) => context.end(error, undefined),
      );
    } catch (error) {
      context.end(error, undefined);
    }
  }

  #end(error: unknown, response: Uint8Array | undefined): void {
    if (this.#routed === undefined) this.#context.end(error, response);
    else this.#routed(error, response);
  }
}
