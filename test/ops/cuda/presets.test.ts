/** Every preset on a device, forward and backward, and activations, packing and states, against the CPU. */
import * as assert from 'uvu/assert';
import * as rankone from '../../../ts/index';
import type { Gate, ProblemSpec, Update } from '../../support/cases.ts';
import { makeProblem } from '../../support/cases.ts';
import { expectWithin } from '../../support/compare.ts';
import { placed, test } from '../../support/device.ts';
import { decode, encode } from '../../support/half.ts';
import { Random } from '../../support/random.ts';

const native = rankone as any;
const onDevice = (name: string) => placed(name, native[name], 'cuda');
const states = { withInitialState: true, withFinalStateGradient: true };
const random = new Random(5);
const uniform = (low: number, high: number, ...shape: number[]) => {
  return {
    data: random.uniforms(
      shape.reduce((a, b) => a * b, 1),
      low,
      high,
    ),
    shape,
  };
};

/** All results of both, by name, within a relative distance; another dtype, shape or name is a failure. */
function expectClose(label: string, actual: any, expected: any, limit = 2e-5): void {
  const names = Object.keys(expected).filter((name) => name !== 'saved');
  assert.equal(
    Object.keys(actual)
      .filter((name) => name !== 'saved')
      .sort(),
    names.sort(),
    label,
  );
  for (const name of names) {
    const [a, b] = [actual[name], expected[name]];
    assert.is(a.dtype, b.dtype, `${label}: ${name}`);
    const layout = { limit, layout: { kept: [0] } };
    if (a.shape.includes(0)) assert.equal([...a.shape], [...b.shape]);
    else expectWithin(`${label}: ${name}`, decode(a).data, decode(b).data, a.shape, layout);
  }
}

interface Both {
  backward?: object;
  options?: object;
  limit?: number;
}

/** Forward, asynchronous forward, backward with and without what was saved: as on the CPU. */
async function check(name: string, inputs: any, { backward, options, limit }: Both = {}) {
  const compute = { ...options, compute: 'f32' };
  const forward = { ...compute, outputFinalState: true };
  const expected = native[`${name}Sync`](inputs, forward);
  expectClose(`${name}Sync`, onDevice(`${name}Sync`)(inputs, forward), expected, limit);
  expectClose(name, await onDevice(name)(inputs, forward), expected, limit);
  if (!backward) return;
  const given = { ...inputs, ...backward };
  const gradients = native[`${name}BackwardSync`](given, compute);
  const { saved } = onDevice(`${name}Sync`)(inputs, { ...forward, saveForBackward: true });
  const run = onDevice(`${name}BackwardSync`);
  expectClose(`${name}BackwardSync`, run(given, compute), gradients, limit);
  expectClose(`${name}BackwardSync, saved`, run({ ...given, saved }, compute), gradients, limit);
  const settled = await onDevice(`${name}Backward`)(given, compute);
  expectClose(`${name}Backward`, settled, gradients, limit);
  saved.dispose();
}

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

for (const [name, gate, update, options = {}] of PRESETS)
  test(name, async () => {
    const { numHouseholder: n = 1 } = options as { numHouseholder?: number };
    const spec = { B: 2, T: 11, H: 1, HV: 2, K: 9, V: 12, gate, update, n, ...states };
    const { dO, dFinalState, ...inputs } = makeProblem(spec);
    await check(name, inputs, { backward: { dO, dFinalState }, options });
  });

test('hgrn2', async () => {
  const spec: ProblemSpec = { B: 2, T: 11, H: 2, K: 9, V: 12, gate: 'channel', update: 'additive' };
  const { q, v, g, dO, initialState, dFinalState } = makeProblem({ ...spec, ...states });
  await check('hgrn2', { q, v, g, initialState }, { backward: { dO, dFinalState } });
  const [a, b, c, d] = [q, v, g!, dO].map((x) => encode('bf16', x));
  const halves = { backward: { dO: d }, options: { gradDtype: 'input' }, limit: 8e-3 };
  const run = onDevice('hgrn2BackwardSync');
  const expected = rankone.hgrn2BackwardSync(
    { q: a, v: b, g: c, dO: d } as any,
    halves.options as any,
  );
  const actual = run({ q: a, v: b, g: c, dO: d }, { ...halves.options, compute: 'f32' });
  expectClose('hgrn2, bf16', actual, expected, halves.limit);
});

