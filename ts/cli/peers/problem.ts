// What an operation is to a peer, and its problems in the layouts of peers.
import { lightningGate, retentionGate } from '#oracle/reference/presets';
import type { Gate, Update } from '#oracle/support/cases';
import { Random } from '#oracle/support/random';
import type { Tensor32, TensorLike } from '#oracle/support/tensor';
import { sizeOf, toFloat32, zeros32 } from '#oracle/support/tensor';
import { copiesOf } from '../bench/lora/assets';
import type { Case } from '../benchCase';
import type { Dtype } from '../dtype';
import type { Operation, Tensors } from '../operation';

export type Kind =
  | { family: 'grid'; gate: Gate; update: Update }
  | { family: 'mamba2' | 'hgrn2' | 'attention' | 'matmul' | 'lora' }
  /** What no peer has, and why. */
  | { family: 'none'; why: string };

const GRID_OPTIONS = ['update', 'numHouseholder', 'layer', 'layers'];
const GATES: Record<number, Gate> = { 1: 'head', 3: 'token', 4: 'channel' };

/** Told by the inputs that the operation draws, and its options. */
export function kindOf(op: Operation): Kind {
  if (op.call === 'matmul') return { family: 'matmul' };
  if (op.call === 'attention') return { family: 'attention' };
  if (op.lora) return { family: 'lora' };
  if (!op.recurrent) return { family: 'none', why: 'no such operation' };
  if (op.name === 'mamba2' || op.name === 'hgrn2') return { family: op.name };
  const option = Object.keys(op.options).find((name) => !GRID_OPTIONS.includes(name));
  if (option) return { family: 'none', why: `no ${option}` };
  const ones = Object.fromEntries(op.axes.map((axis) => [axis, 1]));
  const { inputs } = op.draw(ones, new Random(1));
  if (inputs.cuSeqlens) return { family: 'none', why: 'no packed sequences' };
  if (inputs.k.shape[1] > 1) return { family: 'none', why: 'no Householder products' };
  const fixed = fixedGate(op, 1);
  const gate = fixed ? 'head' : inputs.g ? GATES[inputs.g.shape.length] : 'none';
  return { family: 'grid', gate, update: inputs.beta ? 'delta' : 'additive' };
}

/** The arguments of a product, of the fused LoRA product's without adapters too. */
export function factorsOf({ op }: Case, inputs: Tensors): Tensors {
  return op.lora ? { a: inputs.x, b: inputs.weight } : inputs;
}

/** Why a case of the fused LoRA product is no plain product in float32, where it is none. */
export function objectionToProduct({ op, pass, shape, dtype }: Case): string | undefined {
  if (shape.E > 0) return 'no adapters';
  if (pass !== 'forward') return 'the base product forward only';
  if (op.lora!.format !== 'f32' || op.arithmetic || dtype !== 'f32') return 'f32 weights only';
  return undefined;
}

/** How many copies of the weight a peer goes through in turn, of so many bytes an element. */
export function weightCopies(one: Case, elementBytes: number): number {
  const { N, K } = one.shape;
  return one.op.lora ? copiesOf(one, N * K * elementBytes) : 1;
}

/** What a peer multiplies: the case's element type, or what the operation rounds that to. */
export function factorType({ op, dtype }: Pick<Case, 'op' | 'dtype'>): Dtype {
  return op.arithmetic === 'bf16' ? 'bf16' : dtype;
}

/** The gate that a paper fixes, and its function therefore does not take. */
export function fixedGate({ name, options }: Operation, HV: number): Tensor32 | undefined {
  if (name === 'retention') return toFloat32(retentionGate(HV));
  if (name !== 'lightningAttention') return undefined;
  return toFloat32(lightningGate(HV, options as Parameters<typeof lightningGate>[1]));
}

