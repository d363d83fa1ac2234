/** Every operation of rankone/tfjs on a problem with float64 answers, values and gradients. */
import * as tf from '@tensorflow/tfjs-core';
import '@tensorflow/tfjs-backend-cpu';
import '@tensorflow/tfjs-core/dist/register_all_gradients';
import * as ops from '../../ts/integrations/tfjs/index';
import * as layers from '../reference/layers.ts';
import * as presets from '../reference/presets.ts';
import * as grid from '../reference/recurrence.ts';
import { makeProblem, type ProblemSpec } from './cases.ts';
import { indices, normals } from './layers.ts';
import { Random } from './random.ts';
import { sizeOf, type Tensor32, type TensorLike } from './tensor.ts';

type Tensors = Record<string, TensorLike>;

interface Case {
  op: keyof typeof ops;
  /** As the operation takes them; those of int32 have no gradient. */
  inputs: Tensors;
  options?: object;
  /** Gradients of the outputs: the loss is the sum of <output, gradient>. */
  cotangents: Tensors;
  outputs: Record<string, TensorLike | undefined>;
  gradients: Record<string, TensorLike | undefined>;
}

// TensorFlow.js then looks for buffers that a kernel leaves behind.
tf.env().set('IS_TEST', true);

export const LIMITS = {
  'gate.aLog': 5e-5,
  'gate.dtBias': 5e-5,
  g: 5e-5,
  beta: 5e-5,
  dt: 5e-5,
  A: 5e-5,
  D: 5e-5,
  dtBias: 5e-5,
  other: 1e-5,
};

export function toTensor({ data, shape }: TensorLike): tf.Tensor {
  if (data instanceof Int32Array) return tf.tensor(data, [...shape], 'int32');
  return tf.tensor(Float32Array.from(data), [...shape], 'float32');
}

export function toPlain(tensor: tf.Tensor): Tensor32 {
  return { data: tensor.dataSync() as Float32Array, shape: tensor.shape };
}

function plain(tensors: object): Record<string, any> {
  return Object.fromEntries(Object.entries(tensors).map(([name, t]) => [name, toPlain(t)]));
}

/** What is named `gate.aLog` belongs to an option `gate`. */
function withGroups(tensors: Record<string, tf.Tensor>, options: object = {}): [object, object] {
  const inputs: Record<string, tf.Tensor> = {};
  const groups: Record<string, any> = { ...options };
  for (const [name, tensor] of Object.entries(tensors)) {
    const [group, member] = name.split('.');
    if (member) groups[group] = { ...groups[group], [member]: tensor };
    else inputs[name] = tensor;
  }
  return [inputs, groups];
}

/** Outputs, and gradients by input as tf.grads gives them. */
export function run({ op, inputs, options, cotangents }: Case, wanted: string[]) {
  const given = Object.fromEntries(Object.entries(inputs).map(([k, t]) => [k, toTensor(t)]));
  const weights = Object.entries(cotangents).map(([k, t]) => [k, toTensor(t)] as const);
  let outputs = {};
  const loss = (...xs: tf.Tensor[]): tf.Scalar => {
    const named = Object.fromEntries(wanted.map((name, i) => [name, xs[i]]));
    const results = (ops as any)[op](...withGroups({ ...given, ...named }, options));
    outputs = plain(results);
    return tf.addN(weights.map(([name, w]) => tf.sum(tf.mul(results[name], w)))) as tf.Scalar;
  };
  const values = tf.grads(loss)(wanted.map((name) => given[name]));
  return { outputs, gradients: Object.fromEntries(wanted.map((k, i) => [k, toPlain(values[i])])) };
}

function cell(
  op: Case['op'],
  spec: Pick<ProblemSpec, 'gate' | 'update' | 'n'>,
  options: object = {},
): Case {
  const states = { withInitialState: true, withFinalStateGradient: true };
  const shape = { B: 2, T: 21, H: 2, HV: 4, K: 9, V: 11, seed: 5 };
  const { dO, dFinalState, ...inputs } = makeProblem({ ...shape, ...states, ...spec });
  const oracle: any = op === 'recurrence' ? grid : (presets as any)[op];
  const { dq, dk, dv, dg, dbeta, dInitialState } = oracle.backward(
    { ...inputs, dO, dFinalState },
    options,
  );
  const gradients = { q: dq, k: dk, v: dv, g: dg, beta: dbeta, initialState: dInitialState };
  if (!('g' in inputs)) delete gradients.g;
  return {
    op,
    inputs: { ...inputs },
    options: { ...options, outputFinalState: true },
    cotangents: { o: dO, finalState: dFinalState! },
    outputs: oracle.forward(inputs, options),
    gradients,
  };
}

