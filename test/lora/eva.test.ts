/** EVA: the incremental SVD against that of all inputs at once, and the ranks it hands out. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { type EvaState, evaRanks, initEva, updateEva } from '../../ts/index';
import { Random } from '../support/random.ts';
import {
  distance,
  identity,
  type Matrix,
  multiply,
  norm,
  svd,
  toMatrix,
  toTensor32,
  transpose,
} from './reference.ts';

function atMost(value: number, limit: number, label: string): void {
  assert.ok(value <= limit, `${label}: ${value}, at most ${limit}`);
}

/** Inputs whose features fall in size, around a mean of their own. */
function inputs(samples: number, features: number, seed: number, shift = 2): Matrix {
  const random = new Random(seed);
  return Array.from({ length: samples }, () =>
    Array.from({ length: features }, (_, j) => shift * Math.cos(j) + 0.8 ** j * random.normal()),
  );
}

async function feed(
  batches: Matrix[],
  options: { components: number; center?: boolean },
): Promise<EvaState> {
  let state: EvaState | undefined;
  for (const batch of batches)
    state = await updateEva({ x: toTensor32(batch), ...(state && { state }) }, options);
  return state!;
}

function centred(x: Matrix): Matrix {
  const means = transpose(x).map((column) => column.reduce((sum, y) => sum + y, 0) / x.length);
  return x.map((row) => row.map((y, j) => y - means[j]));
}

for (const center of [true, false])
  test(`batches of any size are as all inputs at once, center ${center}`, async () => {
    const all = [
      ...inputs(40, 12, 1),
      ...inputs(1, 12, 2),
      ...inputs(30, 12, 3, 1),
      ...inputs(5, 12, 4),
    ];
    const batches = [all.slice(0, 40), all.slice(40, 41), all.slice(41, 71), all.slice(71)];
    const state = await feed(batches, { components: 12, center });
    const exact = svd(center ? centred(all) : all);
    assert.is(state.samples, 76);
    for (let k = 0; k < 12; k++)
      atMost(Math.abs(state.singularValues[k] - exact.s[k]), 3e-6 * exact.s[0], `value ${k}`);
    atMost(
      Math.abs(state.totalSquares / exact.s.reduce((sum, s) => sum + s * s, 0) - 1),
      1e-6,
      'sum',
    );
    const along = multiply(toMatrix(state.components), exact.v);
    for (let k = 0; k < 4; k++) atMost(1 - Math.abs(along[k][k]), 1e-5, `component ${k}`);
    const mean = transpose(all).map((x) => (center ? x.reduce((sum, y) => sum + y, 0) / 76 : 0));
    atMost(Math.hypot(...state.mean.map((x, j) => x - mean[j])), 1e-5, 'mean');
  });

test('few components: orthonormal, falling, the leading ones of all inputs', async () => {
  const all = inputs(160, 20, 5);
  const state = await feed([all.slice(0, 50), all.slice(50, 90), all.slice(90)], { components: 6 });
  const v = toMatrix(state.components);
  atMost(distance(multiply(v, transpose(v)), identity(6)), 1e-6, 'orthonormal');
  for (let k = 1; k < 6; k++)
    assert.ok(state.singularValues[k] <= state.singularValues[k - 1], 'falling');
  const exact = svd(centred(all));
  for (let k = 0; k < 3; k++)
    atMost(Math.abs(state.singularValues[k] / exact.s[k] - 1), 0.01, `value ${k}`);
  const [best, kept] = [
    Math.hypot(...exact.s.slice(0, 6)),
    norm(multiply(centred(all), transpose(v))),
  ];
  atMost(1 - kept / best, 0.01, 'variance that is explained');
});

test('fewer inputs than components, then more', async () => {
  const all = inputs(12, 8, 6);
  const first = await feed([all.slice(0, 2)], { components: 8 });
  assert.equal(first.components.shape, [2, 8]);
  const state = await feed([all.slice(0, 2), all.slice(2)], { components: 8 });
  assert.equal(state.components.shape, [8, 8]);
  atMost(Math.abs(state.singularValues[0] / svd(centred(all)).s[0] - 1), 1e-5, 'value');
});

const layer = (shares: number[]): EvaState => ({
  components: toTensor32(identity(shares.length)) as EvaState['components'],
  singularValues: shares.map((x) => Math.sqrt(7 * x)),
  mean: new Float64Array(shares.length),
  totalSquares: 7,
  samples: 100,
});

test('ranks go where they explain most, up to the budget and to rho', () => {
  const states = new Map([
    ['first', layer([0.7, 0.12, 0.1, 0.05])],
    ['second', layer([0.3, 0.2, 0.15, 0.11])],
    ['third', layer([0.05, 0.04, 0.03, 0.02])],
  ]);
  assert.equal(
    [...evaRanks(states, { rank: 2 })],
    [
      ['first', 2],
      ['second', 4],
      ['third', 0],
    ],
  );
  assert.equal(
    [...evaRanks(states, { rank: 2, rho: 1.5 })],
    [
      ['first', 3],
      ['second', 3],
      ['third', 0],
    ],
  );
  assert.equal([...evaRanks(states, { rank: 2, rho: 1 }).values()], [2, 2, 2]);
  const zero = new Map([
    ['a', layer([0, 0])],
    ['b', layer([0, 0])],
  ]);
  assert.equal([...evaRanks(zero, { rank: 1 }).values()], [2, 0]);
});

test('the adapter: leading components, whitened on request, b zero', async () => {
  const state = await feed([inputs(60, 10, 7)], { components: 5 });
  const { adapter } = await initEva({ state, outFeatures: 3 }, { rank: 2, scale: 4 });
  assert.equal([adapter.b.shape, adapter.scale], [[3, 2], 4]);
  assert.ok(adapter.b.data.every((x) => x === 0));
  assert.equal(toMatrix(adapter.a), toMatrix(state.components).slice(0, 2));
  const white = await initEva({ state, outFeatures: 3 }, { rank: 2, whiten: true });
  for (let k = 0; k < 2; k++) {
    const length = Math.hypot(...toMatrix(white.adapter.a)[k]);
    atMost(Math.abs(length * Math.sqrt(state.singularValues[k]) - 1), 1e-6, 'whitened');
  }
});

test('errors', async () => {
  const state = await feed([inputs(9, 4, 8)], { components: 2 });
  const fails = async (run: () => any, pattern: RegExp): Promise<void> => {
    const error = await (async () => run())().then(
      () => undefined,
      (e) => e,
    );
    assert.instance(error, Error);
    assert.match(error.message, pattern);
  };
  const x = toTensor32(inputs(3, 5, 1));
  await fails(() => updateEva({ x, state }, { components: 2 }), /x: expected shape \[rows,4\]/);
  await fails(
    () => updateEva({ x }, { components: 6 }),
    /components: expected an integer from 1 to 5/,
  );
  await fails(() => updateEva({ x, state: {} as any }, { components: 1 }), /state: expected what/);
  await fails(() => initEva({ state, outFeatures: 3 }, { rank: 3 }), /rank: .* from 1 to 2/);
  await fails(() => evaRanks({} as any, { rank: 1 }), /\[evaRanks\] states: expected a Map/);
});

test.run();
