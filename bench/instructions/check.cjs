// Counts the instructions of a few small calls, which repeat where times do not, and compares them with counts.json.
//   npm run bench:check [-- --update] [-- PATTERN...]
//
// One thread, under valgrind's callgrind, on the instruction sets that it knows (it has no AVX-512), compiled as the
// addon is. What another compiler makes of the sources is another number: counts are kept per compiler, and with one
// that has none there is nothing to compare, which is said, exit code 0. Fewer instructions are reported, more than
// TOLERANCE more are a failure, and so is a case without a stored count. --update stores what was counted.
// Ends with the line `N passed, N failed`.
const { spawnSync } = require('node:child_process');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');

const root = path.join(__dirname, '..', '..');
const file = path.join(__dirname, 'counts.json');
const folder = path.join(root, 'build-native', 'instructions');
const program = path.join(folder, 'bench', 'instructions', 'rankone_instructions');
const ISAS = { x64: ['baseline', 'avx2'], arm64: ['baseline'] };
const TOLERANCE = 0.01;

function run(command, args, env = {}) {
  const child = spawnSync(command, args, {
    cwd: root,
    encoding: 'utf8',
    env: { ...process.env, ...env },
    maxBuffer: 1 << 26,
  });
  if (child.status === 0) return child;
  const reason = child.error?.code === 'ENOENT' ? 'is not installed' : `failed:\n${child.stderr}`;
  console.error(`${command} ${reason}`);
  process.exit(1);
}

function build() {
  const jobs = process.env.JOBS ?? String(os.availableParallelism());
  run('cmake', ['-S', '.', '-B', folder, '-DRANKONE_INSTRUCTIONS=ON']);
  run('cmake', ['--build', folder, '--target', 'rankone_instructions', '-j', jobs]);
}

function compiler() {
  const cache = fs.readFileSync(path.join(folder, 'CMakeCache.txt'), 'utf8');
  const command = /^CMAKE_CXX_COMPILER:\w+=(.*)$/m.exec(cache)[1];
  return `${run(command, ['--version']).stdout.split('\n')[0]} ${process.arch}`;
}

function count(name, calls, isa) {
  const args = ['--tool=callgrind', '--callgrind-out-file=/dev/null', '--collect-atstart=no'];
  const { stderr } = run(
    'valgrind',
    [...args, '--toggle-collect=rankone::test::runPlanned(*', program, name],
    { RANKONE_ISA: isa },
  );
  const total = Number(/Collected : (\d+)/.exec(stderr)?.[1]);
  if (!(total > 0)) throw new Error(`callgrind counted nothing in ${name}:\n${stderr}`);
  return Math.round(total / calls);
}

function compare(label, now, before) {
  const known = before !== undefined;
  const more = !known || now > before * (1 + TOLERANCE);
  const verdict = !known ? 'new' : more ? 'MORE' : 'ok';
  const percent = known ? (100 * (now / before - 1)).toFixed(2) : '';
  const change = known ? `${percent > 0 ? '+' : ''}${percent}%` : '';
  console.log(`${verdict.padEnd(4)} ${label.padEnd(40)} ${String(now).padStart(10)}  ${change}`);
  return !more;
}

const update = process.argv.includes('--update');
const patterns = process.argv.slice(2).filter((arg) => !arg.startsWith('--'));
build();
const key = compiler();
const all = JSON.parse(fs.readFileSync(file, 'utf8'));
const stored = all[key] ?? {};
if (!all[key] && !update) console.log(`no counts are stored for ${key}: --update stores them`);
const counts = {};
let passed = 0;
let failed = 0;
for (const line of run(program, ['--list']).stdout.trim().split('\n')) {
  const [, calls, name] = /^(\d+) (.*)$/.exec(line);
  for (const isa of ISAS[process.arch] ?? []) {
    const label = `${name} [${isa}]`;
    if (patterns.length > 0 && !patterns.some((pattern) => label.includes(pattern))) continue;
    counts[label] = count(name, Number(calls), isa);
    const ok = compare(label, counts[label], stored[label]) || update || !all[key];
    if (ok) ++passed;
    else ++failed;
  }
}
if (update) {
  const kept = patterns.length > 0 ? { ...stored, ...counts } : counts;
  fs.writeFileSync(file, `${JSON.stringify({ ...all, [key]: kept }, null, 2)}\n`);
}
console.log(`${passed} passed, ${failed} failed`);
process.exitCode = failed ? 1 : 0;
