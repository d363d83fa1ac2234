// How programs for the emulator are built: with CXX (g++) and nothing else, into build-simt/, JOBS at a time, and again
// only when a file that they include has changed.
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
  '-fPIC',
  '-pthread',
  '-I',
  'cuda',
  '-I',
  'test',
];
// Makes the compiler call a hook at every load and store; the emulator is the hooks.
const checkedFlags = ['-fsanitize=thread', '--param', 'tsan-instrument-func-entry-exit=0'];

function walk(directory) {
  return fs.readdirSync(path.join(root, directory), { withFileTypes: true }).flatMap((entry) => {
    const name = `${directory}/${entry.name}`;
    return entry.isDirectory() ? walk(name) : [name];
  });
}

function run(command, args, timeout, env = process.env) {
  return new Promise((resolve) => {
    const child = spawn(command, args, { cwd: root, env });
    let output = '';
    let late = false;
    const timer = setTimeout(() => {
      late = true;
      child.kill('SIGKILL');
    }, timeout);
    child.stdout.on('data', (text) => (output += text));
    child.stderr.on('data', (text) => (output += text));
    child.on('error', (error) => (output += error.message));
    child.on('close', (status, signal) => {
      clearTimeout(timer);
      const how = late
        ? 'ended after its time'
        : signal
          ? `ended by ${signal}`
          : `exit code ${status}`;
      resolve({ ok: status === 0, status, how, output });
    });
  });
}

// Whether `object` is newer than everything that its .d file names, and was built by this command.
function current(object, command) {
  const built = fs.statSync(path.join(root, object), { throwIfNoEntry: false });
  const list = path.join(root, object.replace(/\.o$/, '.d'));
  const note = path.join(root, `${object}.txt`);
  if (!built || !fs.existsSync(list) || !fs.existsSync(note)) return false;
  if (fs.readFileSync(note, 'utf8') !== command) return false;
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
  const args = [...flags, ...extra, '-MMD', '-c', source, '-o', object];
  const command = [compiler, ...args].join(' ');
  if (current(object, command)) return { ok: true, output: '', object };
  fs.mkdirSync(path.join(root, path.dirname(object)), { recursive: true });
  const result = await run(compiler, args, 10 * MINUTE);
  if (result.ok) fs.writeFileSync(path.join(root, `${object}.txt`), command);
  else fs.rmSync(path.join(root, object), { force: true });
  return { ...result, object };
}

async function pool(tasks) {
  let next = 0;
  const worker = async () => {
    while (next < tasks.length) await tasks[next++]();
  };
  await Promise.all(Array.from({ length: jobs }, worker));
}

// Parts of programs: a source, its object, flags of its own.

const objectOf = (source, kind) => `${folder}/${kind}/${source.replace(/\.\w+$/, '')}.o`;

const emulatorParts = () =>
  walk('test/simt')
    .filter((name) => /^test\/simt\/(emulator\/)?[^/]*(?<!_test)\.cpp$/.test(name))
    .map((source) => ({ source, object: objectOf(source, 'emulator'), flags: ['-O2'] }));

// cuda/, and the emulator's stand-in for CUDA's runtime.
function libraryParts(kind) {
  const { cuda } = JSON.parse(fs.readFileSync(path.join(root, 'sources.json'), 'utf8'));
  const checked = kind === 'checked' ? checkedFlags : [];
  return [
    ...cuda.map((source) => ({
      source,
      object: objectOf(source, kind),
      flags: [...checked, '-fvisibility=hidden', '-x', 'c++'],
    })),
    {
      source: 'test/cuda/emulated_runtime.cpp',
      object: objectOf('test/cuda/emulated_runtime.cpp', 'emulator'),
      flags: ['-O2'],
    },
  ];
}

const harnessFlags = ['-std=c++20', '-I', 'cpp'];

// What the tests in test/cuda share; some of it is the native tests'.
function harnessParts() {
  const shared = ['cpp/core/tensor.cpp', 'test/native/array.cpp', 'test/native/compare.cpp'];
  const own = walk('test/cuda').filter(
    (name) => name.endsWith('.cpp') && !/(_test|emulated_runtime|gpu)\.cpp$/.test(name),
  );
  return [...shared, ...own].map((source) => ({
    source,
    object: objectOf(source, 'harness'),
    flags: harnessFlags,
  }));
}

// The objects' paths, or undefined: then report() was given what failed.
async function compileAll(parts, report) {
  let built = true;
  await pool(
    parts.map(({ source, object, flags }) => async () => {
      const { ok, output } = await compile(source, object, flags);
      if (!ok) report(source, false, 'does not build', output);
      built &&= ok;
    }),
  );
  return built ? parts.map(({ object }) => object) : undefined;
}

module.exports = {
  MINUTE,
  checkedFlags,
  compile,
  compileAll,
  compiler,
  emulatorParts,
  folder,
  harnessFlags,
  harnessParts,
  libraryParts,
  objectOf,
  pool,
  root,
  run,
  walk,
};
