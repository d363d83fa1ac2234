// What each kernel may cost: cuda/budgets.json against what nvcc makes of the tree.
//   node scripts/cuda-budgets.cjs           fails where a kernel takes more registers, shared memory or spills than it
//                                           has, or where its count of matrix or copy instructions differs
//   node scripts/cuda-budgets.cjs --write   stores what is
//   RANKONE_CUDA_ARCHS=80                   of these architectures; the default is those that have budgets
//
// Registers, spilled bytes, static shared memory and barriers are ptxas's word; instructions are counted in the PTX.
// Ends with `N passed, N failed`; without nvcc it says so and passes.
const { spawnSync } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');
const { root } = require('./objects.cjs');

const file = path.join(root, 'cuda/budgets.json');
const stored = JSON.parse(fs.readFileSync(file, 'utf8'));
const known = new Set(Object.values(stored.kernels).flatMap((budget) => Object.keys(budget)));
if (known.size) process.env.RANKONE_CUDA_ARCHS ??= [...known].join();
const { archs, buildObjects, findNvcc, intermediates, kernelCount } = require('./nvcc.cjs');

// In the order of their printing; of the first that matches.
const instructions = [
  ['wgmma', /^wgmma\.mma_async/],
  ['mma', /^mma\.sync/],
  ['ldmatrix', /^ldmatrix/],
  ['stmatrix', /^stmatrix/],
  ['tmaLoad', /^cp\.async\.bulk\.tensor\.\dd\.shared/],
  ['tmaStore', /^cp\.async\.bulk\.tensor\.\dd\.global/],
  ['cpAsync', /^cp\.async\.c[ag]/],
];

