/** Notes down what clients do to channels, for the checker. Order of calls and returns is the order of the notes. */
import { type CheckOptions, check, type Operation, type Verdict } from './checker.js';
import { type ChannelInput, type ChannelOutput, channel } from './models.js';

interface Noted {
  readonly process: string;
  readonly input: ChannelInput;
  readonly callAt: number;
  output: ChannelOutput | undefined;
  returnAt: number;
  /** It surely had no effect, and saw nothing. */
  isVoid: boolean;
}

/** One operation under way: exactly one of these ends it; none means that its outcome is unknown. */
export interface Recording {
  returned(output: ChannelOutput): void;
  /** Refused before it could have an effect, without telling anything of the channel. */
  hadNoEffect(): void;
}

export class ChannelRecorder {
  readonly #noted: Noted[] = [];
  #clock = 0;

  begin(process: string, input: ChannelInput): Recording {
    const noted: Noted = {
      process,
      input,
      callAt: ++this.#clock,
      output: undefined,
      returnAt: Infinity,
      isVoid: false,
    };
    this.#noted.push(noted);
    return {
      returned: (output) => {
        noted.output = output;
        noted.returnAt = ++this.#clock;
      },
      hadNoEffect: () => {
        noted.isVoid = true;
      },
    };
  }

  /**
   * `content`: the ids that the channel holds for good, from seq 1. It settles
   * what nobody was told: an append whose id is not there never took effect (a log
   * loses nothing), one that is there took effect with that seq at some time. That
   * leaves the search few choices. What clients *were* told is not touched.
   */
  learnOutcomes(channelName: string, content: readonly string[]): void {
    const seqs = new Map(content.map((id, i) => [id, i + 1]));
    for (const noted of this.#noted) {
      const { input, output, isVoid } = noted;
      if (input.kind !== 'append' || input.channel !== channelName || output !== undefined || isVoid)
        continue;
      const seq = seqs.get(input.id);
      if (seq === undefined) noted.isVoid = true;
      else noted.output = { kind: 'appended', seq };
    }
  }

  get length(): number {
    return this.#noted.length;
  }

  history(): Operation<ChannelInput, ChannelOutput>[] {
    // A read that nobody got an answer to says nothing.
    return this.#noted.filter(
      ({ isVoid, input, output }) => !isVoid && !(input.kind === 'read' && output === undefined),
    );
  }

  check(options: CheckOptions = {}): Verdict {
    return check(channel, this.history(), options);
  }
}
