/* npm's `prepare`: builds. Not for `npx hansard`, which runs it too when it first links a checkout: it would build
 * beneath running nodes, and leaves npm's cache broken for this folder where it is interrupted. */
'use strict';
var fs = require('fs');
var path = require('path');
var spawnSync = require('child_process').spawnSync;

var root = path.join(__dirname, '..');
var isBuilt = fs.existsSync(path.join(root, 'dist', 'src', 'cli', 'main.js'));
if (process.env.npm_command !== 'exec' || !isBuilt) {
  var compiler = path.join(root, 'node_modules', 'typescript7', 'bin', 'tsc');
  var built = spawnSync(process.execPath, [compiler, '-p', 'tsconfig.json'], { cwd: root, stdio: 'inherit' });
  process.exit(built.status === null ? 1 : built.status);
}