/** A cell with every activation fused: raw gates and strengths, and keys and queries of any length. */
function fused(op: Case['op'], gate: 'token' | 'channel', lowerBound?: number): Case {
  const { inputs, cotangents } = cell(op, { gate, update: 'delta' });
  const draw = normals(14);
  const [HV, K] = [4, 9];
  const parts = { aLog: draw(HV), dtBias: gate === 'token' ? draw(HV) : draw(HV, K) };
  const activations = { qkL2norm: true, betaActivation: 'sigmoid2' as const };
  const given = { ...inputs, g: draw(...inputs.g.shape), beta: draw(...inputs.beta.shape) };
  const options = { ...activations, gate: { ...parts, ...(lowerBound && { lowerBound }) } };
  const problem = given as unknown as grid.RecurrenceInputs;
  const d = grid.backward(
    { ...problem, dO: cotangents.o, dFinalState: cotangents.finalState },
    options,
  );
  return {
    op,
    inputs: { ...given, 'gate.aLog': parts.aLog, 'gate.dtBias': parts.dtBias },
    options: {
      ...activations,
      outputFinalState: true,
      ...(lowerBound && { gate: { lowerBound } }),
    },
    cotangents,
    outputs: { ...grid.forward(problem, options) },
    gradients: {
      q: d.dq,
      k: d.dk,
      v: d.dv,
      g: d.dg,
      beta: d.dbeta,
      initialState: d.dInitialState,
      'gate.aLog': d.dALog,
      'gate.dtBias': d.dDtBias,
    },
  };
}

/** Linear attention divided by its running sum of keys, which is carried from sequence to sequence. */
function normalized(): Case {
  const given = cell('linearAttention', { gate: 'none', update: 'additive' });
  const positive = ({ data, shape }: TensorLike): Tensor32 => {
    return { data: Float32Array.from(data, Math.abs), shape: [...shape] };
  };
  const draw = normals(15);
  const inputs = {
    ...given.inputs,
    q: positive(given.inputs.q),
    k: positive(given.inputs.k),
    initialZ: positive(draw(2, 2, 9)),
  };
  const cotangents = { ...given.cotangents, finalZ: draw(2, 2, 9) };
  const problem = inputs as unknown as grid.RecurrenceInputs;
  const { o: dO, finalState: dFinalState, finalZ: dFinalZ } = cotangents as any;
  const d = grid.backward({ ...problem, dO, dFinalState, dFinalZ }, { normalize: true });
  return {
    op: 'linearAttention',
    inputs,
    options: { normalize: true, outputFinalState: true },
    cotangents,
    outputs: { ...grid.forward(problem, { normalize: true }) },
    gradients: {
      q: d.dq,
      k: d.dk,
      v: d.dv,
      initialState: d.dInitialState,
      initialZ: d.dInitialZ,
    },
  };
}

/** Three sequences in one row, the second of them empty. */
function packed(): Case {
  const shape = { B: 1, T: 21, H: 2, K: 9, V: 11, N: 3, withInitialState: true };
  const { dO, dFinalState, ...inputs } = makeProblem({
    ...shape,
    gate: 'token',
    update: 'delta',
    withFinalStateGradient: true,
  });
  const cuSeqlens = Int32Array.of(0, 8, 8, 21);
  const d = grid.backward({ ...inputs, dO, dFinalState }, { cuSeqlens });
  return {
    op: 'gatedDeltaNet',
    inputs: { ...inputs },
    options: { cuSeqlens, outputFinalState: true },
    cotangents: { o: dO, finalState: dFinalState! },
    outputs: { ...grid.forward(inputs, { cuSeqlens }) },
    gradients: {
      q: d.dq,
      k: d.dk,
      v: d.dv,
      g: d.dg,
      beta: d.dbeta,
      initialState: d.dInitialState,
    },
  };
}

