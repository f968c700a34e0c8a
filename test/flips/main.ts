/** `npm run flips`: damages a stopped node's files over and over and prints the tally. */
import { programOf } from '../support/program.js';
import { tally, tallyText } from './tally.js';

const usage = `Usage: npm run flips -- [--damages N] [--seed S] [--minutes M] [--pairs] [--older-folder] [--verbose]

Damages the files of one of three real nodes while it is stopped, starts it, and sees what comes of it: test/flips/README.md.

--damages N      how many (100)
--seed S         what is drawn (from the clock; it is printed)
--minutes M      ends after so many at the latest (30)
--pairs          two damages at a time
--older-folder   and once an older copy of the whole folder
--verbose        a line for each damage, not only for those that are silent or stuck

Exit 0 if none was silent or stuck and nothing is lost, 1 if not, 2 for wrong use.`;

const { values, whole } = programOf(usage, {
  damages: { type: 'string', default: '100' },
  seed: { type: 'string', default: String(1 + (Date.now() % 1_000_000)) },
  minutes: { type: 'string', default: '30' },
  'older-folder': { type: 'boolean', default: false },
  pairs: { type: 'boolean', default: false },
  verbose: { type: 'boolean', default: false },
});
const seed = whole('seed');
const untilMs = Date.now() + whole('minutes') * 60_000;
console.log(`seed ${seed}`);
const result = await tally({
  seed,
  damages: whole('damages'),
  named: !values.pairs,
  pairs: values.pairs,
  olderFolder: values['older-folder'],
  untilMs,
  onTrial: ({ damage: { how, kind, where }, outcome, detail }) => {
    if (values.verbose || outcome === 'silent' || outcome === 'stuck')
      console.log(`${outcome}: ${how} ${kind}, ${where}${detail === '' ? '' : `: ${detail}`}`);
  },
});
console.log(tallyText(result));
const isBad =
  result.lost.length > 0 || result.trials.some(({ outcome }) => outcome === 'silent' || outcome === 'stuck');
process.exitCode = isBad ? 1 : 0;
