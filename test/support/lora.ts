/** Problems of the fused LoRA product: the same one for the engine and for the reference. */
import type {
  Chance,
  LoraAdapter,
  LoraLinearInputs,
  LoraLinearOptions,
  LoraRouting,
} from '../reference/loraLinear.ts';
import type { LowBitFormat } from '../reference/packedWeight.ts';
import { dequantise, scaleCount, twoPerByte } from '../reference/packedWeight.ts';
import type { FloatDtype } from './half.ts';
import { decode, encode, round } from './half.ts';
import type { AnyTensor } from './native.ts';
import { native } from './native.ts';
import { Random } from './random.ts';
import type { Tensor32 } from './tensor.ts';
import { sizeOf } from './tensor.ts';

export const weightFormats = ['f32', 'bf16', 'f16', 'int8', 'q8', 'q4', 'nf4'] as const;
export type WeightFormat = (typeof weightFormats)[number];
export const routingKinds = ['one', 'segments', 'tokens', 'topK'] as const;
export type RoutingKind = (typeof routingKinds)[number];

/** Which pieces an adapter has, and its sizes. */
export interface AdapterSketch {
  rank: number;
  /** Columns of b, with `mid: 'matrix'`; default rank. */
  width?: number;
  mid?: 'matrix' | 'diagonal';
  act?: LoraAdapter['act'];
  rankBias?: boolean;
  baseScale?: boolean;
  outBias?: boolean;
  scale?: number;
  aList?: boolean;
  bList?: boolean;
  /** The option `rank`. */
  used?: number;
  /** Of the factors; default f32. */
  dtype?: FloatDtype;
}

export interface LoraCase {
  rows: number;
  in: number;
  out: number;
  /** Of x, y and dY; default f32. */
  dtype?: FloatDtype;
  /** Default f32. */
  base?: WeightFormat | 'identity' | null;
  adapters?: readonly AdapterSketch[];
  /** Default: one, where there are adapters. */
  routing?: RoutingKind;
  k?: number;
  bias?: boolean;
  seed?: number;
}

export interface MadeCase {
  /** As loraLinear takes them, dY for the backward, and in `out` the number of outputs. */
  inputs: Record<string, any>;
  dY: AnyTensor;
  /** The same values as the reference takes them. */
  reference: LoraLinearInputs;
  dYSeen: Tensor32;
  /** Of the adapters, in their order. */
  ids: number[];
  /** The ids that a row's slots name. */
  slots: Int32Array;
  perRow: number;
  dispose(): void;
}

export function describeCase(spec: LoraCase): string {
  const { rows, in: width, out, dtype = 'f32', base = 'f32', routing = 'one', seed = 1 } = spec;
  const adapters = JSON.stringify(spec.adapters ?? []);
  return `[${rows},${width}] -> ${out} ${dtype} on ${base}, ${routing} ${adapters} seed ${seed}`;
}

export function makeCase(spec: LoraCase): MadeCase {
  const { rows, in: width, out, dtype = 'f32', adapters = [], seed = 1 } = spec;
  const random = new Random(seed * 7919 + rows + 31 * width + 977 * out);
  const normal = (shape: number[], deviation = 1): Tensor32 => {
    return { data: random.normals(sizeOf(shape), deviation), shape };
  };
  const half = (kind: FloatDtype, shape: number[], deviation?: number) => {
    const given = encode(kind, normal(shape, deviation));
    return [given, decode(given)] as const;
  };
  const [x, xSeen] = half(dtype, [rows, width]);
  const [dY, dYSeen] = half(dtype, [rows, out]);
  const [base, baseSeen] = makeBase(spec, random);
  const bank = native.createAdapterBank({ inFeatures: width, outFeatures: out });
  const loaded = new Map<number, LoraAdapter>();
  const ids = adapters.map((sketch) => {
    const [given, seen] = makeAdapter(sketch, width, out, random);
    const id = (bank as any).load(given) as number;
    loaded.set(id, seen);
    return id;
  });
  const bias = spec.bias ? normal([out]) : undefined;
  const { routing, seen, slots, perRow } = makeRouting(spec, ids, random);
  return {
    inputs: { x, base, ...(bias && { bias }), ...(ids.length && { bank, routing }) },
    dY,
    dYSeen,
    reference: {
      x: xSeen,
      base: baseSeen,
      bias,
      outFeatures: out,
      ...(ids.length && { adapters: loaded, routing: seen }),
    },
    ids,
    slots,
    perRow,
    dispose(): void {
      (bank as any).dispose();
      base?.dispose?.();
    },
  };
}

