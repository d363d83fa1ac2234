// The program of docs/adapters.md type-checks, runs, and prints what it says.
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';

const root = path.join(__dirname, '../..');
// Inside of the package, which may name itself.
const home = fs.mkdtempSync(path.join(root, 'build/adapters-'));

test.after(() => fs.rmSync(home, { recursive: true, force: true }));

test('docs/adapters.md', () => {
  const text = fs.readFileSync(path.join(root, 'docs/adapters.md'), 'utf8');
  const [[, code], ...more] = text.matchAll(/^```js\n(.*?)^```$/gms);
  assert.is(more.length, 0);
  const program = path.join(home, 'program.mjs');
  fs.writeFileSync(program, code);
  const run = (args: string[]): string => {
    const { status, stdout, stderr } = spawnSync(process.execPath, args, {
      cwd: home,
      encoding: 'utf8',
    });
    assert.is(status, 0, `${stdout}${stderr}`);
    return stdout;
  };
  const announced = [...code.matchAll(/console\.log\(.*\); \/\/ (.+)$/gm)].map(([, said]) => said);
  assert.is(announced.length, 2);
  assert.equal(run([program]).trim().split('\n'), announced);
  const tsc = path.join(path.dirname(require.resolve('typescript/package.json')), 'bin/tsc');
  const compilerOptions = {
    allowJs: true,
    checkJs: true,
    strict: true,
    noEmit: true,
    target: 'es2022',
    module: 'nodenext',
    lib: ['es2022'],
    types: ['node'],
  };
  const config = { compilerOptions, files: ['program.mjs'] };
  fs.writeFileSync(path.join(home, 'tsconfig.json'), JSON.stringify(config));
  run([tsc, '-p', home]);
});

test.run();
