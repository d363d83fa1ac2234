/** Activations fused into the recurrence: qkL2norm, gate, betaActivation. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { createState, recurrenceBackwardSync, recurrenceSync } from '../../ts/index';
import type { FusedGate } from '../reference/activations.ts';
import type { RecurrenceOptions } from '../reference/recurrence.ts';
import { backward, forward } from '../reference/recurrence.ts';
import { everything, expectSameBits, sameForThreads } from '../support/bits.ts';
import type { Problem, ProblemSpec } from '../support/cases.ts';
import { makeProblem } from '../support/cases.ts';
import { expectWithin, rowFor } from '../support/compare.ts';
import { halfDtypes, unwritten } from '../support/half.ts';
import type { Cell } from '../support/native.ts';
import {
  cells,
  checkProblem,
  compare,
  FEW_FORMS,
  inDtype,
  nameOf,
  native,
} from '../support/native.ts';
import { Random } from '../support/random.ts';
import { join, tokensOf } from '../support/slices.ts';
import type { Tensor32 } from '../support/tensor.ts';
import { sizeOf } from '../support/tensor.ts';
import { rejectsWith, throwsWith } from './helpers.ts';

const states = { withInitialState: true, withFinalStateGradient: true };

interface GateParts {
  dtBias?: boolean;
  lowerBound?: number;
}

/** A gate of the shapes that the problem's g asks for. */
function gateOf(spec: ProblemSpec, { dtBias, lowerBound }: GateParts): FusedGate {
  const random = new Random(spec.seed ?? 1);
  const { H, HV = H, K } = spec;
  const shape = spec.gate === 'channel' ? [HV, K] : [HV];
  const draw = (deviation: number, ...shape: number[]): Tensor32 => {
    return { data: random.normals(sizeOf(shape), deviation), shape };
  };
  return {
    aLog: draw(0.7, HV),
    ...(dtBias && { dtBias: draw(0.5, ...shape) }),
    ...(lowerBound !== undefined && { lowerBound }),
  };
}

/** Raw values: keys and queries of any length, gates and betas on both sides of zero. */
function raw({ q, k, g, beta }: Partial<Problem>, seed: number, drift = -2): void {
  const random = new Random(seed);
  for (const x of [q, k]) {
    for (let i = 0; x && i < x.data.length; i++) x.data[i] = 3 * random.normal();
  }
  for (let i = 0; g && i < g.data.length; i++) g.data[i] = drift + 1.5 * random.normal();
  for (let i = 0; beta && i < beta.data.length; i++) beta.data[i] = 1.5 * random.normal();
}

/** What no option activates, as a call without options takes it. */
function settle({ g, beta }: Partial<Problem>, options: RecurrenceOptions): void {
  if (!options.gate && g) g.data.set(g.data.map((x) => -Math.abs(x) / 8));
  if (!options.betaActivation && beta)
    beta.data.set(beta.data.map((x) => Math.min(Math.abs(x), 1)));
}

const isGated = ({ gate }: Cell): boolean => gate === 'token' || gate === 'channel';

/** Every activation that a cell has room for, alone and together. */
function activationsOf(cell: Cell, spec: ProblemSpec): [string, RecurrenceOptions][] {
  const all: [string, RecurrenceOptions][] = [['qkL2norm', { qkL2norm: true }]];
  const delta = cell.update === 'delta';
  const beta = { betaActivation: 'sigmoid' } as const;
  if (delta) all.push(['sigmoid', { ...beta, qkL2norm: true }]);
  if (delta) all.push(['sigmoid2', { betaActivation: 'sigmoid2', qkL2norm: true }]);
  if (!isGated(cell)) return all;
  const add = (label: string, parts: GateParts): void => {
    const gate = gateOf(spec, parts);
    all.push([label, { gate, qkL2norm: true, ...(delta && beta) }]);
  };
  add('gate', {});
  add('gate with dtBias', { dtBias: true });
  add('gate with lowerBound', { lowerBound: -5 });
  add('gate with dtBias and lowerBound', { dtBias: true, lowerBound: -0.25 });
  return all;
}

const grid = suite('activations: every cell');

