// The recurrence grid: its cells, and the papers that are cells under their own names.
import * as reference from '#oracle/reference/presets';
import { backward, forward } from '#oracle/reference/recurrence';
import type { Gate, ProblemSpec, Update } from '#oracle/support/cases';
import { gates, makeProblem } from '#oracle/support/cases';
import type { ContractDtype, TensorName } from '#oracle/support/compare';
import { rowFor } from '#oracle/support/compare';
import type { Random } from '#oracle/support/random';
import type { Tensor32 } from '#oracle/support/tensor';
import { sizeOf } from '#oracle/support/tensor';
import type { Operation, Pass, References, Shape, Tensors } from '../operation';
import { passes } from '../operation';

const axes = ['B', 'T', 'H', 'HV', 'K', 'V'];

const USUAL: Shape = { B: 1, T: 512, H: 8, HV: 8, K: 64, V: 64 };

const SHAPES: readonly Shape[] = [
  { B: 1, T: 35, H: 1, HV: 2, K: 17, V: 23 },
  { B: 2, T: 66, H: 2, HV: 2, K: 32, V: 40 },
  { B: 1, T: 150, H: 1, HV: 1, K: 64, V: 64 },
  { B: 1, T: 20, H: 1, HV: 1, K: 128, V: 128 },
];

interface Cell {
  gate: Gate;
  update: Update;
  n: number;
}

interface Definition extends Cell {
  name: string;
  call: string;
  options: object;
  reference: {
    forward: (inputs: any, options?: any) => object;
    backward: (inputs: any, options?: any) => object;
  };
  /** Default 1/16, a memory of some twenty tokens. */
  gateScale?: number;
  /** The problem of the cell, as this operation's arguments. */
  edit?: (problem: Tensors, shape: Shape, random: Random) => void;
  nested?: Operation['nested'];
  forms?: Operation['forms'];
  isa?: string;
  /** The row of the contract for the arithmetic, where it is not that of the inputs' type. */
  contract?: ContractDtype;
  /** As makeProblem takes them. */
  problem?: (shape: Shape) => Partial<ProblemSpec>;
}

function operation(definition: Definition): Operation {
  const { name, call, options, reference, edit, nested, forms, isa, contract, problem, ...cell } =
    definition;
  const given = (inputs: Tensors) => ({ ...options, ...nested?.options(inputs) });
  return {
    name,
    call,
    options,
    recurrent: true,
    axes,
    passes,
    nested,
    forms,
    isa,
    float32: ['initialState', 'initialZ', 'aLog', 'dtBias', 'dFinalState', 'dFinalZ'],
    halves: true,
    shapes: SHAPES,
    objection: groupedHeads,
    draw: (shape, random) => {
      const spec = { ...shape, ...cell, ...problem?.(shape), seed: random.nextUint32() };
      const states = { withInitialState: true, withFinalStateGradient: true };
      const drawn = makeProblem({ ...spec, ...states } as unknown as ProblemSpec);
      const { dO, dFinalState, dFinalZ, ...inputs } = drawn;
      edit?.(inputs, shape, random);
      return { inputs, gradients: { dO, dFinalState: dFinalState!, ...(dFinalZ && { dFinalZ }) } };
    },
    forward: (inputs) => ({ ...reference.forward(inputs, given(inputs)) }),
    backward: (inputs) => ({ ...reference.backward(inputs, given(inputs)) }),
    row: (tensor, { T }, dtype) => rowFor(tensor as TensorName, T, contract ?? dtype),
    flops: (pass, shape) => flopsOf(cell, pass, shape) * tokenHeads(pass, shape),
    tokenHeads,
    tokens: 'T',
    usual: USUAL,
  };
}

/** Minimum operations per token and value head. A backward goes through the states again, with what was saved or without. */
function flopsOf({ update, n }: Cell, pass: Pass, { K, V }: Shape): number {
  if (pass.startsWith('backward')) return (update === 'additive' ? 10 : 12 * n + 4) * K * V;
  return (update === 'additive' ? 4 : 4 * n + 2) * K * V;
}

function tokenHeads(pass: Pass, { B, T, HV }: Shape): number {
  return pass === 'decode' ? B * HV : B * T * HV;
}

