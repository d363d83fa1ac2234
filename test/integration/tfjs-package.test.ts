// The entry point rankone/tfjs as users load it: with and without TensorFlow.js, by import and by require, compiled against.
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { test } from 'uvu';
import * as assert from 'uvu/assert';

const root = path.join(__dirname, '../..');
const home = fs.mkdtempSync(path.join(os.tmpdir(), 'rankone-tfjs-'));
const modules = path.join(home, 'node_modules');
const tensorflow = path.join(modules, '@tensorflow');
const addon = process.env.RANKONE_BINDING ?? path.join(root, 'build/Release/rankone.node');

function node(...args: string[]) {
  const env = { ...process.env, RANKONE_BINDING: path.resolve(root, addon) };
  return spawnSync(process.execPath, args, { cwd: home, encoding: 'utf8', env });
}

function output(...args: string[]): string {
  const { status, stdout, stderr } = node(...args);
  assert.is(status, 0, `${args.join(' ')}\n${stdout}${stderr}`);
  return stdout.trim();
}

function write(name: string, text: string): void {
  fs.writeFileSync(path.join(home, name), text);
}

test.before(() => {
  fs.mkdirSync(path.join(modules, 'rankone'), { recursive: true });
  fs.copyFileSync(path.join(root, 'package.json'), path.join(modules, 'rankone/package.json'));
  fs.cpSync(path.join(root, 'dist'), path.join(modules, 'rankone/dist'), { recursive: true });
});

test.after(() => fs.rmSync(home, { recursive: true, force: true }));

test('without TensorFlow.js the package stands, and the entry point says what it needs', () => {
  assert.is(output('-p', "typeof require('rankone').gatedDeltaNet"), 'function');
  write('missing.mjs', "import 'rankone/tfjs';");
  for (const args of [['missing.mjs'], ['-e', "require('rankone/tfjs')"]]) {
    const { status, stderr } = node(...args);
    assert.is(status, 1);
    assert.match(
      stderr,
      /Error: rankone\/tfjs needs @tensorflow\/tfjs-core 4 .*\n +npm install @tensorflow\/tfjs/,
    );
    assert.match(stderr, /code: 'ERR_RANKONE_TFJS'/);
  }
});

test('an error inside of TensorFlow.js is not taken for its absence', () => {
  const broken = path.join(tensorflow, 'tfjs-core');
  fs.mkdirSync(broken, { recursive: true });
  fs.writeFileSync(path.join(broken, 'index.js'), "require('absent');");
  const { status, stderr } = node('-e', "require('rankone/tfjs')");
  fs.rmSync(tensorflow, { recursive: true });
  assert.is(status, 1);
  assert.match(stderr, /Cannot find module 'absent'/);
});

test('import and require give one and the same', () => {
  fs.symlinkSync(path.join(root, 'node_modules/@tensorflow'), tensorflow);
  write(
    'both.mjs',
    `
    import { createRequire } from 'node:module';
    import * as tf from '@tensorflow/tfjs-core';
    import '@tensorflow/tfjs-backend-cpu';
    import * as esm from 'rankone/tfjs';
    import { swiglu } from 'rankone/tfjs';
    import { createState } from 'rankone';
    const cjs = createRequire(import.meta.url)('rankone/tfjs');
    console.warn = () => {};
    const { y } = swiglu({ gate: tf.zeros([2]), up: tf.ones([2]) });
    const x = tf.ones([1, 1, 1, 2]);
    const state = createState({ batch: 1, valueHeads: 1, keyDim: 2, valueDim: 2 });
    const { o } = cjs.linearAttention({ q: x, k: x, v: x, state }, { scale: 1 });
    const names = (m) => Object.keys(m).filter((k) => k !== 'default' && k !== 'module.exports').sort().join();
    console.log(y.shape, o.dataSync()[0], esm.gla === cjs.gla, names(esm) === names(cjs));
  `,
  );
  assert.is(output('both.mjs'), '[ 2 ] 2 true true');
});

