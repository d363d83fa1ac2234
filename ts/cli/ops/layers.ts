// The parts of a layer around the recurrence.
import * as reference from '#oracle/reference/layers';
import { contract } from '#oracle/support/compare';
import type { Random } from '#oracle/support/random';
import type { Tensor32 } from '#oracle/support/tensor';
import { sizeOf } from '#oracle/support/tensor';
import type { Indices, Operation, Pass, References, Shape, Tensors } from '../operation';

/** A row of `verify` and `bench` that is no recurrence. */
export interface Definition {
  name: string;
  shapes: readonly Shape[];
  options?: object;
  backwardOptions?: Operation['backwardOptions'];
  forwardOnly?: readonly string[];
  unbenched?: readonly string[];
  float32?: readonly string[];
  updated?: readonly string[];
  halves?: boolean;
  /** Results of the inputs' type; default y. */
  rounded?: readonly string[];
  /** Relative error over a whole result, in float32. */
  limits: { other: number; [result: string]: number };
  /** `dY`, or one or more of the others of GRADIENTS, are the gradients of the results. */
  draw: (shape: Shape, make: Maker) => Tensors;
  forward: (inputs: any) => References;
  backward?: (inputs: any) => object;
  flops: (pass: Pass, shape: Shape) => number;
  readShare?: Operation['readShare'];
  tokenHeads?: Operation['tokenHeads'];
  tokens: string;
  usual: Shape;
}

/**
 * Operations per element, forward and backward. Every addition, multiplication, comparison, division, root and
 * exponential counts as one; a backward computes again what the forward knew.
 */
export function perElement(forward: number, backward: number, elements: (shape: Shape) => number) {
  return (pass: Pass, shape: Shape): number =>
    (pass === 'backward' ? backward : forward) * elements(shape);
}

const ofRows = ({ rows, D }: Shape): number => rows * D;

/** Seeded tensors by shape. */
export interface Maker {
  normals: (...shape: number[]) => Tensor32;
  indices: (bound: number, ...shape: number[]) => Indices;
}

const GRADIENTS = ['dY', 'dO', 'dSum', 'dDelta', 'dTransition', 'dState', 'dInitialStates'];

export function operation(definition: Definition): Operation {
  const { name, limits, draw, backward, rounded: narrow = ['y'], ...rest } = definition;
  return {
    call: name,
    name,
    recurrent: false,
    axes: Object.keys(rest.shapes[0]),
    passes: backward ? ['forward', 'backward'] : ['forward'],
    options: {},
    float32: [],
    halves: true,
    ...rest,
    draw: (shape, random) => {
      const all = Object.entries(draw(shape, makerOf(random)));
      const [inputs, gradients] = [false, true].map((wanted) =>
        Object.fromEntries(
          all.filter(([given]) => (!!backward && GRADIENTS.includes(given)) === wanted),
        ),
      );
      return { inputs, gradients };
    },
    ...(backward && { backward: (inputs: Tensors) => ({ ...backward(inputs) }) }),
    row: (result, _shape, dtype) => {
      const own = limits[result] ?? limits.other;
      // What is exact in float32 is a copy, and exact in any type.
      const rounded = dtype !== 'f32' && narrow.includes(result) && own > 0;
      const limit = rounded ? contract[dtype].o[0][1] : own;
      return { limit, layout: { kept: [] } };
    },
  };
}

function makerOf(random: Random): Maker {
  return {
    normals: (...shape) => ({ data: random.normals(sizeOf(shape)), shape }),
    indices: (bound, ...shape) => ({
      data: Int32Array.from({ length: sizeOf(shape) }, () => random.integer(bound)),
      shape,
    }),
  };
}

