// The package as its users get it: what is in it, loaded by import and by require, compiled against.
import fs from 'node:fs';
import path from 'node:path';
import zlib from 'node:zlib';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { folderIn, type Installed, installed, root } from '../support/installed.ts';
import { output } from '../support/run.ts';

/** Of the tarball, in bytes: without binaries, and with those of every system. */
const LIMITS = { packed: 1e6, prebuilds: 14e6 };

let made: Installed;
/** Where the package is. */
let own = '';
/** A folder whose programs find it. */
let folder = '';
/** `rankone`, and `rankone/x` for every further entry of the exports that is code. */
let entries: string[] = [];

test.before(async () => {
  made = await installed();
  own = path.join(made.home, 'node_modules/rankone');
  folder = folderIn(made.home);
  const manifest = JSON.parse(fs.readFileSync(path.join(own, 'package.json'), 'utf8'));
  entries = Object.keys(manifest.exports)
    .filter((name) => !name.endsWith('.json'))
    .map((name) => `rankone${name.slice(1)}`);
});

test.after(() => fs.rmSync(folder, { recursive: true, force: true }));

function write(name: string, text: string): void {
  fs.writeFileSync(path.join(folder, name), text);
}

const node = (...args: string[]) => output(process.execPath, args, { cwd: folder });

function filesIn(where: string): string[] {
  return fs.readdirSync(where, { withFileTypes: true }).flatMap((entry) => {
    if (entry.isDirectory())
      return filesIn(path.join(where, entry.name)).map((f) => `${entry.name}/${f}`);
    return [entry.name];
  });
}

test('the tarball holds what users and a source build need, and nothing else', async () => {
  const list = await output('tar', ['-tzf', made.packed], { cwd: folder });
  const files = list
    .split('\n')
    .filter((f) => !f.endsWith('/'))
    .map((f) => f.replace('package/', ''));
  const { cpu } = JSON.parse(fs.readFileSync(path.join(own, 'sources.json'), 'utf8'));
  const needed = ['LICENSE', 'README.md', 'CHANGELOG.md', 'package.json', 'dist/index.d.mts'];
  const build = ['binding.gyp', 'sources.json', 'scripts/install.cjs', 'cuda/backend.h', ...cpu];
  for (const file of [...needed, ...build, 'docs/install.md'])
    assert.ok(files.includes(file), file);
  const peers = filesIn(path.join(root, 'bench/peers')).filter((f) => /\.(h|cpp|py)$/.test(f));
  const rest = files.filter((file) => {
    if (
      needed.includes(file) ||
      build.includes(file) ||
      peers.includes(file.replace('bench/peers/', ''))
    )
      return false;
    return !/^(dist\/.+\.(js|mjs|css|d\.ts|d\.mts|LICENSE\.md)|cpp\/.+\.(h|inl|def)|docs\/[a-z]+\.md)$/.test(
      file,
    );
  });
  assert.equal(rest, []);
  const documents = files.filter((file) => file.startsWith('docs/'));
  assert.not(
    documents.some((file) => /adding|testing/.test(file)),
    'documents of its developers',
  );
  // Links from document to document lead somewhere.
  for (const document of ['README.md', ...documents]) {
    const text = fs.readFileSync(path.join(own, document), 'utf8');
    const links = document === 'README.md' ? /\]\(docs\/([\w-]+\.md)/g : /\]\(([\w-]+\.md)/g;
    for (const [, target] of text.matchAll(links))
      assert.ok(files.includes(`docs/${target}`), `${document}: ${target}`);
  }
  const size = fs.statSync(made.packed).size;
  assert.ok(size < LIMITS.packed, `${size} bytes`);
});

test('prebuilds for every system fit the budget', () => {
  const built = path.join(root, 'prebuilds');
  const sizes = (fs.existsSync(built) ? filesIn(built) : []).map((file) => {
    const bytes = fs.readFileSync(path.join(built, file));
    return zlib.gzipSync(bytes, { level: 9 }).length;
  });
  const sum = sizes.reduce((a, b) => a + b, 0);
  assert.ok(sum < LIMITS.prebuilds, `${sum} bytes packed: ${sizes}`);
});

test('every entry computes, and import and require give one and the same', async () => {
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
  assert.equal((await node('both.mjs')).split('\n'), expected);
});

test('CommonJS computes, asynchronously too', async () => {
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
  assert.match(await node('alone.cjs'), /Float32Array\(1\) \[ 1 \]/);
});

test('its programs start', async () => {
  const { version, bin } = JSON.parse(fs.readFileSync(path.join(own, 'package.json'), 'utf8'));
  for (const name of Object.keys(bin))
    assert.is(
      await output(path.join(made.home, 'node_modules/.bin', name), ['--version'], { cwd: folder }),
      version,
    );
});

const compilers: Record<string, { options: object; files: string[] }> = {
  node16: { options: { module: 'node16' }, files: ['esm.mts', 'cjs.cts'] },
  nodenext: { options: { module: 'nodenext' }, files: ['esm.mts', 'cjs.cts'] },
  bundler: { options: { module: 'esnext', moduleResolution: 'bundler' }, files: ['esm.mts'] },
};

for (const [name, { options, files }] of Object.entries(compilers)) {
  test(`TypeScript takes the types with ${name}`, async () => {
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
    const check = async (names: string[], skipLibCheck: boolean) => {
      const common = { target: 'es2022', types: [], strict: true, noEmit: true, skipLibCheck };
      const compilerOptions = { ...common, lib: ['es2022', 'dom'], ...options };
      write('tsconfig.json', JSON.stringify({ compilerOptions, files: names }));
      const tsc = path.join(path.dirname(require.resolve('typescript/package.json')), 'bin/tsc');
      await node(tsc, '-p', folder);
    };
    for (const file of files) write(file, `${imports}\n${body}`);
    await check(files, false);
    // Further entries lean on the types of other packages, which are not ours to check.
    const more = files.map((file) => `entries.${file}`);
    const every = entries.map((entry, i) => {
      return `
        import * as entry${i} from '${entry}';
        // @ts-expect-error an entry whose types are missing would be any
        export const never${i}: string = entry${i};`;
    });
    for (const file of more) write(file, every.join('\n'));
    await check(more, true);
  });
}

test('the types resolve in every mode that there is', async () => {
  const cli = require.resolve('@arethetypeswrong/cli/package.json');
  const { bin } = JSON.parse(fs.readFileSync(cli, 'utf8'));
  const attw = path.join(path.dirname(cli), bin.attw);
  const answer = JSON.parse(
    await node(attw, made.packed, '--no-definitely-typed', '--format', 'json'),
  );
  assert.equal(answer.problems, {});
  assert.equal(
    Object.keys(answer.analysis.entrypoints).filter((name) => !name.endsWith('.json')),
    entries.map((entry) => entry.replace('rankone', '.')),
  );
  for (const { resolutions } of Object.values<any>(answer.analysis.entrypoints))
    assert.equal(Object.keys(resolutions), ['node10', 'node16-cjs', 'node16-esm', 'bundler']);
});

test('publint finds nothing to say', async () => {
  const cli = path.join(root, 'node_modules/publint/src/cli.js');
  await node(cli, '--strict', '--pack', 'false', own);
});

test('sources.json lists the tree', async () => {
  await output(process.execPath, ['scripts/sources.cjs'], { cwd: root });
});

test.run();
