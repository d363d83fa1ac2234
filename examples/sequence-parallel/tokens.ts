/** A sequence that every rank can make its part of: each value is a function of its place in the whole. */
import type { CellOptions, Tensor } from 'rankone';
import type { LocalInputs } from './layer.ts';

export const cellNames = [
  'linearAttention',
  'simpleGla',
  'gla',
  'deltaNet',
  'gatedDeltaNet',
  'kda',
  'gatedDeltaProduct',
] as const;

export type CellName = (typeof cellNames)[number];

interface Cell {
  /** Rank of g. */
  gate: 0 | 3 | 4;
  delta: boolean;
  n: number;
}

const cells: Record<CellName, Cell> = {
  linearAttention: { gate: 0, delta: false, n: 1 },
  simpleGla: { gate: 3, delta: false, n: 1 },
  gla: { gate: 4, delta: false, n: 1 },
  deltaNet: { gate: 0, delta: true, n: 1 },
  gatedDeltaNet: { gate: 3, delta: true, n: 1 },
  kda: { gate: 4, delta: true, n: 1 },
  gatedDeltaProduct: { gate: 3, delta: true, n: 2 },
};

export interface Sizes {
  heads: number;
  /** K and V. */
  dim: number;
}

/** Uniform in [-1, 1), by a hash of tensor and index. */
function valueAt(tensor: number, index: number): number {
  let x = (index + Math.imul(tensor, 0x9e3779b9)) | 0;
  x = Math.imul(x ^ (x >>> 16), 0x21f0aaad);
  x = Math.imul(x ^ (x >>> 15), 0x735a2d97);
  return (x ^ (x >>> 15)) / 2 ** 31;
}

/** Rows [first, end) of tensor number `tensor`. */
function rows(
  tensor: number,
  [first, end]: [number, number],
  inner: number[],
  map: (x: number) => number = (x) => x,
): Tensor {
  const width = inner.reduce((a, b) => a * b, 1);
  const data = new Float32Array((end - first) * width);
  for (let i = 0; i < data.length; i++) data[i] = map(valueAt(tensor, first * width + i));
  return { data, shape: [1, end - first, ...inner] };
}

export function optionsOf(name: CellName): Omit<CellOptions, 'normalize'> {
  const { delta, n } = cells[name];
  return delta ? { numHouseholder: n, qkL2norm: true } : {};
}

/** Tokens [first, end) of the sequence, and the gradient of their outputs. */
export function tokensOf(
  name: CellName,
  { heads, dim }: Sizes,
  first: number,
  end: number,
): { inputs: LocalInputs; dO: Tensor } {
  const { gate, delta, n } = cells[name];
  const steps: [number, number] = [first * n, end * n];
  const tokens: [number, number] = [first, end];
  const inputs: LocalInputs = {
    q: rows(1, tokens, [heads, dim]),
    k: rows(2, steps, [heads, dim], (x) => x / Math.sqrt(dim)),
    v: rows(3, steps, [heads, dim]),
  };
  // Memories of some fifty tokens, of several hundreds now and then.
  const decay = (x: number) => -0.03 * (1 + x);
  if (gate === 3) inputs.g = rows(4, tokens, [heads], decay);
  if (gate === 4) inputs.g = rows(4, tokens, [heads, dim], decay);
  if (delta) inputs.beta = rows(5, steps, [heads], (x) => (1 + x) / 2);
  return { inputs, dO: rows(6, tokens, [heads, dim]) };
}

/** Where segment i of the sequence begins. */
export const startOf = (tokens: number, segments: number, i: number): number =>
  Math.floor((tokens * i) / segments);
