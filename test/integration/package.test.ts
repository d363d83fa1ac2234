// The package as its users get it: packed, installed in an empty folder, loaded by import and by require, compiled against.
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
  const { status, stdout, stderr } = spawnSync(command, args, {
    cwd,
    encoding: 'utf8',
    env,
    maxBuffer: 2 ** 26,
  });
  assert.is(status, 0, `${command} ${args.join(' ')}\n${stdout}${stderr}`);
  return stdout.trim();
}

function write(name: string, text: string): void {
  fs.writeFileSync(path.join(home, name), text);
}

let tarball = '';
/** `rankone`, and `rankone/x` for every further entry of the exports that is code. */
let entries: string[] = [];

test.before(() => {
  const [{ filename }] = JSON.parse(
    run(
      'npm',
      ['pack', '--json', '--ignore-scripts', '--silent', '--pack-destination', home],
      root,
    ).replace(/^[^[]*/, ''),
  );
  tarball = path.join(home, filename);
  // What it depends on comes from this checkout, so that nothing is fetched.
  const { dependencies, peerDependencies } = require('../../package.json');
  const local = Object.keys({ ...dependencies, ...peerDependencies }).map((name) => {
    return [name, `file:${path.join(root, 'node_modules', name)}`];
  });
  write('package.json', JSON.stringify({ private: true, dependencies: Object.fromEntries(local) }));
  const quiet = ['--offline', '--ignore-scripts', '--no-audit', '--no-fund'];
  run('npm', ['install', ...quiet, '--cache', path.join(home, 'cache'), tarball]);
  const manifest = JSON.parse(fs.readFileSync(path.join(installed, 'package.json'), 'utf8'));
  entries = Object.keys(manifest.exports)
    .filter((name) => !name.endsWith('.json'))
    .map((name) => `rankone${name.slice(1)}`);
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
  for (const name of ['test', 'node_modules', 'build', 'ts', 'examples', '.npmrc'])
    assert.not(fs.existsSync(path.join(installed, name)), name);
  // Of the benchmarks, what the command line compiles or runs.
  assert.equal(fs.readdirSync(path.join(installed, 'bench')), ['peers']);
  const programs = fs.readdirSync(path.join(installed, 'bench/peers'));
  const own = fs.readdirSync(path.join(root, 'bench/peers'));
  assert.equal(programs.sort(), own.filter((file) => /\.(h|cpp|py)$/.test(file)).sort());
  assert.ok(programs.includes('protocol.h') && programs.includes('torch_peer.py'));
});

test('every entry computes, and import and require give one and the same', () => {
  assert.is(entries[0], 'rankone');
  write(
    'both.mjs',
    `
    import { createRequire } from 'node:module';
    import { RecurrentState, matmulSync, tensor } from 'rankone';
    const require = createRequire(import.meta.url);
    const { y } = matmulSync({ a: tensor([2], [1, 1]), b: tensor([3], [1, 1]) });
    console.log(y.data[0], RecurrentState === require('rankone').RecurrentState);
    const names = (o) => Object.keys(o).filter((k) => k !== 'default' && k !== 'module.exports').sort();
    for (const entry of ${JSON.stringify(entries)}) {
      const esm = await import(entry);
      const cjs = require(entry);
      const same = names(cjs).every((name) => esm[name] === cjs[name]);
      console.log(entry, names(cjs).length > 0, names(esm).join() === names(cjs).join(), same);
    }
  `,
  );
  const expected = ['6 true', ...entries.map((entry) => `${entry} true true true`)];
  assert.equal(run(process.execPath, ['both.mjs']).split('\n'), expected);
});

test('CommonJS computes, asynchronously too', () => {
  write(
    'alone.cjs',
    `
    const { createState, gatedDeltaNet, tensor } = require('rankone');
    const ones = (...shape) => tensor(new Float32Array(shape.reduce((a, b) => a * b)).fill(1), shape);
    const state = createState({ batch: 1, valueHeads: 1, keyDim: 1, valueDim: 1 });
    const [wide, flat] = [ones(1, 1, 1, 1), ones(1, 1, 1)];
    const g = tensor([0], [1, 1, 1]);
    gatedDeltaNet({ q: wide, k: wide, v: wide, g, beta: flat, state }).then(({ o }) => console.log(o));
  `,
  );
  assert.match(run(process.execPath, ['alone.cjs']), /Float32Array\(1\) \[ 1 \]/);
});

test('its programs start', () => {
  const { version, bin } = JSON.parse(
    fs.readFileSync(path.join(installed, 'package.json'), 'utf8'),
  );
  for (const name of Object.keys(bin))
    assert.is(run(path.join(home, 'node_modules/.bin', name), ['--version']), version);
});

const compilers: Record<string, { options: object; files: string[] }> = {
  node16: { options: { module: 'node16' }, files: ['esm.mts', 'cjs.cts'] },
  nodenext: { options: { module: 'nodenext' }, files: ['esm.mts', 'cjs.cts'] },
  bundler: { options: { module: 'esnext', moduleResolution: 'bundler' }, files: ['esm.mts'] },
};

for (const [name, { options, files }] of Object.entries(compilers)) {
  test(`TypeScript takes the types with ${name}`, () => {
    const body = `
      const state = createState({ batch: 1, valueHeads: 1, keyDim: 2, valueDim: 2 });
      const shape: readonly number[] = state.shape;
      const t: Tensor = { data: new Float32Array(1), shape: [1, 1] };
      const y: Float32Array = matmulSync({ a: t, b: t }).y.data;
      const o: Uint16Array = linearAttentionSync({ q: half, k: half, v: half }).o.data;
      // @ts-expect-error an entry whose types are missing would be any
      const never: string = createState;
      export { never, o, shape, y };`;
    const imports = `
      import { createState, linearAttentionSync, matmulSync, type HalfTensor, type Tensor } from 'rankone';
      declare const half: HalfTensor<'bf16'>;`;
    const check = (names: string[], skipLibCheck: boolean) => {
      const common = { target: 'es2022', types: [], strict: true, noEmit: true, skipLibCheck };
      const compilerOptions = { ...common, lib: ['es2022', 'dom'], ...options };
      write('tsconfig.json', JSON.stringify({ compilerOptions, files: names }));
      const tsc = path.join(path.dirname(require.resolve('typescript/package.json')), 'bin/tsc');
      run(process.execPath, [tsc, '-p', home]);
    };
    for (const file of files) write(file, `${imports}\n${body}`);
    check(files, false);
    // Further entries lean on the types of other packages, which are not ours to check.
    const more = files.map((file) => `entries.${file}`);
    const every = entries.map((entry, i) => {
      return `
        import * as entry${i} from '${entry}';
        // @ts-expect-error an entry whose types are missing would be any
        export const never${i}: string = entry${i};`;
    });
    for (const file of more) write(file, every.join('\n'));
    check(more, true);
  });
}

test('the types resolve in every mode that there is', () => {
  const cli = require.resolve('@arethetypeswrong/cli/package.json');
  const { bin } = JSON.parse(fs.readFileSync(cli, 'utf8'));
  const attw = path.join(path.dirname(cli), bin.attw);
  const answer = JSON.parse(
    run(process.execPath, [attw, tarball, '--no-definitely-typed', '--format', 'json']),
  );
  assert.equal(answer.problems, {});
  assert.equal(
    Object.keys(answer.analysis.entrypoints).filter((name) => !name.endsWith('.json')),
    entries.map((entry) => entry.replace('rankone', '.')),
  );
  for (const { resolutions } of Object.values<any>(answer.analysis.entrypoints))
    assert.equal(Object.keys(resolutions), ['node10', 'node16-cjs', 'node16-esm', 'bundler']);
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
