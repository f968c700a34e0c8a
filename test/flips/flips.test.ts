/** A small fixed part of the tally; `npm run flips` for many. */
import t from 'tap';
import { tally, tallyText } from './tally.js';

t.setTimeout(600_000);
/** Of drawn damages fewer are done where the machine is busy; the named ones are done in any case. */
const drawnMs = 20_000;

t.test('damaged files of a stopped node: refused, mended or harmless, and nothing is lost', async (t) => {
  const result = await tally({
    seed: 11,
    damages: 8,
    named: true,
    untilMs: Date.now() + drawnMs,
    onTrial({ damage: { how, kind, where }, outcome, detail }) {
      const isRight = outcome !== 'silent' && outcome !== 'stuck';
      t.ok(isRight, `${how} ${kind}, ${where}: ${outcome} ${detail}`);
    },
  });
  t.same(result.lost, [], 'every acknowledged message is there once');
  t.ok(result.trials.some(({ outcome }) => outcome === 'repaired'));
  t.comment(tallyText(result));
});
