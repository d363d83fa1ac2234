/**
 * The numerical contract as code.
 * Row error: ||out - ref|| / ||ref||, over one sequence and one head.
 * Token error: ||out_t - ref_t|| / max(||ref_t||, rms(ref)), at most ten times the row's limit,
 * where rms is over the elements of the whole tensor.
 */
import { sizeOf } from './tensor.ts';

/** Which axes name a sequence and head, and which axis counts tokens. */
export interface Layout {
  kept: readonly number[];
  token?: number;
}

export const layouts = {
  /** [B,T,H,X] and [B,T,H] */
  tokens: { kept: [0, 2], token: 1 },
  /** [N,H,K,V] */
  state: { kept: [0, 1] },
  /** [H] and [H,K] */
  heads: { kept: [0] },
} satisfies Record<string, Layout>;

/**
 * Limits by dtype of the inputs and o, or by arithmetic; `o` grows with T, as [longest T, limit] in
 * rising order. States and gradients are float32, whatever the inputs are.
 */
export const contract = {
  f32: {
    o: [
      [512, 2e-6],
      [8192, 1e-5],
      [Infinity, 2e-5],
    ],
    state: 1e-5,
    gate: 5e-5,
  },
  bf16: { o: [[Infinity, 2.5e-3]], state: 1e-5, gate: 5e-5 },
  f16: { o: [[Infinity, 3.5e-4]], state: 1e-5, gate: 5e-5 },
  /** bf16 arithmetic, beta <= 1. */
  'bf16 compute': { o: [[Infinity, 6e-3]], state: 1e-2, gate: 2e-2 },
  /** bf16 arithmetic, beta in [0,2]. */
  'bf16 compute, beta to 2': { o: [[4096, 1e-2]], state: 1.5e-2, gate: 3e-2 },
} satisfies Record<string, Limits>;

interface Limits {
  o: readonly (readonly [number, number])[];
  state: number;
  gate: number;
}

export type ContractDtype = keyof typeof contract;

/** One row of the contract, applied to one tensor. */
export interface Row {
  limit: number;
  layout: Layout;
}

const tensorKinds = {
  o: 'o',
  finalState: 'state',
  dq: 'state',
  dk: 'state',
  dv: 'state',
  dInitialState: 'state',
  finalZ: 'state',
  dInitialZ: 'state',
  dg: 'gate',
  dbeta: 'gate',
  dALog: 'gate',
  dDtBias: 'gate',
} as const;

export type TensorName = keyof typeof tensorKinds;

/** The row of the contract for a named output; T picks the limit of `o`. */
export function rowFor(name: TensorName, T: number, dtype: ContractDtype = 'f32'): Row {
  const limits: Limits = contract[dtype];
  const kind = tensorKinds[name];
  if (kind !== 'o') return { limit: limits[kind], layout: layoutOf(name) };
  const row = limits.o.find(([longest]) => T <= longest);
  if (!row) throw new RangeError(`the contract has no row for ${dtype} of T = ${T}`);
  return { limit: row[1], layout: layoutOf(name) };
}

/** The row of a gradient that is rounded to the dtype of its argument. */
export function roundedRow(name: TensorName, dtype: 'bf16' | 'f16'): Row {
  return { limit: rowFor('o', 1, dtype).limit, layout: layoutOf(name) };
}

function layoutOf(name: TensorName): Layout {
  switch (name) {
    case 'finalState':
    case 'dInitialState':
    case 'finalZ':
    case 'dInitialZ':
      return layouts.state;
    case 'dALog':
    case 'dDtBias':
      return layouts.heads;
    default:
      return layouts.tokens;
  }
}

export interface RelativeErrors {
  /** Worst row: its error and its indices along the kept axes. */
  row: { error: number; index: number[] };
  /** Worst token, where the layout has a token axis. */
  token?: { error: number; index: number[]; token: number };
}

export interface ErrorOptions {
  shape: readonly number[];
  axes: Layout;
  /** Packed sequences: boundaries along the token axis, each sequence a row of its own. */
  cuSeqlens?: ArrayLike<number>;
  /** See `expectWithin`. */
  noise?: ArrayLike<number>;
}

// How many roundings of the inputs an ill-conditioned result may be off, beside its row: long sums
// collect more than the inputs' own.
const NOISE = 16;

// Below this a reference counts as zero: float32 has no relative precision left there.
const TINY = 1e-30;

/** Non-finite elements on either side count as an infinite error. */
export function relativeErrors(
  out: ArrayLike<number>,
  ref: ArrayLike<number>,
  { shape, axes, cuSeqlens, noise }: ErrorOptions,
): RelativeErrors {
  const size = sizeOf(shape);
  if (out.length !== size || ref.length !== size) {
    throw new RangeError(`shape [${shape}] against lengths ${out.length} and ${ref.length}`);
  }
  const { kept, token } = axes;
  const packed = token !== undefined && cuSeqlens ? sequenceOfToken(shape[token], cuSeqlens) : null;
  const sequences = packed ? cuSeqlens!.length - 1 : 1;
  const tokens = token === undefined ? 1 : shape[token];
  const groups = sizeOf(kept.map((axis) => shape[axis]));
  const rows = new Sums(groups * sequences);
  const perToken = new Sums(groups * tokens);
  const position = new Array<number>(shape.length).fill(0);
  for (let i = 0; i < size; i++) {
    let group = 0;
    for (const axis of kept) group = group * shape[axis] + position[axis];
    const t = token === undefined ? 0 : position[token];
    const shaken = noise ? noise[i] : 0;
    rows.add(group * sequences + (packed ? packed[t] : 0), out[i], ref[i], shaken);
    perToken.add(group * tokens + t, out[i], ref[i], shaken);
    advance(position, shape);
  }

  const rms = size === 0 ? 0 : Math.sqrt(rows.total() / size);
  const worstRow = rows.worst((norm, count) => norm || rms * Math.sqrt(count));
  const place = (group: number): number[] =>
    unravel(
      group,
      kept.map((axis) => shape[axis]),
    );
  const index = place(Math.floor(worstRow.at / sequences));
  if (packed) index.push(worstRow.at % sequences);
  const result: RelativeErrors = { row: { error: worstRow.error, index } };
  if (token !== undefined) {
    const worst = perToken.worst((norm) => Math.max(norm, rms));
    result.token = {
      error: worst.error,
      index: place(Math.floor(worst.at / tokens)),
      token: worst.at % tokens,
    };
  }
  return result;
}

