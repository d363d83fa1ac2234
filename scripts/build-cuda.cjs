// The CUDA library with nvcc: build/Release/rankone_cuda.so, and the npm package that holds it,
// build/rankone-cuda-linux-x64.
//   RANKONE_CUDA_ARCHS=90a   for one architecture, quickly
//   JOBS                     files at a time
const { spawnSync } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');
const { MINUTE, root, run } = require('./objects.cjs');
const { archs, buildObjects, codeFlags, findNvcc, kernelCount } = require('./nvcc.cjs');

const library = 'build/Release/rankone_cuda.so';
const budgets = JSON.parse(fs.readFileSync(path.join(root, 'cuda/budgets.json'), 'utf8'));

const fail = (text) => {
  console.error(text);
  process.exit(1);
};

function output(command, args) {
  const { status, stdout, error } = spawnSync(command, args, { cwd: root, encoding: 'utf8' });
  if (status !== 0)
    fail(`${command} ${args.join(' ')}: ${error?.message ?? `exit code ${status}`}`);
  return stdout;
}

// Nothing of CUDA's or of the C++ library's is asked for when it loads, and one name is given.
function checkLibrary(file) {
  const needed = [...output('readelf', ['-d', file]).matchAll(/\(NEEDED\).*\[(.*)\]/g)].map(
    (m) => m[1],
  );
  const others = needed.filter(
    (n) => !/^(libc|libm|libdl|librt|libpthread|ld-linux-x86-64)\.so/.test(n),
  );
  if (others.length) fail(`${file} needs ${others.join(', ')}`);
  const names = output('nm', ['-D', '--defined-only', file])
    .split('\n')
    .filter(Boolean)
    .map((line) => line.split(' ').at(-1).replace(/@.*/, ''));
  if (names.join() !== 'rankoneCuda') fail(`${file} exports ${names.join(', ')}`);
}

function writePackage() {
  const target = path.join(root, 'build/rankone-cuda-linux-x64');
  fs.rmSync(target, { recursive: true, force: true });
  fs.cpSync(path.join(root, 'cuda/package'), target, { recursive: true });
  for (const file of ['LICENSE', library])
    fs.copyFileSync(path.join(root, file), path.join(target, path.basename(file)));
  const file = path.join(target, 'package.json');
  const { version } = JSON.parse(fs.readFileSync(path.join(root, 'package.json'), 'utf8'));
  const manifest = JSON.parse(fs.readFileSync(file, 'utf8'));
  fs.writeFileSync(file, `${JSON.stringify({ ...manifest, version }, null, 2)}\n`);
  return path.relative(root, target);
}

async function main() {
  const nvcc = findNvcc();
  if (!nvcc) fail(`nvcc not found: ${kernelCount()} kernels not compiled`);
  const started = performance.now();
  const objects = await buildObjects(nvcc);
  if (!objects.every(({ ok }) => ok)) process.exit(1);
  fs.mkdirSync(path.join(root, path.dirname(library)), { recursive: true });
  const linked = await run(
    nvcc,
    [
      '-shared',
      '-cudart=static',
      ...codeFlags,
      ...objects.map(({ object }) => object),
      '-Xlinker=--version-script=cuda/exports.map,--gc-sections,-z,defs,-z,now,-z,nodelete,-s',
      '-Xcompiler=-static-libstdc++,-static-libgcc',
      '-o',
      library,
    ],
    10 * MINUTE,
  );
  if (!linked.ok) fail(linked.output.trimEnd());
  checkLibrary(library);
  const { size } = fs.statSync(path.join(root, library));
  const seconds = ((performance.now() - started) / 1000).toFixed(0);
  const mebibytes = (bytes) => `${(bytes / 2 ** 20).toFixed(1)} MiB`;
  console.log(
    `${library}: ${mebibytes(size)} for sm_${archs.join(', sm_')}, built in ${seconds} s`,
  );
  if (size > budgets.libraryBytes)
    fail(`${library} is larger than cuda/budgets.json allows: ${mebibytes(budgets.libraryBytes)}`);
  console.log(`${writePackage()}: ready for npm pack`);
}

main();
