// The installed package in the places where users run it: each supported Node without a compiler, worker threads, test
// runners, bundled applications.
import fs from 'node:fs';
import path from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import {
  addon,
  emptyEnvironment,
  folderElsewhere,
  folderIn,
  type Installed,
  installed,
  npmInstall,
  prebuild,
} from '../support/installed.ts';
import { openRegistry } from '../support/registry.ts';
import { attempt, commandsIn, npmScript, output, plainEnvironment } from '../support/run.ts';
import { fetched } from '../support/tools.ts';

const PRODUCT = 'matmulSync({ a: tensor([1, 2], [1, 2]), b: tensor([3, 4], [2, 1]) }).y.data[0]';
const ESM = `import { matmulSync, tensor } from 'rankone'; console.log(${PRODUCT});`;
const CJS = `const { matmulSync, tensor } = require('rankone'); console.log(${PRODUCT});`;

let made: Installed;
let folder = '';

test.before(async () => {
  made = await installed();
  folder = folderIn(made.home);
});

test.after(() => fs.rmSync(folder, { recursive: true, force: true }));

function write(name: string, text: string, where = folder): string {
  const file = path.join(where, name);
  fs.mkdirSync(path.dirname(file), { recursive: true });
  fs.writeFileSync(file, text);
  return file;
}

const node = (...args: string[]) => output(process.execPath, args, { cwd: folder });

for (const version of ['20.20.2', '22.23.3', '24.21.0']) {
  const [major] = version.split('.');
  const present = process.versions.node.startsWith(`${major}.`);
  // npm has none for musl.
  const other = () =>
    prebuild.includes('.musl.')
      ? undefined
      : fetched(`node-${process.platform}-${process.arch}`, version);
  const found = present ? '' : other();
  const check = found === undefined ? test.skip : test;
  check(`Node ${major}: npm install --ignore-scripts with no compiler`, async () => {
    const home = folderElsewhere();
    const registry = await openRegistry();
    try {
      const host = found ? path.join(found, 'bin/node') : process.execPath;
      const commands = commandsIn(home, host);
      const place = { cwd: home, env: emptyEnvironment(home, commands) };
      write('package.json', '{"private":true}', home);
      await output(host, [npmScript(), ...npmInstall(made.tarball, registry.url, home)], place);
      write('app.mjs', ESM, home);
      write('app.cjs', CJS, home);
      for (const name of ['app.mjs', 'app.cjs'])
        assert.is(await output(host, [name], place), '11', name);
      assert.match(
        await output(host, ['-p', 'process.version'], place),
        new RegExp(`^v${major}\\.`),
      );
    } finally {
      registry.close();
      fs.rmSync(home, { recursive: true });
    }
  });
}

test('worker threads', async () => {
  write(
    'worker.mjs',
    ESM.replace('console.log', 'postMessage').replace(
      'import',
      "import { parentPort } from 'node:worker_threads';\nconst postMessage = (x) => parentPort.postMessage(x);\nimport",
    ),
  );
  write(
    'threads.mjs',
    `
    import { Worker } from 'node:worker_threads';
    const answer = () => new Promise((resolve, reject) => {
      new Worker(new URL('./worker.mjs', import.meta.url)).on('message', resolve).on('error', reject);
    });
    console.log(...await Promise.all([answer(), answer(), answer()]));
    await import('rankone');
    console.log(await answer());
  `,
  );
  assert.is(await node('threads.mjs'), '11 11 11\n11');
});

