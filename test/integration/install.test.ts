// The script that `npm install` runs: nothing where a binary fits; a build where none is there; one clear error where that
// cannot be, or where the binary is broken.
import fs from 'node:fs';
import path from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import {
  addon,
  emptyEnvironment,
  folderElsewhere,
  installed,
  prebuild,
} from '../support/installed.ts';
import { openRegistry, type Registry } from '../support/registry.ts';
import { attempt, commandsIn, type Ended, npmScript } from '../support/run.ts';

const home = folderElsewhere();
const own = path.join(home, 'node_modules/rankone');
const file = path.join(own, prebuild);
const commands = commandsIn(home);
/** In place of node-gyp: notes how it was called, and fails. */
const gyp = path.join(home, 'node-gyp.js');
const calls = path.join(home, 'calls.txt');
let packed = '';
let registry: Registry;

test.before(async () => {
  const made = await installed();
  packed = made.packed;
  registry = await openRegistry();
  for (const name of ['rankone/dist', 'rankone/scripts', 'rankone/package.json'])
    fs.cpSync(path.join(made.home, 'node_modules', name), path.join(home, 'node_modules', name), {
      recursive: true,
    });
  fs.mkdirSync(path.dirname(file), { recursive: true });
  const lines =
    "for (let i = 0; i < 40; i++) console.error('gyp ' + (i === 20 ? 'a.cpp:1: error: no' : i));";
  fs.writeFileSync(
    gyp,
    `require('node:fs').appendFileSync(${JSON.stringify(calls)}, process.argv.slice(2).join(' ') + ';'); ${lines} process.exit(1);`,
  );
});

test.after(() => {
  registry?.close();
  fs.rmSync(home, { recursive: true, force: true });
});

test.before.each(() => {
  for (const stale of [file, calls]) fs.rmSync(stale, { force: true });
});

function command(name: string, text: string): string {
  const made = path.join(home, name);
  fs.writeFileSync(made, `#!/bin/sh\n${text}\n`, { mode: 0o755 });
  return made;
}

/** Runs the script with compilers that are made up, unless other ones are asked for. */
function script(args: string[] = [], env: NodeJS.ProcessEnv = {}): Promise<Ended> {
  const works = command('works', 'echo "#define __cplusplus 202002L"');
  const found = { CXX: works, MAKE: works, PYTHON: works, npm_config_node_gyp: gyp, ...env };
  const place = { cwd: home, env: { ...emptyEnvironment(home, commands), ...found } };
  return attempt(process.execPath, [path.join(own, 'scripts/install.cjs'), ...args], place);
}

const built = () => (fs.existsSync(calls) ? fs.readFileSync(calls, 'utf8') : '');

test('nothing is done where a binary fits', async () => {
  fs.copyFileSync(addon, file);
  const other = process.arch === 'x64' ? 'arm64' : 'x64';
  for (const env of [{}, { npm_config_arch: other }, { LIBC: 'musl' }, { RANKONE_BINDING: 'no' }])
    assert.equal(await script([], env), { status: 0, stdout: '', stderr: '' });
  assert.is(built(), '');
});

test('a build where it is asked for, or where there is no binary; its failure is a few lines', async () => {
  fs.copyFileSync(addon, file);
  await script(['--from-source']);
  await script([], { npm_config_build_from_source: 'true' });
  assert.is(built(), 'rebuild;rebuild;');
  fs.rmSync(file);
  const { status, stderr } = await script();
  assert.is(built(), 'rebuild;rebuild;rebuild;');
  assert.is(status, 1);
  assert.match(
    stderr,
    /rankone could not be built from source\.\ngyp a\.cpp:1: error: no\nThe whole output: (\S+)\n/,
  );
  const log = /whole output: (\S+)/.exec(stderr)![1];
  assert.match(fs.readFileSync(log, 'utf8'), /gyp 39/);
  fs.rmSync(path.dirname(log), { recursive: true });
  assert.match((await script([], { CI: 'true' })).stderr, /gyp 39/);
});

test('a broken binary is not replaced', async () => {
  fs.writeFileSync(file, fs.readFileSync(addon).subarray(0, 5000));
  const { status, stderr } = await script();
  assert.is(status, 1);
  assert.match(
    stderr,
    /^\nrankone's native binary does not load, and nothing was put in its place/,
  );
  assert.match(stderr, /Reason: it is cut off/);
  assert.is(built(), '');
});

test('what a build lacks is named, and nothing is started', async () => {
  const none = { CXX: '', MAKE: '', PYTHON: '' };
  for (const [env, words] of [
    [none, /missing: python3, make, a C\+\+ compiler \(no [gc]\+\+; CXX names another one\)\./],
    [{ PYTHON: '' }, /missing: python3\./],
    [
      { CXX: command('old', 'echo "#define __cplusplus 201703L"') },
      /missing: a compiler that knows C\+\+20 \(\S+old does not/,
    ],
    [{ CXX: command('refuses', '[ "$1" = --version ]') }, /missing: a compiler that knows C\+\+20/],
  ] as const) {
    const { status, stderr } = await script([], env);
    assert.is(status, 1);
    assert.match(stderr, words);
    assert.match(stderr, /apt-get install -y g\+\+ make python3/);
  }
  assert.is(built(), '');
});

async function npmInstalls(
  name: string,
  dependencies: object,
): Promise<Ended & { folder: string }> {
  const folder = path.join(home, name);
  fs.mkdirSync(folder);
  fs.writeFileSync(
    path.join(folder, 'package.json'),
    JSON.stringify({ private: true, ...dependencies }),
  );
  const flags = [
    '--no-audit',
    '--no-fund',
    '--registry',
    registry.url,
    '--cache',
    path.join(home, '.npm'),
  ];
  const env = emptyEnvironment(home, commands);
  const ended = await attempt(process.execPath, [npmScript(), 'install', ...flags], {
    cwd: folder,
    env,
  });
  return { ...ended, folder };
}

test('npm, with neither a prebuild nor a compiler: one error, and none for an optional dependency', async () => {
  const { status, stderr } = await npmInstalls('needed', { dependencies: { rankone: packed } });
  assert.is(status, 1);
  assert.match(
    stderr,
    /rankone has no binary for \w+-\w+\.\n.*It cannot be built from source here/,
  );
  assert.not.match(stderr, /gyp/i);
  assert.ok(stderr.trim().split('\n').length < 25, stderr);
  const optional = await npmInstalls('optional', { optionalDependencies: { rankone: packed } });
  assert.is(optional.status, 0, optional.stderr);
  assert.not(fs.existsSync(path.join(optional.folder, 'node_modules/rankone')));
});

test.run();
