// The CUDA library in emulated form, for tests through Node: build-simt/librankone_cuda_emulated.so, which
// RANKONE_CUDA_PATH may name. Needs only a C++ compiler.
const {
  MINUTE,
  compileAll,
  compiler,
  emulatorParts,
  folder,
  libraryParts,
  run,
} = require('./simt-build.cjs');

const file = `${folder}/librankone_cuda_emulated.so`;

async function main() {
  const problems = [];
  const objects = await compileAll([...emulatorParts(), ...libraryParts('plain')], (...what) =>
    problems.push(what.join(' ')),
  );
  const linked = objects
    ? await run(
        compiler,
        [
          '-shared',
          '-pthread',
          '-Wl,--version-script=cuda/exports.map,-z,defs',
          ...objects,
          '-o',
          file,
          '-ldl',
        ],
        10 * MINUTE,
      )
    : { ok: false, output: problems.join('\n') };
  console.log(linked.ok ? file : linked.output.trimEnd());
  process.exitCode = linked.ok ? 0 : 1;
}

main();
