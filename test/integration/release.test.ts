// The release script, in a small repository of its own: what it refuses, what it writes, and that a failure leaves nothing.
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';

const script = path.join(__dirname, '../../scripts/release.cjs');
const home = fs.mkdtempSync(path.join(os.tmpdir(), 'rankone-release-'));
const at = (...parts: string[]) => path.join(home, ...parts);
const read = (file: string) => fs.readFileSync(at(file), 'utf8');
const write = (file: string, text: string) => {
  fs.mkdirSync(path.dirname(at(file)), { recursive: true });
  fs.writeFileSync(at(file), text);
};

const env = {
  ...process.env,
  // Nothing of the machine's or the user's git, and no registry.
  GIT_CONFIG_GLOBAL: '/dev/null',
  GIT_CONFIG_NOSYSTEM: '1',
  npm_config_registry: 'http://127.0.0.1:9/',
  npm_config_fetch_retries: '0',
  npm_config_cache: at('cache'),
};

function run(command: string, ...args: string[]) {
  const { status, stdout, stderr } = spawnSync(command, args, { cwd: home, encoding: 'utf8', env });
  return { status, output: stdout + stderr };
}

function git(...args: string[]): string {
  const { status, output } = run('git', ...args);
  assert.is(status, 0, output);
  return output.trim();
}

const release = (...args: string[]) => run(process.execPath, script, ...args);

function refused(expected: RegExp, ...args: string[]): void {
  const [head, before] = [git('rev-parse', 'HEAD'), git('status', '--porcelain')];
  const { status, output } = release(...args);
  assert.is.not(status, 0, output);
  assert.match(output, expected);
  assert.is(git('rev-parse', 'HEAD'), head);
  assert.is(git('status', '--porcelain'), before);
}

const manifest = {
  name: 'rankone-release-test',
  version: '0.1.0',
  publishConfig: { access: 'public', provenance: true },
  files: ['prebuilds'],
  scripts: { lint: 'echo linted', test: 'echo tested' },
};
const changelog = '# Changelog\n\n## Unreleased\n\nFirst version.\n\n- It works.\n';
const binaries = [
  ...['linux-x64', 'linux-arm64'].flatMap((folder) =>
    ['glibc', 'musl'].map((libc) => `${folder}/rankone.${libc}.node`),
  ),
  ...['win32-x64', 'darwin-x64', 'darwin-arm64'].map((folder) => `${folder}/rankone.node`),
];
const json = (value: unknown) => `${JSON.stringify(value, null, 2)}\n`;

const test = suite('release');

test.before(() => {
  write('package.json', json(manifest));
  write('cuda/package/package.json', json({ name: 'cuda', version: '0.0.0' }));
  write('package-lock.json', json({ version: '0.1.0', packages: { '': { version: '0.1.0' } } }));
  write('CHANGELOG.md', changelog);
  write('.gitignore', 'prebuilds/\ncache/\n');
  for (const file of binaries) write(`prebuilds/${file}`, 'binary');
  git('init', '-q', '-b', 'main');
  git('config', 'user.name', 'test');
  git('config', 'user.email', 'test@example.invalid');
  git('add', '.');
  git('commit', '-q', '-m', 'first');
});

test.after(() => fs.rmSync(home, { recursive: true, force: true }));

test('refuses what is no version, or none above the one that stands', () => {
  refused(/usage/);
  refused(/usage/, 'patch', '--force');
  refused(/big is neither patch/, 'big');
  refused(/1\.2 is neither/, '1.2');
  refused(/0\.0\.9 is not above 0\.1\.0/, '0.0.9');
});

test('refuses a changed tree, another branch and missing binaries, all said at once', () => {
  write('new.txt', '');
  git('checkout', '-q', '-b', 'side');
  fs.renameSync(at('prebuilds/linux-arm64/rankone.musl.node'), at('cache.node'));
  try {
    refused(/on branch side.*\n.*not clean:\n(.*\n)+.*prebuilds\/ lacks linux-arm64-musl/, 'patch');
  } finally {
    fs.renameSync(at('cache.node'), at('prebuilds/linux-arm64/rankone.musl.node'));
    fs.rmSync(at('new.txt'));
    git('checkout', '-q', 'main');
  }
});

