// What surrounds the CUDA library: scripts without a compiler or a GPU, the package that holds it, and cuda_bench.
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { emulatedLibrary } from '../support/device';

const root = path.join(__dirname, '../..');
const home = fs.mkdtempSync(path.join(os.tmpdir(), 'rankone-cuda-'));
test.after(() => fs.rmSync(home, { recursive: true, force: true }));

const run = (command: string, args: string[], env: NodeJS.ProcessEnv = {}) =>
  spawnSync(command, args, {
    cwd: root,
    encoding: 'utf8',
    env: { ...process.env, ...env },
    maxBuffer: 2 ** 26,
  });

test('without nvcc the budgets say so and pass, and the build fails', () => {
  const env = { NVCC: path.join(home, 'nvcc') };
  const budgets = run(process.execPath, ['scripts/cuda-budgets.cjs'], env);
  assert.is(budgets.status, 0, budgets.stderr);
  const count = /^nvcc not found: (\d+) kernels not compiled\n0 passed, 0 failed\n$/.exec(
    budgets.stdout,
  );
  assert.ok(count, budgets.stdout);
  assert.ok(Number(count[1]) > 5);
  const build = run(process.execPath, ['scripts/build-cuda.cjs'], env);
  assert.is(build.status, 1);
  assert.is(build.stderr, `nvcc not found: ${count[1]} kernels not compiled\n`);
});

test('without a GPU its tests say why they do not run, and count as skipped', () => {
  const { status, stdout } = run(process.execPath, ['scripts/cuda-tests.cjs'], { PATH: home });
  assert.is(status, 0);
  const skipped =
    /^cuda tests not run: no GPU: there is no nvidia-smi\n0 passed, 0 failed, (\d+) skipped\n$/;
  assert.ok(Number(skipped.exec(stdout)?.[1]) > 20, stdout);
});

test('every kernel has a budget, of the same architectures', () => {
  const { kernels, libraryBytes } = JSON.parse(
    fs.readFileSync(path.join(root, 'cuda/budgets.json'), 'utf8'),
  );
  assert.ok(libraryBytes < 2 ** 26);
  const names = fs
    .readdirSync(path.join(root, 'cuda'))
    .filter((f) => f.endsWith('.cuh'))
    .flatMap((f) => {
      const text = fs.readFileSync(path.join(root, 'cuda', f), 'utf8');
      const kernel =
        /__global__\s+void\s+(?:__launch_bounds__\((?:[^()]|\([^()]*\))*\)\s*)?(\w+)\(/g;
      return [...text.matchAll(kernel)].map((m) => m[1]);
    });
  assert.ok(names.length > 5);
  const stored = Object.keys(kernels);
  for (const name of names)
    assert.ok(
      stored.some((k) => k === name || k.startsWith(`${name}<`)),
      `${name} has no budget`,
    );
  const archs = Object.keys(kernels[stored[0]]).sort();
  for (const name of stored) assert.equal(Object.keys(kernels[name]).sort(), archs, name);
});

test('the package gives the path of its library', () => {
  const folder = path.join(home, 'rankone-cuda-linux-x64');
  fs.cpSync(path.join(root, 'cuda/package'), folder, { recursive: true });
  assert.is(require(folder), path.join(folder, 'rankone_cuda.so'));
  const manifest = JSON.parse(fs.readFileSync(path.join(folder, 'package.json'), 'utf8'));
  assert.equal([manifest.os, manifest.cpu, manifest.libc], [['linux'], ['x64'], ['glibc']]);
  for (const file of ['README.md', 'LICENSE', 'rankone_cuda.so'])
    fs.writeFileSync(path.join(folder, file), '');
  const packed = run('npm', ['pack', '--json', '--dry-run', folder]);
  assert.is(packed.status, 0, packed.stderr);
  const [{ files }] = JSON.parse(packed.stdout) as [{ files: { path: string }[] }];
  assert.equal(files.map((f) => f.path).sort(), [
    'LICENSE',
    'README.md',
    'index.js',
    'package.json',
    'rankone_cuda.so',
  ]);
});

test('cuda_bench runs every case, emulated, and writes them down', () => {
  const program = path.join(home, 'cuda_bench');
  const sources = fs
    .readdirSync(path.join(root, 'bench/cuda'))
    .filter((f) => f.endsWith('.cpp'))
    .map((f) => `bench/cuda/${f}`);
  const flags = ['-std=c++20', '-O1', '-I', 'cuda', '-I', 'test', '-pthread'];
  const built = run(process.env.CXX ?? 'g++', [...flags, ...sources, '-o', program, '-ldl']);
  assert.is(built.status, 0, built.stderr);
  const json = path.join(home, 'bench.json');
  const { status, stdout } = run(program, ['--tiny', '--json', json], {
    RANKONE_CUDA_PATH: emulatedLibrary,
  });
  assert.is(status, 0, stdout);
  const result = JSON.parse(fs.readFileSync(json, 'utf8'));
  assert.is(result.emulated, true);
  assert.ok(result.copyGBPerSecond > 0 && result.mmaTFPerSecond >= 0);
  const names: string[] = result.cases.map((c: { name: string }) => c.name);
  assert.is(new Set(names).size, names.length, 'names repeat');
  for (const kind of [
    'forward ',
    'backward ',
    'decode ',
    'lora forward ',
    'lora forward + backward ',
  ])
    assert.ok(names.filter((n) => n.startsWith(kind)).length >= 3, kind);
  for (const c of result.cases) {
    assert.ok(c.milliseconds > 0 && c.least <= c.milliseconds && c.bytes > 0, c.name);
    assert.is(c.ratio > 0, / of |base$|adapter$/.test(c.note), c.name);
  }
  const none = run(program, ['--tiny', 'no such case'], { RANKONE_CUDA_PATH: emulatedLibrary });
  assert.is(none.status, 1);
  assert.match(none.stdout, 'no case matches');
});

test.run();
