#!/usr/bin/env node
// prebuildify calls this in place of node-gyp:  rebuild --target=20.20.2 --devdir=... --arch=x64 --release
// It takes the one .node that is left in build/Release of the folder that it was given. The objects stay for
// scripts/check-prebuilds.cjs.
// With RANKONE_ZIG zig is the compiler, for RANKONE_ZIG_TARGET.
const { spawnSync } = require('node:child_process');
const os = require('node:os');
const path = require('node:path');

const args = process.argv.slice(2);
const arch = args.find((a) => a.startsWith('--arch='))?.slice('--arch='.length) ?? process.arch;
const { RANKONE_ZIG, RANKONE_ZIG_TARGET, JOBS } = process.env;

function cmake(step, defines, env) {
  const common = ['-d', path.join(__dirname, '..'), '-O', path.resolve('build'), '-a', arch];
  const jobs = JOBS ?? String(os.availableParallelism());
  // On Windows the compiler is MSYS2's clang, of which cmake-js knows nothing.
  const generator = process.platform === 'win32' ? ['-G', 'Ninja'] : [];
  const { status } = spawnSync(
    process.execPath,
    [
      require.resolve('cmake-js/bin/cmake-js'),
      ...[step, ...common, ...generator, '-l', 'warn', '-p', jobs],
      ...defines.map((define) => `--CD${define}`),
    ],
    { stdio: 'inherit', env: { ...process.env, ...env } },
  );
  if (status !== 0) process.exit(status ?? 1);
}

const defines = RANKONE_ZIG
  ? [
      `CMAKE_TOOLCHAIN_FILE=${path.join(__dirname, 'zig.cmake')}`,
      `RANKONE_ZIG=${RANKONE_ZIG}`,
      `RANKONE_ZIG_TARGET=${RANKONE_ZIG_TARGET}`,
    ]
  : [];
const env = { RANKONE_LDFLAGS: `${process.env.RANKONE_LDFLAGS ?? ''} -s` };
// Configured anew each time: a folder of an earlier run has what is up to date already.
cmake('configure', defines, env);
cmake('build', [], env);
