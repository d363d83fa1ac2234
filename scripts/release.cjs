// A release: everything is checked first, then the version is written, packed as `npm publish --dry-run` does it,
// committed and tagged. Nothing is pushed and nothing published: the workflow that builds on each platform does that.
//   npm run release -- patch|minor|major|x.y.z [--dry-run] [--branch main] [--skip-lint] [--skip-tests]
// Works in the current folder, which npm makes the root of the repository.
const { spawnSync } = require('node:child_process');
const fs = require('node:fs');
const { parseArgs } = require('node:util');
const semver = require('semver');
const { targets } = require('./targets.cjs');

const USAGE =
  'usage: npm run release -- patch|minor|major|x.y.z [--dry-run] [--branch main] [--skip-lint] [--skip-tests]';
const LEVELS = ['patch', 'minor', 'major'];
const MANIFESTS = ['package.json', 'cuda/package/package.json'];
const LOCK = 'package-lock.json';
const CHANGELOG = 'CHANGELOG.md';
const CHECK = 'scripts/check-prebuilds.cjs';
class Refusal extends Error {}

function run(command, args, options = {}) {
  const { status, signal, error, stdout, stderr } = spawnSync(command, args, {
    encoding: 'utf8',
    // npm is a script of the shell there.
    shell: process.platform === 'win32' && command === 'npm',
    ...options,
  });
  return { ok: status === 0, status: status ?? signal ?? error?.code, stdout, stderr };
}

function git(...args) {
  const { ok, stdout, stderr } = run('git', args);
  if (!ok) throw new Refusal(`git ${args.join(' ')}: ${(stderr ?? '').trim()}`);
  return stdout.trim();
}

const tagExists = (tag) => run('git', ['rev-parse', '--verify', '-q', `refs/tags/${tag}`]).ok;

function shown(what, command, args) {
  console.log(`> ${[command, ...args].join(' ').replace(process.execPath, 'node')}`);
  const { ok, status } = run(command, args, { stdio: 'inherit' });
  if (!ok) throw new Refusal(`${what} failed (${status})`);
}

const readJson = (file) => JSON.parse(fs.readFileSync(file, 'utf8'));
const json = (value) => `${JSON.stringify(value, null, 2)}\n`;

/** The version that `wanted` asks for. A first release may keep the version that stands. */
function nextVersion(current, wanted) {
  if (LEVELS.includes(wanted)) return semver.inc(current, wanted);
  if (semver.valid(wanted) !== wanted)
    throw new Refusal(`${wanted} is neither patch, minor, major nor a version\n${USAGE}`);
  if (semver.gt(wanted, current)) return wanted;
  if (wanted === current && !tagExists(`v${current}`)) return wanted;
  throw new Refusal(`${wanted} is not above ${current}, which package.json has`);
}

/** The changelog with its Unreleased section under the version, and that section's text. */
function releaseChangelog(text, version, date) {
  const found = /^## Unreleased[ \t]*\r?\n([\s\S]*?)(?=^## |$(?![\s\S]))/m.exec(text);
  const notes = found?.[1].trim();
  // A heading alone says nothing to a reader either.
  if (!notes?.split('\n').some((line) => line.trim() && !line.startsWith('#')))
    throw new Refusal(`${CHANGELOG}: there is nothing under "## Unreleased"`);
  const heading = `## Unreleased\n\n## ${version} - ${date}\n\n${notes}\n\n`;
  const rest = text.slice(found.index + found[0].length);
  return { notes, text: `${(text.slice(0, found.index) + heading + rest).trimEnd()}\n` };
}

