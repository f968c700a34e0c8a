/**
 * Clients whose every operation is noted down for the linearizability checker:
 * appends without a producer or key, with and without an expected head, each
 * tried once; and linearizable reads of a channel's end from any replica. Nothing
 * is repeated, so that each outcome stands as the system reported it.
 */
import { HansardError } from '../../src/common/errors.js';
import { encodeAppend } from '../../src/conversation/command.js';
import type { CommandAnswer } from '../../src/conversation/types.js';
import type { HansardNode } from '../../src/node/node.js';
import type { ChannelRecorder, Recording } from '../linearizability/recorder.js';
import type { ClientWorld } from './client.js';
import { contentOf, textEvent } from './content.js';
import { within } from './within.js';

export interface JudgedWorld extends ClientWorld {
  readonly recorder: ChannelRecorder;
  anyNode(): HansardNode | undefined;
  /** 'eventual' is a planted bug. */
  readonly level: 'linearizable' | 'eventual';
}

/** How long a call may take, ms; the client's own patience is a little longer. */
const callMs = 1_500;
const patienceMs = callMs * 2;
/** Messages that a read asks for. */
const newestCount = 3;

export class JudgedClient {
  #stopped = false;
  #serial = 0;
  /** What the client believes of each channel. */
  readonly #heads = new Map<string, number>();
  readonly #done: Promise<void>;

  constructor(
    readonly name: string,
    private readonly channels: readonly string[],
    private readonly world: JudgedWorld,
  ) {
    this.#done = this.#run();
  }

  stop(): Promise<void> {
    this.#stopped = true;
    return this.#done;
  }

  async #run(): Promise<void> {
    const { random, callers } = this.world;
    while (!this.#stopped) {
      const channel = this.channels[random.below(this.channels.length)] as string;
      if (random.below(5) < 2) await this.#read(channel);
      else if (!callers.isLeftAlone(this.world.partitionOf(channel)))
        await this.#append(channel, random.below(2) === 0);
      await callers.rest(1 + random.below(40));
    }
  }

  async #append(channel: string, conditional: boolean): Promise<void> {
    const { recorder, random, clock } = this.world;
    const partition = this.world.partitionOf(channel);
    const node = this.world.leaderOf(partition);
    if (node === undefined) return;
    const id = `${this.name}/${channel}/${++this.#serial}`;
    const expectedHead = conditional ? (this.#heads.get(channel) ?? 0) : undefined;
    const command = encodeAppend({
      tenant: 'default',
      channel,
      condition: expectedHead === undefined ? undefined : { kind: 'expectedHeadSeq', seq: expectedHead },
      events: [textEvent(id, random.below(256))],
    });
    const recording = recorder.begin(this.name, { kind: 'append', channel, id, expectedHead });
    const outcome = await within(
      clock,
      patienceMs,
      this.world.callers.call(node, () =>
        node.propose(partition, command, { deadlineMs: node.monotonicMs() + callMs, producer: undefined }),
      ),
    );
    if (outcome instanceof HansardError) {
      // docs/errors.md: after these two a write may have taken effect; after any other it surely never does.
      if (outcome.reason !== 'COMMIT_UNKNOWN' && outcome.reason !== 'DEADLINE_EXCEEDED')
        recording.hadNoEffect();
    } else if (outcome !== undefined) this.#note(channel, id, outcome.answer, recording);
  }

  #note(channel: string, id: string, answer: CommandAnswer | undefined, recording: Recording): void {
    const { history, clock } = this.world;
    // Of an entry that another one replaced, where a bug is planted: what became of it nobody knows.
    if (answer === undefined) return;
    if (answer.kind === 'appended') {
      recording.returned({ kind: 'appended', seq: answer.firstSeq });
      this.#heads.set(channel, answer.firstSeq);
      history.sawHead(channel, answer.firstSeq);
      history.acknowledged.push({ client: this.name, channel, seq: answer.firstSeq, text: id });
      history.log(clock.monotonicMs(), `${this.name} ok ${id} seq ${answer.firstSeq}`);
    } else if (answer.kind === 'refused' && answer.reason === 'CONDITION_FAILED') {
      const actualHead = Number(answer.fields.actual);
      recording.returned({ kind: 'refused', actualHead });
      this.#heads.set(channel, actualHead);
      history.refused.add(id);
    } else {
      recording.hadNoEffect();
    }
  }

  async #read(channel: string): Promise<void> {
    const { history, recorder, clock } = this.world;
    const node = this.world.anyNode();
    if (node === undefined) return;
    const recording = recorder.begin(this.name, { kind: 'read', channel });
    const page = await within(
      clock,
      patienceMs,
      this.world.callers.call(node, () => this.#page(node, channel)),
    );
    if (page === undefined || page instanceof HansardError) return;
    recording.returned({ kind: 'page', ...page });
    this.#heads.set(channel, page.head);
    history.sawHead(channel, page.head);
  }

  async #page(node: HansardNode, name: string): Promise<{ head: number; newest: string[] }> {
    const view = await node.readBarrier(this.world.partitionOf(name), {
      level: this.world.level,
      minIndex: 0,
      deadlineMs: node.monotonicMs() + callMs,
    });
    const channel = await view.reader.channelByName('default', name);
    if (channel === undefined) return { head: 0, newest: [] };
    const events = await view.reader.events(channel, {
      fromSeq: Math.max(1, channel.headSeq - newestCount + 1),
      toSeq: channel.headSeq,
      reverse: false,
      maxEvents: newestCount,
      maxBytes: 1 << 20,
    });
    return { head: channel.headSeq, newest: events.map(contentOf) };
  }
}
