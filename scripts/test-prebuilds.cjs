// Runs the binaries of prebuilds/ with the test suites, each that can run on this machine, and names those that cannot.
//   npm run prebuild:test [-- target...] [-- pattern...]
// This machine's own has every file of test/, once per instruction set, as `npm test` does; those of CUDA only where there
// is CUDA. One for another system (scripts/runtimes.cjs) has the compiled tests but for files that start programs, time, or
// need CUDA, which are listed; so has Windows on itself, where the programs that tests start are not what they are called.
// Ends with the line `N passed, N failed`.
const { spawnSync } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');
const { hostTarget, root, targets } = require('./targets.cjs');
const { runtimes } = require('./runtimes.cjs');
const { makeStage, stage } = require('./stage.cjs');

const MINUTE = 60_000;
const sum = { passed: 0, failed: 0 };
const seconds = (since) => `${((performance.now() - since) / 1000).toFixed(1)} s`;

function count(found) {
  sum.passed += found.passed;
  sum.failed += found.failed;
}

/** The system that the CUDA package is for, and its emulator. */
const hasCuda = (target) => target.name === 'linux-x64-glibc';

function testHere(target, patterns) {
  const names = fs
    .readdirSync(path.join(root, 'test'), { recursive: true })
    .map((name) => `test/${name}`)
    .filter((name) => name.endsWith('.test.ts') && (hasCuda(target) || !/cuda/i.test(name)));
  const asked = names.filter((n) => patterns.length === 0 || patterns.some((p) => n.includes(p)));
  const unknown = patterns.filter((p) => !names.some((n) => n.includes(p))); // a failure
  const args = ['--import', 'tsx', 'test/run.ts', ...asked, ...unknown];
  const env = { ...process.env, RANKONE_BINDING: path.join(root, target.file) };
  const { status, stdout } = spawnSync(process.execPath, args, {
    cwd: root,
    env,
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'inherit'],
    maxBuffer: 1 << 28,
  });
  console.log(stdout.trimEnd());
  const found = /(\d+) passed, (\d+) failed\s*$/.exec(stdout);
  count({ passed: Number(found?.[1] ?? 0), failed: Number(found?.[2] ?? 0) });
  if (!found || (status !== 0 && found[2] === '0')) sum.failed++;
}

// What a file does that works on its own system alone.
const unfit = [
  [/child_process|support\/(child|chromium|run)\b|\.\/child\b/, 'starts programs'],
  [/eventLoop|overlap|benchStatistics|memory\.test/, 'times, or weighs memory'],
  [/cuda/i, 'CUDA'],
  [/kernelNames/, 'reads the sources'],
];

function testFiles(patterns) {
  const names = fs
    .readdirSync(path.join(stage, 'test'), { recursive: true })
    .filter((name) => name.endsWith('.test.js'))
    .map((name) => `test/${name.split(path.sep).join('/')}`)
    .filter((name) => patterns.length === 0 || patterns.some((p) => name.includes(p)))
    .sort();
  const reasonOf = (name) => {
    const text = fs.readFileSync(path.join(stage, name), 'utf8');
    const nameOnly = ([pattern]) => pattern.test(name);
    return (unfit.find(nameOnly) ?? unfit.slice(0, 1).find(([pattern]) => pattern.test(text)))?.[1];
  };
  const left = new Map(names.map((name) => [name, reasonOf(name)]));
  return { files: names.filter((name) => !left.get(name)), left };
}

