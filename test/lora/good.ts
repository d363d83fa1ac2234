// A good call of the fused LoRA product, and what stands in its parts' places.
import * as rankone from '../../ts/index';
import { ramp } from '../ops/helpers';

export type Any = any;

export const [M, IN, OUT] = [6, 10, 7];
export const bank = rankone.createAdapterBank({ inFeatures: IN, outFeatures: OUT });
export const ids = [2, 5].map((rank) => bank.load({ a: ramp(rank, IN), b: ramp(OUT, rank) }));
export const dora = bank.load({ a: ramp(1, IN), b: ramp(OUT, 1), baseScale: ramp(OUT) });
export const other = rankone.createAdapterBank({ inFeatures: IN, outFeatures: OUT + 1 });
export const square = rankone.createAdapterBank({ inFeatures: IN, outFeatures: IN });
export const base = rankone.packWeightSync(ramp(OUT, IN), { format: 'f32' });
export const routing = {
  kind: 'tokens',
  ids: Int32Array.of(ids[0], ids[1], -1, ids[1], ids[0], -1),
};
export const good = { x: ramp(M, IN), base, bank, routing, bias: ramp(OUT) };
export const topK = {
  kind: 'topK',
  k: 2,
  ids: new Int32Array(2 * M).fill(ids[0]),
  gates: ramp(M, 2),
};
export const segments = {
  kind: 'segments',
  indptr: Int32Array.of(0, 2, 6),
  ids: Int32Array.of(ids[0], -1),
};
export const half = { data: new Uint16Array(M * IN), shape: [M, IN], dtype: 'bf16' };

export const dY = ramp(M, OUT);