/** A weight for the engine, and the values that it stands for. */
export function makeBase(
  { base = 'f32', in: width, out }: LoraCase,
  random: Random,
): [any, LoraLinearInputs['base']] {
  if (base === null || base === 'identity') return [base, base];
  const shape = [out, width];
  const deviation = 1 / Math.sqrt(width);
  if (base === 'f32' || base === 'bf16' || base === 'f16') {
    const weight = { data: random.normals(out * width, deviation), shape };
    const values = { data: weight.data.map((v) => round(base, v)), shape };
    return [native.packWeightSync(weight, { format: base }), values];
  }
  const { weight, values } = makeCodes(base, shape, random, deviation);
  return [native.packQuantisedSync(weight), values];
}

/** A weight of random codes, and its values. */
export function makeCodes(format: LowBitFormat, shape: number[], random: Random, deviation = 1) {
  const signed = format === 'int8' || format === 'q8';
  const size = sizeOf(shape);
  const codes = Array.from({ length: size }, () => {
    return signed ? random.integer(255) - 127 : random.integer(16);
  });
  const most = { int8: 127, q8: 127, q4: 8, nf4: 1 }[format];
  const count = scaleCount(format, shape[0], shape[1]);
  const scales = random.uniforms(count, (0.5 * deviation) / most, (3 * deviation) / most);
  const stored = signed ? Int8Array.from(codes) : twoPerByte(codes);
  const named = format === 'nf4' ? { absmax: scales } : { scales };
  const weight = { format, codes: stored, ...named, shape };
  return { weight, codes, scales, values: dequantise(format, codes, scales, shape) };
}

export function makeAdapter(
  sketch: AdapterSketch,
  width: number,
  out: number,
  random: Random,
): [spec: object, seen: LoraAdapter] {
  const { rank, dtype = 'f32', act, scale, used } = sketch;
  const r2 = sketch.mid === 'matrix' ? (sketch.width ?? rank) : rank;
  const normal = (shape: number[], deviation: number): Tensor32 => {
    return { data: random.normals(sizeOf(shape), deviation), shape };
  };
  const list = (length: number, bound: number): Int32Array => {
    return Int32Array.from({ length }, () => random.integer(bound));
  };
  const a = encode(dtype, normal([rank, width], 1 / Math.sqrt(width)));
  const b = encode(dtype, normal([out, r2], 1 / Math.sqrt(r2)));
  const aIndex = list(rank, width);
  const bIndex = list(r2, out);
  const shared = {
    ...(scale !== undefined && { scale }),
    ...(sketch.mid === 'matrix' && { mid: normal([r2, rank], 1 / Math.sqrt(rank)) }),
    ...(sketch.mid === 'diagonal' && { mid: normal([rank], 1) }),
    ...(act && { act }),
    ...(sketch.rankBias && { rankBias: normal([rank], 1) }),
    ...(sketch.baseScale && { baseScale: normal([out], 1) }),
    ...(sketch.outBias && { outBias: normal([out], 1) }),
    ...(used !== undefined && { rank: used }),
  };
  return [
    { a: sketch.aList ? aIndex : a, b: sketch.bList ? bIndex : b, ...shared },
    { a: sketch.aList ? aIndex : decode(a), b: sketch.bList ? bIndex : decode(b), ...shared },
  ];
}

/** Some rows have no adapter, and some segments no rows. */
function makeRouting({ rows, routing: kind = 'one', k = 2 }: LoraCase, ids: number[], r: Random) {
  const pool = [...ids, ...ids, -1];
  const drawn = (length: number): Int32Array => {
    return Int32Array.from({ length }, () => pool[r.integer(pool.length)]);
  };
  const same = (routing: LoraRouting, slots: Int32Array, perRow = 1) => {
    return { routing, seen: routing, slots, perRow };
  };
  switch (kind) {
    case 'one':
      return same({ kind, id: ids[0] ?? -1 }, new Int32Array(rows).fill(ids[0] ?? -1));
    case 'tokens': {
      const slots = drawn(rows);
      return same({ kind, ids: slots }, slots);
    }
    case 'segments': {
      const cuts = Array.from({ length: ids.length + 2 }, () => r.integer(rows + 1));
      cuts.push(cuts[0], 0, rows); // one is empty for certain
      const indptr = Int32Array.from(cuts).sort();
      const owners = drawn(indptr.length - 1);
      const slots = new Int32Array(rows);
      owners.forEach((id, s) => {
        slots.fill(id, indptr[s], indptr[s + 1]);
      });
      return same({ kind, indptr, ids: owners }, slots);
    }
    case 'topK': {
      const slots = drawn(rows * k);
      // Of one sign in a row: gradients of an adapter that stands there twice do not cancel.
      const data = r.uniforms(rows * k, 0.1, 1);
      for (let row = 0; row < rows; row++)
        if (r.integer(3) === 0) for (let i = 0; i < k; i++) data[row * k + i] *= -1;
      const gates = { data, shape: [rows, k] };
      return same({ kind, k, ids: slots, gates }, slots, k);
    }
  }
}

export type { Chance, LoraLinearOptions };
