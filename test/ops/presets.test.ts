/** Every preset, forward and backward, against the float64 reference of its paper. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { Tensor } from '../../ts/index';
import * as rankone from '../../ts/index';
import * as reference from '../reference/presets.ts';
import type { Gate, ProblemSpec, Update } from '../support/cases.ts';
import { makeProblem } from '../support/cases.ts';
import type { Row } from '../support/compare.ts';
import { contract, expectWithin, layouts } from '../support/compare.ts';
import { compare, pick, sensitivity } from '../support/native.ts';
import { Random } from '../support/random.ts';
import type { Tensor32, Tensor64 } from '../support/tensor.ts';
import { sizeOf } from '../support/tensor.ts';

type Results = Record<string, Tensor | undefined>;
type Sync = (inputs: object, options?: object) => Results;
type Async = (inputs: object, options?: object) => Promise<Results>;
type Reference = Record<string, Tensor64 | undefined>;

const native = rankone as unknown as Record<string, Sync>;
const states = { withInitialState: true, withFinalStateGradient: true };
const OUTPUTS = ['o', 'finalState', 'y'];

/** The four functions of a preset against the expected results, all of them and no others. */
async function checkPreset(
  name: string,
  inputs: object,
  gradientInputs: object,
  options: object,
  expected: Reference,
  check: (label: string, name: string, actual: Tensor) => void,
): Promise<void> {
  const names = Object.keys(expected).filter((key) => expected[key]);
  const outputs = names.filter((key) => OUTPUTS.includes(key));
  const gradients = names.filter((key) => !OUTPUTS.includes(key));
  const checkAll = (form: string, actual: Results, wanted: string[]): void => {
    assert.equal(Object.keys(actual).sort(), [...wanted].sort(), form);
    for (const [key, tensor] of Object.entries(pick(actual, wanted))) {
      check(`${name}, ${form}: ${key}`, key, tensor);
    }
  };
  const forward = { ...options, outputFinalState: true };
  const asyncForward = native[name] as unknown as Async;
  const asyncBackward = native[`${name}Backward`] as unknown as Async;
  const { saved, ...kept } = native[`${name}Sync`](inputs, { ...forward, saveForBackward: true });
  checkAll('saving', kept, outputs);
  for (const mode of ['recurrent', 'chunk', 'auto']) {
    checkAll(mode, native[`${name}Sync`](inputs, { ...forward, mode }), outputs);
  }
  checkAll('async', await asyncForward(inputs, forward), outputs);
  const backward = native[`${name}BackwardSync`];
  checkAll('recomputed', backward(gradientInputs, options), gradients);
  checkAll('with saved', backward({ ...gradientInputs, saved }, options), gradients);
  checkAll('async backward', await asyncBackward(gradientInputs, options), gradients);
}

const grid = suite('presets: cells of the grid');

const PRESETS: [string, Gate, Update, object?][] = [
  ['linearAttention', 'none', 'additive'],
  ['retention', 'none', 'additive'],
  ['lightningAttention', 'none', 'additive', { layer: 2, layers: 12 }],
  ['simpleGla', 'token', 'additive'],
  ['gla', 'channel', 'additive'],
  ['deltaNet', 'none', 'delta'],
  ['gatedDeltaNet', 'token', 'delta'],
  ['kda', 'channel', 'delta'],
  ['deltaProduct', 'none', 'delta', { numHouseholder: 3 }],
  ['gatedDeltaProduct', 'token', 'delta', { numHouseholder: 2 }],
];

for (const [name, gate, update, options = {}] of PRESETS) {
  for (const scale of [undefined, 0.3]) {
    grid(`${name}${scale ? ', scale given' : ''}`, async () => {
      const { numHouseholder: n = 1 } = options as { numHouseholder?: number };
      const shape = { B: 2, T: 45, H: 2, HV: 6, K: 17, V: 23, seed: 31 };
      const spec: ProblemSpec = { ...shape, ...states, gate, update, n, betaMax: 2 };
      const problem = makeProblem(spec);
      const { dO: _dO, dFinalState: _dState, ...inputs } = problem;
      const given = { ...options, ...(scale && { scale }) };
      const oracle = (reference as any)[name];
      const expected = { ...oracle.forward(inputs, given), ...oracle.backward(problem, given) };
      await checkPreset(name, inputs, problem, given, expected, (label, key, actual) => {
        compare(label, key, actual, expected, spec.T);
      });
    });
  }
}

for (const scale of [undefined, 0.3]) {
  grid(`hgrn2${scale ? ', scale given' : ''}`, async () => {
    const shape = { B: 2, T: 45, H: 3, K: 17, V: 23, seed: 32, gateScale: 1 };
    const spec: ProblemSpec = { ...shape, ...states, gate: 'channel', update: 'additive' };
    const { k: _k, g, ...rest } = makeProblem(spec);
    g!.data[5] = -Infinity;
    g!.data[700] = -300;
    const gradientInputs = { ...rest, g: g! };
    const { dO: _dO, dFinalState: _dState, ...inputs } = gradientInputs;
    const options = scale ? { scale } : {};
    const expected: Reference = {
      ...reference.hgrn2.forward(inputs, options),
      ...reference.hgrn2.backward(gradientInputs, options),
    };
    // The reference counts a beta that this cell does not have.
    delete expected.dbeta;
    await checkPreset('hgrn2', inputs, gradientInputs, options, expected, (label, key, actual) => {
      compare(label, key, actual, expected, spec.T);
    });
  });
}