const SHAPES: Omit<ProblemSpec, keyof Cell>[] = [
  { B: 2, T: 40, H: 2, HV: 4, K: 17, V: 23, ...states },
  { B: 1, T: 1, H: 1, K: 24, V: 20, ...states },
  { B: 1, T: 70, H: 1, K: 32, V: 40 },
];

cells.forEach((cell, index) => {
  for (const shape of SHAPES) {
    const spec: ProblemSpec = { ...shape, ...cell, seed: 200 + index };
    for (const [label, options] of activationsOf(cell, spec)) {
      grid(`${nameOf(cell)}, T = ${spec.T}: ${label}`, () => {
        const edit = (problem: Problem): void => {
          raw(problem, 300 + index);
          settle(problem, options);
        };
        checkProblem(spec, { options, edit, cancels: true, forms: FEW_FORMS });
      });
    }
  }
});

grid('without qkL2norm, beta and gate are activated alone', () => {
  for (const cell of cells.filter(({ update, n }) => update === 'delta' && n === 1)) {
    const spec: ProblemSpec = { B: 1, T: 30, H: 1, HV: 2, K: 16, V: 12, ...states, ...cell };
    const edit = ({ g, beta }: Problem): void => raw({ g, beta }, 5);
    const gate = isGated(cell) ? { gate: gateOf(spec, { dtBias: true }) } : {};
    if (cell.gate === 'head') continue;
    checkProblem(spec, { options: { betaActivation: 'sigmoid2', ...gate }, edit, cancels: true });
  }
});

for (const dtype of halfDtypes) {
  for (const halfGates of [false, true]) {
    grid(`${dtype}${halfGates ? ', gates too' : ''}`, () => {
      for (const cell of cells.filter((cell) => isGated(cell) && cell.n !== 3)) {
        const spec: ProblemSpec = { ...SHAPES[0], ...cell, seed: 250 };
        const all = activationsOf(cell, spec);
        const [, options] = all[all.length - 3];
        const edit = (problem: Problem): void => raw(problem, 350);
        checkProblem(spec, { options, edit, dtype, halfGates, cancels: true, forms: FEW_FORMS });
      }
    });
  }
}

grid('packed', () => {
  for (const cell of cells.filter((cell) => isGated(cell) && cell.n < 3)) {
    const spec: ProblemSpec = { ...SHAPES[0], B: 1, N: 4, ...cell, seed: 260 };
    const cuSeqlens = Int32Array.of(0, 1, 1, 24, 40);
    const edit = (problem: Problem): void => raw(problem, 360);
    for (const [, options] of activationsOf(cell, spec).slice(-2)) {
      const beta = cell.update === 'delta' ? { betaActivation: 'sigmoid' as const } : {};
      const all = { ...options, ...beta, cuSeqlens };
      checkProblem(spec, { options: all, edit, cancels: true, forms: FEW_FORMS });
    }
  }
});

grid.run();

const decoding = suite('activations: prefill, then decode in place');

for (const cell of cells) {
  decoding(nameOf(cell), () => {
    const [T, prefill, n] = [40, 17, cell.n];
    const spec: ProblemSpec = { B: 2, T, H: 1, HV: 2, K: 20, V: 37, seed: 270, ...cell };
    const made = makeProblem({ ...spec, withInitialState: true });
    const all = activationsOf(cell, spec);
    const [, options] = all[all.length - 1];
    raw(made, 370);
    settle(made, options);
    const state = createState({ batch: 2, valueHeads: 2, keyDim: 20, valueDim: 37 });
    state.copyFrom(made.initialState!);
    const outputs: Tensor32[] = [];
    const call = { ...options, numHouseholder: n };
    for (let t = 0, to = prefill; t < T; t = to, to++) {
      outputs.push(native.recurrenceSync({ ...tokensOf(made, t, to, n), state }, call).o);
    }
    const whole = forward(made, call);
    const o = join(outputs, 1);
    expectWithin('o', o.data, whole.o.data, whole.o.shape, rowFor('o', T));
    const { data, shape } = state.toTensor();
    expectWithin('state', data, whole.finalState.data, shape, rowFor('finalState', T));
    state.dispose();
  });
}

