// The CUDA compiler, and how the library's sources are given to it.
//   NVCC                 the compiler; else it is looked for in CUDA_HOME and on the PATH
//   RANKONE_CUDA_ARCHS   compute capabilities, such as `90a` or `80,90a`; the default is what the package holds
const fs = require('node:fs');
const path = require('node:path');
const { MINUTE, compile, pool, root, walk } = require('./objects.cjs');

// sm_80 serves 8.x, 90a the Hoppers, 100 and 120 the Blackwells; compute_80 is PTX, for what comes after them.
const PACKAGED = '80,90a,100,120';
const archs = (process.env.RANKONE_CUDA_ARCHS ?? PACKAGED).split(/[\s,;]+/).filter(Boolean);
const ptx = process.env.RANKONE_CUDA_ARCHS ? [] : ['80'];

function findNvcc() {
  if (process.env.NVCC) return fs.existsSync(process.env.NVCC) ? process.env.NVCC : undefined;
  const folders = [
    ...(process.env.CUDA_HOME ? [path.join(process.env.CUDA_HOME, 'bin')] : []),
    ...(process.env.PATH ?? '').split(path.delimiter),
    '/usr/local/cuda/bin',
  ];
  return folders.map((f) => path.join(f, 'nvcc')).find((file) => fs.existsSync(file));
}

const sources = () => JSON.parse(fs.readFileSync(path.join(root, 'sources.json'), 'utf8')).cuda;

// Function templates marked __global__; each makes several kernels.
const kernelCount = () =>
  walk('cuda')
    .filter((name) => /\.cuh?$/.test(name) && !name.startsWith('cuda/simt/'))
    .reduce(
      (n, name) =>
        n + (fs.readFileSync(path.join(root, name), 'utf8').match(/__global__/g) ?? []).length,
      0,
    );

const codeFlags = [
  ...archs.flatMap((arch) => ['-gencode', `arch=compute_${arch},code=sm_${arch}`]),
  ...ptx.flatMap((arch) => ['-gencode', `arch=compute_${arch},code=compute_${arch}`]),
];

const folder = `build-cuda/library-${[...archs, ...ptx.map((arch) => `ptx${arch}`)].join('-')}`;
const intermediates = (source) => `${folder}/${path.basename(source, '.cu')}.keep`;

// All objects of the library: [{source, object, ok, output}], the output with what ptxas says of each kernel. The
// PTX stays in intermediates(source).
async function buildObjects(nvcc) {
  const results = [];
  await pool(
    sources().map((source) => async () => {
      const keep = intermediates(source);
      fs.mkdirSync(path.join(root, keep), { recursive: true });
      const flags = [
        '-std=c++17',
        '-O3',
        '-Xptxas=-v',
        '-Xcompiler=-fPIC,-fvisibility=hidden,-Wall',
        ...['-I', 'cuda'],
        ...codeFlags,
        '-compress-mode=size',
        ...['--keep', '--keep-dir', keep],
      ];
      const object = `${folder}/${path.basename(source, '.cu')}.o`;
      const result = await compile(nvcc, flags, source, object, 60 * MINUTE);
      if (!result.ok) console.error(`${source} (${result.how})\n${result.output.trimEnd()}`);
      for (const file of fs.readdirSync(path.join(root, keep)))
        if (!file.endsWith('.ptx')) fs.rmSync(path.join(root, keep, file));
      results.push({ source, ...result });
    }),
  );
  return results.sort((a, b) => (a.source < b.source ? -1 : 1));
}

module.exports = { archs, buildObjects, codeFlags, findNvcc, intermediates, kernelCount };