/** A problem of the grid with every argument that the recurrence has, on value heads. */
export interface Grid {
  B: number;
  T: number;
  HV: number;
  K: number;
  V: number;
  q: Tensor32; // [B,T,HV,K]
  k: Tensor32; // [B,T,HV,K]
  v: Tensor32; // [B,T,HV,V]
  g?: Tensor32; // [B,T,HV] or [B,T,HV,K]
  beta?: Tensor32; // [B,T,HV]
  initialState: Tensor32; // [B,HV,K,V]
}

export function gridOf(op: Operation, inputs: Tensors): Grid {
  const { q, k, v, beta, initialState } = inputs as Record<string, Tensor32>;
  const [B, T, , K] = q.shape;
  const [, , HV, V] = v.shape;
  const g = fixedGate(op, HV) ?? (inputs.g as Tensor32 | undefined);
  return {
    B,
    T,
    HV,
    K,
    V,
    q: onValueHeads(q, HV),
    k: onValueHeads(k, HV),
    v,
    g: g && (g.shape.length === 1 ? repeat(g, [B, T]) : g),
    beta,
    initialState: initialState ?? zeros32([B, HV, K, V]),
  };
}

/** [B,T,H,X] with each head as often as value heads read it. */
export function onValueHeads(x: Tensor32, HV: number): Tensor32 {
  const [B, T, H, X] = x.shape;
  if (H === HV) return x;
  const result = zeros32([B, T, HV, X]);
  const group = HV / H;
  for (let row = 0; row < B * T * HV; row++) {
    const token = Math.floor(row / HV);
    const from = token * H + Math.floor((row % HV) / group);
    result.data.set(x.data.subarray(from * X, (from + 1) * X), row * X);
  }
  return result;
}

/** The whole tensor again for each index of leading axes. */
function repeat({ data, shape }: Tensor32, leading: readonly number[]): Tensor32 {
  const result = zeros32([...leading, ...shape]);
  for (let at = 0; at < result.data.length; at += data.length) result.data.set(data, at);
  return result;
}

/** [...] as [..., X] by repeating each number. */
export function spread({ data, shape }: Tensor32, X: number): Tensor32 {
  const result = zeros32([...shape, X]);
  data.forEach((value, i) => {
    result.data.fill(value, i * X, (i + 1) * X);
  });
  return result;
}

export function map({ data, shape }: Tensor32, f: (x: number) => number): Tensor32 {
  return { data: data.map(f), shape };
}

/** The last two axes exchanged. */
export function transposed({ data, shape }: TensorLike): Tensor32 {
  const [rows, columns] = shape.slice(-2);
  const result = zeros32([...shape.slice(0, -2), columns, rows]);
  for (let at = 0; at < data.length; at += rows * columns) {
    for (let row = 0; row < rows; row++) {
      for (let column = 0; column < columns; column++) {
        result.data[at + column * rows + row] = data[at + row * columns + column];
      }
    }
  }
  return result;
}

/** [A,B,C,X] as [A,C,B,X]: heads before tokens, and back. */
export function headsFirst({ data, shape }: TensorLike): Tensor32 {
  const [A, B, C, X] = shape;
  const result = zeros32([A, C, B, X]);
  for (let row = 0; row < A * B * C; row++) {
    const [a, b, c] = [Math.floor(row / (B * C)), Math.floor(row / C) % B, row % C];
    const from = (data as Float32Array).subarray(row * X, (row + 1) * X);
    result.data.set(from, ((a * C + c) * B + b) * X);
  }
  return result;
}

/** Tensors of the given shapes that lie in `data` one after the other. */
export function divided<Name extends string>(
  { data }: TensorLike,
  shapes: Record<Name, number[]>,
): Record<Name, Tensor32> {
  let at = 0;
  const parts = Object.entries<number[]>(shapes).map(([name, shape]) => {
    const part = (data as Float32Array).slice(at, at + sizeOf(shape));
    at += part.length;
    return [name, { data: part, shape }];
  });
  return Object.fromEntries(parts);
}
