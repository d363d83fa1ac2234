// The TypeScript surface against the engine's own description: every function takes the inputs and options, and returns the
// results, that the engine has, and no other.
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { description, type EntryDescription } from '../../ts/binding';
import { folderInPackage } from '../support/folder.ts';

const root = path.join(__dirname, '../..');
const home = folderInPackage('types');

test.after(() => fs.rmSync(home, { recursive: true, force: true }));

/** An object with exactly these keys, in TypeScript. */
function keys(names: (string | false | undefined)[]): string {
  const distinct = new Set(names.filter((name) => name));
  return `{ ${[...distinct].map((name) => `${name}: 0`).join(', ')} }`;
}

function claims(entry: EntryDescription): string[] {
  const { name, inputs, options, outputs, takesState, takesSaved, makesSaved } = entry;
  const { inputGroup, takesBase, takesBank, takesCache } = entry;
  const plain = (x: { group?: string }) => x.group === undefined || x.group === inputGroup;
  const taken = inputs.filter(plain).map((i) => i.group || i.name);
  const optional = [...options, ...inputs.filter((i) => !plain(i))];
  const given = optional
    .filter((o) => o.group !== inputGroup || !o.group)
    .map((o) => o.group || o.name);
  const returned = outputs.map((o) => o.name);
  const claim = (of: string, names: Parameters<typeof keys>[0]) =>
    `same<Keys<${of}>>(${keys(names)}); // ${name}`;
  return ['Sync', ''].flatMap((form) => {
    const f = `typeof rankone.${name}${form}`;
    const signal = form === '' && 'signal';
    return [
      claim(`Parameters<${f}>[0]`, [
        ...taken,
        takesState && 'state',
        takesSaved && 'saved',
        takesBase && 'base',
        takesBank && 'bank',
        takesCache && 'cache',
      ]),
      claim(`Parameters<${f}>[1]`, [...given, returned.length > 0 && 'out', signal]),
      claim(`Awaited<ReturnType<${f}>>`, [...returned, makesSaved && 'saved']),
    ];
  });
}

function compile(lines: string[]): string {
  const head = [
    `import type * as rankone from '../../ts/index';`,
    'type Names<T> = T extends unknown ? Exclude<keyof T, undefined> : never;',
    'type Keys<T> = Record<Names<Exclude<T, undefined>>, 0>;',
    'declare function same<T>(value: T): void;',
  ];
  fs.writeFileSync(path.join(home, 'claims.ts'), [...head, ...lines].join('\n'));
  const config = { extends: '../../tsconfig.json', include: ['claims.ts'], exclude: [] };
  fs.writeFileSync(path.join(home, 'tsconfig.json'), JSON.stringify(config));
  const tsc = path.join(root, 'node_modules/typescript/bin/tsc');
  return spawnSync(process.execPath, [tsc, '-p', home], { encoding: 'utf8' }).stdout;
}

test('inputs, options and results are those of the engine', () => {
  const lines = description.entries.filter(({ wrapped }) => !wrapped).flatMap(claims);
  assert.ok(lines.length > 200, `${lines.length} claims`);
  assert.is(compile(lines), '');
});

test('a name too many and a name too few are found', () => {
  const options = (names: string[]) =>
    `same<Keys<Parameters<typeof rankone.rmsNormSync>[1]>>(${keys(names)});`;
  assert.is(compile([options(['eps', 'out'])]), '');
  assert.match(compile([options(['eps'])]), /'out' is missing/);
  assert.match(compile([options(['eps', 'out', 'scale'])]), /'scale' does not exist/);
});

test.run();
