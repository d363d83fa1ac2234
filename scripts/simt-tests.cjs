// Tests of CUDA kernels without a GPU: every test/simt/**/*_test.cpp as a program of its own under the emulator, and
// every test/cuda/*_test.cpp with the library cuda/, emulated.
//   node scripts/simt-tests.cjs [pattern...] [-- argument of the programs...]
//
// Each is built twice, plain and checked (see test/simt/README.md), with CXX (g++) and nothing else, into build-simt/,
// and built again when a file that it includes has changed. JOBS at a time. Ends with `N passed, N failed`.
const fs = require('node:fs');
const path = require('node:path');
const {
  MINUTE,
  checkedFlags,
  compile,
  compileAll,
  compiler,
  emulatorParts,
  harnessFlags,
  harnessParts,
  libraryParts,
  objectOf,
  pool,
  root,
  run,
  walk,
} = require('./simt-build.cjs');

const split = process.argv.indexOf('--');
const patterns = process.argv.slice(2, split < 0 ? undefined : split);
const programArguments = split < 0 ? [] : process.argv.slice(split + 1);

let passed = 0;
let failed = 0;

function report(name, ok, note, output = '') {
  if (!ok) console.log(output.trimEnd());
  console.log(`${ok ? 'ok  ' : 'FAIL'} ${name}  ${note}`);
}

const ofLibrary = (source) => source.startsWith('test/cuda/');

async function test(source, kind, objects) {
  const name = source.replace(/^test\/(simt\/)?/, '').replace(/_test\.cpp$/, '');
  const label = `${name} [${kind}]`;
  const object = objectOf(source, kind);
  const program = object.replace(/\.o$/, '');
  const started = performance.now();
  const checked = kind === 'checked' ? checkedFlags : [];
  const compiled = await compile(source, object, ofLibrary(source) ? harnessFlags : checked);
  const linked = compiled.ok
    ? await run(compiler, ['-pthread', object, ...objects, '-o', program, '-ldl'], 10 * MINUTE)
    : compiled;
  if (!linked.ok) {
    ++failed;
    return report(label, false, 'does not build', linked.output);
  }
  const built = performance.now();
  const { ok, status, how, output, stdout } = await run(program, programArguments, 30 * MINUTE);
  const counts = /(\d+) passed, (\d+) failed\s*$/.exec(stdout);
  const whole = counts && status === (counts[2] === '0' ? 0 : 1);
  passed += counts ? Number(counts[1]) : 0;
  failed += whole ? Number(counts[2]) : 1;
  const seconds = [built - started, performance.now() - built].map((t) => (t / 1000).toFixed(1));
  const note = `${whole ? counts[0].trim() : how}  built in ${seconds[0]} s, ran ${seconds[1]} s`;
  report(label, ok && whole, note, output);
}

async function main() {
  const kinds = ['plain', 'checked'];
  const tests = [...walk('test/simt'), ...walk('test/cuda')].filter(
    (name) =>
      name.endsWith('_test.cpp') &&
      (patterns.length === 0 || patterns.some((pattern) => name.includes(pattern))),
  );
  if (tests.length === 0) {
    ++failed;
    console.log('no test matches');
  }
  const withLibrary = tests.some(ofLibrary);
  const partsOf = (kind) => [...libraryParts(kind), ...harnessParts(), ...emulatorParts()];
  const objects = (parts) => parts.map(({ object }) => object);
  if (!(await compileAll(withLibrary ? kinds.flatMap(partsOf) : emulatorParts(), report))) ++failed;
  else {
    // What takes longest comes first, so that all processors have work to the end.
    const size = (source) => fs.statSync(path.join(root, source)).size;
    const cost = ([source, kind]) =>
      size(source) * (ofLibrary(source) ? 10 : 1) * (kind === 'checked' ? 10 : 1);
    const runs = tests.flatMap((source) => kinds.map((kind) => [source, kind]));
    await pool(
      runs
        .sort((a, b) => cost(b) - cost(a))
        .map(([source, kind]) => () => {
          const parts = ofLibrary(source) ? partsOf(kind) : emulatorParts();
          return test(source, kind, objects(parts));
        }),
    );
  }
  console.log(`${passed} passed, ${failed} failed`);
  process.exitCode = failed ? 1 : 0;
}

main();