test('node --test, files in processes of their own', async () => {
  const text = (lines: string) => `
    import assert from 'node:assert';
    import { test } from 'node:test';
    import { matmulSync, tensor } from 'rankone';
    test('product', () => assert.strictEqual(${PRODUCT}, ${lines}));`;
  write('own/a.test.mjs', text('11'));
  write('own/b.test.mjs', text('11'));
  const reporter = ['--test', '--test-reporter=tap'];
  assert.match(await node(...reporter, 'own/a.test.mjs', 'own/b.test.mjs'), /# pass 2\n# fail 0/);
  write('own/b.test.mjs', text('12'));
  const place = { cwd: folder, env: plainEnvironment() };
  const { status, stdout } = await attempt(
    process.execPath,
    [...reporter, 'own/b.test.mjs'],
    place,
  );
  assert.is(status, 1);
  assert.match(stdout, /# pass 0\n# fail 1/);
});

const vitest = fetched('vitest', '4.0.18');
for (const pool of ['threads', 'forks', 'vmThreads']) {
  (vitest ? test : test.skip)(`vitest, ${pool}`, async () => {
    const modules = path.join(folder, 'node_modules');
    fs.mkdirSync(modules, { recursive: true });
    if (!fs.existsSync(path.join(modules, 'vitest')))
      fs.symlinkSync(vitest!, path.join(modules, 'vitest'));
    for (const name of ['one', 'two'])
      write(
        `vitest/${name}.test.ts`,
        `
        import { createState, matmul, matmulSync, tensor } from 'rankone';
        import { expect, test } from 'vitest';
        test('product', async () => {
          expect(${PRODUCT}).toBe(11);
          const { y } = await matmul({ a: tensor([2], [1, 1]), b: tensor([3], [1, 1]) });
          expect(y.data[0]).toBe(6);
          expect(createState({ batch: 1, valueHeads: 1, keyDim: 2, valueDim: 2 }).shape).toEqual([1, 1, 2, 2]);
        });`,
      );
    const args = [
      'run',
      '--root',
      path.join(folder, 'vitest'),
      '--pool',
      pool,
      '--reporter',
      'json',
      '--testTimeout',
      '300000',
      '--maxWorkers',
      '2',
    ];
    const text = await node(path.join(vitest!, 'vitest.mjs'), ...args);
    const { numPassedTests, numTotalTests } = JSON.parse(text.slice(text.indexOf('{')));
    assert.equal([numPassedTests, numTotalTests], [2, 2]);
  });
}

// A script, or once its install script has run a program.
const esbuild = require.resolve('esbuild/bin/esbuild', { paths: [require.resolve('tsx')] });

function bundle(source: string, target: string, ...flags: string[]): Promise<string> {
  const args = [source, '--bundle', '--platform=node', `--outfile=${target}`, '--log-level=error'];
  return output(esbuild, [...args, ...flags], { cwd: folder });
}

test('esbuild with the package left out of the bundle', async () => {
  write('app.ts', ESM);
  for (const [format, name] of [
    ['cjs', 'out/app.cjs'],
    ['esm', 'out/app.mjs'],
  ]) {
    await bundle('app.ts', path.join(folder, name), `--format=${format}`, '--external:rankone');
    assert.is(await node(name), '11', format);
  }
});

test('esbuild with everything in the bundle: an error that says what to do, and it works', async () => {
  const away = folderElsewhere();
  try {
    write('app.ts', ESM);
    const target = path.join(away, 'out/app.cjs');
    await bundle('app.ts', target);
    // What the application's own build leaves there is not taken for it.
    write('build/Release/theirs.node', 'theirs', away);
    const place = { cwd: away, env: plainEnvironment() };
    const { status, stderr } = await attempt(process.execPath, [target], place);
    assert.is(status, 1);
    assert.match(stderr, /rankone has no native binary for/);
    assert.ok(
      stderr.includes(`rankone has been bundled into ${target}, away from its binaries`),
      stderr,
    );
    assert.match(stderr, /--external:rankone/);
    assert.not.match(stderr, /install\.cjs/);
    const env = { ...plainEnvironment(), RANKONE_BINDING: addon };
    assert.is(await output(process.execPath, [target], { cwd: away, env }), '11');
    const copy = path.join(away, 'out', prebuild);
    fs.mkdirSync(path.dirname(copy), { recursive: true });
    fs.copyFileSync(path.join(made.home, 'node_modules/rankone', prebuild), copy);
    assert.is(await output(process.execPath, [target], place), '11');
  } finally {
    fs.rmSync(away, { recursive: true });
  }
});

test.run();
