/** Layers of the systems' tests: matrices of float64 in and out, the engine's calls between them. */
import * as assert from 'uvu/assert';
import type {
  AdapterGradients,
  AdapterRouting,
  AdapterSpec,
  LoraLinearOptions,
  PackedWeight,
  Tensor,
} from '../../../ts/index';
import {
  createAdapterBank,
  loraLinearBackwardSync,
  loraLinearSync,
  packWeightSync,
} from '../../../ts/index';
import { Random } from '../../support/random.ts';
import type { Matrix } from '../reference.ts';
import { multiply, norm, subtract, toMatrix, toTensor32, transpose } from '../reference.ts';

/** A published system: its name in docs/adapters.md, and its own formula against the call that the table names. */
export interface System {
  name: string;
  run(): void | Promise<void>;
}

const random = new Random(20);

/** Normal values that float32 holds, `[rows, columns]`. */
export function draw(rows: number, columns: number, deviation = 1): Matrix {
  return toMatrix({ data: random.normals(rows * columns, deviation), shape: [rows, columns] });
}

export const drawVector = (length: number): number[] => draw(1, length)[0];

/** Rows of positive weights that sum to one, rounded to float32. */
export const drawShares = (rows: number, columns: number): Matrix =>
  draw(rows, columns).map((row) => softmax(row).map(Math.fround));

export function softmax(x: readonly number[]): number[] {
  const largest = Math.max(...x);
  const powers = x.map((value) => Math.exp(value - largest));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((value) => value / sum);
}

/** The indices of the k largest, of equal ones the first. */
export const largest = (x: readonly number[], k: number): number[] =>
  [...x.keys()].sort((i, j) => x[j] - x[i] || i - j).slice(0, k);

export const tensor = (a: Matrix): Tensor => toTensor32(a);

export const vector = (x: readonly number[]): Tensor => ({
  data: Float32Array.from(x),
  shape: [x.length],
});

/** `x (f1 f2 ...)^T`: what the product of the factors makes of rows. */
export const applied = (x: Matrix, ...factors: Matrix[]): Matrix =>
  multiply(x, transpose(multiply(...factors)));

/** Each column times its factor. */
export const columnsTimes = (x: Matrix, factors: readonly number[]): Matrix =>
  x.map((row) => row.map((value, i) => value * factors[i]));

/** The sum of any number of matrices. */
export const sum = (...terms: Matrix[]): Matrix =>
  terms[0].map((row, i) => row.map((_, j) => terms.reduce((total, term) => total + term[i][j], 0)));

export const times = (a: Matrix, factor: number): Matrix =>
  a.map((row) => row.map((value) => value * factor));

export interface Layer {
  base?: Matrix | PackedWeight | 'identity';
  adapters?: readonly AdapterSpec[];
  /** From the ids of the adapters; default: the first one for all rows. */
  routing?: (ids: number[]) => AdapterRouting;
  bias?: readonly number[];
}

function withLayer<Result>(
  x: Matrix,
  { base, adapters = [], routing, bias }: Layer,
  body: (inputs: any, ids: number[]) => Result,
): Result {
  const owned = Array.isArray(base) ? packWeightSync(tensor(base), { format: 'f32' }) : undefined;
  const given = owned ?? (base as PackedWeight | 'identity' | undefined);
  const columnsOf = ({ b }: AdapterSpec): number => (b instanceof Int32Array ? 0 : b.shape[0]);
  const outFeatures =
    typeof given === 'object' ? given.outFeatures : columnsOf(adapters[0]) || x[0].length;
  const bank = createAdapterBank({ inFeatures: x[0].length, outFeatures });
  const ids = adapters.map((spec) => bank.load(spec));
  try {
    const chosen = routing?.(ids) ?? { kind: 'one', id: ids[0] };
    const inputs = {
      x: tensor(x),
      ...(given && { base: given }),
      ...(ids.length && { bank, routing: chosen }),
      ...(bias && { bias: vector(bias) }),
    };
    return body(inputs, ids);
  } finally {
    bank.dispose();
    owned?.dispose();
  }
}

/** y of a layer. */
export function forward(x: Matrix, layer: Layer, options: LoraLinearOptions = {}): Matrix {
  return withLayer(x, layer, (inputs) => toMatrix(loraLinearSync(inputs, options).y));
}

/** dx, and the gradients of the adapters in their order. */
export function backward(
  x: Matrix,
  dY: Matrix,
  layer: Layer,
): { dx: Matrix; adapters: AdapterGradients[]; dGates?: Matrix } {
  return withLayer(x, layer, (inputs, ids) => {
    const { dx, adapters, dGates } = loraLinearBackwardSync({ ...inputs, dY: tensor(dY) });
    return {
      dx: toMatrix(dx),
      adapters: ids.map((id) => adapters.get(id)!),
      ...(dGates && { dGates: toMatrix(dGates) }),
    };
  });
}

/** `||actual - expected|| <= limit ||expected||` */
export function near(actual: Matrix, expected: Matrix, limit = 2e-6, label = 'y'): void {
  assert.equal([actual.length, actual[0]?.length], [expected.length, expected[0]?.length], label);
  const off = norm(subtract(actual, expected)) / Math.max(norm(expected), 1e-30);
  assert.ok(off <= limit, `${label} is off by ${off}, at most ${limit}`);
}

/** The tests would pass with anything if the two were near each other. */
export function apart(a: Matrix, b: Matrix, least = 1e-2, label = 'the two'): void {
  const off = norm(subtract(a, b)) / norm(b);
  assert.ok(off >= least, `${label} differ by ${off}, at least ${least}`);
}
