// The snippets of docs/guide.md: those of a section are one program, which type-checks, runs, and prints what the comments
// behind its console.log say.
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import * as rankone from '../../ts/index';
import { eventually } from '../support/eventually';
import { folderInPackage } from '../support/folder.ts';

const root = path.join(__dirname, '../..');
const guide = fs.readFileSync(path.join(root, 'docs/guide.md'), 'utf8');
const home = folderInPackage('guide');

interface Program {
  file: string;
  code: string;
}

/** Files that a snippet names in its first line, and one program per section and language. */
const helpers: Program[] = [];
const programs: Program[] = [];

for (const section of guide.split(/^## /m).slice(1)) {
  const title = section.slice(0, section.indexOf('\n')).toLowerCase().replace(/\W+/g, '-');
  const joined: Record<string, string> = { js: '', ts: '' };
  for (const [, language, code] of section.matchAll(/^```(\w+)\n(.*?)^```$/gms)) {
    assert.ok(language in joined, `${title}: a snippet in ${language}`);
    const name = /^\/\/ ([\w.-]+\.mjs)\n/.exec(code)?.[1];
    if (name) helpers.push({ file: name, code });
    else joined[language] += code;
  }
  for (const [language, code] of Object.entries(joined))
    if (code) programs.push({ file: `section-${title}.m${language}`, code });
}

/** What a program says that it prints: behind console.log( ... ); or alone on the next line. */
function announced(code: string): string[] {
  const line = /console\.log\(.*\);(?: \/\/ (.+)|\n\/\/ (.+))?$/gm;
  return [...code.matchAll(line)].map(([text, behind, below]) => {
    assert.ok(behind ?? below, `nothing is said of ${text}`);
    return behind ?? below;
  });
}

function node(args: string[]): string {
  const { status, stdout, stderr } = spawnSync(process.execPath, args, {
    cwd: home,
    encoding: 'utf8',
    timeout: 300_000,
  });
  assert.is(status, 0, `${args.join(' ')}\n${stdout}${stderr}`);
  return stdout;
}

test.before(() => {
  for (const { file, code } of [...helpers, ...programs])
    fs.writeFileSync(path.join(home, file), code);
});

test.after(() => fs.rmSync(home, { recursive: true, force: true }));

test('there is a program in every section that has code', () => {
  assert.equal(
    helpers.map((h) => h.file),
    ['tensors.mjs'],
  );
  const fences = guide.match(/^```\w+$/gm)!.length;
  assert.ok(fences >= 15, `${fences} snippets`);
  assert.ok(programs.length >= 13, `${programs.length} programs`);
  for (const program of programs)
    assert.ok(announced(program.code).length > 0, `${program.file} prints nothing`);
});

test('all snippets type-check', () => {
  const compilerOptions = {
    allowJs: true,
    checkJs: true,
    strict: true,
    noEmit: true,
    target: 'es2022',
    lib: ['es2023', 'dom', 'esnext.disposable'],
    module: 'nodenext',
    types: ['node'],
    typeRoots: [path.join(root, 'node_modules/@types')],
  };
  fs.writeFileSync(
    path.join(home, 'tsconfig.json'),
    JSON.stringify({ compilerOptions, include: ['*'] }),
  );
  node([path.join(root, 'node_modules/typescript/bin/tsc'), '-p', home]);
});

for (const { file, code } of programs) {
  test(`${file} prints what it says`, async () => {
    const loader = file.endsWith('.mts') ? ['--import', require.resolve('tsx')] : [];
    const expected = announced(code).join('\n') + '\n';
    // On a busy machine a call may be done before the next line aborts it.
    const attempts = code.includes('.abort(') ? 5 : 1;
    const attempt = () => {
      const printed = node([...loader, file]);
      return printed === expected || `expected\n${expected}got\n${printed}`;
    };
    await eventually(file, attempt, attempts);
  });
}

test('published systems are given calls that exist', () => {
  const [, section] = /^## Published systems\n(.*?)^## /ms.exec(guide) ?? [];
  const rows = [...section.matchAll(/^\| .+ \| (.+) \|$/gm)].slice(1);
  assert.ok(rows.length > 20, `${rows.length} systems`);
  for (const [row, calls] of rows) {
    const names = [...calls.matchAll(/`(\w+)`/g)].map(([, name]) => name);
    const known = names.filter((name) => name in rankone || name === 'cuSeqlens');
    assert.equal(known, names, row);
  }
});

test('its links lead somewhere', () => {
  for (const [, target] of guide.matchAll(/\]\(([^)#]+)(?:#[^)]*)?\)/g))
    assert.ok(fs.existsSync(path.join(root, 'docs', target)), target);
  const anchors = [...guide.matchAll(/^## (.+)$/gm)].map(([, title]) => {
    return title.toLowerCase().replace(/ /g, '-');
  });
  assert.equal(
    [...guide.matchAll(/\]\(#(.+?)\)/g)].map(([, anchor]) => anchor),
    anchors,
  );
});

test.run();