// Mangled name -> costs, of one architecture each, from ptxas's remarks.
function costsOf(remarks) {
  const found = [];
  let entry;
  for (const line of remarks.split('\n')) {
    const start = /Compiling entry function '(\S+)' for 'sm_(\w+)'/.exec(line);
    if (start) {
      entry = { kernel: start[1], arch: start[2], costs: {} };
      found.push(entry);
    }
    if (!entry) continue;
    const frame = /(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads/.exec(
      line,
    );
    if (frame && !entry.costs.registers) {
      const [stack, stores, loads] = frame.slice(1).map(Number);
      if (stack) entry.costs.stackBytes = stack;
      if (stores + loads) entry.costs.spilledBytes = stores + loads;
    }
    const used = /Used (\d+) registers(?:, used (\d+) barriers)?(.*)/.exec(line);
    if (used) {
      entry.costs.registers = Number(used[1]);
      const shared = /(\d+) bytes smem/.exec(used[3]);
      if (shared) entry.costs.sharedBytes = Number(shared[1]);
      if (Number(used[2])) entry.costs.barriers = Number(used[2]);
    }
  }
  return found;
}

// Counts by `kernel arch`.
function countsOf(source) {
  const counts = new Map();
  const folder = path.join(root, intermediates(source));
  for (const name of fs.readdirSync(folder)) {
    const text = fs.readFileSync(path.join(folder, name), 'utf8');
    const arch = /^\.target sm_(\w+)/m.exec(text)?.[1];
    let count;
    for (const line of text.split('\n')) {
      const entry = /^(?:\.visible |\.weak )*\.entry (\w+)\(/.exec(line);
      if (entry) {
        count = {};
        counts.set(`${entry[1]} ${arch}`, count);
      } else if (/^(?:\.visible |\.weak )*\.func /.test(line)) count = undefined;
      if (!count) continue;
      const statement = line.replace(/^[\s{]+/, '').replace(/^@\S+\s+/, '');
      const kind = instructions.find(([, pattern]) => pattern.test(statement));
      if (kind) count[kind[0]] = (count[kind[0]] ?? 0) + 1;
    }
  }
  return counts;
}

// Without namespaces and parameters.
function readable(mangled) {
  const { stdout } = spawnSync('c++filt', ['-p'], { input: mangled.join('\n'), encoding: 'utf8' });
  if (!stdout) return mangled;
  return stdout
    .trimEnd()
    .split('\n')
    .map((name) =>
      name.replace(/^void /, '').replace(/\b(rankone::cuda|simt|\(anonymous namespace\))::/g, ''),
    );
}

const text = (costs) =>
  Object.entries(costs)
    .map(([name, value]) => `${name} ${value}`)
    .join(', ');
const parse = (line) =>
  Object.fromEntries(
    line.split(', ').map((item) => [item.split(' ')[0], Number(item.split(' ')[1])]),
  );

// What is over budget or not as it was.
function complaints(costs, budget, sameCompiler) {
  // Another compiler has its own way with registers.
  const limits = sameCompiler
    ? ['registers', 'spilledBytes', 'stackBytes', 'sharedBytes', 'barriers']
    : ['spilledBytes', 'sharedBytes'];
  const found = limits
    .filter((name) => (costs[name] ?? 0) > (budget[name] ?? 0))
    .map((name) => `${name} ${costs[name]}, budget ${budget[name] ?? 0}`);
  for (const [name] of instructions) {
    const [is, was] = [costs[name] ?? 0, budget[name] ?? 0];
    // Another compiler may unroll differently.
    if (sameCompiler ? is !== was : is > 0 !== was > 0) found.push(`${name} ${is}, stored ${was}`);
  }
  return found;
}

async function main() {
  const nvcc = findNvcc();
  if (!nvcc) {
    console.log(`nvcc not found: ${kernelCount()} kernels not compiled`);
    return console.log('0 passed, 0 failed');
  }
  const version = /release ([\d.]+)/.exec(
    spawnSync(nvcc, ['--version'], { encoding: 'utf8' }).stdout,
  )?.[1];
  const built = await buildObjects(nvcc);
  let passed = 0;
  let failed = built.filter(({ ok }) => !ok).length;
  const found = built.flatMap(({ source, output }) => {
    const counts = countsOf(source);
    return costsOf(output).map((entry) => ({
      ...entry,
      costs: { ...entry.costs, ...counts.get(`${entry.kernel} ${entry.arch}`) },
    }));
  });
  const names = readable(found.map(({ kernel }) => kernel));
  const kernels = {};
  found.forEach(({ arch, costs }, i) => {
    kernels[names[i]] ??= {};
    kernels[names[i]][arch] = text(costs);
  });
  if (process.argv.includes('--write')) {
    const sorted = Object.fromEntries(
      Object.keys(kernels)
        .sort()
        .map((name) => [name, { ...stored.kernels[name], ...kernels[name] }]),
    );
    const json = { nvcc: version, libraryBytes: stored.libraryBytes, kernels: sorted };
    fs.writeFileSync(file, `${JSON.stringify(json, null, 2)}\n`);
    found.forEach(({ arch, costs: { spilledBytes } }, i) => {
      if (spilledBytes) console.log(`${names[i]} [sm_${arch}] spills ${spilledBytes} bytes`);
    });
    return console.log(
      `cuda/budgets.json: ${names.length} kernels of ${archs.length} architectures`,
    );
  }
  for (const [name, ofArch] of Object.entries(kernels))
    for (const [arch, line] of Object.entries(ofArch)) {
      const budget = stored.kernels[name]?.[arch];
      const problems = budget
        ? complaints(parse(line), parse(budget), version === stored.nvcc)
        : ['it has no budget'];
      if (problems.length) console.log(`FAIL ${name} [sm_${arch}]: ${problems.join('; ')}`);
      problems.length ? ++failed : ++passed;
    }
  if (!failed)
    for (const name of Object.keys(stored.kernels))
      if (!kernels[name]) {
        console.log(`FAIL ${name}: has a budget, but there is no such kernel`);
        ++failed;
      }
  if (failed) console.log('  node scripts/cuda-budgets.cjs --write stores what is');
  console.log(`${passed} passed, ${failed} failed`);
  process.exitCode = failed ? 1 : 0;
}

main();
