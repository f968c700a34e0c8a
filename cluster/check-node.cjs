/* Runs before anything else is read (`node -r`), on whatever Node is there: ES5 only. */
'use strict';
var path = require('path');
var fs = require('fs');

function fail(cause, cure) {
  process.stderr.write('error: ' + cause + '\n' + 'cure:  ' + cure + '\n');
  process.exit(1);
}

var needed = [20, 19];
var parts = process.versions.node.split('.');
var major = Number(parts[0]);
var minor = Number(parts[1]);
if (major < needed[0] || (major === needed[0] && minor < needed[1])) {
  fail(
    'this is Node ' + process.versions.node + '; Hansard needs ' + needed.join('.') + ' or newer',
    'install Node 24 (nodejs.org, or `nvm install 24`), then `npm ci` again',
  );
} else if (process.platform === 'win32') {
  fail(
    'Hansard runs on Linux and macOS, this is Windows',
    'use WSL: `wsl --install`, then the same commands there',
  );
} else if (
  require.main !== module &&
  !fs.existsSync(path.join(__dirname, '..', 'dist', 'src', 'cli', 'main.js'))
) {
  fail('Hansard is not built here', 'run `npm ci` first');
}
