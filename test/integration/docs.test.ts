// The documentation's site builds without a warning or a dead link, every public symbol is documented, and the README's
// first example runs.
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';

const root = path.join(__dirname, '../..');

test('every export of the package has a TSDoc comment', () => {
  const index = fs.readFileSync(path.join(root, 'ts/index.ts'), 'utf8');
  const modules = [...index.matchAll(/from '\.\/(.+)'/g)].map((m) => `ts/${m[1]}.ts`);
  assert.ok(modules.length > 10);
  let seen = 0;
  for (const file of modules) {
    const lines = fs.readFileSync(path.join(root, file), 'utf8').split('\n');
    for (const [i, line] of lines.entries()) {
      const name = /^export (?:declare )?(?:const|function|class|interface|type) (\w+)/.exec(
        line,
      )?.[1];
      if (!name) continue;
      const overload = lines[i - 1].endsWith(';') && /^export function \w+[<(]/.test(line);
      seen++;
      if (!overload) assert.ok(lines[i - 1].trimEnd().endsWith('*/'), `${file}:${i + 1} ${name}`);
    }
  }
  assert.ok(seen > 150, `${seen} symbols`);
});

test('the site builds, and none of its links is dead', () => {
  const options = JSON.parse(fs.readFileSync(path.join(root, 'scripts/docs/typedoc.json'), 'utf8'));
  const pages = options.projectDocuments.map((file: string) =>
    path.relative(root, path.join(root, 'scripts/docs', file)),
  );
  for (const file of fs.readdirSync(path.join(root, 'docs')))
    if (file.endsWith('.md')) assert.ok(pages.includes(`docs/${file}`), `docs/${file} is no page`);
  const out = fs.mkdtempSync(path.join(os.tmpdir(), 'rankone-docs-'));
  try {
    const script = path.join(root, 'scripts/docs.cjs');
    const { status, stdout, stderr } = spawnSync(process.execPath, [script, '--out', out], {
      encoding: 'utf8',
    });
    assert.is(status, 0, stdout + stderr);
    for (const page of [
      'index.html',
      'documents/Guide.html',
      'variables/rankone.gatedDeltaNet.html',
    ])
      assert.ok(fs.existsSync(path.join(out, page)), page);
  } finally {
    fs.rmSync(out, { recursive: true });
  }
});

for (const [language, extension] of [
  ['an ES module', 'mjs'],
  ['a CommonJS module', 'cjs'],
  ['TypeScript', 'mts'],
]) {
  test(`the first example of the README runs as ${language}`, () => {
    const readme = fs.readFileSync(path.join(root, 'README.md'), 'utf8');
    let code = /```js\n([\s\S]+?)```/.exec(readme)![1];
    if (extension === 'cjs') {
      code = code.replace(/^import (.+) from 'rankone';$/m, "const $1 = require('rankone');");
      code = `(async () => {\n${code}})();\n`;
    }
    const file = path.join(root, 'dist', `readme-example.${extension}`); // inside of the package, which may name itself
    fs.writeFileSync(file, code);
    try {
      const loader = extension === 'mts' ? ['--import', 'tsx'] : [];
      const { status, stdout, stderr } = spawnSync(process.execPath, [...loader, file], {
        cwd: root,
        encoding: 'utf8',
      });
      assert.is(status, 0, stderr);
      assert.is(stdout, '[ 1, 128, 4, 64 ]\n[ 1, 1, 4, 64 ]\n');
      if (extension !== 'mts') return;
      const compiler = path.join(root, 'node_modules/typescript/bin/tsc');
      const options = '--ignoreConfig --noEmit --strict --target es2022 --module nodenext'.split(
        ' ',
      );
      const checked = spawnSync(process.execPath, [compiler, ...options, file], {
        cwd: root,
        encoding: 'utf8',
      });
      assert.is(checked.status, 0, checked.stdout);
    } finally {
      fs.rmSync(file);
    }
  });
}

test.run();
