// The native tests: the engine and test/native as one program without Node, under sanitizers or on another processor.
//   node scripts/native-tests.cjs [asan|tsan|plain|aarch64]... [-- pattern...]
//
// asan      AddressSanitizer and UndefinedBehaviorSanitizer (the default)
// tsan      ThreadSanitizer
// plain     as the addon is compiled
// aarch64   cross-compiled, under qemu
// Each runs once per instruction set of the machine, or on the one that RANKONE_ISA names. Compilers: CXX, and
// AARCH64_CXX for the last. Ends with the plain line `N passed, N failed`.
const { spawnSync } = require('node:child_process');
const os = require('node:os');
const path = require('node:path');

const root = path.join(__dirname, '..');
const MINUTE = 60_000;

const flavors = {
  asan: { sanitize: 'address,undefined,float-cast-overflow' },
  tsan: { sanitize: 'thread', quick: true },
  plain: {},
  aarch64: {
    configure: [
      '-DCMAKE_SYSTEM_NAME=Linux',
      '-DCMAKE_SYSTEM_PROCESSOR=aarch64',
      `-DCMAKE_CXX_COMPILER=${process.env.AARCH64_CXX ?? 'aarch64-linux-gnu-g++'}`,
      '-DCMAKE_EXE_LINKER_FLAGS=-static', // so that qemu needs no other system's libraries
    ],
    emulator: ['qemu-aarch64'],
    quick: true,
  },
};

// A report of any sanitizer ends the program with an exit code other than zero.
const sanitizerOptions = {
  // Without detect_stack_use_after_return: gcc before 14 gives its frames too little alignment for AVX-512.
  ASAN_OPTIONS: 'detect_stack_use_after_return=0:allocator_may_return_null=1',
  UBSAN_OPTIONS: 'print_stacktrace=1',
  TSAN_OPTIONS: 'halt_on_error=1:second_deadlock_stack=1:allocator_may_return_null=1',
};

let passed = 0;
let failed = 0;

function report(name, ok, note, output = '') {
  if (!ok) console.log(output.trimEnd());
  console.log(`${ok ? 'ok  ' : 'FAIL'} ${name}  ${note}`);
}

function run(command, args, options = {}) {
  const started = performance.now();
  const child = spawnSync(command, args, {
    cwd: root,
    encoding: 'utf8',
    maxBuffer: 1 << 28,
    ...options,
  });
  const output = `${child.stdout ?? ''}${child.stderr ?? ''}${child.error?.message ?? ''}`;
  const seconds = `${((performance.now() - started) / 1000).toFixed(1)} s`;
  return {
    status: child.status,
    signal: child.signal,
    stdout: child.stdout ?? '',
    output,
    seconds,
  };
}

// The program's path, or undefined where it could not be built.
function build(flavor) {
  const { sanitize = '', configure = [] } = flavors[flavor];
  const folder = `build-native/${flavor}`;
  const target = 'rankone_native_tests';
  const steps = [
    [
      '-S',
      '.',
      '-B',
      folder,
      '-DRANKONE_NATIVE_TESTS=ON',
      `-DRANKONE_SANITIZE=${sanitize}`,
      ...configure,
    ],
    [
      '--build',
      folder,
      '--target',
      target,
      '-j',
      process.env.JOBS ?? String(os.availableParallelism()),
    ],
  ];
  const started = performance.now();
  for (const step of steps) {
    const { status, output } = run('cmake', step);
    if (status === 0) continue;
    report(`${flavor}: build`, false, '', output);
    ++failed;
    return undefined;
  }
  report(`${flavor}: build`, true, `${((performance.now() - started) / 1000).toFixed(1)} s`);
  return path.join(root, folder, 'test/native', target);
}

function test(flavor, program, patterns) {
  const { emulator = [], quick } = flavors[flavor];
  const [command, ...first] = [...emulator, program];
  const env = { ...sanitizerOptions, ...process.env, RANKONE_POISON: '1' };
  const isas = process.env.RANKONE_ISA
    ? [process.env.RANKONE_ISA]
    : run(command, [...first, '--isas'], { env })
        .stdout.split('\n')
        .filter(Boolean);
  if (isas.length === 0) {
    report(flavor, false, `${command} does not run`);
    ++failed;
  }
  for (const isa of isas) {
    // avx512bf16 runs the kernels of avx512, and others besides.
    const covered = isa === 'avx512' && isas.includes('avx512bf16');
    const args = [...first, ...(quick || covered ? ['--quick'] : []), ...patterns];
    const options = {
      env: { ...env, RANKONE_ISA: isa },
      timeout: 60 * MINUTE,
      killSignal: 'SIGKILL',
    };
    const { status, signal, stdout, output, seconds } = run(command, args, options);
    const counts = /(\d+) passed, (\d+) failed\s*$/.exec(stdout);
    const whole = counts && status === (counts[2] === '0' ? 0 : 1);
    passed += counts ? Number(counts[1]) : 0;
    failed += whole ? Number(counts[2]) : 1;
    const end = whole ? counts[0].trim() : `ended with ${signal ?? `exit code ${status}`}`;
    report(`${flavor} [${isa}]`, whole && counts[2] === '0', `${end}  ${seconds}`, output);
  }
}

const args = process.argv.slice(2);
const split = args.includes('--') ? args.indexOf('--') : args.length;
const asked = args.slice(0, split);
const unknown = asked.find((flavor) => !Object.hasOwn(flavors, flavor));
if (unknown) {
  console.error(`${unknown}: expected ${Object.keys(flavors).join(', ')}`);
  process.exit(2);
}
for (const flavor of asked.length ? asked : ['asan']) {
  const program = build(flavor);
  if (program) test(flavor, program, args.slice(split + 1));
}
console.log(`${passed} passed, ${failed} failed`);
process.exitCode = failed ? 1 : 0;