test('refuses when lint, the tests or the check of the binaries fails', () => {
  const failing = { ...manifest.scripts, lint: 'node -e "process.exit(3)"' };
  write('package.json', json({ ...manifest, scripts: failing }));
  git('commit', '-qam', 'lint fails');
  refused(/lint failed/, 'patch');
  write('package.json', json({ ...manifest, scripts: { ...failing, test: failing.lint } }));
  git('commit', '-qam', 'tests fail');
  refused(/tests failed/, 'patch', '--skip-lint');
  write('scripts/check-prebuilds.cjs', "console.log('bad symbols'); process.exitCode = 1;\n");
  git('add', '.');
  git('commit', '-qm', 'the check fails');
  refused(/bad symbols\n(.*\n)*.*check of the prebuilds failed/, 'patch');
  git('reset', '-q', '--hard', 'HEAD~3');
});

test('a dry run goes through and writes nothing', () => {
  const head = git('rev-parse', 'HEAD');
  const { status, output } = release('minor', '--dry-run');
  assert.is(status, 0, output);
  assert.match(output, /linted\n(.*\n)*tested\n(.*\n)*0\.1\.0 -> 0\.2\.0/);
  assert.match(output, /- It works\./);
  assert.match(output, /names no repository/);
  assert.match(output, /rankone\.musl\.node/); // the tarball's contents
  assert.is(git('rev-parse', 'HEAD'), head);
  assert.is(git('status', '--porcelain'), '');
  assert.is(git('tag'), '');
});

test('a publication that fails leaves the files as they were', () => {
  write('package.json', json({ ...manifest, scripts: { prepack: 'node -e "process.exit(1)"' } }));
  git('commit', '-qam', 'packing fails');
  refused(/npm publish --dry-run failed/, 'patch', '--skip-lint', '--skip-tests');
  assert.is(JSON.parse(read('package.json')).version, '0.1.0');
  assert.is(git('tag'), '');
  git('reset', '-q', '--hard', 'HEAD~1');
});

test('a tag that cannot be made leaves no commit', () => {
  git('config', 'tag.gpgSign', 'true');
  git('config', 'gpg.program', 'false');
  try {
    refused(/git tag .*: /, 'patch', '--skip-lint', '--skip-tests');
    assert.is(JSON.parse(read('package.json')).version, '0.1.0');
  } finally {
    git('config', '--unset', 'tag.gpgSign');
  }
});

test('the first release may keep its version; the next one is above it, and has something to say', () => {
  const { status, output } = release('0.1.0', '--skip-lint', '--skip-tests');
  assert.is(status, 0, output);
  assert.not.match(output, /linted|tested/);
  assert.is(git('log', '-1', '--format=%s'), 'Version 0.1.0');
  assert.is(git('cat-file', '-t', 'v0.1.0'), 'tag');
  assert.is(git('rev-parse', 'v0.1.0^{commit}'), git('rev-parse', 'HEAD'));
  assert.is(git('status', '--porcelain'), '');
  for (const file of ['package.json', 'cuda/package/package.json', 'package-lock.json'])
    assert.is(JSON.parse(read(file)).version, '0.1.0', file);
  const dated = read('CHANGELOG.md').replace(/ - \d{4}-\d\d-\d\d/, ' - DATE');
  assert.is(
    dated,
    '# Changelog\n\n## Unreleased\n\n## 0.1.0 - DATE\n\nFirst version.\n\n- It works.\n',
  );

  refused(/nothing under "## Unreleased"/, 'patch');
  write('CHANGELOG.md', read('CHANGELOG.md').replace('Unreleased\n', 'Unreleased\n\n- More.\n'));
  git('commit', '-qam', 'more');
  refused(/0\.1\.0 is not above/, '0.1.0');
  const next = release('1.0.0-rc.1', '--skip-lint', '--skip-tests');
  assert.is(next.status, 0, next.output);
  assert.match(next.output, /tag next/);
  assert.match(
    read('CHANGELOG.md'),
    /## Unreleased\n\n## 1\.0\.0-rc\.1 - .*\n\n- More\.\n\n## 0\.1\.0 - /,
  );
  assert.is(JSON.parse(read('package-lock.json')).packages[''].version, '1.0.0-rc.1');
});

test.run();
