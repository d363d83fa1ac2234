#!/usr/bin/env node
// prebuildify calls this in place of node-gyp:  rebuild --target=20.20.2 --devdir=... --arch=x64 --release
// It takes the one .node that is left in build/Release.
const { spawnSync } = require('node:child_process');

const args = process.argv.slice(2);
const arch = args.find((a) => a.startsWith('--arch='))?.slice('--arch='.length) ?? process.arch;
const cmakeJs = require.resolve('cmake-js/bin/cmake-js');
const debug = args.includes('--debug') ? ['-D'] : [];
const { status } = spawnSync(
  process.execPath,
  [cmakeJs, 'rebuild', '-O', 'build', '-a', arch, '-l', 'warn', '-p', '2', ...debug],
  { stdio: 'inherit' },
);
process.exit(status ?? 1);
