// The programs of docs/adapters.md type-check, run, and print what they say.
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { folderInPackage } from '../support/folder.ts';

const root = path.join(__dirname, '../..');
const text = fs.readFileSync(path.join(root, 'docs/adapters.md'), 'utf8');
const programs = [...text.matchAll(/^```js\n(.*?)^```$/gms)].map(([, code], i) => ({
  name: `program-${i + 1}.mjs`,
  code,
}));
const home = folderInPackage('adapters');

test.before(() => {
  for (const { name, code } of programs) fs.writeFileSync(path.join(home, name), code);
});

test.after(() => fs.rmSync(home, { recursive: true, force: true }));

function run(args: string[]): string {
  const { status, stdout, stderr } = spawnSync(process.execPath, args, {
    cwd: home,
    encoding: 'utf8',
  });
  assert.is(status, 0, `${stdout}${stderr}`);
  return stdout;
}

test('docs/adapters.md has its programs', () => assert.is(programs.length, 6));

for (const { name, code } of programs)
  test(name, () => {
    const announced = [...code.matchAll(/console\.log\(.*\); \/\/ (.+)$/gm)].map(([, x]) => x);
    assert.ok(announced.length > 0);
    assert.is(announced.length, code.match(/console\.log/g)!.length);
    assert.equal(
      run([path.join(home, name)])
        .trim()
        .split('\n'),
      announced,
    );
  });

test('they type-check', () => {
  const tsc = path.join(path.dirname(require.resolve('typescript/package.json')), 'bin/tsc');
  const compilerOptions = {
    allowJs: true,
    checkJs: true,
    strict: true,
    noEmit: true,
    target: 'es2022',
    module: 'nodenext',
    lib: ['es2022', 'esnext.disposable'],
    types: ['node'],
  };
  const config = { compilerOptions, files: programs.map(({ name }) => name) };
  fs.writeFileSync(path.join(home, 'tsconfig.json'), JSON.stringify(config));
  run([tsc, '-p', home]);
});

test.run();
