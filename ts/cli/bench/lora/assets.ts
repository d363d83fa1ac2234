// Weights and adapters of a benchmark of the fused LoRA product, as often as it takes for them to come from memory.
import { encode } from '#oracle/support/half';
import { Random } from '#oracle/support/random';
import type { AdapterBank } from '../../../lora/adapterBank';
import type { PackedWeight } from '../../../lora/packedWeight';
import type { FloatTensor } from '../../../types';
import type { Case } from '../../benchCase';
import { engine } from '../../engine';
import type { Shape } from '../../operation';
import { SCALE } from '../../ops/lora';
import { drawWeight, packAgain } from '../../ops/loraWeight';
import { placeOption } from '../../place';
import { memorySet } from '../ceilings';

/** So few rows are those of a decode step, between two of which other layers' weights go through the caches. */
const DECODE_ROWS = 64;
/** Of small weights so many stay in a cache; the level that a case is held against goes by that. */
const MOST_COPIES = 64;

/** Whether weights and adapters come from memory: of cases in turns, not of a check. */
export function isDecode({ pass, shape, turns }: Case): boolean {
  return turns !== undefined && pass === 'forward' && shape.M <= DECODE_ROWS;
}

/** How many copies of a weight of so many bytes a case goes through in turn. */
export function copiesOf(one: Case, bytes: number): number {
  if (!isDecode(one)) return 1;
  return Math.min(MOST_COPIES, Math.max(2, Math.ceil(memorySet() / bytes)));
}

let turns = 0;

/** Counts the calls of all cases: one follows on the copies that the last one has left. */
export function nextTurn(): number {
  return turns++;
}

interface Weights {
  key: string;
  packed: PackedWeight[];
}

let weights: Weights | undefined;

/** Copies of the weight that the operation draws, those of the last call where it is the same one. */
export function weightsOf(one: Case): readonly PackedWeight[] {
  const { format } = one.op.lora!;
  const { N, K } = one.shape;
  const key = `${format} ${N} ${K}`;
  if (weights?.key !== key) {
    for (const packed of weights?.packed ?? []) packed.dispose();
    weights = { key, packed: [] };
  }
  const { packed } = weights;
  const values = drawWeight(format, N, K);
  if (packed.length === 0) packed.push(packAgain(values));
  const count = copiesOf(one, packed[0].bytes);
  while (packed.length < count) packed.push(packAgain(values));
  return packed.slice(0, count);
}

/** The factors of an adapter, in the case's type. */
export interface Factors {
  a: FloatTensor; // [r,K]
  b: FloatTensor; // [N,r]
}

export function factorsOf({ shape: { N, K, r }, dtype }: Case): Factors {
  const random = new Random(r);
  const uniform = (variance: number, ...shape: number[]): FloatTensor => {
    const most = Math.sqrt(3 * variance);
    return encode(dtype, {
      data: random.uniforms(shape[0] * shape[1], -most, most),
      shape,
    }) as FloatTensor;
  };
  return { a: uniform(1 / K, r, K), b: uniform(1 / (r * SCALE ** 2), N, r) };
}

interface Banked {
  key: string;
  bank: AdapterBank;
  /** By rank. */
  ids: Map<number, number[]>;
}

let banked: Banked | undefined;

/** A bank with so many adapters of the case's sizes at least, each in memory of its own, and their ids. */
export function adaptersOf(
  one: Case,
  count: number,
): { bank: AdapterBank; ids: readonly number[] } {
  const { N, K, r } = one.shape;
  const key = `${one.dtype} ${N} ${K}`;
  if (banked?.key !== key) {
    banked?.bank.dispose();
    const sizes = { inFeatures: K, outFeatures: N };
    const bank = engine().createAdapterBank({ ...sizes, ...placeOption() } as never);
    banked = { key, bank, ids: new Map() };
  }
  const ids = banked.ids.get(r) ?? [];
  banked.ids.set(r, ids);
  if (ids.length < count) {
    const factors = factorsOf(one);
    while (ids.length < count) ids.push(banked.bank.load({ ...factors, scale: SCALE }));
  }
  return { bank: banked.bank, ids };
}

/** Adapters that one call reads. */
export function adaptersRead({ M, E }: Shape): number {
  return Math.min(M, E);
}