decoding.run();

const extreme = suite('activations: extreme raw values');

const EXTREMES = [-1000, -100, -88, -40, -17, -1e-30, 0, 1e-30, 17, 40, 88, 100];

/** Some elements replaced by each of the values. */
function plant(tensor: Tensor32, values: readonly number[], seed: number): void {
  const random = new Random(seed);
  for (let i = 0; i < tensor.data.length; i++) {
    if (random.uniform() < 0.5) tensor.data[i] = values[random.integer(values.length)];
  }
}

for (const cell of cells.filter(({ n }) => n === 1 || n === 3)) {
  const spec: ProblemSpec = {
    B: 1,
    T: 40,
    H: 1,
    HV: 2,
    K: 14,
    V: 20,
    seed: 280,
    ...states,
    ...cell,
  };

  if (isGated(cell)) {
    for (const lowerBound of [undefined, -5, -1e-3]) {
      for (const dtBias of [false, true]) {
        const label = `lowerBound ${lowerBound}${dtBias ? ', dtBias' : ''}`;
        extreme(`${nameOf(cell)}: raw gates, ${label}`, () => {
          const gate = gateOf(spec, { dtBias, lowerBound });
          // Some raw gates of 100 are resets, some are not: those of exp(aLog) above 1.04.
          gate.aLog = { data: Float32Array.of(-0.7, 0.7), shape: [2] };
          const edit = ({ g }: Problem): void => plant(g!, EXTREMES, 380);
          checkProblem(spec, { options: { gate }, edit, cancels: true, forms: FEW_FORMS });
        });
      }
    }

    extreme(`${nameOf(cell)}: infinite raw gates`, () => {
      const gate = gateOf(spec, { dtBias: true });
      const edit = ({ g }: Problem): void => plant(g!, [-Infinity, -3, Infinity], 381);
      checkProblem(spec, { options: { gate }, edit, cancels: true, forms: FEW_FORMS });
    });

    extreme(`${nameOf(cell)}: a raw gate that resets clears NaN, with no gradient`, () => {
      const problem = makeProblem({ ...spec, T: 20 });
      const at = 11;
      const perToken = problem.g!.data.length / 20;
      problem.g!.data.fill(200, at * perToken, (at + 1) * perToken);
      const gate = { aLog: { data: new Float32Array(2), shape: [2] } };
      const options = { gate, numHouseholder: cell.n };
      const clean = everything({ ...problem }, options);
      const dg = clean['dg, recomputed'].data;
      assert.ok(dg.subarray(at * perToken, (at + 1) * perToken).every((x) => x === 0));
      problem.initialState!.data.fill(NaN);
      const poisoned = everything({ ...problem }, options);
      for (const [name, x] of Object.entries(clean)) {
        if (!name.startsWith('o,') && !name.startsWith('finalState,')) continue;
        const from = name.startsWith('o,') ? at * 2 * spec.V : 0;
        assert.equal(poisoned[name].data.subarray(from), x.data.subarray(from), name);
      }
    });
  }

  if (cell.update === 'delta') {
    for (const betaActivation of ['sigmoid', 'sigmoid2'] as const) {
      extreme(`${nameOf(cell)}: raw betas, ${betaActivation}`, () => {
        const edit = ({ beta }: Problem): void => {
          plant(beta!, [...EXTREMES, -Infinity, Infinity], 382);
        };
        checkProblem(spec, { options: { betaActivation }, edit, cancels: true, forms: FEW_FORMS });
      });
    }
  }

  extreme(`${nameOf(cell)}: rows of zeros and of any length under qkL2norm`, () => {
    const edit = (problem: Problem): void => {
      const random = new Random(383);
      for (const { data } of [problem.q, problem.k]) {
        for (let row = 0; row < data.length; row += spec.K) {
          const length = [0, 1e-30, 1e-6, 1e-3, 1, 1e6, 1e15][random.integer(7)];
          for (let i = row; i < row + spec.K; i++) data[i] = length * random.normal();
        }
      }
    };
    checkProblem(spec, { options: { qkL2norm: true }, edit, cancels: true, forms: FEW_FORMS });
  });

  extreme(`${nameOf(cell)}: rows whose squares float32 cannot hold`, () => {
    const edit = ({ q, k }: Problem): void => {
      for (const { data } of [q, k]) {
        for (let i = 0; i < data.length; i++) data[i] *= 1e25;
      }
    };
    checkProblem(spec, { options: { qkL2norm: true }, edit, cancels: true, forms: FEW_FORMS });
  });
}

