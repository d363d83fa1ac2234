/**
 * The fused LoRA product and its gradients in float64.
 *
 *   y = d * (W x) + bias + sum over the row's adapters e of  gate_e scale_e (B_e M_e phi_e(A_e x' + a_e) + c_e)
 *
 * x' is x, or x with dropout. Leading axes of x are rows. An id of -1, and an adapter that `skip` leaves out, adds nothing
 * and has no d.
 */
import type { Tensor64, TensorLike } from '../support/tensor.ts';
import { expectShape, sizeOf, zeros } from '../support/tensor.ts';
import { activate, activateBackward, type RankActivation } from './loraActivation.ts';
import { keyOf, philox } from './philox.ts';

export interface LoraAdapter {
  a: TensorLike | Int32Array; // [r,in], or indices [r]: t_i = x[a_i]
  b: TensorLike | Int32Array; // [out,r2], or indices [r2]: y[b_i] += w_i
  scale?: number;
  mid?: TensorLike; // [r2,r], or [r] for a diagonal
  act?: RankActivation;
  rankBias?: TensorLike; // [r]
  baseScale?: TensorLike; // [out]
  outBias?: TensorLike; // [out]
  rank?: number; // the first rows of a, and columns of mid or b, that count
}

export type LoraRouting =
  | { kind: 'one'; id: number }
  | { kind: 'segments'; indptr: ArrayLike<number | bigint>; ids: ArrayLike<number> }
  | { kind: 'tokens'; ids: ArrayLike<number> }
  | { kind: 'topK'; k: number; ids: ArrayLike<number>; gates: TensorLike };

export interface Chance {
  p: number;
  seed: number;
}

export interface LoraLinearInputs {
  x: TensorLike; // [...,in]
  base?: TensorLike | 'identity' | null; // W [out,in]
  adapters?: ReadonlyMap<number, LoraAdapter>;
  routing?: LoraRouting;
  bias?: TensorLike; // [out]
  /** Needed where nothing else tells it: no base, and no b that is a tensor. */
  outFeatures?: number;
}

export interface LoraLinearOptions {
  dropout?: Chance;
  skip?: Chance;
}

export interface LoraAdapterGradients {
  dA?: Tensor64;
  dB?: Tensor64;
  dMid?: Tensor64;
  dRankBias?: Tensor64;
  dScale: number;
  dBaseScale?: Tensor64;
  dOutBias?: Tensor64;
}

export interface LoraLinearGradients {
  dx: Tensor64;
  adapters: Map<number, LoraAdapterGradients>;
  dGates?: Tensor64; // [M,k]
  dBias?: Tensor64;
}

export interface LoraLinearResult {
  y: Tensor64;
  /** A x' of every row and slot, of the slot's own rank; empty where there is no adapter. */
  t: Float64Array[];
  k: number;
}

export function loraLinear(
  inputs: LoraLinearInputs,
  options: LoraLinearOptions = {},
): LoraLinearResult {
  const p = bind(inputs, options);
  const y = zeros([...inputs.x.shape.slice(0, -1), p.out]);
  const t: Float64Array[] = [];
  for (let row = 0; row < p.rows; row++) {
    const to = y.data.subarray(row * p.out, (row + 1) * p.out);
    to.set(baseProduct(p, row));
    if (p.slots.length) {
      const kept = dropped(p, row, options.dropout);
      for (const { id, gate } of slotsOf(p, row)) {
        const adapter = p.adapters.get(id);
        if (!adapter) {
          t.push(new Float64Array(0));
          continue;
        }
        for (let o = 0; o < p.out; o++) if (adapter.baseScale) to[o] *= adapter.baseScale.data[o];
        const s = forwardOf(adapter, kept, p.out);
        t.push(s.t);
        for (let o = 0; o < p.out; o++) to[o] += gate * (adapter.scale ?? 1) * s.added[o];
      }
    }
    if (inputs.bias) for (let o = 0; o < p.out; o++) to[o] += inputs.bias.data[o];
  }
  return { y, t, k: p.k };
}