const product = {
  name: 'matmul',
  shapes: [
    { M: 13, N: 33, K: 70 },
    { M: 130, N: 70, K: 90 },
    { M: 1, N: 300, K: 200 },
  ],
  options: { transposeB: true },
  backwardOptions: (_shape: Shape, inputs: Tensors) => ({ withBias: 'bias' in inputs }),
  forwardOnly: ['bias'],
  unbenched: ['bias'],
  limits: { other: 2e-6, dBias: 1e-5 },
  draw: ({ M, N, K }: Shape, { normals }: Maker) => ({
    a: normals(M, K),
    b: normals(N, K),
    bias: normals(N),
    dY: normals(M, N),
  }),
  forward: (inputs: any) => ({ y: reference.matmul(inputs, { transposeB: true }) }),
  backward: ({ dY, ...inputs }: any) =>
    reference.matmulBackward({ ...inputs, dOut: dY }, { transposeB: true }),
  flops: perElement(2, 4, ({ M, N, K }) => M * N * K),
  tokens: 'M',
  usual: { M: 512, N: 1024, K: 1024 },
} satisfies Definition;

const matmul = operation(product);

/** Products on pairs of bfloat16. */
const matmulBf16: Operation = {
  ...operation({ ...product, options: { ...product.options, compute: 'bf16' } }),
  name: 'bf16/matmul',
  arithmetic: 'bf16',
  isa: 'avx512bf16',
  row: (result, shape, dtype) => {
    if (result === 'dBias') return matmul.row(result, shape, dtype);
    return { limit: contract['bf16 compute'].o[0][1], layout: { kept: [] } };
  },
};

const rows = [
  { rows: 13, D: 70 },
  { rows: 65, D: 1000 },
];

const rowsOf = { tokens: 'rows', usual: { rows: 512, D: 1024 } };

const rmsNorm = operation({
  name: 'rmsNorm',
  shapes: rows,
  limits: { other: 2e-6 },
  draw: ({ rows, D }, { normals }) => ({
    x: normals(rows, D),
    weight: normals(D),
    dY: normals(rows, D),
  }),
  forward: (inputs) => ({ y: reference.rmsNorm(inputs) }),
  backward: reference.rmsNormBackward,
  // Squares and their sum, times the factor and the weight; backward: the factor again, dY w, two sums of products, dx.
  flops: perElement(4, 11, ofRows),
  ...rowsOf,
});

const gatedNorm = {
  name: 'rmsNormGated',
  shapes: rows,
  limits: { other: 2e-6 },
  draw: ({ rows, D }: Shape, { normals }: Maker) => ({
    x: normals(rows, D),
    gate: normals(rows, D),
    weight: normals(D),
    dY: normals(rows, D),
  }),
  forward: (inputs: any) => ({ y: reference.rmsNormGated(inputs) }),
  backward: reference.rmsNormGatedBackward,
  // silu (exp, add, divide) and a product more; backward: sigmoid, silu, dNorm, the norm (2), the derivative (4), dGate (2)
  flops: perElement(8, 24, ofRows),
  ...rowsOf,
} satisfies Definition;

const rmsNormGated = operation(gatedNorm);

/** Its other forms: a sigmoid in place of silu, and the norm of what has been gated. */
const gatedForms = (
  [
    ['sigmoid', { activation: 'sigmoid' }],
    ['after', { normBeforeGate: false }],
    ['sigmoid/after', { activation: 'sigmoid', normBeforeGate: false }],
  ] as const
).map(([form, options]) => ({
  ...operation({
    ...gatedNorm,
    options,
    forward: (inputs) => ({ y: reference.rmsNormGated(inputs, options) }),
    backward: (inputs) => reference.rmsNormGatedBackward(inputs, options),
    // The product with x that makes silu of a sigmoid is there or not, forward and in the derivative (3).
    flops: 'activation' in options ? perElement(7, 20, ofRows) : gatedNorm.flops,
  }),
  name: `${form}/rmsNormGated`,
}));

const l2norm = operation({
  name: 'l2norm',
  shapes: rows,
  limits: { other: 2e-6 },
  draw: ({ rows, D }, { normals }) => ({ x: normals(rows, D), dY: normals(rows, D) }),
  forward: (inputs) => ({ y: reference.l2norm(inputs) }),
  backward: reference.l2normBackward,
  // Squares and their sum, times the factor; backward: those again, a sum of products, dx (3)
  flops: perElement(3, 8, ofRows),
  tokens: 'rows',
  usual: { rows: 8192, D: 128 },
});

