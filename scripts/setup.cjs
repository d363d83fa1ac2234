// What `npm test` and `npm start` need before they can run, and only what is missing or older than
// its sources: the dependencies, the addon, dist.
// Plain Node, so that it works in a fresh clone.
const { spawnSync } = require('node:child_process');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');

const root = path.join(__dirname, '..');
const at = (...parts) => path.join(root, ...parts);

function npm(...args) {
  console.log(`> npm ${args.join(' ')}`);
  const cli = process.env.npm_execpath;
  const [command, first] = cli?.endsWith('.js') ? [process.execPath, [cli]] : ['npm', []];
  const { status } = spawnSync(command, [...first, ...args], {
    cwd: root,
    stdio: 'inherit',
    env: { ...process.env, JOBS: process.env.JOBS ?? String(os.availableParallelism()) },
  });
  if (status !== 0) process.exit(status ?? 1);
}

function dependenciesStand() {
  try {
    const read = (file) => JSON.parse(fs.readFileSync(file, 'utf8')).packages;
    const installed = read(at('node_modules/.package-lock.json'));
    return Object.entries(read(at('package-lock.json'))).every(
      ([name, { version, optional }]) =>
        name === '' || optional || installed[name]?.version === version,
    );
  } catch {
    return false;
  }
}

function newest(file) {
  const stat = fs.statSync(file);
  if (!stat.isDirectory()) return stat.mtimeMs;
  return Math.max(0, ...fs.readdirSync(file).map((name) => newest(path.join(file, name))));
}

function stands(product, ...sources) {
  const file = at(product);
  if (!fs.existsSync(file)) return false;
  return fs.statSync(file).mtimeMs >= Math.max(...sources.map((name) => newest(at(name))));
}

if (!dependenciesStand()) npm('ci');
const addon = 'build/Release/rankone.node';
if (!process.env.RANKONE_BINDING && !stands(addon, 'cpp', 'sources.json', 'binding.gyp'))
  npm('run', 'build:native');
const sources = ['ts', 'test/reference', 'test/support'];
const projects = ['tsconfig.json', 'tsconfig.build.json', 'tsconfig.oracle.json'];
if (!stands('dist/index.d.mts', ...sources, ...projects)) npm('run', 'build');