export function loraLinearBackward(
  inputs: LoraLinearInputs & { dY: TensorLike },
  options: LoraLinearOptions = {},
): LoraLinearGradients {
  const { x, dY, bias, routing } = inputs;
  const p = bind(inputs, options);
  expectShape('dY', dY, [...x.shape.slice(0, -1), p.out]);
  const dx = zeros(x.shape);
  const result: LoraLinearGradients = { dx, adapters: new Map() };
  const given = inputs.adapters ?? new Map<number, LoraAdapter>();
  // Of segments without rows too.
  const named = routing?.kind === 'one' ? [routing.id] : Array.from(routing?.ids ?? []);
  for (const id of named) if (id >= 0) result.adapters.set(id, zeroGradients(given.get(id)!));
  if (routing?.kind === 'topK') result.dGates = zeros([p.rows, p.k]);
  if (bias) result.dBias = zeros([p.out]);
  for (let row = 0; row < p.rows; row++) {
    const d = Float64Array.from({ length: p.out }, (_, o) => dY.data[row * p.out + o]);
    for (let o = 0; bias && o < p.out; o++) result.dBias!.data[o] += d[o];
    const ofBase = Float64Array.from(d);
    const product = p.slots.length ? baseProduct(p, row) : undefined;
    const kept = dropped(p, row, options.dropout);
    const dKept = new Float64Array(p.in);
    for (const { id, gate, slot } of slotsOf(p, row)) {
      const adapter = p.adapters.get(id);
      if (!adapter) continue;
      const g = result.adapters.get(id)!;
      for (let o = 0; adapter.baseScale && o < p.out; o++) {
        g.dBaseScale!.data[o] += d[o] * product![o];
        ofBase[o] *= adapter.baseScale.data[o];
      }
      const s = forwardOf(adapter, kept, p.out);
      let along = 0;
      for (let o = 0; o < p.out; o++) along += d[o] * s.added[o];
      const scale = adapter.scale ?? 1;
      g.dScale += gate * along;
      if (result.dGates) result.dGates.data[slot] = scale * along;
      backwardOf(
        adapter,
        kept,
        s,
        d.map((value) => gate * scale * value),
        g,
        dKept,
      );
    }
    baseBackward(p, ofBase, row, dx.data);
    const factors = keptFactors(p, row, options.dropout);
    for (let i = 0; i < p.in; i++) dx.data[row * p.in + i] += factors[i] * dKept[i];
  }
  return result;
}

interface Bound {
  x: ArrayLike<number>;
  base: TensorLike | 'identity' | null;
  rows: number;
  in: number;
  out: number;
  /** Slots of a row. */
  k: number;
  /** Of all rows, k a row; none without routing. */
  slots: { id: number; gate: number; slot: number }[];
  /** Without those that are skipped. */
  adapters: Map<number, LoraAdapter>;
}

function bind(inputs: LoraLinearInputs, { skip }: LoraLinearOptions): Bound {
  const { x, base = null, adapters = new Map<number, LoraAdapter>(), routing } = inputs;
  const width = x.shape[x.shape.length - 1];
  const rows = sizeOf(x.shape.slice(0, -1));
  const tall = [...adapters.values()].find(({ b }) => !(b instanceof Int32Array));
  const out =
    inputs.outFeatures ??
    (base === 'identity' ? width : (base?.shape[0] ?? (tall?.b as TensorLike)?.shape[0]));
  if (base && base !== 'identity') expectShape('base', base, [out, width]);
  const { ids, k } = idsOf(routing, rows);
  const slots = ids.map((id, slot) => {
    if (id >= 0 && !adapters.has(id)) throw new RangeError(`no adapter ${id}`);
    return { id, slot, gate: routing?.kind === 'topK' ? routing.gates.data[slot] : 1 };
  });
  const used = [...adapters].filter(([id]) => {
    return !(skip && philox([id, 0, 0, 1], keyOf(skip.seed))[0] < skip.p * 2 ** 32);
  });
  return { x: x.data, base, rows, in: width, out, k, slots, adapters: new Map(used) };
}

function idsOf(routing: LoraRouting | undefined, rows: number): { ids: number[]; k: number } {
  if (!routing) return { ids: [], k: 0 };
  switch (routing.kind) {
    case 'one':
      return { ids: new Array<number>(rows).fill(routing.id), k: 1 };
    case 'tokens':
      return { ids: Array.from(routing.ids), k: 1 };
    case 'topK':
      return { ids: Array.from(routing.ids), k: routing.k };
    case 'segments': {
      const ids = new Array<number>(rows).fill(-1);
      for (let s = 0; s < routing.ids.length; s++)
        ids.fill(routing.ids[s], Number(routing.indptr[s]), Number(routing.indptr[s + 1]));
      return { ids, k: 1 };
    }
  }
}

function slotsOf(p: Bound, row: number): Bound['slots'] {
  return p.slots.slice(row * p.k, (row + 1) * p.k);
}

/** W x of a row. */
function baseProduct({ x, base, in: width, out }: Bound, row: number): Float64Array {
  const y = new Float64Array(out);
  if (!base) return y;
  for (let o = 0; o < out; o++) {
    if (base === 'identity') {
      y[o] = x[row * width + o];
      continue;
    }
    for (let i = 0; i < width; i++) y[o] += base.data[o * width + i] * x[row * width + i];
  }
  return y;
}

/** dx += W^T d. */
function baseBackward(p: Bound, d: Float64Array, row: number, dx: Float64Array): void {
  const { base, in: width, out } = p;
  if (!base) return;
  for (let o = 0; o < out; o++) {
    if (base === 'identity') dx[row * width + o] += d[o];
    else for (let i = 0; i < width; i++) dx[row * width + i] += base.data[o * width + i] * d[o];
  }
}

/** What dropout multiplies the elements of a row by. */
function keptFactors({ in: width }: Bound, row: number, dropout?: Chance): Float64Array {
  const factors = new Float64Array(width).fill(1);
  if (!dropout) return factors;
  const key = keyOf(dropout.seed);
  for (let block = 0; 4 * block < width; block++) {
    const words = philox([block, row % 2 ** 32, Math.floor(row / 2 ** 32), 0], key);
    for (let i = 4 * block; i < Math.min(width, 4 * block + 4); i++)
      factors[i] = words[i % 4] >= dropout.p * 2 ** 32 ? 1 / (1 - dropout.p) : 0;
  }
  return factors;
}

