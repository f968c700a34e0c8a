/** `npm run flips -- --damages 200 --seed 7`: damages a stopped node's files over and over and prints the tally. */
import { parseArgs } from 'node:util';
import { tally, tallyText } from './tally.js';

const { values } = parseArgs({
  options: {
    damages: { type: 'string', default: '100' },
    seed: { type: 'string', default: String(Date.now() % 1_000_000) },
    minutes: { type: 'string', default: '30' },
    'older-folder': { type: 'boolean', default: false },
    pairs: { type: 'boolean', default: false },
    verbose: { type: 'boolean', default: false },
  },
});
const seed = Number(values.seed);
console.log(`seed ${seed}`);
const result = await tally({
  seed,
  damages: Number(values.damages),
  named: !values.pairs,
  pairs: values.pairs,
  olderFolder: values['older-folder'],
  untilMs: Date.now() + Number(values.minutes) * 60_000,
  onTrial: ({ damage: { how, kind, where }, outcome, detail }) => {
    if (values.verbose || outcome === 'silent' || outcome === 'stuck')
      console.log(`${outcome}: ${how} ${kind}, ${where}${detail === '' ? '' : `: ${detail}`}`);
  },
});
console.log(tallyText(result));
const isBad =
  result.lost.length > 0 || result.trials.some(({ outcome }) => outcome === 'silent' || outcome === 'stuck');
process.exitCode = isBad ? 1 : 0;
