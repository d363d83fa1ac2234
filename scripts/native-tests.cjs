// The native tests: the engine and test/native as one program without Node, under sanitizers or on another processor.
//   node scripts/native-tests.cjs [asan|tsan|plain|aarch64]... [-- pattern...]
//
// asan      AddressSanitizer and UndefinedBehaviorSanitizer (the default)
// tsan      ThreadSanitizer
// plain     as the addon is compiled
// aarch64   cross-compiled, under qemu
// Each runs once per instruction set of the machine, or on the one that RANKONE_ISA names: then the kernels are compiled
// for that one alone. Its tests are run by several processes at once. Compilers: CXX, and
// AARCH64_CXX for the last. Ends with the plain line `N passed, N failed`.
const path = require('node:path');
const { MINUTE, jobs, pool, root, run } = require('./objects.cjs');

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

// Copies of the kernels, as core/foreach_isa.h numbers them.
const levels = { baseline: 0, neon: 0, avx2: 1, avx512: 2, avx512bf16: 2 };

let passed = 0;
let failed = 0;

function report(name, ok, note, output = '') {
  if (!ok) console.log(output.trimEnd());
  console.log(`${ok ? 'ok  ' : 'FAIL'} ${name}  ${note}`);
}

const secondsSince = (started) => `${((performance.now() - started) / 1000).toFixed(1)} s`;

// The program's path, or undefined where it could not be built.
async function build(flavor) {
  const { sanitize = '', configure = [] } = flavors[flavor];
  const level = levels[process.env.RANKONE_ISA];
  const folder = `build-native/${flavor}${level === undefined ? '' : `-${level}`}`;
  const target = 'rankone_native_tests';
  const settings = [
    '-DRANKONE_NATIVE_TESTS=ON',
    `-DRANKONE_SANITIZE=${sanitize}`,
    `-DRANKONE_ONLY_LEVEL=${level ?? ''}`,
  ];
  const steps = [
    ['-S', '.', '-B', folder, ...settings, ...configure],
    ['--build', folder, '--target', target, '-j', String(jobs)],
  ];
  const started = performance.now();
  for (const step of steps) {
    const { ok, output } = await run('cmake', step, 60 * MINUTE);
    if (ok) continue;
    report(`${flavor}: build`, false, '', output);
    ++failed;
    return undefined;
  }
  report(`${flavor}: build`, true, secondsSince(started));
  return path.join(root, folder, 'test/native', target);
}

async function test(flavor, program, patterns) {
  const { emulator = [], quick } = flavors[flavor];
  const [command, ...first] = [...emulator, program];
  const env = { ...sanitizerOptions, ...process.env, RANKONE_POISON: '1' };
  const isas = process.env.RANKONE_ISA
    ? [process.env.RANKONE_ISA]
    : (await run(command, [...first, '--isas'], 10 * MINUTE, env)).stdout
        .split('\n')
        .filter(Boolean);
  if (isas.length === 0) {
    report(flavor, false, `${command} does not run`);
    ++failed;
  }
  for (const isa of isas) {
    // avx512bf16 runs the kernels of avx512, and others besides.
    const covered = isa === 'avx512' && isas.includes('avx512bf16');
    const args = [...first, ...(quick || covered ? ['--quick'] : []), ...patterns];
    const started = performance.now();
    const sum = { passed: 0, failed: 0, output: '' };
    const parts = Array.from({ length: jobs }, (_, i) => async () => {
      const part = [...args, '--part', `${i + 1}/${jobs}`];
      const result = await run(command, part, 60 * MINUTE, { ...env, RANKONE_ISA: isa });
      const counts = /(\d+) passed, (\d+) failed\s*$/.exec(result.stdout);
      const whole = counts && result.status === (counts[2] === '0' ? 0 : 1);
      sum.passed += counts ? Number(counts[1]) : 0;
      sum.failed += whole ? Number(counts[2]) : 1;
      if (!whole || counts[2] !== '0') sum.output += `${result.output.trimEnd()}\n${result.how}\n`;
    });
    await pool(parts);
    passed += sum.passed;
    failed += sum.failed;
    const note = `${sum.passed} passed, ${sum.failed} failed  ${secondsSince(started)}`;
    report(`${flavor} [${isa}]`, sum.failed === 0, note, sum.output);
  }
}

async function main() {
  const args = process.argv.slice(2);
  const split = args.includes('--') ? args.indexOf('--') : args.length;
  const asked = args.slice(0, split);
  const unknown = asked.find((flavor) => !Object.hasOwn(flavors, flavor));
  if (unknown) {
    console.error(`${unknown}: expected ${Object.keys(flavors).join(', ')}`);
    process.exit(2);
  }
  for (const flavor of asked.length ? asked : ['asan']) {
    const program = await build(flavor);
    if (program) await test(flavor, program, args.slice(split + 1));
  }
  console.log(`${passed} passed, ${failed} failed`);
  process.exitCode = failed ? 1 : 0;
}

main();
