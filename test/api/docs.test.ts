import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t, { type Test } from 'tap';
import { apiPage } from '../../docs/generate/api.js';
import { defaultExchangeLimits } from '../../src/api/exchange.js';
import { Code, reasons } from '../../src/common/errors.js';
import { limits } from '../../src/common/limits.js';
import { loadPublicProtos, protoFolder } from '../../src/common/proto.js';

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

t.test(
  'docs/api.md is what the protos say, every part of them, and names no error that is not there',
  async (t) => {
    const root = fileURLToPath(new URL('../../..', import.meta.url));
    const made = apiPage(protoFolder(), page('generate/api.template.md'));
    const text = page('api.md');
    t.ok(made.text === text, 'docs/api.md is as generated (npm run docs:api)');
    t.same(made.missing, [], 'every service, method, message, field and enum value has a comment');
    const served = Object.entries(loadPublicProtos()).flatMap(([service, definition]) =>
      service.startsWith('hansard.v1.') && service.endsWith('Service')
        ? Object.keys(definition).map((method) => `${service}/${method}`)
        : [],
    );
    t.same([...made.methods].sort(), served.sort());
    t.ok(made.errors.length > 20);
    for (const name of made.errors) t.ok(name in reasons, `${name}, under Errors`);
    // Names of the protos' own values aside, a word in capitals is an error's.
    for (const [, word] of text.matchAll(/(?<!\| )`([A-Z]{2,}(?:_[A-Z0-9]+)+)`/g))
      t.ok((word as string) in reasons, word ?? '');
    t.match(text, `the latest ${limits.pageSizeDefault} |`);
    t.match(text, `early at ${limits.pageBytes / 1024 / 1024} MiB`);
    t.match(text, `Counts above ${limits.pageSizeMax.toLocaleString('en')} mean`);
    t.match(text, `gets ${limits.defaultDeadlineMs / 1000} seconds`);
    t.match(text, `At most ${defaultExchangeLimits.callsInFlight.toLocaleString('en')} calls`);
    const none = apiPage(fixture(t, root), '<!-- every service, method, message and enum -->');
    t.same(
      [...none.missing].sort(),
      ['a.E', 'a.E.ZERO', 'a.Q', 'a.Q.f', 'a.Q.g', 'a.Q.o', 'a.S', 'a.S.M'],
      'else it would show',
    );
  },
);

/** Protos without any comment. */
function fixture(t: Test, root: string): string {
  const folder = mkdtempSync(join(root, 'dist', 'protos-'));
  t.teardown(() => rmSync(folder, { recursive: true }));
  mkdirSync(join(folder, 'hansard', 'v1'), { recursive: true });
  writeFileSync(
    join(folder, 'hansard', 'v1', 'x.proto'),
    `syntax = "proto3";
package a;
service S {
  rpc M(Q) returns (Q);
}
message Q {
  oneof o {
    string f = 1;
  }
  map<string, string> g = 2;
}
enum E {
  ZERO = 0;
}
`,
  );
  return folder;
}
