// The fused LoRA product on every base: rows that share an adapter, have others by segments or each its own, or two each
// with gates. Their number and the adapters' decide which: see routeOf.
import type { LoraAdapter, LoraLinearInputs } from '#oracle/reference/loraLinear';
import { loraLinear, loraLinearBackward } from '#oracle/reference/loraLinear';
import { contract } from '#oracle/support/compare';
import type { Random } from '#oracle/support/random';
import type { Tensor32, TensorLike } from '#oracle/support/tensor';
import { sizeOf } from '#oracle/support/tensor';
import type { AdapterRouting } from '../../lora/loraLinear';
import type { WeightFormat } from '../../lora/packedWeight';
import { engine } from '../engine';
import type { Bound, Operation, Pass, References, Shape, Tensors } from '../operation';
import { placeOption } from '../place';
import { drawWeight, packDrawn } from './loraWeight';

export const SCALE = 2;
const TOP_K = 2;

/** What tells a row of this table from others. */
export interface LoraKind {
  format: WeightFormat;
  /** Adapters of a row. */
  perRow: number;
}

/** The adapters of every row: E of them, in segments of equal size; more than rows, and each row has its own. */
export function slotsOf({ M, E }: Shape, perRow: number, turn = 0): Int32Array {
  const slots = new Int32Array(M * perRow);
  for (let row = 0; row < M; row++) {
    if (perRow === 1) {
      slots[row] = E > M ? (turn * M + row) % E : Math.floor((row * E) / M);
      continue;
    }
    const first = (5 * row + (row >> 3)) % E;
    for (let i = 0; i < perRow; i++)
      slots[row * perRow + i] = (first + i * (1 + (row % Math.max(1, E - 1)))) % E;
  }
  return slots;
}

/** The routing of a call whose adapters have these ids. */
export function routeOf(
  shape: Shape,
  perRow: number,
  ids: readonly number[],
  gates?: Tensor32,
  turn = 0,
): AdapterRouting {
  const { M, E } = shape;
  const slots = slotsOf(shape, perRow, turn);
  if (perRow > 1)
    return { kind: 'topK', k: perRow, ids: slots.map((slot) => ids[slot]), gates: gates! };
  if (E === 1) return { kind: 'one', id: ids[0] };
  if (E > M) return { kind: 'tokens', ids: slots.map((slot) => ids[slot]) };
  const indptr = Int32Array.from({ length: E + 1 }, (_, s) => Math.ceil((s * M) / E));
  return { kind: 'segments', indptr, ids: Int32Array.from(ids) };
}

/** Of the adapters of a stack `[E,...]`, one behind the other. */
function partsOf<T extends { data: any; shape: readonly number[] }>(stack: T): T[] {
  const [count, ...shape] = stack.shape;
  const size = sizeOf(shape);
  return Array.from({ length: count }, (_, i) => {
    return { ...stack, data: stack.data.subarray(i * size, (i + 1) * size), shape };
  });
}

function stackOf(parts: readonly TensorLike[]): TensorLike | undefined {
  if (parts.length === 0) return undefined;
  const size = parts[0].data.length;
  const data = new Float64Array(parts.length * size);
  parts.forEach((part, i) => {
    data.set(part.data, i * size);
  });
  return { data, shape: [parts.length, ...parts[0].shape] };
}

/** The problem as the reference takes it, of the rows given; without the base where only sums over rows are wanted. */
export function referenceOf(
  inputs: Tensors,
  perRow: number,
  { rows, base = true }: { rows?: readonly number[]; base?: boolean } = {},
): LoraLinearInputs & { dY: TensorLike } {
  const { x, weight, a, b, gates, dY } = inputs as Record<string, Tensor32>;
  const [M] = x.shape;
  const E = a?.shape[0] ?? 0;
  const chosen = rows ?? Array.from({ length: M }, (_, row) => row);
  const picked = (tensor: Tensor32): Tensor32 => {
    const width = tensor.data.length / M;
    const data = new Float32Array(chosen.length * width);
    chosen.forEach((row, i) => {
      data.set(tensor.data.subarray(row * width, (row + 1) * width), i * width);
    });
    return { data, shape: [chosen.length, width] };
  };
  const adapters = new Map<number, LoraAdapter>();
  const [as, bs] = [a ? partsOf(a) : [], b ? partsOf(b) : []];
  as.forEach((own, e) => {
    adapters.set(e, { a: own, b: bs[e], scale: SCALE });
  });
  const slots = slotsOf({ M, E }, perRow);
  const ids = chosen.flatMap((row) => [...slots.subarray(row * perRow, (row + 1) * perRow)]);
  const routing: LoraLinearInputs['routing'] = gates
    ? { kind: 'topK', k: perRow, ids, gates: picked(gates) }
    : { kind: 'tokens', ids };
  return {
    x: picked(x),
    base: base ? weight : null,
    outFeatures: weight.shape[0],
    ...(E > 0 && { adapters, routing }),
    dY: dY && picked(dY),
  };
}

/** The gradients as one tensor for all adapters. */
export function gradientsOf(
  {
    dx,
    adapters,
    dGates,
  }: {
    dx?: TensorLike;
    dGates?: TensorLike;
    adapters?: ReadonlyMap<number, { dA?: TensorLike; dB?: TensorLike }>;
  },
  E: number,
): References {
  const inOrder = [...(adapters ?? [])].sort(([one], [other]) => one - other);
  const [dA, dB] = (['dA', 'dB'] as const).map((name) => {
    const parts = inOrder.map(([, own]) => own[name]!);
    return parts.length === E ? stackOf(parts) : undefined;
  });
  return { dx, dA, dB, dGates };
}

