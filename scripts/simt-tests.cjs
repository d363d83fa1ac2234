// Tests of CUDA kernels without a GPU: every test/simt/**/*_test.cpp as a program of its own under the emulator.
//   node scripts/simt-tests.cjs [pattern...] [-- argument of the programs...]
//
// Each is built twice, plain and checked (see test/simt/README.md), with CXX (g++) and nothing else, into build-simt/,
// and built again when a file that it includes has changed. JOBS at a time. Ends with `N passed, N failed`.
const { spawn } = require('node:child_process');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');

const root = path.join(__dirname, '..');
const folder = 'build-simt';
const compiler = process.env.CXX ?? 'g++';
const jobs = Number(process.env.JOBS) || os.availableParallelism();
const MINUTE = 60_000;

const flags = [
  '-std=c++17',
  '-O1',
  '-g1',
  '-Wall',
  '-Wno-unknown-pragmas',
  '-fno-strict-aliasing',
  '-fno-threadsafe-statics', // their guards would be calls into a sanitizer's runtime that is not there
  '-pthread',
  '-I',
  'cuda',
  '-I',
  'test',
];
// Makes the compiler call a hook at every load and store; the emulator is the hooks.
const checkedFlags = ['-fsanitize=thread', '--param', 'tsan-instrument-func-entry-exit=0'];

const split = process.argv.indexOf('--');
const patterns = process.argv.slice(2, split < 0 ? undefined : split);
const programArguments = split < 0 ? [] : process.argv.slice(split + 1);

function walk(directory) {
  return fs.readdirSync(path.join(root, directory), { withFileTypes: true }).flatMap((entry) => {
    const name = `${directory}/${entry.name}`;
    return entry.isDirectory() ? walk(name) : [name];
  });
}

function run(command, args, timeout) {
  return new Promise((resolve) => {
    const child = spawn(command, args, { cwd: root });
    let output = '';
    let stdout = '';
    let late = false;
    const timer = setTimeout(() => {
      late = true;
      child.kill('SIGKILL');
    }, timeout);
    child.stdout.on('data', (text) => {
      output += text;
      stdout += text;
    });
    child.stderr.on('data', (text) => (output += text));
    child.on('error', (error) => (output += error.message));
    child.on('close', (status, signal) => {
      clearTimeout(timer);
      const how = late
        ? 'ended after its time'
        : signal
          ? `ended by ${signal}`
          : `exit code ${status}`;
      resolve({ ok: status === 0, status, how, output, stdout });
    });
  });
}

// Whether `object` is newer than everything that its .d file names.
function current(object) {
  const built = fs.statSync(path.join(root, object), { throwIfNoEntry: false });
  const list = path.join(root, object.replace(/\.o$/, '.d'));
  if (!built || !fs.existsSync(list)) return false;
  const dependencies = fs
    .readFileSync(list, 'utf8')
    .replace(/^.*?:/, '')
    .split(/[\s\\]+/)
    .filter(Boolean);
  return dependencies.every((name) => {
    const source = fs.statSync(path.resolve(root, name), { throwIfNoEntry: false });
    return source && source.mtimeMs <= built.mtimeMs;
  });
}

async function compile(source, object, extra = []) {
  if (current(object)) return { ok: true, output: '', object };
  fs.mkdirSync(path.join(root, path.dirname(object)), { recursive: true });
  const result = await run(
    compiler,
    [...flags, ...extra, '-MMD', '-c', source, '-o', object],
    10 * MINUTE,
  );
  if (!result.ok) fs.rmSync(path.join(root, object), { force: true });
  return { ...result, object };
}

async function pool(tasks) {
  let next = 0;
  const worker = async () => {
    while (next < tasks.length) await tasks[next++]();
  };
  await Promise.all(Array.from({ length: jobs }, worker));
}

let passed = 0;
let failed = 0;

function report(name, ok, note, output = '') {
  if (!ok) console.log(output.trimEnd());
  console.log(`${ok ? 'ok  ' : 'FAIL'} ${name}  ${note}`);
}

async function test(source, kind, emulator) {
  const name = source.replace(/^test\/simt\//, '').replace(/_test\.cpp$/, '');
  const label = `${name} [${kind}]`;
  const object = `${folder}/${kind}/${name}.o`;
  const program = object.replace(/\.o$/, '');
  const started = performance.now();
  const compiled = await compile(source, object, kind === 'checked' ? checkedFlags : []);
  const linked = compiled.ok
    ? await run(compiler, ['-pthread', object, ...emulator, '-o', program, '-ldl'], MINUTE)
    : compiled;
  if (!linked.ok) {
    ++failed;
    return report(label, false, 'does not build', linked.output);
  }
  const built = performance.now();
  const { ok, status, how, output, stdout } = await run(program, programArguments, 10 * MINUTE);
  const counts = /(\d+) passed, (\d+) failed\s*$/.exec(stdout);
  const whole = counts && status === (counts[2] === '0' ? 0 : 1);
  passed += counts ? Number(counts[1]) : 0;
  failed += whole ? Number(counts[2]) : 1;
  const seconds = [built - started, performance.now() - built].map((t) => (t / 1000).toFixed(1));
  const note = `${whole ? counts[0].trim() : how}  built in ${seconds[0]} s, ran ${seconds[1]} s`;
  report(label, ok && whole, note, output);
}

async function main() {
  const sources = walk('test/simt');
  const emulator = [];
  let built = true;
  await pool(
    sources
      .filter((name) => /^test\/simt\/emulator\/.*\.cpp$/.test(name))
      .map((source) => async () => {
        const object = source.replace(
          /^test\/simt\/emulator\/(.*)\.cpp$/,
          `${folder}/emulator/$1.o`,
        );
        const { ok, output } = await compile(source, object, ['-O2']);
        if (!ok) report(source, false, 'does not build', output);
        built &&= ok;
        emulator.push(object);
      }),
  );
  if (built) {
    const tests = sources.filter(
      (name) =>
        name.endsWith('_test.cpp') &&
        (patterns.length === 0 || patterns.some((pattern) => name.includes(pattern))),
    );
    await pool(
      tests.flatMap((source) =>
        ['plain', 'checked'].map((kind) => () => test(source, kind, emulator)),
      ),
    );
  } else {
    ++failed;
  }
  console.log(`${passed} passed, ${failed} failed`);
  process.exitCode = failed ? 1 : 0;
}

main();
