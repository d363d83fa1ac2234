// What `npm install` runs: nothing where a binary fits, else a source build. A binary that is there but does not load is
// an error, and is not replaced by a build that nobody asked for.
//   node scripts/install.cjs [--from-source]
const { spawnSync } = require('node:child_process');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');

const root = path.join(__dirname, '..');
const asked =
  process.argv.includes('--from-source') || process.env.npm_config_build_from_source === 'true';
// Where the whole output is wanted: logs of a CI are all that is left of it.
const whole =
  Boolean(process.env.CI) ||
  process.env.npm_config_foreground_scripts === 'true' ||
  /^(verbose|silly)$/.test(process.env.npm_config_loglevel ?? '');

function end(text) {
  if (text) console.error(`\n${text}\n`);
  process.exit(text ? 1 : 0);
}

/** Loads what is there; true where that works, false where nothing is there. */
function stands() {
  let loader;
  try {
    loader = require('../dist/addon.js');
  } catch {
    // A checkout that has not been built.
    try {
      require('../build/Release/rankone.node');
      return true;
    } catch {
      return false;
    }
  }
  delete process.env.RANKONE_BINDING;
  if (!loader.findAddon()) return false;
  try {
    loader.loadAddon();
    return true;
  } catch (error) {
    return end(error.message);
  }
}

function works(command, ...args) {
  const { status, stdout } = spawnSync(command, args, { encoding: 'utf8', timeout: 60_000 });
  return status === 0 ? stdout : undefined;
}

const first = (commands, ...args) => {
  return commands.filter(Boolean).find((c) => works(c, ...args) !== undefined);
};

/** What a source build needs and this system lacks, as a list of words. */
function missing() {
  const lacks = [];
  const gyp = ['NODE_GYP_FORCE_PYTHON', 'npm_config_python', 'PYTHON'].map((n) => process.env[n]);
  if (!first([...gyp, 'python3', 'python'], '--version')) lacks.push('python3');
  if (!first([process.env.MAKE, 'make', 'gmake'], '--version')) lacks.push('make');
  // What node-gyp's makefile takes.
  const named = process.env.CXX || (process.platform === 'darwin' ? 'c++' : 'g++');
  const [compiler, ...flags] = named.split(' ');
  const macros = [...flags, '-std=c++20', '-dM', '-E', '-x', 'c++', os.devNull];
  const defined = works(compiler, ...macros);
  const standard = Number(/__cplusplus (\d+)L/.exec(defined ?? '')?.[1] ?? 0);
  if (works(compiler, '--version') === undefined)
    lacks.push(`a C++ compiler (no ${compiler}; CXX names another one)`);
  else if (standard < 202002)
    lacks.push(`a compiler that knows C++20 (${compiler} does not; CXX names another one)`);
  return lacks;
}

const PACKAGES = `  Debian, Ubuntu   apt-get install -y g++ make python3
  Fedora, RHEL     dnf install -y gcc-c++ make python3
  Alpine           apk add g++ make python3 linux-headers
  macOS            xcode-select --install`;

/** npm names its own node-gyp to the scripts that it runs; outside of them it lies beside npm. */
function nodeGyp() {
  const beside = path.join(path.dirname(process.execPath), '../lib/node_modules/npm');
  const scripts = [
    process.env.npm_config_node_gyp,
    path.join(beside, 'node_modules/node-gyp/bin/node-gyp.js'),
  ];
  const script = scripts.find((file) => file && fs.existsSync(file));
  if (script) return [process.execPath, script];
  return works('node-gyp', '--version') ? ['node-gyp'] : ['npx', '--yes', 'node-gyp'];
}

function build(reason) {
  const lacks = missing();
  if (lacks.length)
    end(`${reason}
It cannot be built from source here. What is missing: ${lacks.join(', ')}.
${PACKAGES}
Then: node ${path.join(root, 'scripts/install.cjs')} --from-source
More: ${path.join(root, 'docs/install.md')}`);
  console.log(`${reason}\nBuilding it from source; this takes some minutes.`);
  const [command, ...args] = nodeGyp();
  const { status, error, stdout, stderr } = spawnSync(command, [...args, 'rebuild'], {
    cwd: root,
    encoding: 'utf8',
    env: { ...process.env, JOBS: process.env.JOBS ?? String(os.availableParallelism()) },
    maxBuffer: 2 ** 28,
    stdio: whole ? 'inherit' : 'pipe',
  });
  if (status === 0) return;
  let log = '';
  if (!whole && !error) {
    const file = path.join(fs.mkdtempSync(path.join(os.tmpdir(), 'rankone-build-')), 'log.txt');
    fs.writeFileSync(file, stdout + stderr);
    const telling = (stdout + stderr)
      .split('\n')
      .filter((l) => /\berror\b|fatal|not found|No such/i.test(l));
    log = `\n${telling.slice(0, 5).join('\n')}\nThe whole output: ${file}`;
  }
  end(`rankone could not be built from source${error ? `: ${error.message}` : ''}.${log}
More: ${path.join(root, 'docs/install.md')}`);
}

const here = `${process.platform}-${process.arch}`;
if (!asked && stands()) end();
if (process.platform === 'win32')
  end(`rankone has no binary for ${here}, and cannot be built from source on Windows.
More: ${path.join(root, 'docs/install.md')}`);
build(asked ? 'rankone: a source build was asked for.' : `rankone has no binary for ${here}.`);
