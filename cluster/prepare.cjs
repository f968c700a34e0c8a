/* npm's `prepare`: builds. Not for `npx hansard`, which runs it too when it first links a checkout: it would build
 * beneath running nodes, and leaves npm's cache broken for this folder where it is interrupted. */
'use strict';
var fs = require('fs');
var path = require('path');
var spawnSync = require('child_process').spawnSync;

var root = path.join(__dirname, '..');
var main = path.join(root, 'dist', 'src', 'cli', 'main.js');
var isBuilt = fs.existsSync(main);
if (process.env.npm_command !== 'exec' || !isBuilt) {
  var compiler = path.join(root, 'node_modules', 'typescript7', 'bin', 'tsc');
  var built = spawnSync(process.execPath, [compiler, '-p', 'tsconfig.json'], { cwd: root, stdio: 'inherit' });
  if (built.status !== 0) process.exit(built.status === null ? 1 : built.status);
  // npx makes it so when it first links a checkout, and never again: a second clone at the same place would not start.
  fs.chmodSync(main, 493);
}