function groupedHeads({ H, HV }: Shape): string | undefined {
  return HV % H === 0 ? undefined : `HV = ${HV} is no multiple of H = ${H}`;
}

const rules = [
  { update: 'additive', n: 1 },
  { update: 'delta', n: 1 },
  { update: 'delta', n: 2 },
  { update: 'delta', n: 3 },
] as const;

/** The twelve cells, `gate/update`, the delta rule with `/n` steps per token besides. */
export const cells: readonly Operation[] = gates.flatMap((gate) =>
  rules.map(({ update, n }) =>
    operation({
      name: `${gate}/${update}${n > 1 ? `/${n}` : ''}`,
      call: 'recurrence',
      options: { update, numHouseholder: n },
      reference: { forward, backward },
      gate,
      update,
      n,
    }),
  ),
);

const fusedCells = [
  ['token', 'additive'],
  ['token', 'delta'],
  ['channel', 'additive'],
  ['channel', 'delta'],
] as const;

/** Norm of queries and keys, activations of gates and beta, all inside: `fused/GATE/UPDATE`. */
const fused = fusedCells.map(([gate, update]) =>
  operation({
    name: `fused/${gate}/${update}`,
    call: 'recurrence',
    options: { update, qkL2norm: true, ...(update === 'delta' && { betaActivation: 'sigmoid2' }) },
    reference: { forward, backward },
    gate,
    update,
    n: 1,
    gateScale: 1,
    edit: (problem, { HV, K }, random) => {
      const biasShape = gate === 'channel' ? [HV, K] : [HV];
      problem.aLog = { data: random.uniforms(HV, -3, 0), shape: [HV] };
      problem.dtBias = { data: random.uniforms(sizeOf(biasShape), -2, 1), shape: biasShape };
    },
    nested: {
      names: ['aLog', 'dtBias'],
      options: ({ aLog, dtBias }) => ({
        gate: { aLog, dtBias, ...(gate === 'channel' && { lowerBound: -5 }) },
      }),
    },
  }),
);

const SEQUENCES = 4;

/** Sequences of several lengths in one row, an empty one among them: `packed/GATE/UPDATE`. */
const packed = gates.flatMap((gate) =>
  (['additive', 'delta'] as const).map((update): Operation => {
    const op = operation({
      name: `packed/${gate}/${update}`,
      call: 'recurrence',
      options: { update },
      reference: { forward, backward },
      gate,
      update,
      n: 1,
      forms: ['recurrent', 'chunk', 'backward'],
      problem: () => ({ N: SEQUENCES }),
      edit: (problem, { T }) => {
        const ends = [0, T >> 2, T >> 2, (T >> 1) + 1, T];
        problem.cuSeqlens = { data: Int32Array.from(ends), shape: [ends.length] };
      },
      nested: {
        names: ['cuSeqlens'],
        options: ({ cuSeqlens }) => ({ cuSeqlens: cuSeqlens.data }),
      },
    });
    return {
      ...op,
      passes: passes.filter((pass) => pass !== 'decode'),
      shapes: SHAPES.map((shape) => ({ ...shape, B: 1 })),
      objection: (shape) =>
        shape.B === 1 ? groupedHeads(shape) : `packed sequences have B = 1, got ${shape.B}`,
    };
  }),
);

const normalized = operation({
  name: 'normalize',
  call: 'linearAttention',
  options: { normalize: true },
  reference: { forward, backward },
  gate: 'none',
  update: 'additive',
  n: 1,
  problem: () => ({ normalize: true }),
});

/** Products on pairs of bfloat16: `bf16/GATE/UPDATE`. Small states are computed in float32, and left out here. */
const bf16 = gates.flatMap((gate) =>
  (['additive', 'delta'] as const).map((update): Operation => {
    const op = operation({
      name: `bf16/${gate}/${update}`,
      call: 'recurrence',
      options: { update, compute: 'bf16' },
      reference: { forward, backward },
      gate,
      update,
      n: 1,
      forms: ['chunk'],
      isa: 'avx512bf16',
      contract: 'bf16 compute',
    });
    const shapes = SHAPES.filter(({ K, V }) => K * V >= 4096);
    return { ...op, arithmetic: 'bf16', passes: ['forward'], shapes };
  }),
);