function hgrn2(): Case {
  const { k: _k, ...given } = cell('gla', { gate: 'channel', update: 'additive' }).inputs;
  const draw = normals(8);
  const inputs = { ...given, q: draw(2, 21, 4, 9) } as any;
  const cotangents = { o: draw(2, 21, 4, 11), finalState: draw(2, 4, 9, 11) };
  const { dq, dv, dg, dInitialState } = presets.hgrn2.backward({
    ...inputs,
    dO: cotangents.o,
    dFinalState: cotangents.finalState,
  });
  return {
    op: 'hgrn2',
    inputs,
    options: { outputFinalState: true },
    cotangents,
    outputs: { ...presets.hgrn2.forward(inputs) },
    gradients: { q: dq, v: dv, g: dg, initialState: dInitialState },
  };
}

function mamba2(): Case {
  const [B, T, HV, G, N, P] = [2, 19, 4, 2, 7, 6];
  const draw = normals(9);
  const random = new Random(10);
  const uniform = (low: number, high: number, ...shape: number[]): Tensor32 => {
    return { data: random.uniforms(sizeOf(shape), low, high), shape };
  };
  const inputs = {
    x: draw(B, T, HV, P),
    dt: draw(B, T, HV),
    A: uniform(-2, -0.1, HV),
    B: draw(B, T, G, N),
    C: draw(B, T, G, N),
    D: draw(HV),
    dtBias: uniform(-1, 0.5, HV),
    initialState: draw(B, HV, N, P),
  };
  const cotangents = { y: draw(B, T, HV, P), finalState: draw(B, HV, N, P) };
  const options = { dtSoftplus: true, dtLimit: [0.01, 3] as const };
  const d = presets.mamba2Backward(
    { ...inputs, dY: cotangents.y, dFinalState: cotangents.finalState },
    options,
  );
  return {
    op: 'mamba2',
    inputs,
    options: { ...options, outputFinalState: true },
    cotangents,
    outputs: { ...presets.mamba2(inputs, options) },
    gradients: {
      x: d.dx,
      dt: d.ddt,
      A: d.dA,
      B: d.dB,
      C: d.dC,
      D: d.dD,
      dtBias: d.dDtBias,
      initialState: d.dInitialState,
    },
  };
}

