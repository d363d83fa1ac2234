// How programs for the emulator are built: with CXX (g++) and nothing else, into build-simt/.
const fs = require('node:fs');
const path = require('node:path');
const objects = require('./objects.cjs');

const { MINUTE, pool, root, run, walk } = objects;
const folder = 'build-simt';
const compiler = process.env.CXX ?? 'g++';

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

const compile = (source, object, extra = []) =>
  objects.compile(compiler, [...flags, ...extra], source, object);

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
  const shared = ['array', 'compare', 'lora_formulas', 'runner'].map(
    (name) => `test/native/${name}.cpp`,
  );
  const own = walk('test/cuda').filter(
    (name) => name.endsWith('.cpp') && !/(_test|emulated_runtime|gpu)\.cpp$/.test(name),
  );
  return ['cpp/core/tensor.cpp', ...shared, ...own].map((source) => ({
    source,
    object: objectOf(source, 'harness'),
    flags: harnessFlags,
  }));
}

// The objects' paths, or undefined: then report() was given what failed.
async function compileAll(parts, report) {
  let built = true;
  const distinct = new Map(parts.map((part) => [part.object, part]));
  await pool(
    [...distinct.values()].map(({ source, object, flags }) => async () => {
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