function suite(target, runtime, file, isa) {
  const started = performance.now();
  const scratch = path.join(root, 'build-prebuilds', `run-${target.name}`);
  const [output, counts] = [`${scratch}.log`, `${scratch}.json`];
  fs.rmSync(counts, { force: true });
  // A file and no pipe: Node under wine cannot write to a pipe of Linux.
  const log = fs.openSync(output, 'w');
  const [command, ...first] = runtime.command;
  const { status, signal } = spawnSync(
    command,
    [
      ...first,
      '--expose-gc',
      path.join(__dirname, 'run-suite.cjs'),
      path.join(stage, file),
      counts,
    ],
    {
      cwd: stage,
      stdio: ['ignore', log, log],
      timeout: 40 * MINUTE,
      env: {
        ...process.env,
        ...runtime.env,
        RANKONE_BINDING: path.join(root, target.file),
        RANKONE_POISON: '1',
        ...(isa && { RANKONE_ISA: isa }),
        ...(runtime.launcher && { RANKONE_LAUNCHER: runtime.launcher }),
      },
    },
  );
  fs.closeSync(log);
  const done = fs.existsSync(counts) && status === 0;
  const found = done ? JSON.parse(fs.readFileSync(counts)) : { passed: 0, failed: 1, skipped: 0 };
  if (found.passed + found.failed === 0) found.failed = 1;
  count(found);
  const name = `${target.name} ${file}${isa ? ` [${isa}]` : ''}`;
  const skipped = found.skipped ? `, ${found.skipped} skipped` : '';
  const end = done ? '' : `  ended with ${signal ?? `exit code ${status}`}`;
  if (found.failed) console.log(fs.readFileSync(output, 'utf8').trimEnd());
  console.log(
    `${found.failed ? 'FAIL' : 'ok  '} ${name}  ${found.passed} passed, ${found.failed} failed${skipped}  ${seconds(started)}${end}`,
  );
}

/** Of the processor of this machine. */
function isasHere(target) {
  const program = 'console.log(require(process.argv[1]).info().availableIsas.join())';
  const env = { ...process.env, RANKONE_BINDING: path.join(root, target.file) };
  const args = ['-e', program, path.join(root, 'dist/index.js')];
  const { status, stdout } = spawnSync(process.execPath, args, { encoding: 'utf8', env });
  if (status !== 0) throw new Error(`${target.file} does not load`);
  const isas = stdout.trim().split(',');
  return isas.filter((isa) => isa !== 'avx512' || !isas.includes('avx512bf16'));
}

const isasOf = {
  x64: () => {
    const flags = fs.readFileSync('/proc/cpuinfo', 'utf8');
    const has = (...names) => names.every((name) => new RegExp(`\\b${name}\\b`).test(flags));
    return [
      'baseline',
      ...(has('avx2', 'fma', 'f16c') ? ['avx2'] : []),
      ...(has('avx512bw', 'avx512dq', 'avx512vl')
        ? [has('avx512_bf16', 'avx512_vnni') ? 'avx512bf16' : 'avx512']
        : []),
    ];
  },
  arm64: () => ['neon'],
};

function testElsewhere(target, runtime, patterns) {
  const { files, left } = testFiles(patterns);
  const asked = process.env.RANKONE_ISA;
  const isas = asked ? [asked] : (runtime.isas ?? isasOf[target.arch]());
  for (const file of files) {
    const perIsa = file.startsWith('test/ops/');
    for (const isa of perIsa ? isas : [asked]) suite(target, runtime, file, isa);
  }
  for (const [file, reason] of left) if (reason) console.log(`     not run: ${file} (${reason})`);
}

const args = process.argv.slice(2);
const named = args.filter((arg) => targets.some((target) => target.name === arg));
const patterns = args.filter((arg) => !named.includes(arg) && arg !== '--');
const notRun = [];
let staged = false;
for (const target of targets) {
  if (named.length && !named.includes(target.name)) continue;
  if (!fs.existsSync(path.join(root, target.file))) {
    notRun.push(`${target.name}: ${target.file} is not there`);
    continue;
  }
  console.log(`--- ${target.name}`);
  const before = { ...sum };
  const started = performance.now();
  try {
    const here = target === hostTarget();
    if (here && process.platform !== 'win32') testHere(target, patterns);
    else {
      const runtime = here
        ? { command: [process.execPath], isas: isasHere(target) }
        : runtimes[target.name]();
      if (!staged) makeStage();
      staged = true;
      testElsewhere(target, runtime, patterns);
    }
    const [passed, failed] = [sum.passed - before.passed, sum.failed - before.failed];
    console.log(`${target.name}: ${passed} passed, ${failed} failed  ${seconds(started)}`);
  } catch (error) {
    notRun.push(`${target.name}: ${error.message}`);
  }
}
for (const line of notRun) console.log(`not run: ${line}`);
if (sum.passed + sum.failed === 0) sum.failed = 1;
console.log(`${sum.passed} passed, ${sum.failed} failed`);
process.exitCode = sum.failed ? 1 : 0;