extreme('activated gates are those of a call with the gates activated before', () => {
  // Slow decays: float32 gates, rounded before the recurrence, would lose what fma(S, expm1(g), S) keeps.
  const spec: ProblemSpec = { B: 1, T: 500, H: 1, K: 8, V: 8, gate: 'token', update: 'additive' };
  const edit = ({ g }: Problem): void => raw({ g }, 390, -9);
  checkProblem(
    { ...spec, ...states },
    { options: { gate: gateOf(spec, {}) }, edit, cancels: true },
  );
});

for (const cell of [
  { gate: 'token', update: 'additive' },
  { gate: 'channel', update: 'delta' },
] as const) {
  extreme(`slow ${cell.gate} gates over many tokens`, () => {
    const spec: ProblemSpec = { B: 1, T: 9000, H: 1, HV: 2, K: 8, V: 12, ...states, ...cell };
    const edit = ({ g }: Problem): void => raw({ g }, 391, -9);
    const options = { gate: gateOf(spec, {}), qkL2norm: true };
    checkProblem(spec, { options, edit, cancels: true, forms: FEW_FORMS });
  });
}

for (const lowerBound of [undefined, -5]) {
  extreme(`the steepest gates, ${lowerBound ?? 'no'} bound`, () => {
    const [T, V] = [4, 3];
    const inputs = {
      q: { data: new Float32Array(T * 2).fill(1), shape: [1, T, 1, 2] },
      k: { data: new Float32Array(T * 2).fill(0.5), shape: [1, T, 1, 2] },
      v: { data: new Float32Array(T * V).fill(1), shape: [1, T, 1, V] },
      g: { data: Float32Array.of(-200, -0.5, -1, 3), shape: [1, T, 1] },
    };
    for (const aLog of [87, 88, 89, 300]) {
      const gate = { aLog: { data: Float32Array.of(aLog), shape: [1] }, lowerBound };
      const { o } = recurrenceSync(inputs, { gate });
      const { dg, dALog } = recurrenceBackwardSync({ ...inputs, dO: inputs.v }, { gate });
      for (const { data } of [o, dg!, dALog!])
        assert.ok(data.every(Number.isFinite), `aLog ${aLog}: ${data}`);
    }
  });
}

extreme.run();

const calls = suite('activations: calls');

const spec: ProblemSpec = {
  B: 2,
  T: 20,
  H: 2,
  HV: 4,
  K: 8,
  V: 70,
  gate: 'channel',
  update: 'delta',
};
const problem = makeProblem({ ...spec, ...states, seed: 51 });
raw(problem, 52);
const { dO, dFinalState, ...inputs } = problem;
const gate = gateOf(spec, { dtBias: true });
const options = { gate, qkL2norm: true, betaActivation: 'sigmoid' } as const;

calls('threads', () => {
  sameForThreads('f32', () => everything({ ...problem }, options));
  const { given } = inDtype(problem, { dtype: 'bf16', halfGates: true });
  sameForThreads('bf16', () => everything(given, options));
});

calls('asynchronous, with the parameters changed after the call', async () => {
  const expected = native.recurrenceSync(inputs, { ...options, outputFinalState: true });
  const gradients = native.recurrenceBackwardSync(problem, options);
  const copy = (x: Tensor32): Tensor32 => ({ ...x, data: x.data.slice() });
  const own = { aLog: copy(gate.aLog as Tensor32), dtBias: copy(gate.dtBias as Tensor32) };
  const pending = [
    native.recurrence(inputs, { ...options, gate: own, outputFinalState: true }),
    native.recurrenceBackward(problem, { ...options, gate: own }),
  ];
  own.aLog.data.fill(NaN);
  own.dtBias.data.fill(NaN);
  expectSameBits('forward', await pending[0], expected);
  expectSameBits('backward', await pending[1], gradients);
});

