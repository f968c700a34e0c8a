import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { defaultExchangeLimits } from '../../src/api/exchange.js';
import { Code, reasons } from '../../src/common/errors.js';
import { limits } from '../../src/common/limits.js';
import { loadPublicProtos } from '../../src/common/proto.js';

const page = (name: string): string =>
  readFileSync(fileURLToPath(new URL(`../../../docs/${name}`, import.meta.url)), 'utf8');

t.test('docs/errors.md is the catalogue', async (t) => {
  const names = new Map(
    Object.entries(Code).map(([name, code]) => [code, name.replace(/[A-Z]/g, '_$&').toUpperCase()]),
  );
  const rows = page('errors.md')
    .split('\n')
    .filter((line) => line.startsWith('| `'))
    .map((line) => line.slice(2, -2).split(' | '));
  t.same(
    rows,
    Object.entries(reasons).map(([reason, info]) => [
      `\`${reason}\``,
      names.get(info.code),
      info.retry.replace('-', ' '),
      info.cause,
      info.cure,
    ]),
  );
});

t.test('docs/api.md has every method, and names no error that is not there', async (t) => {
  const text = page('api.md');
  const sections = text.split(/^## /m).slice(1);
  for (const [name, definition] of Object.entries(loadPublicProtos())) {
    if (!name.endsWith('Service')) continue;
    const service = name.split('.').at(-1) as string;
    const section = sections.find((each) => each.startsWith(`${service}\n`)) ?? '';
    const documented = [...section.matchAll(/^### (\w+)$/gm)].map((match) => match[1]);
    t.same(documented.sort(), Object.keys(definition).sort(), service);
  }
  for (const [, word] of text.matchAll(/`([A-Z]{2,}(?:_[A-Z0-9]+)+)`/g))
    t.ok((word as string) in reasons, word ?? '');
  t.match(text, `the latest ${limits.pageSizeDefault} |`);
  t.match(text, `early at ${limits.pageBytes / 1024 / 1024} MiB`);
  t.match(text, `Counts above ${limits.pageSizeMax.toLocaleString('en')} mean`);
  t.match(text, `gets ${limits.defaultDeadlineMs / 1000} seconds`);
  t.match(text, `At most ${defaultExchangeLimits.callsInFlight.toLocaleString('en')}\ncalls`);
});
