/** The snippets of the pages on adapters run and print what the comments behind their console.log say. */
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { folderInPackage } from '../support/folder.ts';

const root = path.join(__dirname, '../..');

function snippetsOf(page: string, count: number): [string, string][] {
  const text = fs.readFileSync(path.join(root, 'docs', page), 'utf8');
  const snippets = [...text.matchAll(/^```js\n(.*?)^```$/gms)].map(([, code]) => code);
  assert.is(snippets.length, count, page);
  return snippets.map((code, i) => [`${page}, snippet ${i + 1}`, code]);
}

for (const [name, code] of [...snippetsOf('initialisers.md', 4), ...snippetsOf('companions.md', 5)])
  test(name, () => {
    const home = folderInPackage('initialisers');
    try {
      const file = path.join(home, 'snippet.mjs');
      fs.writeFileSync(file, code);
      const { status, stdout, stderr } = spawnSync(process.execPath, [file], { encoding: 'utf8' });
      assert.is(status, 0, stderr);
      const announced = [...code.matchAll(/console\.log\(.*\); \/\/ (.+)$/gm)].map(([, x]) => x);
      assert.equal(stdout.split('\n').filter(Boolean), announced);
    } finally {
      fs.rmSync(home, { recursive: true });
    }
  });

test('every function is named', () => {
  const index = Object.keys(require('../../ts/index'));
  const text = fs.readFileSync(path.join(root, 'docs/initialisers.md'), 'utf8');
  for (const name of index.filter((x) =>
    /^(init|eva|updateEva|nf4|quantise|lora(?!Linear)|allora)/.test(x),
  ))
    assert.ok(text.includes(`\`${name}\``), name);
});
test('every companion is named', () => {
  const index = Object.keys(require('../../ts/index'));
  const text = fs.readFileSync(path.join(root, 'docs/companions.md'), 'utf8');
  const names = /^(dora|scatter|spmm|sddmm|kronecker|basis|randLora|rowSketch)/;
  const companions = index.filter((x) => names.test(x) && !x.endsWith('Sync'));
  assert.is(companions.length, 15);
  for (const name of companions) assert.ok(text.includes(`\`${name}\``), name);
});

test.run();
