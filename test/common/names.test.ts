/** The door looks at a name's bytes, applying and the SDK at its text: they must agree on every name. */
import fc from 'fast-check';
import t from 'tap';
import { takeChannelName, takeTenant } from '../../src/api/names.js';
import { requireChannelName, requireTenant } from '../../src/client/requests.js';
import { limits } from '../../src/common/limits.js';
import { channelNameProblem, isTenantName } from '../../src/common/names.js';

function accepts(check: () => unknown): boolean {
  try {
    check();
    return true;
  } catch {
    return false;
  }
}

// Around all borders: controls of one and two bytes, what follows them, the longest names, lone surrogates.
const units = [
  'a',
  'Z',
  '0',
  '-',
  '_',
  ' ',
  '{',
  '\u0000',
  '\u001f',
  '\u007f',
  '\u0080',
  '\u009f',
  '\u00a0',
  'é',
  '你',
  '😀',
  '\ud800',
  '\udfff',
];
const name = fc.oneof(
  fc.array(fc.constantFrom(...units), { maxLength: 6 }).map((parts) => parts.join('')),
  fc
    .tuple(fc.constantFrom('a', 'é', '你', '😀'), fc.integer({ min: -2, max: 2 }), fc.constantFrom('', 'a'))
    .map(([unit, more, end]) => {
      const bytes = Buffer.byteLength(unit);
      return unit.repeat(Math.max(0, Math.floor(limits.channelNameBytes / bytes) + more)) + end;
    }),
  fc.string({ unit: 'binary', maxLength: 20 }),
);

t.test('channel names', async (t) => {
  let taken = 0;
  fc.assert(
    fc.property(name, (text) => {
      const byText = channelNameProblem(text) === undefined;
      if (byText) taken++;
      if (accepts(() => requireChannelName(text)) !== byText) return false;
      // A lone surrogate has no bytes of its own.
      if (/\p{Surrogate}/u.test(text)) return !byText;
      const bytes = Buffer.from(text);
      return accepts(() => takeChannelName(bytes, 0, bytes.length)) === byText;
    }),
    { numRuns: 5_000 },
  );
  t.ok(taken > 500, `${taken} names were right`);
});

t.test('tenants', async (t) => {
  const tenant = fc.oneof(
    fc
      .array(fc.constantFrom('a', 'z', '0', '9', '-', 'A', '_', '.', 'é', '`', '{', '/', ':'), {
        maxLength: 4,
      })
      .map((parts) => parts.join('')),
    fc.integer({ min: 60, max: 66 }).map((length) => 'a'.repeat(length)),
  );
  let taken = 0;
  fc.assert(
    fc.property(tenant, (text) => {
      const byText = text === '' || isTenantName(text);
      if (byText) taken++;
      const bytes = Buffer.from(text);
      return (
        accepts(() => takeTenant(bytes, 0, bytes.length)) === byText &&
        accepts(() => requireTenant(text)) === byText
      );
    }),
    { numRuns: 2_000 },
  );
  t.ok(taken > 100, `${taken} tenants were right`);
});