/**
 * Throws unless `out` meets the row; the message says where the worst error is. `noise` is for drawn
 * problems whose result may cancel: by how much each element of the reference moves when the inputs
 * are rounded once. A small multiple of its norm over a row (or token) is then forgiven there.
 */
export function expectWithin(
  label: string,
  out: ArrayLike<number>,
  ref: ArrayLike<number>,
  shape: readonly number[],
  row: Row,
  { cuSeqlens, noise }: Pick<ErrorOptions, 'cuSeqlens' | 'noise'> = {},
): void {
  const size = sizeOf(shape);
  if (out.length !== size || ref.length !== size) {
    throw new Error(
      `${label}: shape [${shape}] wants ${size} elements, got ${out.length}, ` +
        `reference has ${ref.length}`,
    );
  }
  for (let i = 0; i < size; i++) {
    if (!Number.isFinite(out[i]) || !Number.isFinite(ref[i])) {
      const at = unravel(i, shape);
      throw new Error(`${label}: not finite at [${at}]: got ${out[i]}, reference ${ref[i]}`);
    }
  }
  const axes = shape.length === 1 ? layouts.heads : row.layout;
  const errors = relativeErrors(out, ref, { shape, axes, cuSeqlens, noise });
  const rowFails = !(errors.row.error <= row.limit);
  const tokenFails = errors.token !== undefined && !(errors.token.error <= 10 * row.limit);
  if (!rowFails && !tokenFails) return;
  const lines = [`${label}: outside the contract`, describe('row', errors.row, row.limit)];
  if (errors.token) {
    const where = `token ${errors.token.token}, row`;
    lines.push(describe(where, errors.token, 10 * row.limit));
  }
  throw new Error(lines.join('\n  '));
}

function describe(what: string, worst: { error: number; index: number[] }, limit: number): string {
  const verdict = worst.error <= limit ? 'within' : 'ABOVE';
  const [measured, allowed] = [worst.error.toExponential(2), limit.toExponential(1)];
  return `worst ${what} [${worst.index}]: measured ${measured}, ${verdict} ${allowed}`;
}

/** Squared error, reference norm and noise per bucket. */
class Sums {
  private readonly error: Float64Array;
  private readonly norm: Float64Array;
  private readonly noise: Float64Array;
  private readonly count: Uint32Array;

  constructor(buckets: number) {
    this.error = new Float64Array(buckets);
    this.norm = new Float64Array(buckets);
    this.noise = new Float64Array(buckets);
    this.count = new Uint32Array(buckets);
  }

  add(bucket: number, out: number, ref: number, noise: number): void {
    const difference = out - ref;
    this.error[bucket] += difference * difference;
    this.norm[bucket] += ref * ref;
    this.noise[bucket] += noise * noise;
    this.count[bucket]++;
  }

  total(): number {
    return this.norm.reduce((sum, x) => sum + x, 0);
  }

  /** Zero references fall back on what `scaleOf` returns, then on an absolute floor. */
  worst(scaleOf: (norm: number, count: number) => number): { error: number; at: number } {
    let error = 0;
    let at = 0;
    for (let i = 0; i < this.error.length; i++) {
      const scale = Math.max(scaleOf(Math.sqrt(this.norm[i]), this.count[i]), TINY);
      const beyond = Math.sqrt(this.error[i]) - NOISE * Math.sqrt(this.noise[i]);
      const relative = Math.max(beyond, 0) / scale;
      const bounded = Number.isFinite(beyond) ? relative : Infinity;
      if (bounded > error) {
        error = bounded;
        at = i;
      }
    }
    return { error, at };
  }
}

function sequenceOfToken(tokens: number, cuSeqlens: ArrayLike<number>): Int32Array {
  const sequence = new Int32Array(tokens);
  // Boundaries count tokens; k, v and beta of a Householder product have n rows per token.
  const rowsPerToken = tokens / cuSeqlens[cuSeqlens.length - 1] || 1;
  for (let s = 0; s + 1 < cuSeqlens.length; s++) {
    sequence.fill(s, cuSeqlens[s] * rowsPerToken, cuSeqlens[s + 1] * rowsPerToken);
  }
  return sequence;
}

function advance(position: number[], shape: readonly number[]): void {
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    if (++position[axis] < shape[axis]) return;
    position[axis] = 0;
  }
}

function unravel(index: number, shape: readonly number[]): number[] {
  const position = new Array<number>(shape.length);
  let rest = index;
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    position[axis] = rest % shape[axis];
    rest = Math.floor(rest / shape[axis]);
  }
  return position;
}
