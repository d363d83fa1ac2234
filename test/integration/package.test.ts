// The package as its users get it: packed, unpacked elsewhere, loaded by import and by require, compiled against.
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';

const root = path.join(__dirname, '../..');
const home = fs.mkdtempSync(path.join(os.tmpdir(), 'rankone-package-'));
const installed = path.join(home, 'node_modules/rankone');

function run(command: string, args: string[], cwd = home, env = process.env): string {
  const { status, stdout, stderr } = spawnSync(command, args, { cwd, encoding: 'utf8', env });
  assert.is(status, 0, `${command} ${args.join(' ')}\n${stdout}${stderr}`);
  return stdout.trim();
}

function write(name: string, text: string): void {
  fs.writeFileSync(path.join(home, name), text);
}

test.before(() => {
  fs.mkdirSync(installed, { recursive: true });
  const [{ filename }] = JSON.parse(
    run(
      'npm',
      ['pack', '--json', '--ignore-scripts', '--silent', '--pack-destination', home],
      root,
    ).replace(/^[^[]*/, ''),
  );
  run('tar', ['xzf', path.join(home, filename), '-C', installed, '--strip-components=1']);
  for (const name of ['node-gyp-build', 'node-addon-api'])
    fs.symlinkSync(path.join(root, 'node_modules', name), path.join(home, 'node_modules', name));
  // What a prebuild in the tarball would be; the tests of the source build are .ci/run's.
  const addon = process.env.RANKONE_BINDING ?? path.join(root, 'build/Release/rankone.node');
  const folder = path.join(installed, 'prebuilds', `${process.platform}-${process.arch}`);
  fs.mkdirSync(folder, { recursive: true });
  fs.copyFileSync(addon, path.join(folder, 'rankone.node'));
});

test.after(() => fs.rmSync(home, { recursive: true, force: true }));

test('the tarball holds what a source build needs, and nothing else', () => {
  const sources = JSON.parse(fs.readFileSync(path.join(installed, 'sources.json'), 'utf8'));
  for (const file of ['binding.gyp', 'README.md', 'LICENSE', 'dist/index.d.mts', ...sources.cpu])
    assert.ok(fs.existsSync(path.join(installed, file)), file);
  for (const name of ['test', 'node_modules', 'build', 'ts', 'examples', 'bench', '.npmrc'])
    assert.not(fs.existsSync(path.join(installed, name)), name);
});

test('import and require give one and the same', () => {
  write(
    'both.mjs',
    `
    import { createRequire } from 'node:module';
    import * as esm from 'rankone';
    import { RecurrentState, matmulSync } from 'rankone';
    const cjs = createRequire(import.meta.url)('rankone');
    const { y } = matmulSync({ a: { data: new Float32Array([2]), shape: [1, 1] }, b: { data: new Float32Array([3]), shape: [1, 1] } });
    const names = (o) => Object.keys(o).filter((k) => k !== 'default' && k !== 'module.exports').sort().join();
    console.log(y.data[0], RecurrentState === cjs.RecurrentState, names(esm) === names(cjs));
  `,
  );
  assert.is(run(process.execPath, ['both.mjs']), '6 true true');
});

test('types resolve for import and for require', () => {
  const body = `
    const state = createState({ batch: 1, valueHeads: 1, keyDim: 2, valueDim: 2 });
    const shape: readonly number[] = state.shape;
    const t: Tensor = { data: new Float32Array(1), shape: [1, 1] };
    const y: Float32Array = matmulSync({ a: t, b: t }).y.data;
    export { shape, y };`;
  write('esm.mts', `import { createState, matmulSync, type Tensor } from 'rankone';\n${body}`);
  write('cjs.cts', `import { createState, matmulSync, type Tensor } from 'rankone';\n${body}`);
  write(
    'tsconfig.json',
    JSON.stringify({
      compilerOptions: {
        module: 'nodenext',
        target: 'es2022',
        lib: ['es2022'],
        types: [],
        strict: true,
        noEmit: true,
      },
      include: ['esm.mts', 'cjs.cts'],
    }),
  );
  const tsc = path.join(path.dirname(require.resolve('typescript/package.json')), 'bin/tsc');
  run(process.execPath, [tsc, '-p', home]);
});

test('publint finds nothing to say', () => {
  const cli = path.join(root, 'node_modules/publint/src/cli.js');
  run(process.execPath, [cli, '--strict', '--pack', 'false', installed]);
});

test('a missing binary is one clear error', () => {
  const { status, stderr } = spawnSync(process.execPath, ['-e', "require('rankone')"], {
    cwd: home,
    encoding: 'utf8',
    env: { ...process.env, RANKONE_BINDING: path.join(home, 'absent.node') },
  });
  assert.is(status, 1);
  assert.match(stderr, /rankone has no native binary for \w+-\w+/);
  assert.match(stderr, /absent\.node/);
  assert.match(stderr, /npm rebuild rankone/);
});

test('an instruction set that does not exist is one clear error', () => {
  const { status, stderr } = spawnSync(process.execPath, ['-e', "require('rankone')"], {
    cwd: home,
    encoding: 'utf8',
    env: { ...process.env, RANKONE_ISA: 'sse9' },
  });
  assert.is(status, 1);
  assert.match(stderr, /RANKONE_ISA=sse9: expected/);
});

test('sources.json lists the tree', () => {
  run(process.execPath, ['scripts/sources.cjs'], root);
});

test.run();