calls('out of the gradients of a gate', () => {
  const out = { dALog: unwritten('f32', [4]), dDtBias: unwritten('f32', [4, 8]) };
  const results = native.recurrenceBackwardSync(problem, { ...options, out });
  assert.is(results.dALog, out.dALog);
  assert.is(results.dDtBias, out.dDtBias);
  const expected: any = backward(problem, options);
  for (const name of ['dALog', 'dDtBias']) compare(name, name, results[name], expected, 20);
});

calls('none is the default, and false', () => {
  const plain = makeProblem({ ...spec, ...states, seed: 53 });
  const expected = everything({ ...plain });
  const explicit = { betaActivation: 'none', qkL2norm: false };
  expectSameBits('explicit', everything({ ...plain }, explicit), expected);
});

calls('gradients of a gate that is not fused are not returned', () => {
  const plain = native.recurrenceBackwardSync(makeProblem({ ...spec, ...states, seed: 53 }));
  assert.not.ok('dALog' in plain);
  assert.not.ok('dDtBias' in plain);
  const { dtBias: _none, ...unbiased } = gate;
  const fused = native.recurrenceBackwardSync(problem, { ...options, gate: unbiased });
  assert.ok('dALog' in fused);
  assert.not.ok('dDtBias' in fused);
});

calls('a saved of other activations', () => {
  const { saved } = native.recurrenceSync(inputs, { ...options, saveForBackward: true });
  for (const change of [{ qkL2norm: false }, { betaActivation: 'sigmoid2' }, { gate: undefined }]) {
    throwsWith(
      () => native.recurrenceBackwardSync({ ...problem, saved }, { ...options, ...change }),
      RangeError,
      /^\[recurrenceBackward\] saved: /,
    );
  }
  saved.dispose();
});

calls('presets take them', () => {
  const run = (name: string, given: object, extra: object): void => {
    const results = native[`${name}Sync`](given, extra);
    expectSameBits(name, results, native.recurrenceSync(given, extra));
  };
  const { q, k, v, g, beta } = inputs;
  run('kda', { q, k, v, g, beta }, options);
  run('gla', { q, k, v, g }, { qkL2norm: true, gate });
  run('deltaNet', { q, k, v, beta }, { qkL2norm: true, betaActivation: 'sigmoid2' });
  run('linearAttention', { q, k, v }, { qkL2norm: true });
  const token = makeProblem({ ...spec, gate: 'token', seed: 54 });
  const tokenGate = { gate: gateOf({ ...spec, gate: 'token' }, { dtBias: true, lowerBound: -2 }) };
  const { dO: _dO, beta: tokenBeta, ...additive } = token;
  run('simpleGla', additive, { ...tokenGate, qkL2norm: true });
  run('gatedDeltaNet', { ...additive, beta: tokenBeta }, { ...options, ...tokenGate });
});

calls.run();

const errors = suite('activations: bad options');

const [aLog, dtBias] = [gate.aLog as Tensor32, gate.dtBias as Tensor32];
const zeros = (...shape: number[]): Tensor32 => ({ data: new Float32Array(sizeOf(shape)), shape });
const { q, k, v, g, beta } = inputs;
const headGate = zeros(4);

