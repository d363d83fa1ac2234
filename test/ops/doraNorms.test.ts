/** doraNorms against its float64 reference: both forms of mid, every dtype, and adapters that undo the weight. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { doraNorms, doraNormsSync, packWeightSync } from '../../ts/index';
import * as reference from '../reference/companions.ts';
import { hold } from '../support/companions.ts';
import { halfDtypes } from '../support/half.ts';
import { call, expectNear, normals } from '../support/layers.ts';
import { rejectsWith, throwsWith } from './helpers.ts';

const test = suite('doraNorms');

/** [out, in, rank, rows of mid or 'diagonal' or none] */
const CASES: [number, number, number, (number | 'diagonal')?][] = [
  [1, 1, 1],
  [7, 33, 4],
  [70, 130, 16],
  [33, 40, 5, 'diagonal'],
  [65, 17, 3, 7],
  [5, 1030, 40, 2],
  [3, 4, 0],
  [0, 4, 2],
  [3, 0, 2],
];

function problem([out, inFeatures, rank, mid]: (typeof CASES)[number]) {
  const draw = normals(out + inFeatures + rank);
  return {
    weight: draw(out, inFeatures),
    a: draw(rank, inFeatures),
    b: draw(out, typeof mid === 'number' ? mid : rank),
    mid: mid === undefined ? mid : mid === 'diagonal' ? draw(rank) : draw(mid, rank),
  };
}

for (const sizes of CASES) {
  test(`out, in, rank, mid = ${sizes}`, async () => {
    for (const scale of [undefined, 0.25, 0, -3])
      await hold('doraNorms', `scale ${scale}`, {
        inputs: problem(sizes),
        options: scale === undefined ? {} : { scale },
        reference: (seen) => reference.doraNorms(seen, { scale }),
        limits: { norms: 1e-7 },
      });
  });
}

for (const dtype of halfDtypes) {
  test(dtype, async () => {
    for (const dtypes of [
      { weight: dtype, a: dtype, b: dtype },
      { weight: dtype },
      { a: dtype, b: dtype },
    ] as object[])
      await hold('doraNorms', JSON.stringify(dtypes), {
        inputs: problem([37, 50, 6, 4]),
        dtypes: { ...dtypes, mid: 'f32' },
        reference: reference.doraNorms,
        limits: { norms: 1e-7 },
      });
  });
}

for (const format of ['f32', 'bf16', 'f16', 'int8', 'q8', 'nf4', 'q4'] as const) {
  test(`a base packed as ${format}`, async () => {
    for (const sizes of [CASES[1], CASES[2], CASES[4], CASES[5]]) {
      const { weight, ...factors } = problem(sizes);
      const base = packWeightSync(weight, { format });
      const seen = { weight: base.toTensor(), ...factors };
      const norms = await call('doraNorms', { base, ...factors }, { scale: 0.5 });
      const expected = reference.doraNorms(seen, { scale: 0.5 });
      expectNear(`${sizes}`, norms, { ...expected }, 1e-7);
      base.dispose();
    }
  });
}

test('an adapter that takes away all but a thousandth of the weight', async () => {
  const draw = normals(3);
  const [a, b, rest] = [draw(4, 300), draw(20, 4), draw(20, 300)];
  // W = -B A + rest / 1000, rounded to float32: what is left is known from the rounded W
  const product = reference.adaptedWeight({
    weight: { data: new Array(6000).fill(0), shape: [20, 300] },
    a,
    b,
  });
  const weight = {
    data: Float32Array.from(product.data, (x, i) => -x + rest.data[i] / 1000),
    shape: [20, 300],
  };
  const { norms } = reference.doraNorms({ weight, a, b });
  expectNear('norms', await call('doraNorms', { weight, a, b }), { norms }, 1e-7);
});

test('large and small rows', async () => {
  const [a, b, weight] = [normals(4)(2, 20), normals(5)(3, 2), normals(6)(3, 20)];
  for (const [row, factor] of [1e-30, 1, 1e30].entries()) {
    for (let i = 0; i < 20; i++) weight.data[row * 20 + i] *= factor;
    for (let k = 0; k < 2; k++) b.data[row * 2 + k] *= factor;
  }
  const { norms } = await call('doraNorms', { weight, a, b });
  const expected = reference.doraNorms({ weight, a, b }).norms;
  for (let i = 0; i < 3; i++)
    assert.ok(Math.abs(norms.data[i] / expected.data[i] - 1) < 1e-7, `row ${i}: ${norms.data[i]}`);
});

test('bad input', async () => {
  const draw = normals(7);
  const [weight, a, b] = [draw(4, 5), draw(2, 5), draw(4, 2)];
  const fails = (inputs: any, options: any, kind: any, pattern: RegExp): void =>
    throwsWith(() => doraNormsSync(inputs, options), kind, pattern);
  fails(
    { weight, a: draw(2, 6), b },
    {},
    RangeError,
    /^\[doraNorms\] a: expected shape \[rank,in\] = \[2,5\]/,
  );
  fails(
    { weight, a, b: draw(2, 4) },
    {},
    RangeError,
    /b: expected shape \[out,rank\] = \[4,2\], got \[2,4\]/,
  );
  fails({ weight, a, b, mid: draw(3) }, {}, RangeError, /mid: expected shape \[rank\] = \[2\]/);
  fails(
    { weight, a, b, mid: draw(3, 2) },
    {},
    RangeError,
    /b: expected shape \[out,midRank\] = \[4,3\]/,
  );
  fails(
    { weight, a, b, mid: draw(2, 3) },
    {},
    RangeError,
    /mid: expected shape \[midRank,rank\] = \[2,2\]/,
  );
  fails({ weight, a, b }, { scale: Number.POSITIVE_INFINITY }, RangeError, /scale: /);
  fails({ weight, a }, {}, TypeError, /b: expected a tensor/);
  fails({ a, b }, {}, TypeError, /weight: expected a tensor, or base, got neither/);
  fails(
    { base: 'identity', a, b },
    {},
    TypeError,
    /base: expected what packWeight\(\) returned, got 'identity'/,
  );
  const base = packWeightSync(weight, { format: 'q8' });
  fails({ weight, base, a, b }, {}, TypeError, /weight: expected none beside base/);
  fails({ base, a: draw(2, 6), b }, {}, RangeError, /a: expected shape \[rank,in\] = \[2,5\]/);
  fails({ base, a, b: draw(5, 2) }, {}, RangeError, /b: expected shape \[out,rank\] = \[4,2\]/);
  const pending = doraNorms({ base, a, b });
  base.dispose(); // what is under way keeps what it uses
  await pending;
  fails({ base, a, b }, {}, Error, /disposed/);
  await rejectsWith(() => doraNorms({ base, a, b }), Error, /disposed/);
  fails({ weight, a, b }, { scal: 1 }, TypeError, /scal: .*nearest: scale/);
});

test.run();