test('hgrn2, float32 gates beside half-width q and v', () => {
  const spec: ProblemSpec = { B: 2, T: 4, H: 2, K: 9, V: 12, gate: 'channel', update: 'additive' };
  const { q, v, g, initialState } = makeProblem({ ...spec, withInitialState: true });
  const forward = { outputFinalState: true, compute: 'f32' } as const;
  const inputs: any = { q: encode('bf16', q), v: encode('bf16', v), g, initialState };
  const expected = rankone.hgrn2Sync(inputs, forward);
  expectClose('T = 4', onDevice('hgrn2Sync')(inputs, forward), expected, 2.5e-3);

  const shape = { batch: 2, valueHeads: 2, keyDim: 9, valueDim: 12 };
  const cpu = rankone.createState(shape);
  const device = rankone.createState({ ...shape, device: 'cuda' });
  for (let step = 0; step < 3; step++) {
    const token = makeProblem({ ...spec, T: 1, seed: step + 1 });
    const given: any = { q: encode('bf16', token.q), v: encode('bf16', token.v), g: token.g };
    const { o } = rankone.hgrn2Sync({ ...given, state: cpu });
    expectClose(`step ${step}`, onDevice('hgrn2Sync')({ ...given, state: device }), { o }, 2.5e-3);
  }
  expectClose('states', { state: device.toTensor() }, { state: cpu.toTensor() });
});

test('mamba2', async () => {
  const [B, T, HV, P, G, N] = [2, 11, 4, 10, 2, 9];
  const inputs = {
    x: uniform(-1, 1, B, T, HV, P),
    dt: uniform(-1, 1, B, T, HV),
    A: uniform(-1, -0.1, HV),
    B: uniform(-1, 1, B, T, G, N),
    C: uniform(-1, 1, B, T, G, N),
  };
  const more = {
    D: uniform(-1, 1, HV),
    dtBias: uniform(-1, 1, HV),
    initialState: uniform(-1, 1, B, HV, N, P),
  };
  const dY = uniform(-1, 1, B, T, HV, P);
  const dFinalState = uniform(-1, 1, B, HV, N, P);
  await check('mamba2', inputs, { backward: { dY }, options: { dtLimit: [0.1, 0.7] } });
  const options = { dtSoftplus: true };
  await check('mamba2', { ...inputs, ...more }, { backward: { dY, dFinalState }, options });
  const halves = Object.fromEntries(
    Object.entries({ ...inputs, dY }).map(([k, x]) => [k, k === 'A' ? x : encode('bf16', x)]),
  ) as any;
  const both = [rankone.mamba2Sync, onDevice('mamba2Sync')].map((f: any) => {
    const { dY: _dY, ...forward } = halves;
    return f({ ...forward, D: more.D }, { ...options, compute: 'f32' });
  });
  expectClose('mamba2, bf16', both[1], both[0], 8e-3);
  const gradDtype = { ...options, compute: 'f32', gradDtype: 'input' } as const;
  const expected = rankone.mamba2BackwardSync(halves, gradDtype);
  expectClose('bf16', onDevice('mamba2BackwardSync')(halves, gradDtype), expected, 8e-3);
});