const bad: [string, object, object, any, RegExp][] = [
  ['a gate without g', { g: undefined }, { gate }, Error, /(gate|g): /],
  ['a gate and a head gate', { g: headGate }, { gate }, Error, /(gate|g): /],
  [
    'aLog of another size',
    {},
    { gate: { aLog: zeros(3) } },
    RangeError,
    /aLog: .*\[4\], got \[3\]/,
  ],
  ['aLog of another rank', {}, { gate: { aLog: zeros(4, 1) } }, RangeError, /aLog: .*got \[4,1\]/],
  [
    'dtBias of a token gate',
    {},
    { gate: { aLog, dtBias: zeros(4) } },
    RangeError,
    /dtBias: .*\[4,8\], got \[4\]/,
  ],
  [
    'dtBias, transposed',
    {},
    { gate: { aLog, dtBias: zeros(8, 4) } },
    RangeError,
    /dtBias: .*got \[8,4\]/,
  ],
  ['no aLog', {}, { gate: { dtBias } }, TypeError, /aLog: /],
  ['an empty gate', {}, { gate: {} }, TypeError, /aLog: /],
  ['a gate of null', {}, { gate: null }, TypeError, /gate: /],
  ['a gate of true', {}, { gate: true }, TypeError, /gate: /],
  ['an unknown key', {}, { gate: { aLog, dtbias: dtBias } }, TypeError, /dtbias: .*dtBias/],
  ['aLog of numbers', {}, { gate: { aLog: [0, 0, 0, 0] } }, TypeError, /aLog: /],
  [
    'aLog in f64',
    {},
    { gate: { aLog: { data: new Float64Array(4), shape: [4] } } },
    TypeError,
    /aLog: /,
  ],
  ['lowerBound of 0', {}, { gate: { aLog, lowerBound: 0 } }, RangeError, /lowerBound: .*got -?0/],
  ['lowerBound above 0', {}, { gate: { aLog, lowerBound: 1 } }, RangeError, /lowerBound: .*got 1/],
  [
    'lowerBound of -5.01',
    {},
    { gate: { aLog, lowerBound: -5.01 } },
    RangeError,
    /lowerBound: .*-5\.01/,
  ],
  ['lowerBound of NaN', {}, { gate: { aLog, lowerBound: NaN } }, RangeError, /lowerBound: /],
  ['lowerBound of text', {}, { gate: { aLog, lowerBound: '-1' } }, TypeError, /lowerBound: /],
  ['qkL2norm of 1', {}, { qkL2norm: 1 }, TypeError, /qkL2norm: expected true or false, got 1/],
  [
    'an unknown betaActivation',
    {},
    { betaActivation: 'tanh' },
    RangeError,
    /betaActivation: .*sigmoid2.*'tanh'/,
  ],
  ['a betaActivation of true', {}, { betaActivation: true }, TypeError, /betaActivation: /],
  [
    'a betaActivation without beta',
    { beta: undefined },
    { betaActivation: 'sigmoid' },
    Error,
    /beta(Activation)?: /,
  ],
];

for (const [name, change, wrong, kind, pattern] of bad) {
  errors(name, async () => {
    const given = { q, k, v, g, beta, ...change };
    const named = (op: string): RegExp => new RegExp(`^\\[${op}\\] (gate\\.)?${pattern.source}`);
    throwsWith(() => native.recurrenceSync(given, wrong), kind, named('recurrence'));
    await rejectsWith(() => native.recurrence(given, wrong), kind, named('recurrence'));
    throwsWith(
      () => native.recurrenceBackwardSync({ ...given, dO }, wrong),
      kind,
      named('recurrenceBackward'),
    );
  });
}

errors('a gate on a gate that the preset fixes, or has none of', () => {
  for (const name of ['retention', 'linearAttention']) {
    throwsWith(
      () => native[`${name}Sync`]({ q, k, v }, { gate }),
      Error,
      new RegExp(`^\\[${name}\\] `),
    );
  }
  throwsWith(
    () => native.lightningAttentionSync({ q, k, v }, { gate, layer: 1, layers: 4 }),
    Error,
    /^\[lightningAttention\] /,
  );
  throwsWith(
    () => native.glaSync({ q, k, v, g }, { betaActivation: 'sigmoid' }),
    Error,
    /^\[gla\] beta(Activation)?: /,
  );
});

errors('a getter of the gate that throws comes through', () => {
  const own = new Error('mine');
  const nosy = {
    get aLog(): never {
      throw own;
    },
  };
  throwsWith(() => native.recurrenceSync(inputs, { gate: nosy }), Error, /^mine$/);
});

errors('detached parameters', () => {
  const lost = zeros(4);
  structuredClone(lost.data, { transfer: [lost.data.buffer as ArrayBuffer] });
  throwsWith(
    () => native.recurrenceSync(inputs, { gate: { aLog: lost } }),
    RangeError,
    /aLog: .*detached/,
  );
});

errors.run();
