// Builds the addon.
//   node scripts/native.cjs gyp         build/Release/rankone.node, what `npm install` does without a prebuild
//   node scripts/native.cjs cmake       build-cmake/Release/rankone.node
// scripts/prebuild.cjs makes what the package carries.
const { spawnSync } = require('node:child_process');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');

const root = path.join(__dirname, '..');
const jobs = String(Math.max(1, os.availableParallelism()));
const env = { ...process.env, JOBS: process.env.JOBS ?? jobs };

function run(command, args) {
  const { status, error } = spawnSync(command, args, { cwd: root, stdio: 'inherit', env });
  if (error) console.error(error.message);
  if (status !== 0) process.exit(status ?? 1);
}

// npm names its own node-gyp to the scripts that it runs; outside of them it lies beside npm.
function nodeGyp() {
  const beside = path.join(path.dirname(process.execPath), '../lib/node_modules/npm');
  const candidates = [
    process.env.npm_config_node_gyp,
    path.join(beside, 'node_modules/node-gyp/bin/node-gyp.js'),
  ];
  return candidates.find((file) => file && fs.existsSync(file));
}

function gyp() {
  const script = nodeGyp();
  // Incremental where it has been configured since the list of sources last changed.
  const configured = path.join(root, 'build/config.gypi');
  const age = (file) => (fs.existsSync(file) ? fs.statSync(file).mtimeMs : 0);
  const fresh = ['sources.json', 'binding.gyp'].every(
    (f) => age(path.join(root, f)) < age(configured),
  );
  for (const step of fresh ? ['build'] : ['configure', 'build']) {
    if (script) run(process.execPath, [script, step]);
    else run('npx', ['--yes', 'node-gyp', step]);
  }
}

const [what] = process.argv.slice(2);
const cmakeJs = () => require.resolve('cmake-js/bin/cmake-js');
if (what === 'gyp') {
  gyp();
} else if (what === 'cmake') {
  run(process.execPath, [cmakeJs(), 'build', '-O', 'build-cmake', '-l', 'warn', '-p', jobs]);
} else {
  console.error('node scripts/native.cjs gyp|cmake');
  process.exit(2);
}
