/** rmsNorm, rmsNormGated in its four forms and l2norm against their float64 references. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { l2normSync, rmsNormGatedSync, rmsNormSync } from '../../ts/index';
import {
  l2norm,
  l2normBackward,
  rmsNorm,
  rmsNormBackward,
  rmsNormGated,
  rmsNormGatedBackward,
} from '../reference/layers.ts';
import { call, expectNear, normals } from '../support/layers.ts';
import { throwsWith } from './helpers.ts';

const test = suite('norms');

const SHAPES = [
  [64],
  [3, 5],
  [2, 2, 7, 33],
  [100, 128],
  [65, 1000],
  [2, 4097],
  [1, 60000],
  [2500, 20],
  [0, 8],
];

const FORMS = [
  {},
  { activation: 'sigmoid' },
  { normBeforeGate: false },
  { activation: 'sigmoid', normBeforeGate: false },
] as const;

for (const shape of SHAPES) {
  test(`x [${shape}]`, async () => {
    const D = shape[shape.length - 1];
    for (const weighted of [false, true]) {
      for (const eps of [undefined, 0.1]) {
        const draw = normals(D);
        const options = eps === undefined ? {} : { eps };
        const [x, gate, dY] = [draw(...shape), draw(...shape), draw(...shape)];
        const inputs = { x, ...(weighted && { weight: draw(D) }) };
        const gated = { ...inputs, gate };
        const label = `${weighted ? 'weight, ' : ''}eps ${eps}`;
        const check = async (name: string, given: object, expected: object): Promise<void> =>
          expectNear(`${name}, ${label}`, await call(name, given, options), { ...expected }, 2e-6);
        await check('rmsNorm', inputs, { y: rmsNorm(inputs, options) });
        await check(
          'rmsNormBackward',
          { ...inputs, dY },
          rmsNormBackward({ ...inputs, dY }, options),
        );
        for (const form of FORMS) {
          const all = { ...options, ...form };
          const named = `${JSON.stringify(form)}, ${label}`;
          const y = rmsNormGated(gated, all);
          expectNear(named, await call('rmsNormGated', gated, all), { y }, 2e-6);
          const grads = { ...rmsNormGatedBackward({ ...gated, dY }, all) };
          const actual = await call('rmsNormGatedBackward', { ...gated, dY }, all);
          expectNear(named, actual, grads, 2e-6);
        }
        if (weighted) continue;
        await check('l2norm', { x }, { y: l2norm({ x }, options) });
        await check('l2normBackward', { x, dY }, l2normBackward({ x, dY }, options));
      }
    }
  });
}

test('gates far from zero', async () => {
  const x = normals(4)(6, 8);
  const gate = { data: new Float32Array(48), shape: [6, 8] };
  [-1e30, -200, -89, -30, 90, 1e30].forEach((value, row) => {
    gate.data.fill(value, row * 8, row * 8 + 8);
  });
  const dY = normals(5)(6, 8);
  // Gated first, 1e30 is as far as a product with x is finite in float32.
  for (const form of FORMS) {
    const y = rmsNormGated({ x, gate }, form);
    expectNear('y', await call('rmsNormGated', { x, gate }, form), { y }, 2e-6);
    const results = await call('rmsNormGatedBackward', { x, gate, dY }, form);
    for (const [name, { data }] of Object.entries(results))
      assert.ok(data.every(Number.isFinite), `${JSON.stringify(form)}: ${name}`);
  }
});

test('l2norm of what is long, short or nothing', () => {
  const x = { data: Float32Array.of(3e30, 4e30, 0, 0, 3e-30, 4e-30), shape: [3, 2] };
  const { data } = l2normSync({ x }, { eps: 0 }).y;
  const expected = [0.6, 0.8, Number.NaN, Number.NaN, 0.6, 0.8];
  expected.forEach((value, i) => {
    assert.ok(Object.is(data[i], value) || Math.abs(data[i] - value) < 1e-6, `${i}: ${data[i]}`);
  });
  assert.equal(
    l2normSync({ x: { data: new Float32Array(4), shape: [4] } }).y.data,
    new Float32Array(4),
  );
});

test('NaN stays in its row', () => {
  const x = normals(1)(4, 50);
  x.data[60] = Number.NaN;
  const y = rmsNormSync({ x }).y.data;
  y.forEach((value, i) => {
    assert.is(Number.isNaN(value), Math.floor(i / 50) === 1, `element ${i}`);
  });
});

test('bad input', () => {
  const draw = normals(2);
  const x = draw(2, 3);
  const fails = (body: () => unknown, pattern: RegExp): void =>
    throwsWith(body, RangeError, pattern);
  fails(
    () => rmsNormSync({ x, weight: draw(4) }),
    /^\[rmsNorm\] weight: expected shape \[D\] = \[3\], got \[4\]/,
  );
  fails(
    () => rmsNormGatedSync({ x, gate: draw(3, 2) }),
    /^\[rmsNormGated\] gate: expected the shape of x = \[2,3\], got \[3,2\]/,
  );
  fails(() => rmsNormSync({ x }, { eps: -1 }), /^\[rmsNorm\] eps: expected/);
  fails(() => l2normSync({ x }, { eps: -1 }), /^\[l2norm\] eps: expected/);
  fails(() => l2normSync({ x: draw(2, 0) }), /^\[l2norm\] x: expected shape \[\.\.\.,D\]/);
  throwsWith(
    () => rmsNormGatedSync({ x, gate: x }, { activation: 'relu' as any }),
    RangeError,
    /^\[rmsNormGated\] activation: expected/,
  );
  throwsWith(
    () => rmsNormGatedSync({ x, gate: x }, { normBeforeGate: 1 as any }),
    TypeError,
    /^\[rmsNormGated\] normBeforeGate: expected true or false/,
  );
  fails(
    () => rmsNormSync({ x: draw(2, 0) }),
    /^\[rmsNorm\] x: expected shape \[\.\.\.,D\] with D >= 1/,
  );
});

test.run();
