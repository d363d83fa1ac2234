// npm test [-- pattern...]
//
// Lint, types, the CUDA kernels under their emulator, then every test file (or those whose paths contain one of the
// patterns), each in a process of its own. Files under test/ops run once per instruction set of this machine, but for
// those of CUDA and those of what surrounds the kernels. Ends with the plain line `N passed, N failed`.
import { fork, spawn, spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { info } from '../ts/index';

const root = path.join(__dirname, '..');
const MINUTE = 60_000;
const PARALLEL = Math.min(2, os.availableParallelism());

interface Outcome {
  passed: number;
  failed: number;
  skipped: number;
  note?: string;
}

const sum: Outcome = { passed: 0, failed: 0, skipped: 0 };

function report(name: string, outcome: Outcome, output: string, started: number): void {
  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  const skipped = outcome.skipped ? `, ${outcome.skipped} skipped` : '';
  if (outcome.failed) console.log(output.trimEnd());
  console.log(
    `${outcome.failed ? 'FAIL' : 'ok  '} ${name}  ${outcome.passed} passed` +
      `${outcome.failed ? `, ${outcome.failed} failed` : ''}${skipped}  ${seconds} s` +
      (outcome.note ? `  (${outcome.note})` : ''),
  );
  for (const line of output.split('\n'))
    if (line.startsWith('skipped: ')) console.log(`     ${line}`);
  sum.passed += outcome.passed;
  sum.failed += outcome.failed;
  sum.skipped += outcome.skipped;
}

function step(name: string, args: string[]): void {
  const started = performance.now();
  const { status, stdout, stderr } = spawnSync(process.execPath, args, {
    cwd: root,
    encoding: 'utf8',
  });
  const ok = status === 0;
  const outcome = { passed: ok ? 1 : 0, failed: ok ? 0 : 1, skipped: 0 };
  report(name, outcome, stdout + stderr, started);
}

/** A script that ends with `N passed, N failed`, whose lines are shown as they come. */
async function counted(name: string, args: string[]): Promise<void> {
  const started = performance.now();
  const child = spawn(process.execPath, args, { cwd: root, stdio: ['ignore', 'pipe', 'inherit'] });
  let output = '';
  child.stdout.setEncoding('utf8').on('data', (text) => {
    output += text;
    process.stdout.write(text.replace(/^\d+ passed, \d+ failed$/m, ''));
  });
  const code = await new Promise((resolve) => child.on('close', resolve));
  const found = /(\d+) passed, (\d+) failed\s*$/.exec(output);
  const outcome: Outcome = {
    passed: Number(found?.[1] ?? 0),
    failed: Number(found?.[2] ?? 0),
    skipped: 0,
  };
  if (!found || (code !== 0 && outcome.failed === 0)) fail(outcome, `ended with exit code ${code}`);
  report(name, outcome, '', started);
}

function testFiles(folder: string): string[] {
  return fs.readdirSync(path.join(root, folder), { withFileTypes: true }).flatMap((entry) => {
    const name = `${folder}/${entry.name}`;
    if (entry.isDirectory()) return testFiles(name);
    return name.endsWith('.test.ts') ? [name] : [];
  });
}

/** Of test/ops, what is the same with every instruction set. */
const ONCE = /^test\/ops\/(cuda\/|(async|errors|surface)\.)/;

async function suite(file: string, isa: string | undefined): Promise<void> {
  const started = performance.now();
  const env: NodeJS.ProcessEnv = { ...process.env, RANKONE_POISON: '1' };
  if (isa) env.RANKONE_ISA = isa;
  const child = fork(path.join(__dirname, 'runSuite.ts'), [path.join(root, file)], {
    cwd: root,
    env,
    execArgv: ['--expose-gc', '--import', 'tsx'],
    stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
  });
  let output = '';
  let counts: Outcome | undefined;
  child.stdout!.on('data', (chunk) => (output += chunk));
  child.stderr!.on('data', (chunk) => (output += chunk));
  child.on('message', (message) => (counts = message as Outcome));
  let late = false;
  const timer = setTimeout(() => {
    late = true;
    child.kill('SIGKILL');
  }, 30 * MINUTE);
  const [code, signal] = await new Promise<[number | null, string | null]>((resolve) =>
    child.on('close', (...end) => resolve(end)),
  );
  clearTimeout(timer);

  const outcome = counts ?? { passed: 0, failed: 0, skipped: 0 };
  if (late) fail(outcome, 'did not end within half an hour');
  else if (code !== 0 || signal) fail(outcome, `ended with ${signal ?? `exit code ${code}`}`);
  else if (outcome.passed + outcome.failed === 0) fail(outcome, 'ran no test');
  report(isa ? `${file} [${isa}]` : file, outcome, output, started);
}

function fail(outcome: Outcome, note: string): void {
  outcome.failed++;
  outcome.note = note;
}

async function main(): Promise<void> {
  const patterns = process.argv.slice(2);
  if (patterns.length === 0) {
    const tsc = path.join(path.dirname(require.resolve('typescript/package.json')), 'bin/tsc');
    step('lint', ['scripts/lint.cjs']);
    step('types', [tsc, '-p', 'tsconfig.json']);
    step('types of the public surface', [tsc, '-p', 'test/types/tsconfig.json']);
    await counted('CUDA kernels under the emulator', ['scripts/simt-tests.cjs']);
  }
  const all = testFiles('test');
  for (const pattern of patterns) {
    if (all.some((file) => file.includes(pattern))) continue;
    console.log(`no test file matches ${pattern}`);
    sum.failed++;
  }
  const files = all.filter(
    (file) => patterns.length === 0 || patterns.some((p) => file.includes(p)),
  );
  // What tests of CUDA need where there is no GPU; without it they say that they are skipped.
  if (files.some((file) => /cuda/i.test(file)) && process.env.RANKONE_TEST_CUDA !== 'real')
    step('the emulated CUDA library', ['scripts/build-simt.cjs']);
  const asked = process.env.RANKONE_ISA;
  // avx512bf16 runs the kernels of avx512 and more.
  const available = info().availableIsas;
  const isas = asked
    ? [asked]
    : available.filter((isa) => isa !== 'avx512' || !available.includes('avx512bf16'));
  const jobs = files.flatMap((file) =>
    file.startsWith('test/ops/') && !ONCE.test(file)
      ? isas.map((isa) => [file, isa] as const)
      : [[file, asked] as const],
  );
  const lane = async (): Promise<void> => {
    for (let job = jobs.shift(); job; job = jobs.shift()) await suite(...job);
  };
  await Promise.all(Array.from({ length: PARALLEL }, lane));
  if (sum.skipped) console.log(`${sum.skipped} skipped`);
  console.log(`${sum.passed} passed, ${sum.failed} failed`);
  process.exitCode = sum.failed ? 1 : 0;
}

main();
