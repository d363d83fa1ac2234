/** The float64 reference against the golden vectors, and its gradients against differences. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { Gate, ProblemSpec } from '../support/cases.ts';
import { gates, makeProblem } from '../support/cases.ts';
import { expectWithin, layouts } from '../support/compare.ts';
import type { Golden } from '../support/golden.ts';
import { goldenFiles, loadGolden } from '../support/golden.ts';
import { checkGradient, dot } from '../support/gradcheck.ts';
import { Random } from '../support/random.ts';
import type { Tensor64, TensorLike } from '../support/tensor.ts';
import { sizeOf, toFloat64 } from '../support/tensor.ts';
import type { Mamba2GradientInputs, Mamba2Options } from './mamba2.ts';
import {
  hgrn2,
  lightningAttention,
  lightningGate,
  mamba2,
  mamba2Backward,
  retention,
  retentionGate,
} from './presets.ts';
import type {
  RecurrenceGradientInputs,
  RecurrenceGradients,
  RecurrenceInputs,
  RecurrenceOptions,
  RecurrenceOutputs,
} from './recurrence.ts';
import { backward, forward } from './recurrence.ts';

const GOLDEN_LIMIT = 1e-12;

const golden = suite('reference: golden vectors');

golden('all files are there', () => {
  assert.is(goldenFiles().length, 40);
});

for (const file of goldenFiles()) {
  golden(file, () => {
    const vectors = loadGolden(file);
    const results: Record<string, Tensor64 | undefined> = { ...runGolden(vectors) };
    for (const [name, expected] of Object.entries(vectors.expected)) {
      const actual = results[name];
      if (!actual) throw new Error(`${name}: missing`);
      assert.equal(actual.shape, expected.shape, name);
      const isState = name === 'finalState' || name === 'dInitialState';
      const layout = isState ? layouts.state : layouts.tokens;
      const row = { limit: GOLDEN_LIMIT, layout };
      expectWithin(name, actual.data, expected.data, expected.shape, row);
    }
  });
}

function runGolden(vectors: Golden): RecurrenceOutputs & RecurrenceGradients {
  const { inputs, dO, dFinalState, numHouseholder, gate } = vectors;
  const gradientInputs: RecurrenceGradientInputs = { ...inputs, dO };
  if (dFinalState) gradientInputs.dFinalState = dFinalState;
  if (vectors.op === 'retention') {
    return { ...retention.forward(inputs), ...retention.backward(gradientInputs) };
  }
  const options: RecurrenceOptions = { numHouseholder };
  if (gate) Object.assign(options, { gate, qkL2norm: true, betaActivation: 'sigmoid2' });
  return { ...forward(inputs, options), ...backward(gradientInputs, options) };
}

golden.run();

const differences = suite('reference: central differences');

const small = { B: 2, T: 5, H: 2, HV: 4, K: 3, V: 2, gateScale: 1 };
const states = { withInitialState: true, withFinalStateGradient: true };
const plain = { gate: 'none', update: 'additive' } as const;

for (const gate of gates) {
  for (const [update, n] of [
    ['additive', 1],
    ['delta', 1],
    ['delta', 2],
    ['delta', 3],
  ] as const) {
    differences(`${gate} ${update} n = ${n}, grouped heads`, () => {
      const spec: ProblemSpec = { ...small, ...states, gate, update, n, betaMax: 2, seed: 7 + n };
      checkRecurrence(spec, { numHouseholder: n });
    });
  }
}

differences('without states, explicit scale', () => {
  checkRecurrence({ ...small, gate: 'token', update: 'delta', seed: 21 }, { scale: 0.7 });
});

differences('packed sequences, one of them empty', () => {
  const spec: ProblemSpec = {
    ...small,
    ...states,
    B: 1,
    T: 7,
    N: 4,
    gate: 'channel',
    update: 'delta',
    seed: 22,
  };
  checkRecurrence(spec, { cuSeqlens: [0, 3, 3, 4, 7] });
});

for (const perKeyHead of [1, 3]) {
  differences(`normalize, ${perKeyHead} value heads per key head`, () => {
    const spec: ProblemSpec = { ...small, ...plain, ...states, HV: 2 * perKeyHead, seed: 24 };
    checkRecurrence({ ...spec, normalize: true }, { normalize: true });
    checkRecurrence({ ...spec, normalize: true }, { normalize: true, qkL2norm: true });
  });
}

differences('normalize, without states', () => {
  checkRecurrence({ ...small, ...plain, seed: 25, normalize: true }, { normalize: true });
});

differences('normalize, packed', () => {
  const spec: ProblemSpec = { ...small, ...plain, ...states, B: 1, T: 6, N: 4, seed: 26 };
  const options = { normalize: true, cuSeqlens: [0, 0, 2, 2, 6] };
  checkRecurrence({ ...spec, normalize: true }, options);
});

differences('positive gates', () => {
  const spec: ProblemSpec = { ...small, ...states, gate: 'channel', update: 'delta', seed: 23 };
  checkRecurrence({ ...spec, gateScale: -0.5 }, {});
});

for (const gate of ['token', 'channel'] as const) {
  for (const lowerBound of [undefined, -5]) {
    for (const biased of [true, false]) {
      const label = `${gate}, lowerBound ${lowerBound}, ${biased ? 'with' : 'no'} dtBias`;
      differences(`fused activations: ${label}`, () => checkFused(gate, lowerBound, biased));
    }
  }
}

differences('retention and lightningAttention', () => {
  const spec: ProblemSpec = { ...small, ...states, gate: 'none', update: 'additive', seed: 41 };
  const inputs = doubles(makeProblem(spec));
  checkInputs(inputs, () => retention.forward(inputs), retention.backward(inputs));
  const options = { layer: 3, layers: 12 };
  checkInputs(
    inputs,
    () => lightningAttention.forward(inputs, options),
    lightningAttention.backward(inputs, options),
  );
});

differences('hgrn2', () => {
  const spec: ProblemSpec = { ...small, ...states, HV: 2, gate: 'channel', update: 'additive' };
  const { k: _unused, ...rest } = makeProblem({ ...spec, seed: 42 });
  const inputs = doubles({ ...rest, g: rest.g! });
  checkInputs(inputs, () => hgrn2.forward(inputs), hgrn2.backward(inputs));
});

differences('hgrn2, packed', () => {
  const spec: ProblemSpec = { ...small, ...states, HV: 2, gate: 'channel', update: 'additive' };
  const { k: _unused, ...rest } = makeProblem({ ...spec, B: 1, N: 3, seed: 43 });
  const inputs = doubles({ ...rest, g: rest.g! });
  const options = { cuSeqlens: [0, 2, 2, 5] };
  checkInputs(inputs, () => hgrn2.forward(inputs, options), hgrn2.backward(inputs, options));
});

const mambaCases: [string, Mamba2Options, boolean][] = [
  ['plain', {}, false],
  ['softplus, bias and skip', { dtSoftplus: true }, true],
  ['limits', { dtSoftplus: true, dtLimit: [0.5, 1] }, true],
  ['packed', { dtSoftplus: true, cuSeqlens: [0, 2, 2, 5] }, true],
];
for (const [label, options, full] of mambaCases) {
  differences(`mamba2: ${label}`, () => checkMamba2(options, full));
}

differences.run();

const semantics = suite('reference: semantics');

semantics('a single token by hand', () => {
  const { o, finalState } = forward(
    {
      q: { data: [2, 1], shape: [1, 1, 1, 2] },
      k: { data: [1, 3], shape: [1, 1, 1, 2] },
      v: { data: [5], shape: [1, 1, 1, 1] },
      g: { data: [Math.log(0.5)], shape: [1, 1, 1] },
      beta: { data: [0.5], shape: [1, 1, 1] },
      initialState: { data: [2, 4], shape: [1, 1, 2, 1] },
    },
    { scale: 10 },
  );
  // Decayed state (1, 2), S^T k = 7, u = 0.5 (5 - 7) = -1.
  assert.equal(Array.from(finalState.data), [0, -1]);
  assert.equal(Array.from(o.data), [-10]);
});

semantics('a normalized token by hand', () => {
  const { o, finalState, finalZ } = forward(
    {
      q: { data: [2, 1], shape: [1, 1, 1, 2] },
      k: { data: [1, 3], shape: [1, 1, 1, 2] },
      v: { data: [5, 10], shape: [1, 1, 2, 1] },
      initialState: { data: [2, 4, 0, 0], shape: [1, 2, 2, 1] },
      initialZ: { data: [1, 1], shape: [1, 1, 2] },
    },
    { normalize: true, scale: 7 },
  );
  // States (7, 19) and (10, 30), z = (2, 4), z^T q = 8; the scale cancels.
  assert.equal(Array.from(finalState.data), [7, 19, 10, 30]);
  assert.equal(Array.from(finalZ!.data), [2, 4]);
  assert.ok(Math.abs(o.data[0] - 33 / 8) < 1e-9 && Math.abs(o.data[1] - 50 / 8) < 1e-9);
});

semantics('packed sequences are separate ones, normalizer and all', () => {
  const spec = { ...small, ...plain, ...states, B: 1, T: 6, N: 2, normalize: true } as const;
  const { q, k, v, initialState, initialZ } = makeProblem(spec);
  const options = { normalize: true, cuSeqlens: [0, 4, 6] };
  const all = forward({ q, k, v, initialState, initialZ }, options);
  const half = (x: TensorLike): Tensor64 => {
    const data = Float64Array.from(x.data).slice(x.data.length / 2);
    return { data, shape: [1, ...x.shape.slice(1)] };
  };
  const second = forward(
    {
      q: tokens(q, 4, 6),
      k: tokens(k, 4, 6),
      v: tokens(v, 4, 6),
      initialState: half(initialState!),
      initialZ: half(initialZ!),
    },
    { normalize: true },
  );
  assert.equal(all.o.data.slice(-second.o.data.length), second.o.data);
  assert.equal(half(all.finalState), second.finalState);
  assert.equal(half(all.finalZ!), second.finalZ);
});

semantics('value head h reads q/k head floor(h / (HV/H))', () => {
  const grouped = makeProblem({ ...small, ...states, gate: 'channel', update: 'delta', seed: 51 });
  const spread = { ...grouped, q: repeatHeads(grouped.q, 2), k: repeatHeads(grouped.k, 2) };
  assert.equal(forward(spread), forward(grouped));
});

semantics('a split sequence carries its state', () => {
  const cut = 2;
  const whole = makeProblem({ ...small, ...states, B: 1, gate: 'token', update: 'delta', n: 2 });
  const options = { numHouseholder: 2 };
  const all = forward(whole, options);
  const part = (from: number, to: number, initialState: TensorLike): RecurrenceInputs => ({
    q: tokens(whole.q, from, to),
    k: tokens(whole.k, 2 * from, 2 * to),
    v: tokens(whole.v, 2 * from, 2 * to),
    g: tokens(whole.g!, from, to),
    beta: tokens(whole.beta!, 2 * from, 2 * to),
    initialState,
  });
  const head = forward(part(0, cut, whole.initialState!), options);
  const tail = forward(part(cut, small.T, head.finalState), options);
  assert.equal([...head.o.data, ...tail.o.data], Array.from(all.o.data));
  assert.equal(tail.finalState, all.finalState);
});

for (const value of [-104.1, -Infinity]) {
  for (const gate of ['head', 'token', 'channel'] as const) {
    semantics(`log gate ${value} resets, ${gate}`, () => checkReset(gate, value));
  }
}

semantics('a reset has dg 0 even under a NaN gradient', () => {
  const problem = makeProblem({ ...small, ...states, gate: 'token', update: 'delta' });
  problem.g!.data.fill(-200);
  problem.dO.data.fill(NaN);
  assert.ok(backward(problem).dg!.data.every((x) => x === 0));
});

semantics('an infinite raw gate resets, with no gradient', () => {
  const problem = makeProblem({ ...small, ...states, gate: 'token', update: 'delta' });
  problem.g!.data.fill(Infinity);
  const aLog = { data: [0, 0, 0, 0], shape: [4] };
  const { dg, dALog } = backward(problem, { gate: { aLog } });
  assert.ok(dg!.data.every((x) => x === 0));
  assert.ok(dALog!.data.every((x) => x === 0));
});

semantics('gates of retention and lightningAttention', () => {
  const near = (x: number, y: number): boolean => Math.abs(x - y) < 1e-15;
  const decays = Array.from(retentionGate(3).data, Math.exp);
  assert.ok(decays.every((x, h) => near(x, [31 / 32, 63 / 64, 127 / 128][h])));
  const slopes = lightningGate(4, { layer: 3, layers: 12 }).data;
  assert.ok(slopes.every((x, h) => near(x, [0, -1.5, -3, -4.5][h])));
});

semantics('a single token of mamba2 by hand', () => {
  const inputs = {
    x: { data: [3], shape: [1, 1, 1, 1] },
    dt: { data: [0.25], shape: [1, 1, 1] },
    dtBias: { data: [0.25], shape: [1] },
    A: { data: [-2], shape: [1] },
    B: { data: [1, 2], shape: [1, 1, 1, 2] },
    C: { data: [4, 5], shape: [1, 1, 1, 2] },
    D: { data: [7], shape: [1] },
    initialState: { data: [10, 20], shape: [1, 1, 2, 1] },
  };
  const { y, finalState } = mamba2(inputs);
  // Step 0.5: the state decays by exp(-1) and gains 1.5 B.
  const state = [10 / Math.E + 1.5, 20 / Math.E + 3];
  const expected = [...state, 4 * state[0] + 5 * state[1] + 21];
  const actual = [...finalState.data, ...y.data];
  assert.ok(actual.every((x, i) => Math.abs(x - expected[i]) < 1e-13));
});

semantics('hgrn2 keeps what its gate keeps and takes the rest', () => {
  const gate = 0.25;
  const { finalState } = hgrn2.forward({
    q: { data: [1], shape: [1, 1, 1, 1] },
    v: { data: [8], shape: [1, 1, 1, 1] },
    g: { data: [Math.log(gate)], shape: [1, 1, 1, 1] },
    initialState: { data: [4], shape: [1, 1, 1, 1] },
  });
  assert.ok(Math.abs(finalState.data[0] - (gate * 4 + (1 - gate) * 8)) < 1e-15);
});

semantics('a reset of hgrn2 has no gradient', () => {
  const spec: ProblemSpec = { ...small, ...states, HV: 2, gate: 'channel', update: 'additive' };
  const { k: _unused, g, ...rest } = makeProblem(spec);
  g!.data.fill(-104.1);
  const { dg } = hgrn2.backward({ ...rest, g: g! });
  assert.ok(dg!.data.every((x) => x === 0));
});

semantics('-104 itself is no reset', () => {
  const problem = makeProblem({ ...small, ...states, gate: 'token', update: 'additive' });
  problem.g!.data.fill(-104);
  const { dg } = backward(problem);
  assert.ok(dg!.data.some((x) => x !== 0));
});

semantics('no tokens return the initial state', () => {
  const problem = makeProblem({ ...small, ...states, T: 0, gate: 'token', update: 'delta' });
  const { o, finalState } = forward(problem);
  assert.is(o.data.length, 0);
  assert.equal(finalState, toFloat64(problem.initialState!));
  assert.equal(backward(problem).dInitialState, toFloat64(problem.dFinalState!));
});

semantics.run();

type Doubles<T> = { [P in keyof T]: Tensor64 };

function doubles<T extends object>(tensors: T): Doubles<T> {
  const copies = Object.entries(tensors).map(([name, x]) => [name, toFloat64(x as TensorLike)]);
  return Object.fromEntries(copies) as Doubles<T>;
}

const gradientOf: Record<string, string> = {
  q: 'dq',
  k: 'dk',
  v: 'dv',
  g: 'dg',
  beta: 'dbeta',
  initialState: 'dInitialState',
  initialZ: 'dInitialZ',
};

function checkInputs(
  inputs: { dO: Tensor64; dFinalState?: Tensor64; dFinalZ?: Tensor64 },
  run: () => RecurrenceOutputs,
  gradients: object,
): void {
  const loss = (): number => {
    const { o, finalState, finalZ } = run();
    const ends = dot(finalState, inputs.dFinalState);
    return dot(o, inputs.dO) + ends + (finalZ ? dot(finalZ, inputs.dFinalZ) : 0);
  };
  for (const [name, tensor] of Object.entries(inputs)) {
    const gradient = gradientOf[name];
    if (!gradient) continue;
    checkGradient(name, loss, tensor, (gradients as Record<string, Tensor64>)[gradient]);
  }
}

function checkRecurrence(spec: ProblemSpec, options: RecurrenceOptions): void {
  const inputs: RecurrenceGradientInputs & Doubles<RecurrenceGradientInputs> = doubles(
    makeProblem(spec),
  );
  checkInputs(inputs, () => forward(inputs, options), backward(inputs, options));
}

function checkFused(gate: Gate, lowerBound: number | undefined, biased: boolean): void {
  const spec: ProblemSpec = { ...small, ...states, gate, update: 'delta', seed: 31 };
  const inputs = doubles(makeProblem(spec));
  const random = new Random(32);
  for (const name of ['g', 'beta'] as const) inputs[name]!.data.set(normals(random, inputs[name]!));
  const aLog: Tensor64 = toFloat64({ data: random.normals(4, 0.5), shape: [4] });
  const biasShape = inputs.g!.shape.slice(2);
  const dtBias = toFloat64({ data: random.normals(sizeOf(biasShape)), shape: biasShape });
  const options: RecurrenceOptions = {
    qkL2norm: true,
    betaActivation: lowerBound ? 'sigmoid' : 'sigmoid2',
    gate: { aLog, ...(biased && { dtBias }), ...(lowerBound !== undefined && { lowerBound }) },
  };
  const gradients = backward(inputs as RecurrenceGradientInputs, options);
  const run = (): RecurrenceOutputs => forward(inputs as RecurrenceInputs, options);
  checkInputs(inputs as { dO: Tensor64 }, run, gradients);
  const loss = (): number => {
    const { o, finalState } = run();
    return dot(o, inputs.dO) + dot(finalState, inputs.dFinalState);
  };
  checkGradient('aLog', loss, aLog, gradients.dALog!);
  if (biased) checkGradient('dtBias', loss, dtBias, gradients.dDtBias!);
  else assert.is(gradients.dDtBias, undefined);
}

function checkMamba2(options: Mamba2Options, full: boolean): void {
  const [T, HV, G, N, P] = [5, 4, 2, 3, 2];
  const B = options.cuSeqlens ? 1 : 2;
  const states = options.cuSeqlens ? options.cuSeqlens.length - 1 : B;
  const random = new Random(61);
  const normal = (...shape: number[]): Tensor64 =>
    toFloat64({ data: random.normals(sizeOf(shape)), shape });
  const uniform = (low: number, high: number, ...shape: number[]): Tensor64 =>
    toFloat64({ data: random.uniforms(sizeOf(shape), low, high), shape });
  const inputs = {
    x: normal(B, T, HV, P),
    dt: uniform(0.1, 1, B, T, HV),
    A: uniform(-2, -0.5, HV),
    B: normal(B, T, G, N),
    C: normal(B, T, G, N),
    initialState: normal(states, HV, N, P),
    dY: normal(B, T, HV, P),
    dFinalState: normal(states, HV, N, P),
    ...(full && { D: normal(HV), dtBias: uniform(-1, 0.5, HV) }),
  } satisfies Mamba2GradientInputs;
  const loss = (): number => {
    const { y, finalState } = mamba2(inputs, options);
    return dot(y, inputs.dY) + dot(finalState, inputs.dFinalState);
  };
  const gradients = mamba2Backward(inputs, options);
  checkGradient('x', loss, inputs.x, gradients.dx);
  checkGradient('dt', loss, inputs.dt, gradients.ddt);
  checkGradient('A', loss, inputs.A, gradients.dA);
  checkGradient('B', loss, inputs.B, gradients.dB);
  checkGradient('C', loss, inputs.C, gradients.dC);
  checkGradient('initialState', loss, inputs.initialState, gradients.dInitialState);
  if (inputs.D) checkGradient('D', loss, inputs.D, gradients.dD!);
  if (inputs.dtBias) checkGradient('dtBias', loss, inputs.dtBias, gradients.dDtBias!);
}

/** Everything before the reset, NaN included, must be as if it had never been. */
function checkReset(gate: Gate, value: number): void {
  const at = 2;
  const spec: ProblemSpec = { ...small, ...states, B: 1, gate, update: 'delta', seed: 52 };
  const problem = makeProblem(spec);
  const g = problem.g!;
  const perToken = g.data.length / small.T;
  if (gate === 'head') g.data.fill(value);
  else g.data.fill(value, at * perToken, (at + 1) * perToken);
  problem.initialState!.data.fill(NaN);
  const first = gate === 'head' ? 0 : at;
  const fresh: RecurrenceInputs = {
    q: tokens(problem.q, first, small.T),
    k: tokens(problem.k, first, small.T),
    v: tokens(problem.v, first, small.T),
    beta: tokens(problem.beta!, first, small.T),
    g: gate === 'head' ? g : tokens(g, first, small.T),
  };
  const expected = forward(fresh);
  const actual = forward(problem);
  assert.equal(actual.finalState, expected.finalState);
  assert.equal(actual.o.data.slice(-expected.o.data.length), expected.o.data);
  const { dg, dInitialState } = backward(problem);
  assert.ok(dInitialState.data.every((x) => x === 0) || gate !== 'head');
  const resets = gate === 'head' ? dg!.data : dg!.data.subarray(at * perToken, (at + 1) * perToken);
  assert.ok(resets.every((x) => x === 0));
}

function normals(random: Random, like: Tensor64): Float32Array {
  return random.normals(like.data.length);
}

function tokens(tensor: TensorLike, from: number, to: number): Tensor64 {
  const [B, T, ...rest] = tensor.shape;
  assert.is(B, 1);
  const width = sizeOf(rest);
  const data = Float64Array.from(tensor.data).slice(from * width, to * width);
  assert.ok(to <= T);
  return { data, shape: [1, to - from, ...rest] };
}

function repeatHeads(tensor: TensorLike, times: number): Tensor64 {
  const [B, T, H, K] = tensor.shape;
  const data = new Float64Array(tensor.data.length * times);
  for (let i = 0; i < data.length; i++) {
    const row = Math.floor(i / K);
    data[i] = tensor.data[Math.floor(row / times) * K + (i % K)];
  }
  return { data, shape: [B, T, H * times, K] };
}