const rotary = {
  name: 'rope',
  shapes: [
    { B: 2, T: 9, H: 3, D: 34 },
    { B: 1, T: 130, H: 2, D: 128 },
  ],
  limits: { other: 2e-6 },
  draw: ({ B, T, H, D }: Shape, { normals }: Maker) => ({
    x: normals(B, T, H, D),
    dY: normals(B, T, H, D),
  }),
  forwardOnly: ['x'],
  forward: (inputs: any) => ({ y: reference.rope(inputs).y }),
  backward: ({ dY }: any) => reference.ropeBackward({ dY }),
  // Two products and a sum each way; angles do not count, of which a token's heads share one set.
  flops: perElement(3, 3, ({ B, T, H, D }: Shape) => B * T * H * D),
  tokens: 'T',
  usual: { B: 1, T: 512, H: 16, D: 128 },
} satisfies Definition;

const rope: Operation = {
  ...operation(rotary),
  objection: ({ D }) => (D % 2 || D === 0 ? `D of rope: an even number, got ${D}` : undefined),
};

/** Of a part of the elements, in pairs of neighbours. */
const partialRope = { interleaved: true, rotaryDim: 8, offset: 1000, scale: 1.5 };
const ropePartial: Operation = {
  ...operation({
    ...rotary,
    options: partialRope,
    forward: (inputs) => ({ y: reference.rope(inputs, partialRope).y }),
    backward: ({ dY }) => reference.ropeBackward({ dY }, partialRope),
    flops: perElement(3, 3, ({ B, T, H }) => B * T * H * partialRope.rotaryDim),
  }),
  name: 'partial/rope',
  objection: ({ D }) =>
    D < partialRope.rotaryDim ? `D of partial/rope: 8 or more, got ${D}` : undefined,
};

const swiglu = operation({
  name: 'swiglu',
  shapes: rows,
  limits: { other: 1e-6 },
  draw: ({ rows, D }, { normals }) => ({
    gate: normals(rows, D),
    up: normals(rows, D),
    dY: normals(rows, D),
  }),
  forward: ({ gate, up }) => ({ y: reference.swiglu({ a: gate, b: up }) }),
  backward: ({ gate, up, dY }) => {
    const { da, db } = reference.swigluBackward({ a: gate, b: up, dY });
    return { dGate: da, dUp: db };
  },
  // silu and a product; backward: sigmoid (3), silu, dUp, the derivative (4), dGate (2)
  flops: perElement(4, 11, ofRows),
  ...rowsOf,
});

const convolution = {
  name: 'shortConv',
  shapes: [
    { B: 2, T: 17, D: 33, W: 4 },
    { B: 1, T: 130, D: 100, W: 3 },
  ],
  options: { activation: 'silu' },
  float32: ['initialState'],
  limits: { other: 1e-6, dWeight: 3e-6, dBias: 1e-5 },
  draw: ({ B, T, D, W }: Shape, { normals }: Maker) => ({
    x: normals(B, T, D),
    weight: normals(D, W),
    bias: normals(D),
    initialState: normals(B, D, W - 1),
    dY: normals(B, T, D),
  }),
  forward: (inputs: any) => ({ y: reference.shortConv(inputs, { activation: 'silu' }).y }),
  backward: (inputs: any) => reference.shortConvBackward(inputs, { activation: 'silu' }),
  // W products and sums, the bias, silu; backward: the sum again, silu's derivative (8), dx, dWeight, dBias
  flops: (pass: Pass, { B, T, D, W }: Shape) =>
    (pass === 'backward' ? 6 * W + 10 : 2 * W + 4) * B * T * D,
  tokens: 'T',
  usual: { B: 1, T: 512, D: 1024, W: 4 },
} satisfies Definition;

const shortConv = operation(convolution);