grid.run();

const mamba = suite('presets: mamba2');

const { state: S, gate: G, o: O } = contract.f32;
const MAMBA_ROWS: Record<string, Row> = {
  y: { limit: O[0][1], layout: layouts.tokens },
  finalState: { limit: S, layout: layouts.state },
  dInitialState: { limit: S, layout: layouts.state },
  dx: { limit: S, layout: layouts.tokens },
  dB: { limit: S, layout: layouts.tokens },
  dC: { limit: S, layout: layouts.tokens },
  ddt: { limit: G, layout: layouts.tokens },
  dA: { limit: G, layout: layouts.heads },
  dD: { limit: G, layout: layouts.heads },
  dDtBias: { limit: G, layout: layouts.heads },
};

interface MambaCase {
  dtSoftplus?: boolean;
  dtLimit?: [number, number];
  D?: boolean;
  dtBias?: boolean;
  initial?: boolean;
  T?: number;
}

const MAMBA: MambaCase[] = [
  {},
  { initial: true },
  { D: true },
  { dtBias: true, initial: true },
  { dtSoftplus: true },
  { dtSoftplus: true, dtBias: true, D: true, initial: true },
  { dtSoftplus: true, dtBias: true, D: true, initial: true, dtLimit: [0.5, 1.2] },
  { dtLimit: [0.3, 0.7], D: true },
  { dtSoftplus: true, dtBias: true, D: true, initial: true, T: 1 },
];

for (const options of MAMBA) {
  mamba(JSON.stringify(options), async () => {
    const { dtSoftplus, dtLimit, D, dtBias, initial, T = 45 } = options;
    const [B, HV, groups, N, P] = [2, 6, 3, 19, 22];
    const random = new Random(71);
    const normal = (...shape: number[]): Tensor32 => {
      return { data: random.normals(sizeOf(shape)), shape };
    };
    const uniform = (low: number, high: number, ...shape: number[]): Tensor32 => {
      return { data: random.uniforms(sizeOf(shape), low, high), shape };
    };
    const inputs = {
      x: normal(B, T, HV, P),
      dt: dtSoftplus ? normal(B, T, HV) : uniform(0.05, 1, B, T, HV),
      A: uniform(-2, -0.1, HV),
      B: normal(B, T, groups, N),
      C: normal(B, T, groups, N),
      ...(D && { D: normal(HV) }),
      ...(dtBias && { dtBias: uniform(-1, 0.5, HV) }),
      ...(initial && { initialState: normal(B, HV, N, P) }),
    };
    const gradientInputs = {
      ...inputs,
      dY: normal(B, T, HV, P),
      ...(initial && { dFinalState: normal(B, HV, N, P) }),
    };
    const given = { ...(dtSoftplus && { dtSoftplus }), ...(dtLimit && { dtLimit }) };
    const run = (tensors: typeof gradientInputs): Reference => ({
      ...reference.mamba2(tensors, given),
      ...reference.mamba2Backward(tensors, given),
    });
    const expected = run(gradientInputs);
    if (!initial) delete expected.dInitialState;
    // dA, dD and dDtBias are one number per head, a sum that may cancel.
    const noise = sensitivity(gradientInputs, run);
    await checkPreset('mamba2', inputs, gradientInputs, given, expected, (label, key, actual) => {
      assert.equal(actual.shape, expected[key]!.shape, label);
      const { data, shape } = expected[key]!;
      const forgiven = layouts.heads === MAMBA_ROWS[key].layout ? noise[key]?.data : undefined;
      expectWithin(label, actual.data, data, shape, MAMBA_ROWS[key], { noise: forgiven });
    });
  });
}

mamba('decode in place', () => {
  const [T, HV, N, P] = [9, 4, 6, 5];
  const random = new Random(72);
  const normal = (...shape: number[]): Tensor32 => {
    return { data: random.normals(sizeOf(shape)), shape };
  };
  const [x, dt, B, C] = [
    normal(1, T, HV, P),
    normal(1, T, HV),
    normal(1, T, 2, N),
    normal(1, T, 2, N),
  ];
  const A = { data: Float32Array.of(-1, -0.5, -2, -0.1), shape: [HV] };
  const options = { dtSoftplus: true };
  const whole = reference.mamba2({ x, dt, A, B, C }, options);
  const state = rankone.createState({ batch: 1, valueHeads: HV, keyDim: N, valueDim: P });
  const y = new Float32Array(T * HV * P);
  const at = ({ data, shape }: Tensor32, t: number): Tensor32 => {
    const size = data.length / T;
    return { data: data.subarray(t * size, (t + 1) * size), shape: [1, 1, ...shape.slice(2)] };
  };
  for (let t = 0; t < T; t++) {
    const token = { x: at(x, t), dt: at(dt, t), A, B: at(B, t), C: at(C, t), state };
    y.set(rankone.mamba2Sync(token, options).y.data, t * HV * P);
  }
  expectWithin('y', y, whole.y.data, whole.y.shape, MAMBA_ROWS.y);
  const { data, shape } = whole.finalState;
  expectWithin('state', state.toTensor().data, data, shape, MAMBA_ROWS.finalState);
});

mamba.run();
