import { nearest } from '../../errors';
import { UsageError } from '../errors';
import type { Operation } from '../operation';
import { attentions } from './attention';
import { companions } from './companions';
import { features } from './features';
import { hybrids } from './hybrids';
import { layers } from './layers';
import { loras } from './lora';
import { cells, presets, variants } from './recurrence';
import { scans } from './scans';
import { segments } from './segments';

export const operations: readonly Operation[] = [
  ...cells,
  ...variants,
  ...presets,
  ...scans,
  ...segments,
  ...layers,
  ...attentions,
  ...features,
  ...hybrids,
  ...companions,
  ...loras,
];

/** Operations of the given names, in their order, from `among`; `all` names them all. */
export function findOperations(
  names: readonly string[],
  among: readonly Operation[] = operations,
): Operation[] {
  return names.flatMap((name) => {
    if (name === 'all') return among;
    const found = among.find((op) => op.name === name);
    if (found) return found;
    const legal = among.map((op) => op.name);
    const hint = nearest(name, legal);
    throw new UsageError(
      `--op ${name}: expected one of ${legal.join(', ')}` + (hint ? `; nearest: ${hint}` : ''),
    );
  });
}