/** What may stand around a cell: fused activations, packed sequences, the normalizer, arithmetic in bfloat16. */
export const variants: readonly Operation[] = [...fused, ...packed, normalized, ...bf16];

type Reference = Definition['reference'];
type Named = [name: string, reference: Reference, gate: Gate, update: Update, n?: number];

const named: readonly Named[] = [
  ['linearAttention', reference.linearAttention, 'none', 'additive'],
  ['retention', reference.retention, 'none', 'additive'],
  ['lightningAttention', reference.lightningAttention, 'none', 'additive'],
  ['simpleGla', reference.simpleGla, 'token', 'additive'],
  ['gla', reference.gla, 'channel', 'additive'],
  ['deltaNet', reference.deltaNet, 'none', 'delta'],
  ['deltaProduct', reference.deltaProduct, 'none', 'delta', 2],
  ['gatedDeltaNet', reference.gatedDeltaNet, 'token', 'delta'],
  ['gatedDeltaProduct', reference.gatedDeltaProduct, 'token', 'delta', 2],
  ['kda', reference.kda, 'channel', 'delta'],
];

function presetOf([name, oracle, gate, update, n = 1]: Named): Operation {
  const options = {
    ...(n > 1 && { numHouseholder: n }),
    ...(name === 'lightningAttention' && { layer: 2, layers: 12 }),
  };
  return operation({ name, call: name, options, reference: oracle, gate, update, n });
}

const hgrn2: Operation = {
  ...operation({
    name: 'hgrn2',
    call: 'hgrn2',
    options: {},
    reference: reference.hgrn2,
    gate: 'channel',
    update: 'additive',
    n: 1,
    gateScale: 1,
    edit: (problem) => {
      delete problem.k;
    },
  }),
  shapes: SHAPES.map((shape) => ({ ...shape, HV: shape.H })),
  objection: ({ H, HV }) => (H === HV ? undefined : `hgrn2 has H = HV, got ${H} and ${HV}`),
};

const mamba2Rows: Record<string, TensorName> = {
  y: 'o',
  dx: 'dv',
  dB: 'dk',
  dC: 'dq',
  ddt: 'dg',
  dA: 'dg',
  dD: 'dg',
  dDtBias: 'dg',
};

const mamba2Options = { dtSoftplus: true };

const mamba2: Operation = {
  ...operation({
    name: 'mamba2',
    call: 'mamba2',
    options: mamba2Options,
    reference: { forward, backward },
    gate: 'token',
    update: 'additive',
    n: 1,
  }),
  float32: ['A', 'D', 'dtBias', 'initialState', 'dFinalState'],
  draw: drawMamba2,
  forward: (inputs) => ({ ...reference.mamba2(inputs as any, mamba2Options) }),
  backward: (inputs): References => ({ ...reference.mamba2Backward(inputs as any, mamba2Options) }),
  row: (name, { T }, dtype) => rowFor(mamba2Rows[name] ?? (name as TensorName), T, dtype),
};

/** K is the state's width, V the head's. */
function drawMamba2({ B, T, H, HV, K, V }: Shape, random: Random) {
  const normal = (...shape: number[]): Tensor32 => {
    return { data: random.normals(sizeOf(shape)), shape };
  };
  const uniform = (low: number, high: number, ...shape: number[]): Tensor32 => {
    return { data: random.uniforms(sizeOf(shape), low, high), shape };
  };
  const inputs: Tensors = {
    x: normal(B, T, HV, V),
    dt: normal(B, T, HV),
    A: uniform(-2, -0.1, HV),
    B: normal(B, T, H, K),
    C: normal(B, T, H, K),
    D: normal(HV),
    dtBias: uniform(-1, 0.5, HV),
    initialState: normal(B, HV, K, V),
  };
  return { inputs, gradients: { dY: normal(B, T, HV, V), dFinalState: normal(B, HV, K, V) } };
}

export const presets: readonly Operation[] = [...named.map(presetOf), hgrn2, mamba2];