for (const [module, moduleResolution, files] of [
  ['node16', 'node16', ['esm.mts', 'cjs.cts']],
  ['nodenext', 'nodenext', ['esm.mts', 'cjs.cts']],
  ['esnext', 'bundler', ['esm.mts']],
] as const) {
  test(`types resolve: ${moduleResolution}`, () => {
    const text = `
      import * as tf from '@tensorflow/tfjs-core';
      import {
        gatedDeltaNet,
        loraLinear,
        registerMatMul,
        type DifferentiableOperation,
        type LoraAdapterTensors,
      } from 'rankone/tfjs';
      const t = tf.ones([1, 1, 1, 2]);
      const o: tf.Tensor = gatedDeltaNet({ q: t, k: t, v: t, g: t, beta: t }, { scale: 1 }).o;
      const restore: () => void = registerMatMul();
      const op: DifferentiableOperation<{ a: number }, { b: number }, { c: number }> = () => ({ c: 1 });
      const adapter: LoraAdapterTensors = { a: t, b: t };
      const y: tf.Tensor = loraLinear({ x: t, base: t, adapters: [adapter] }).y;
      // @ts-expect-error no beta
      gatedDeltaNet({ q: t, k: t, v: t, g: t });
      export { o, op, restore, y };`;
    write('esm.mts', text);
    write('cjs.cts', text);
    const compilerOptions = {
      module,
      moduleResolution,
      target: 'es2022',
      lib: ['es2022', 'dom'],
      types: [],
      strict: true,
      noEmit: true,
      // TensorFlow.js's own declarations contradict today's DOM library.
      skipLibCheck: true,
    };
    write('tsconfig.json', JSON.stringify({ compilerOptions, include: files }));
    output(path.join(root, 'node_modules/typescript/bin/tsc'), '-p', home);
  });
}

const document = fs.readFileSync(path.join(root, 'docs/tfjs.md'), 'utf8');
const examples = [...document.matchAll(/```js\n([\s\S]+?)```/g)].map(([, code]) => code);

test('docs/tfjs.md has its examples', () => assert.is(examples.length, 2));

for (const [i, code] of examples.entries()) {
  test(`example ${i + 1} of docs/tfjs.md learns`, () => {
    const union = "import * as tf from '@tensorflow/tfjs';";
    assert.ok(code.startsWith(union));
    // What the union package consists of.
    const parts = ['tfjs-core', 'tfjs-backend-cpu', 'tfjs-core/dist/register_all_gradients.js'];
    const [core, ...others] = parts.map((name) => `'@tensorflow/${name}';`);
    const imports = [`import * as tf from ${core}`, ...others.map((name) => `import ${name}`)];
    // The gradients are ES modules that do not say so: as CommonJS the loader takes them.
    write('example.ts', code.replace(union, imports.join('\n')));
    const loader = pathToFileURL(require.resolve('tsx')).href;
    const losses = [...output('--import', loader, 'example.ts').matchAll(/^step \d+: ([\d.]+)$/gm)];
    assert.is(losses.length, 2);
    const [first, last] = losses.map((match) => Number(match[1]));
    assert.ok(last < 0.5 * first, `${first} to ${last}`);
  });
}

test('every export has a TSDoc comment', () => {
  const folder = path.join(root, 'ts/integrations/tfjs');
  const index = fs.readFileSync(path.join(folder, 'index.ts'), 'utf8');
  let seen = 0;
  for (const [, name] of index.matchAll(/from '\.\/(.+)'/g)) {
    const lines = fs.readFileSync(path.join(folder, `${name}.ts`), 'utf8').split('\n');
    for (const [i, line] of lines.entries()) {
      if (!/^export (const|function|interface|type) \w+/.test(line)) continue;
      assert.ok(lines[i - 1].trimEnd().endsWith('*/'), `${name}.ts:${i + 1}`);
      seen++;
    }
  }
  assert.ok(seen > 25, `${seen} exports`);
});

test.run();
