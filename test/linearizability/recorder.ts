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