function dropped(p: Bound, row: number, dropout?: Chance): Float64Array {
  return keptFactors(p, row, dropout).map((f, i) => (f === 0 ? 0 : f * p.x[row * p.in + i]));
}

const isList = (x: TensorLike | Int32Array): x is Int32Array => x instanceof Int32Array;

interface Sizes {
  /** Rows of a in use. */
  rank: number;
  /** Columns of b in use. */
  width: number;
}

function sizesOf({ a, b, mid, rank }: LoraAdapter): Sizes {
  const r = rank ?? (isList(a) ? a.length : a.shape[0]);
  if (mid?.shape.length === 2) return { rank: r, width: isList(b) ? b.length : b.shape[1] };
  return { rank: r, width: r };
}

interface Steps {
  t: Float64Array; // A x'
  u: Float64Array; // t + a
  phi: Float64Array;
  w: Float64Array; // M phi
  added: Float64Array; // B w + c
}

function forwardOf(adapter: LoraAdapter, x: Float64Array, out: number): Steps {
  const { a, b, mid, act, rankBias, outBias } = adapter;
  const { rank, width } = sizesOf(adapter);
  const t = new Float64Array(rank);
  for (let i = 0; i < rank; i++) {
    if (isList(a)) t[i] = x[a[i]];
    else for (let j = 0; j < x.length; j++) t[i] += a.data[i * x.length + j] * x[j];
  }
  const u = t.map((value, i) => value + (rankBias ? rankBias.data[i] : 0));
  const phi = activate(act, u);
  const w = new Float64Array(width);
  for (let i = 0; i < width; i++) {
    if (!mid) w[i] = phi[i];
    else if (mid.shape.length === 1) w[i] = mid.data[i] * phi[i];
    else for (let j = 0; j < rank; j++) w[i] += mid.data[i * mid.shape[1] + j] * phi[j];
  }
  const added = new Float64Array(out);
  for (let o = 0; outBias && o < out; o++) added[o] = outBias.data[o];
  for (let i = 0; i < width; i++) {
    if (isList(b)) added[b[i]] += w[i];
    else for (let o = 0; o < out; o++) added[o] += b.data[o * b.shape[1] + i] * w[i];
  }
  return { t, u, phi, w, added };
}

/** `d` is the gradient of `added`. */
function backwardOf(
  adapter: LoraAdapter,
  x: Float64Array,
  { u, phi, w }: Steps,
  d: Float64Array,
  g: LoraAdapterGradients,
  dx: Float64Array,
): void {
  const { a, b, mid, act } = adapter;
  const { rank, width } = sizesOf(adapter);
  for (let o = 0; g.dOutBias && o < d.length; o++) g.dOutBias.data[o] += d[o];
  const dw = new Float64Array(width);
  for (let i = 0; i < width; i++) {
    if (isList(b)) {
      dw[i] = d[b[i]];
      continue;
    }
    for (let o = 0; o < d.length; o++) {
      dw[i] += b.data[o * b.shape[1] + i] * d[o];
      g.dB!.data[o * b.shape[1] + i] += w[i] * d[o];
    }
  }
  const dPhi = new Float64Array(rank);
  for (let i = 0; i < width; i++) {
    if (!mid) dPhi[i] = dw[i];
    else if (mid.shape.length === 1) {
      dPhi[i] = mid.data[i] * dw[i];
      g.dMid!.data[i] += phi[i] * dw[i];
    } else
      for (let j = 0; j < rank; j++) {
        dPhi[j] += mid.data[i * mid.shape[1] + j] * dw[i];
        g.dMid!.data[i * mid.shape[1] + j] += phi[j] * dw[i];
      }
  }
  const du = activateBackward(act, u, dPhi);
  for (let i = 0; i < rank; i++) {
    if (g.dRankBias) g.dRankBias.data[i] += du[i];
    if (isList(a)) {
      dx[a[i]] += du[i];
      continue;
    }
    for (let j = 0; j < x.length; j++) {
      dx[j] += a.data[i * x.length + j] * du[i];
      g.dA!.data[i * x.length + j] += x[j] * du[i];
    }
  }
}

function zeroGradients(adapter: LoraAdapter): LoraAdapterGradients {
  const { a, b, mid, rankBias, baseScale, outBias } = adapter;
  return {
    dScale: 0,
    ...(!isList(a) && { dA: zeros(a.shape) }),
    ...(!isList(b) && { dB: zeros(b.shape) }),
    ...(mid && { dMid: zeros(mid.shape) }),
    ...(rankBias && { dRankBias: zeros(rankBias.shape) }),
    ...(baseScale && { dBaseScale: zeros(baseScale.shape) }),
    ...(outBias && { dOutBias: zeros(outBias.shape) }),
  };
}