function draw(format: WeightFormat, perRow: number) {
  return ({ M, N, K, r, E }: Shape, random: Random): { inputs: Tensors; gradients: Tensors } => {
    const uniform = (variance: number, ...shape: number[]): Tensor32 => {
      const most = Math.sqrt(3 * variance);
      return { data: random.uniforms(sizeOf(shape), -most, most), shape };
    };
    const normal = (...shape: number[]): Tensor32 => {
      return { data: random.normals(sizeOf(shape)), shape };
    };
    // Rows of W x, A x and B A x have about as much of each.
    const inputs: Tensors = { x: normal(M, K), weight: drawWeight(format, N, K) };
    if (E > 0)
      Object.assign(inputs, {
        a: uniform(1 / K, E, r, K),
        b: uniform(1 / (r * SCALE ** 2), E, N, r),
      });
    if (E > 0 && perRow > 1)
      inputs.gates = { data: random.uniforms(M * perRow, 0.2, 0.8), shape: [M, perRow] };
    return { inputs, gradients: { dY: normal(M, N) } };
  };
}

function bind(perRow: number) {
  return (given: Tensors): Bound => {
    const { x, weight, a, b, gates, dY } = given as Record<string, any>;
    const [M, K] = x.shape;
    const E = a?.shape[0] ?? 0;
    const inputs: Record<string, unknown> = { x, base: packDrawn(weight), ...(dY && { dY }) };
    const sizes = { inFeatures: K, outFeatures: weight.shape[0] };
    const bank = engine().createAdapterBank({ ...sizes, ...placeOption() } as never);
    if (E > 0) {
      const bs = partsOf(b);
      const ids = partsOf(a).map((own: any, e) => {
        return bank.load({ a: own, b: bs[e] as any, scale: SCALE });
      });
      Object.assign(inputs, { bank, routing: routeOf({ M, E }, perRow, ids, gates) });
    }
    return {
      inputs,
      results: (raw) => (raw.dx ? gradientsOf(raw as any, E) : raw),
      dispose: () => bank.dispose(),
    };
  };
}

function flops(perRow: number) {
  return (pass: Pass, { M, N, K, r, E }: Shape): number => {
    const base = 2 * M * N * K;
    const adapters = E > 0 ? 2 * M * perRow * r * (N + K) : 0;
    if (pass === 'forward') return base + adapters;
    // dx through the base; ds, dB, dx and dA of the adapters
    const backward = base + 2 * adapters;
    return pass === 'backward' ? backward : base + adapters + backward;
  };
}

/** Of rows rounded to 127 steps of their largest magnitude, as normal as those drawn here. */
const INT8_LIMIT = 2e-2;

const SHAPES: readonly Shape[] = [
  { M: 13, N: 70, K: 65, r: 4, E: 2 },
  { M: 5, N: 33, K: 96, r: 9, E: 7 },
  { M: 70, N: 64, K: 128, r: 16, E: 3 },
];

type Arithmetic = Operation['arithmetic'];

function operation(format: WeightFormat, perRow: number, arithmetic: Arithmetic): Operation {
  const name = `${arithmetic ? `${arithmetic}/` : ''}lora/${format}${perRow > 1 ? '/top2' : ''}`;
  return {
    name,
    call: 'loraLinear',
    lora: { format, perRow },
    recurrent: false,
    axes: ['M', 'N', 'K', 'r', 'E'],
    passes: arithmetic === 'int8' ? ['forward'] : ['forward', 'backward', 'forward-backward'],
    options: arithmetic ? { compute: arithmetic } : {},
    ...(arithmetic && { arithmetic, isa: 'avx512bf16' }),
    float32: ['weight', 'gates'],
    halves: true,
    shapes: SHAPES,
    objection: ({ r, E }) => {
      if (E > 0 && perRow > E) return `E = ${E}: a row has ${perRow} of them`;
      return r > 512 ? `r = ${r} is more than 512` : undefined;
    },
    draw: draw(format, perRow),
    bind: bind(perRow),
    forward: (inputs) => ({ y: loraLinear(referenceOf(inputs, perRow)).y }),
    backward: (inputs) => {
      const E = inputs.a?.shape[0] ?? 0;
      return gradientsOf(loraLinearBackward(referenceOf(inputs, perRow)), E);
    },
    row: (result, { K }, dtype) => {
      const layout = { kept: [] };
      if (arithmetic === 'int8') return { limit: INT8_LIMIT, layout };
      const kind = arithmetic ? 'bf16 compute' : dtype;
      if (result === 'y') {
        const limits = contract[kind].o;
        return { limit: limits.find(([most]) => K <= 4 * most)![1], layout };
      }
      const { state, gate } = contract[kind === 'bf16 compute' ? kind : 'f32'];
      return { limit: result === 'dGates' ? gate : state, layout };
    },
    flops: flops(perRow),
    tokens: 'M',
    usual: { M: 512, N: 4096, K: 4096, r: 16, E: perRow > 1 ? 8 : 1 },
  };
}

/** In the order in which a benchmark goes through them. */
export const formats: readonly WeightFormat[] = ['f32', 'bf16', 'f16', 'int8', 'q8', 'nf4', 'q4'];

/**
 * `lora/FORMAT`, `lora/FORMAT/top2` for two adapters a row, and with `bf16/` in front products on pairs of bfloat16; with
 * `int8/`, of that format alone, on bytes.
 */
export const loras: readonly Operation[] = ([undefined, 'bf16', 'int8'] as const).flatMap(
  (arithmetic) =>
    formats
      .filter((format) => arithmetic !== 'int8' || format === 'int8')
      .flatMap((format) =>
        [1, TOP_K].map((perRow): Operation => operation(format, perRow, arithmetic)),
      ),
);
