/** Every row of the table of docs/adapters.md: the published formula, in float64, against the call that it names. */
import { suite } from 'uvu';
import { bases } from './systems/bases.ts';
import { factors } from './systems/factors.ts';
import type { System } from './systems/layer.ts';
import { mixtures } from './systems/mixtures.ts';
import { structured } from './systems/structured.ts';

const groups = { factors, structured, mixtures, bases };

for (const [group, systems] of Object.entries(groups)) {
  const test = suite(`systems: ${group}`);
  for (const { name, run } of systems as System[]) test(name, run);
  test.run();
}