/** What is wrong with the state of the repository, all at once. */
function refusals(branch, version) {
  const found = [];
  const on = git('branch', '--show-current');
  if (on !== branch)
    found.push(`on ${on ? `branch ${on}` : 'no branch'}, releases are made on ${branch}`);
  const changed = git('status', '--porcelain');
  if (changed) found.push(`the working tree is not clean:\n${changed}`);
  if (tagExists(`v${version}`)) found.push(`the tag v${version} exists`);
  const upstream = run('git', ['rev-parse', '--abbrev-ref', '@{upstream}']);
  if (upstream.ok && !run('git', ['merge-base', '--is-ancestor', '@{upstream}', 'HEAD']).ok)
    found.push(`${upstream.stdout.trim()} has commits that ${on} lacks`);
  const missing = targets.filter(({ file }) => !fs.existsSync(file)).map(({ name }) => name);
  if (missing.length) found.push(`prebuilds/ lacks ${missing.join(', ')}`);
  const { publishConfig } = readJson('package.json');
  if (!publishConfig?.provenance || publishConfig.access !== 'public')
    found.push('package.json: publishConfig must have provenance and public access');
  return found;
}

function publishDryRun(version) {
  const tag = semver.prerelease(version) ? 'next' : 'latest';
  shown('npm publish --dry-run', 'npm', ['publish', '--dry-run', '--tag', tag]);
}

function release(wanted, options) {
  for (const file of [...MANIFESTS, LOCK, CHANGELOG])
    if (!fs.existsSync(file)) throw new Refusal(`${file} is missing in ${process.cwd()}`);
  const { version: current, repository } = readJson('package.json');
  const version = nextVersion(current, wanted);
  const before = fs.readFileSync(CHANGELOG, 'utf8');
  const date = new Date().toISOString().slice(0, 10);
  const changelog = releaseChangelog(before, version, date);
  const found = refusals(options.branch, version);
  if (found.length) throw new Refusal(found.join('\n'));

  if (fs.existsSync(CHECK)) shown('the check of the prebuilds', process.execPath, [CHECK, '--all']);
  if (!options['skip-lint']) shown('lint', 'npm', ['run', 'lint']);
  if (!options['skip-tests']) shown('the tests', 'npm', ['test']);

  console.log(`\n${current} -> ${version}, ${date}\n\n${changelog.notes}\n`);
  if (!repository)
    console.log(
      'package.json names no repository: a publication with provenance will be refused (CONTRIBUTING.md)\n',
    );
  if (options['dry-run']) {
    publishDryRun(version);
    console.log('dry run: nothing was written, committed or tagged');
    return;
  }

  const written = [...MANIFESTS, LOCK, CHANGELOG];
  const head = git('rev-parse', 'HEAD');
  try {
    for (const file of MANIFESTS) fs.writeFileSync(file, json({ ...readJson(file), version }));
    const lock = readJson(LOCK);
    lock.version = version;
    lock.packages[''].version = version;
    fs.writeFileSync(LOCK, json(lock));
    fs.writeFileSync(CHANGELOG, changelog.text);
    publishDryRun(version);
    git('add', '--', ...written);
    git('commit', '-q', '-m', `Version ${version}`);
    git('tag', '-a', `v${version}`, '-m', `Version ${version}`);
  } catch (error) {
    git('reset', '-q', head);
    git('checkout', '-q', '--', ...written);
    throw error;
  }
  // Else a branch that is refused leaves its tag there, which publishes.
  console.log(`committed and tagged v${version}; to release it: git push --atomic --follow-tags`);
}

function main() {
  let parsed;
  try {
    parsed = parseArgs({
      allowPositionals: true,
      options: {
        branch: { type: 'string', default: 'main' },
        'dry-run': { type: 'boolean', default: false },
        'skip-lint': { type: 'boolean', default: false },
        'skip-tests': { type: 'boolean', default: false },
      },
    });
    if (parsed.positionals.length !== 1) throw new Error('one version or level is expected');
  } catch (error) {
    console.error(`${error.message}\n${USAGE}`);
    process.exitCode = 2;
    return;
  }
  try {
    release(parsed.positionals[0], parsed.values);
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    console.error(`release: ${error.message}`);
    process.exitCode = 1;
  }
}

main();
