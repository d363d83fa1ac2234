/** Every row of the table of docs/adapters.md: the published formula, in float64, against the call that it names. */
import fs from 'node:fs';
import path from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { bases } from './systems/bases.ts';
import { companions } from './systems/companions.ts';
import { factors } from './systems/factors.ts';
import { mixtures } from './systems/mixtures.ts';
import { structured } from './systems/structured.ts';

const groups = { factors, structured, mixtures, bases, companions };

for (const [group, systems] of Object.entries(groups)) {
  const test = suite(`systems: ${group}`);
  for (const { name, run } of systems) test(name, run);
  test.run();
}

const table = suite('systems: the table');

table('has a row for every test, and a test for every row', () => {
  const file = path.join(__dirname, '../../docs/adapters.md');
  const [, section] = /^## Systems\n(.*?)(?=^## )/ms.exec(fs.readFileSync(file, 'utf8')) ?? [];
  const rows = [...section.matchAll(/^\| (.+?) \|(.*)\|$/gm)].slice(1);
  const names = rows.map(([, name]) => name);
  assert.ok(names.length > 50, `${names.length} rows`);
  const tested = Object.values(groups).flatMap((systems) => systems.map(({ name }) => name));
  assert.is(new Set(tested).size, tested.length, 'names twice');
  assert.equal([...names].sort(), [...tested].sort());
  for (const [, name, rest] of rows) assert.is(rest.split(' | ').length, 3, `columns of ${name}`);
});

table.run();
