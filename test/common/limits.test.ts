import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { reasons } from '../../src/common/errors.js';
import { limits } from '../../src/common/limits.js';
import { channelNameProblem, isTenantName } from '../../src/common/names.js';
import { applyLimits } from '../../src/conversation/apply-limits.js';
import { defaultSettings } from '../../src/conversation/settings.js';

const page = readFileSync(fileURLToPath(new URL('../../../docs/limits.md', import.meta.url)), 'utf8');

/** Rows of the table under `heading`: name → value. */
function table(heading: string): Record<string, number> {
  const section = page.split(/^## /m).find((part) => part.startsWith(heading)) ?? '';
  const rows = [...section.matchAll(/^\| `(\w+)` \| ([\d,]+)(?: (KiB|MiB))?/gm)];
  const unit = { KiB: 1024, MiB: 1024 * 1024 } as Record<string, number>;
  return Object.fromEntries(
    rows.map(([, name, digits, of]) => [name, Number(digits!.replaceAll(',', '')) * (of ? unit[of]! : 1)]),
  );
}

t.test('docs/limits.md says what the code does', async (t) => {
  t.same(table('Of requests'), limits);
  t.same(table('Replicated settings'), defaultSettings);
  t.same(table('Fixed by the apply version'), applyLimits);
  for (const [word] of page.matchAll(/\b[A-Z]{2,}(_[A-Z0-9]+)+\b/g)) t.ok(word in reasons, word);
});

t.test('names', async (t) => {
  for (const good of ['a', 'default', '0-9', 'x'.repeat(63)]) t.ok(isTenantName(good), good);
  for (const bad of ['', 'A', 'a_b', 'a\n', 'ä', 'x'.repeat(64)])
    t.notOk(isTenantName(bad), JSON.stringify(bad));
  for (const good of ['#ubuntu', 'user{42}/a', '会话', ' ', '\ufeff', 'é'.repeat(128), '😀'.repeat(64)]) {
    t.equal(channelNameProblem(good), undefined, good);
  }
  for (const bad of ['', 'é'.repeat(129), 'a\u0000', '\u007f', '\u0085', 'a\n', '\ud800', 'x\udc00y']) {
    t.type(channelNameProblem(bad), 'string', JSON.stringify(bad));
  }
});
