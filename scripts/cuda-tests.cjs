// The tests of test/cuda, and of the emulator's primitives, on a GPU: built with nvcc and g++ through cmake.
//   node scripts/cuda-tests.cjs [--sanitize] [pattern...]
//
// --sanitize   under compute-sanitizer besides: memcheck, racecheck, initcheck, synccheck
// Where it cannot run it says `cuda tests not run: <reason>`. Ends with `N passed, N failed, N skipped`.
const { spawnSync } = require('node:child_process');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { findNvcc } = require('./nvcc.cjs');
const { MINUTE, root, run, walk } = require('./objects.cjs');

const folder = 'build-cuda/gpu';
const tools = ['memcheck', 'racecheck', 'initcheck', 'synccheck'];
const sanitize = process.argv.includes('--sanitize');
const patterns = process.argv.slice(2).filter((a) => a !== '--sanitize');

const totals = { passed: 0, failed: 0, skipped: 0 };

function finish() {
  console.log(`${totals.passed} passed, ${totals.failed} failed, ${totals.skipped} skipped`);
  process.exitCode = totals.failed ? 1 : 0;
}

// Of the first GPU, such as '90'; or undefined and why not.
function capability() {
  const query = ['--query-gpu=compute_cap', '--format=csv,noheader'];
  const { status, stdout, error } = spawnSync('nvidia-smi', query, { encoding: 'utf8' });
  const found = /^(\d+)\.(\d)/.exec(stdout ?? '');
  if (status === 0 && found) return { arch: found[1] + found[2] };
  return { reason: error ? 'no GPU: there is no nvidia-smi' : 'no GPU: nvidia-smi sees none' };
}

function testCount() {
  return walk('test/cuda')
    .filter((name) => name.endsWith('_test.cpp'))
    .map((name) => fs.readFileSync(path.join(root, name), 'utf8').match(/^TEST\(/gm)?.length ?? 0)
    .reduce((a, b) => a + b, 0);
}

function skip(reason) {
  console.log(`cuda tests not run: ${reason}`);
  totals.skipped += testCount();
  finish();
}

function report(name, { ok, output, how }) {
  const counts = /(\d+) passed, (\d+) failed\s*(?:=+.*)?$/m.exec(output);
  totals.passed += counts ? Number(counts[1]) : 0;
  totals.failed += counts ? Number(counts[2]) : 0;
  if (!ok && !Number(counts?.[2] ?? 0)) ++totals.failed;
  if (!ok) console.log(output.trimEnd());
  console.log(`${ok ? 'ok  ' : 'FAIL'} ${name}  ${counts?.[0].trim() ?? how}`);
}

async function main() {
  const { arch, reason } = capability();
  if (!arch) return skip(reason);
  const nvcc = findNvcc();
  if (!nvcc) return skip('nvcc not found');
  const steps = [
    [
      ...['-S', 'cuda', '-B', folder, '-DRANKONE_CUDA_TESTS=ON', `-DCMAKE_CUDA_COMPILER=${nvcc}`],
      `-DCMAKE_CUDA_ARCHITECTURES=${arch === '90' ? '90a' : arch}-real`,
    ],
    ['--build', folder, '-j', process.env.JOBS ?? String(os.availableParallelism())],
  ];
  for (const step of steps) {
    const built = await run('cmake', step, 60 * MINUTE);
    if (built.ok) continue;
    report('build', built);
    return finish();
  }
  const env = { ...process.env, RANKONE_CUDA_PATH: path.join(root, folder, 'rankone_cuda.so') };
  for (const name of fs
    .readdirSync(path.join(root, folder))
    .filter((f) => /^simt_\w+_test$/.test(f)))
    report(name, await run(path.join(root, folder, name), patterns, 2 * MINUTE, env));
  const tests = path.join(root, folder, 'rankone_cuda_tests');
  report('rankone_cuda_tests', await run(tests, patterns, 20 * MINUTE, env));
  const direct = { ...env, RANKONE_CUDA_MEMORY: 'direct' };
  for (const tool of sanitize ? tools : []) {
    const args = ['--tool', tool, '--error-exitcode', '9', tests, '--quick', ...patterns];
    const result = await run('compute-sanitizer', args, 30 * MINUTE, direct);
    if (/ENOENT/.test(result.output)) {
      console.log(`compute-sanitizer not found: ${tool} not run`);
      ++totals.skipped;
    } else report(tool, result);
  }
  finish();
}

main();