test('packed sequences, one of them empty, in every mode', async () => {
  const spec = { B: 1, T: 12, H: 1, HV: 2, K: 9, V: 12, N: 4, ...states } as const;
  const { dO, dFinalState, ...inputs } = makeProblem({ ...spec, gate: 'token', update: 'delta' });
  for (const cuSeqlens of [Int32Array.of(0, 5, 5, 6, 12), BigInt64Array.of(0n, 1n, 2n, 3n, 12n)])
    for (const mode of ['auto', 'recurrent', 'chunk'])
      await check('gatedDeltaNet', inputs, {
        backward: { dO, dFinalState },
        options: { cuSeqlens, mode },
      });
});

test('activations and their gradients', async () => {
  for (const gate of ['token', 'channel'] as const) {
    const spec = {
      B: 1,
      T: 9,
      H: 1,
      HV: 2,
      K: 9,
      V: 12,
      gate,
      update: 'delta',
      ...states,
    } as const;
    const { dO, dFinalState, ...inputs } = makeProblem(spec);
    const dtBias = uniform(-1, 1, ...(gate === 'channel' ? [2, 9] : [2]));
    const activation = { aLog: uniform(-1, 1, 2), dtBias };
    for (const given of [activation, { ...activation, lowerBound: -3 }])
      await check(gate === 'token' ? 'gatedDeltaNet' : 'kda', inputs, {
        backward: { dO, dFinalState },
        options: { qkL2norm: true, gate: given, betaActivation: 'sigmoid2' },
      });
  }
});

test('normalize, with and without a running sum', async () => {
  const spec = { B: 2, T: 9, H: 1, HV: 2, K: 9, V: 12, normalize: true, ...states } as const;
  const { dO, dFinalState, dFinalZ, ...inputs } = makeProblem({
    ...spec,
    gate: 'none',
    update: 'additive',
  });
  const options = { normalize: true };
  const backward = { dO, dFinalState, dFinalZ };
  await check('linearAttention', inputs, { backward, options });
  const { q, k, v } = inputs;
  await check('linearAttention', { q, k, v }, { backward: { dO }, options });
});

test('a pool of states is advanced in place, row by row', () => {
  const spec = { B: 2, T: 1, H: 1, HV: 2, K: 9, V: 12, gate: 'token', update: 'delta' } as const;
  const shape = { batch: 5, valueHeads: 2, keyDim: 9, valueDim: 12 };
  const [cpu, device] = [
    rankone.createState(shape),
    rankone.createState({ ...shape, device: 'cuda' }),
  ];
  const start = uniform(-1, 1, 5, 2, 9, 12);
  for (const state of [cpu, device]) state.copyFrom(start);
  const decode = onDevice('gatedDeltaNetSync');
  for (let step = 0; step < 4; step++) {
    const { dO: _dO, ...token } = makeProblem({ ...spec, seed: step + 1 });
    const options = { stateIndices: Int32Array.of((step * 2) % 5, (step * 2 + 1) % 5) };
    const { o } = native.gatedDeltaNetSync({ ...token, state: cpu }, options);
    expectClose(`step ${step}`, decode({ ...token, state: device }, options), { o });
  }
  expectClose('states', { state: device.toTensor() }, { state: cpu.toTensor() });
  const copy = device.clone();
  device.dispose();
  assert.is(copy.device, 'cuda:0');
  expectClose('copy', { state: copy.toTensor() }, { state: cpu.toTensor() });
  const read = rankone.deserializeState(copy.serialize(), 'cuda');
  assert.equal(read.toTensor(), copy.toTensor());
  assert.is(read.device, 'cuda:0');
});

test('tensors without elements', async () => {
  const { dO, ...inputs } = makeProblem({
    B: 2,
    T: 0,
    H: 1,
    K: 4,
    V: 4,
    gate: 'token',
    update: 'delta',
    withInitialState: true,
  });
  await check('gatedDeltaNet', inputs, { backward: { dO } });
  const { q, k, v, initialState } = inputs;
  const plain = { inputs: { q, k, v, initialState }, backward: { dO } };
  await check('retention', plain.inputs, plain);
  await check('lightningAttention', plain.inputs, { ...plain, options: { layer: 1, layers: 4 } });
});

test.run();