/** Packed sequences, empty ones among them: the lengths are eighths of T. */
const cuSeqlensOf = (T: number) => Int32Array.of(0, 0, T >> 3, T >> 3, T >> 1, T);
const packedConvolution: Operation = {
  ...operation({
    ...convolution,
    shapes: [
      { B: 1, T: 17, D: 33, W: 4 },
      { B: 1, T: 330, D: 100, W: 3 },
    ],
    draw: (shape, make) => ({
      ...convolution.draw(shape, make),
      initialState: make.normals(5, shape.D, shape.W - 1),
      cuSeqlens: { data: cuSeqlensOf(shape.T), shape: [6] },
    }),
    forward: ({ cuSeqlens, ...inputs }) => ({
      y: reference.shortConv(inputs, { activation: 'silu', cuSeqlens: cuSeqlens.data }).y,
    }),
    backward: ({ cuSeqlens, ...inputs }) =>
      reference.shortConvBackward(inputs, { activation: 'silu', cuSeqlens: cuSeqlens.data }),
  }),
  name: 'packed/shortConv',
  nested: {
    names: ['cuSeqlens'],
    options: ({ cuSeqlens }) => ({ cuSeqlens: cuSeqlens.data }),
  },
  objection: ({ B }) => (B === 1 ? undefined : `packed sequences have B = 1, got ${B}`),
};

const embedding = operation({
  name: 'embedding',
  shapes: [
    { rows: 20, D: 33, N: 50 },
    { rows: 300, D: 70, N: 400 },
  ],
  backwardOptions: ({ rows }) => ({ numEmbeddings: rows }),
  forwardOnly: ['weight'],
  limits: { y: 0, other: 1e-6 },
  draw: ({ rows, D, N }, { normals, indices }) => ({
    ids: indices(rows, N),
    weight: normals(rows, D),
    dY: normals(N, D),
  }),
  forward: ({ ids, weight }) => ({ y: reference.embedding({ indices: ids, weight }) }),
  backward: ({ ids, weight, dY }) =>
    reference.embeddingBackward({ indices: ids, weight, dOut: dY }),
  flops: perElement(0, 1, ({ N, D }) => N * D),
  readShare: ({ rows, N }) => ({ weight: Math.min(1, N / rows) }),
  tokens: 'N',
  usual: { rows: 8192, D: 1024, N: 512 },
});

const crossEntropy = operation({
  name: 'crossEntropy',
  shapes: [
    { N: 17, V: 100 },
    { N: 70, V: 1025 },
  ],
  limits: { loss: 1e-6, losses: 1e-6, other: 2e-6 },
  draw: ({ N, V }, { normals, indices }) => ({ logits: normals(N, V), targets: indices(V, N) }),
  forward: (inputs) => {
    const { loss, losses } = reference.crossEntropy(inputs);
    return { loss: { data: [loss], shape: [] }, losses };
  },
  backward: reference.crossEntropyBackward,
  // The largest, minus it, exp, sum; backward: those again, minus the logarithm, exp, scaled
  flops: perElement(4, 7, ({ N, V }) => N * V),
  tokens: 'N',
  usual: { N: 64, V: 32768 },
});

const step = { lr: 1e-2, step: 3 };

const adamW = operation({
  name: 'adamW',
  shapes: rows,
  options: step,
  updated: ['param', 'm', 'v'],
  halves: false,
  limits: { other: 1e-6 },
  draw: ({ rows, D }, { normals }) => {
    const [param, grad, m, v] = [0, 1, 2, 3].map(() => normals(rows, D));
    v.data.forEach((x, i) => {
      v.data[i] = x * x;
    });
    return { param, grad, m, v };
  },
  forward: (inputs) => ({ ...reference.adamW(inputs, step) }),
  // m (3), v (4), the root, its scale and eps, the quotient, the decay, the step
  flops: perElement(14, 0, ofRows),
  tokens: 'rows',
  usual: { rows: 1024, D: 1024 },
});

export const layers: readonly Operation[] = [
  matmul,
  rmsNorm,
  rmsNormGated,
  ...gatedForms,
  l2norm,
  rope,
  ropePartial,
  swiglu,
  shortConv,
  packedConvolution,
  embedding,
  crossEntropy,
  adamW,
  matmulBf16,
];