function layerCases(): Case[] {
  const draw = normals(11);
  const cases: Case[] = [];
  for (const transposed of [false, true]) {
    const inputs = { a: draw(3, 5, 7), b: transposed ? draw(4, 7) : draw(7, 4), bias: draw(4) };
    const options = transposed ? { transposeB: true } : {};
    const dOut = draw(3, 5, 4);
    const { da, db, dBias } = layers.matmulBackward({ ...inputs, dOut }, options);
    cases.push({
      op: 'matmul',
      inputs,
      options,
      cotangents: { y: dOut },
      outputs: { y: layers.matmul(inputs, options) },
      gradients: { a: da, b: db, bias: dBias },
    });
  }
  {
    const ids = indices(12, 6, 2, 5);
    const weight = draw(6, 4);
    const dOut = draw(2, 5, 4);
    cases.push({
      op: 'embedding',
      inputs: { ids, weight },
      cotangents: { y: dOut },
      outputs: { y: layers.embedding({ weight, indices: ids }) },
      gradients: { weight: layers.embeddingBackward({ weight, indices: ids, dOut }).dWeight },
    });
  }
  for (const activation of ['none', 'silu'] as const) {
    const [B, T, D, W] = [2, 9, 5, 4];
    const inputs = {
      x: draw(B, T, D),
      weight: draw(D, W),
      bias: draw(D),
      initialState: draw(B, D, W - 1),
    };
    const cotangents = { y: draw(B, T, D), finalState: draw(B, D, W - 1) };
    const d = layers.shortConvBackward(
      { ...inputs, dY: cotangents.y, dFinalState: cotangents.finalState },
      { activation },
    );
    cases.push({
      op: 'shortConv',
      inputs,
      options: { activation, outputFinalState: true },
      cotangents,
      outputs: { ...layers.shortConv(inputs, { activation }) },
      gradients: { x: d.dx, weight: d.dWeight, bias: d.dBias, initialState: d.dInitialState },
    });
  }
  for (const weight of [undefined, draw(8)]) {
    const [x, gate, dY] = [draw(3, 8), draw(3, 8), draw(3, 8)];
    const inputs = { x, ...(weight && { weight }) };
    const eps = 1e-3;
    const { dx, dWeight } = layers.rmsNormBackward({ ...inputs, dY }, { eps });
    cases.push({
      op: 'rmsNorm',
      inputs,
      options: { eps },
      cotangents: { y: dY },
      outputs: { y: layers.rmsNorm(inputs, { eps }) },
      gradients: { x: dx, ...(weight && { weight: dWeight }) },
    });
    const gated = { ...inputs, gate };
    const d = layers.rmsNormGatedBackward({ ...gated, dY }, { eps });
    cases.push({
      op: 'rmsNormGated',
      inputs: gated,
      options: { eps },
      cotangents: { y: dY },
      outputs: { y: layers.rmsNormGated(gated, { eps }) },
      gradients: { x: d.dx, gate: d.dGate, ...(weight && { weight: d.dWeight }) },
    });
  }
  for (const form of [
    { activation: 'sigmoid' },
    { activation: 'silu', normBeforeGate: false },
  ] as const) {
    const inputs = { x: draw(3, 8), gate: draw(3, 8) };
    const dY = draw(3, 8);
    const d = layers.rmsNormGatedBackward({ ...inputs, dY }, form);
    cases.push({
      op: 'rmsNormGated',
      inputs,
      options: form,
      cotangents: { y: dY },
      outputs: { y: layers.rmsNormGated(inputs, form) },
      gradients: { x: d.dx, gate: d.dGate },
    });
  }
  {
    const [x, dY] = [draw(4, 6), draw(4, 6)];
    cases.push({
      op: 'l2norm',
      inputs: { x },
      cotangents: { y: dY },
      outputs: { y: layers.l2norm({ x }) },
      gradients: { x: layers.l2normBackward({ x, dY }).dx },
    });
  }
  for (const given of [false, true]) {
    const [x, dY] = [draw(2, 3, 2, 8), draw(2, 3, 2, 8)];
    const angles = { positions: indices(17, 50, 3), inverseFrequencies: draw(3) };
    const options = { rotaryDim: 6, interleaved: given };
    const of = given ? angles : {};
    cases.push({
      op: 'rope',
      inputs: { x, ...of },
      options,
      cotangents: { y: dY },
      outputs: { ...layers.rope({ x, ...of }, options) },
      gradients: { x: layers.ropeBackward({ dY, ...of }, options).dx },
    });
  }
  {
    const [gate, up, dY] = [draw(4, 6), draw(4, 6), draw(4, 6)];
    const { da, db } = layers.swigluBackward({ a: gate, b: up, dY });
    cases.push({
      op: 'swiglu',
      inputs: { gate, up },
      cotangents: { y: dY },
      outputs: { y: layers.swiglu({ a: gate, b: up }) },
      gradients: { gate: da, up: db },
    });
  }
  {
    const logits = draw(6, 9);
    const targets = indices(13, 9, 6);
    targets.data[2] = -100;
    const { loss, losses } = layers.crossEntropy({ logits, targets });
    cases.push({
      op: 'crossEntropy',
      inputs: { logits, targets },
      cotangents: { loss: { data: [1.7], shape: [] } },
      outputs: { loss: { data: [loss], shape: [] }, losses },
      gradients: {
        logits: layers.crossEntropyBackward({ logits, targets, dLoss: 1.7 }).dLogits,
      },
    });
  }
  return cases;
}

export const CASES: Case[] = [
  cell('recurrence', { gate: 'head', update: 'delta' }),
  cell('recurrence', { gate: 'channel', update: 'delta', n: 2 }, { numHouseholder: 2 }),
  cell('recurrence', { gate: 'none', update: 'additive' }, { scale: 0.7, mode: 'chunk' }),
  cell('linearAttention', { gate: 'none', update: 'additive' }),
  cell('retention', { gate: 'none', update: 'additive' }),
  cell('lightningAttention', { gate: 'none', update: 'additive' }, { layer: 1, layers: 3 }),
  cell('simpleGla', { gate: 'token', update: 'additive' }),
  cell('gla', { gate: 'channel', update: 'additive' }),
  cell('deltaNet', { gate: 'none', update: 'delta' }),
  cell('gatedDeltaNet', { gate: 'token', update: 'delta' }),
  cell('kda', { gate: 'channel', update: 'delta' }),
  cell('deltaProduct', { gate: 'none', update: 'delta', n: 3 }, { numHouseholder: 3 }),
  cell('gatedDeltaProduct', { gate: 'token', update: 'delta', n: 2 }, { numHouseholder: 2 }),
  hgrn2(),
  mamba2(),
  fused('gatedDeltaNet', 'token'),
  fused('kda', 'channel', -3),
  normalized(),
  packed(),
  ...layerCases(),
];
