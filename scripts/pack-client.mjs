// `npm run pack:client`: a package with the SDK alone, for applications that only
// connect: what dist/src/client/index.js reaches, and the npm packages that this
// imports. No LevelDB, no native code. Prints the tarball's path; --out says where it goes.
import { spawnSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const source = join(root, 'dist', 'src');
const out = resolve(process.argv[2] === '--out' ? process.argv[3] : join(root, 'dist', 'client-package'));
const entry = join(source, 'client', 'index.js');
if (!existsSync(entry)) {
  console.error('error: dist/ is missing\ncure:  run `npm run build` first');
  process.exit(1);
}

const { files, packages } = reach(entry);
const native = [...packages].filter((name) => /level/.test(name));
if (native.length > 0) throw new Error(`the SDK reaches ${native.join(', ')}`);
const folder = join(out, 'package');
rmSync(folder, { recursive: true, force: true });
for (const file of files) {
  const to = join(folder, relative(source, file));
  mkdirSync(dirname(to), { recursive: true });
  // Source maps stay out: their sources do, too.
  if (/\.(js|d\.ts)$/.test(file))
    writeFileSync(to, readFileSync(file, 'utf8').replace(/\n\/\/# sourceMappingURL=.*\s*$/, '\n'));
}
const { version, license, engines, dependencies } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
const manifest = {
  name: 'hansard-client',
  version,
  private: true,
  description: 'Client of Hansard, the durable record of conversations',
  license,
  type: 'module',
  sideEffects: false,
  engines,
  exports: { '.': { types: './client/index.d.ts', default: './client/index.js' } },
  dependencies: Object.fromEntries([...packages].sort().map((name) => [name, dependencies[name]])),
};
writeFileSync(join(folder, 'package.json'), `${JSON.stringify(manifest, null, 2)}\n`);
copyFileSync(join(root, 'LICENSE'), join(folder, 'LICENSE'));
copyFileSync(join(root, 'src/client/README.md'), join(folder, 'README.md'));

const packed = spawnSync('npm', ['pack', '--json', '--pack-destination', out, folder], { encoding: 'utf8' });
if (packed.status !== 0) {
  console.error(packed.stderr);
  process.exit(1);
}
console.log(join(out, `hansard-client-${version}.tgz`));

/** All files of ours that `first` imports, with their types, and the npm packages that these import. */
function reach(first) {
  const found = new Set();
  const bare = new Set();
  const queue = [first];
  for (let file = queue.pop(); file !== undefined; file = queue.pop()) {
    if (found.has(file)) continue;
    found.add(file);
    if (file.endsWith('.js')) queue.push(file.replace(/\.js$/, '.d.ts'));
    const code = readFileSync(file, 'utf8').replace(/\/\*[^]*?\*\//g, '');
    for (const [, at] of code.matchAll(/(?:\bfrom\s*|\bimport\s*\(\s*|^import\s+)['"]([^'"]+)['"]/gm)) {
      // A type may come from a file of types alone.
      if (at.startsWith('.')) queue.push(join(dirname(file), file.endsWith('.js') ? at : at.replace(/\.js$/, '.d.ts')));
      else if (!at.startsWith('node:')) bare.add(at.split('/').slice(0, at.startsWith('@') ? 2 : 1).join('/'));
    }
  }
  return { files: [...found], packages: bare };
}
