/** kroneckerLinear against its float64 reference: one term and several, sizes of one, every dtype, long batches. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { kroneckerLinearBackwardSync, kroneckerLinearSync } from '../../ts/index';
import * as reference from '../reference/companions.ts';
import { firstRows, hold, rowOf } from '../support/companions.ts';
import type { FloatDtype } from '../support/half.ts';
import { halfDtypes } from '../support/half.ts';
import { call, normals } from '../support/layers.ts';
import { throwsWith } from './helpers.ts';

const test = suite('kroneckerLinear');

interface Sizes {
  lead: number[];
  terms?: number;
  a: [number, number];
  b: [number, number];
}

const CASES: Sizes[] = [
  { lead: [1], a: [1, 1], b: [1, 1] },
  { lead: [], a: [3, 2], b: [5, 4] },
  { lead: [2, 3], terms: 3, a: [4, 4], b: [9, 7] },
  { lead: [70], terms: 4, a: [4, 4], b: [12, 20] },
  { lead: [5], a: [16, 9], b: [3, 17] },
  { lead: [40], a: [1, 7], b: [33, 1] },
  { lead: [40], terms: 2, a: [7, 1], b: [1, 33] },
  { lead: [3], terms: 1, a: [30, 40], b: [20, 10] },
  { lead: [0], a: [2, 3], b: [4, 5] },
  { lead: [3], terms: 0, a: [2, 3], b: [4, 5] },
  { lead: [3], a: [2, 0], b: [4, 5] },
  { lead: [3], a: [0, 2], b: [4, 5] },
];

function problem({ lead, terms, a, b }: Sizes) {
  const draw = normals(a[0] + 3 * a[1] + 5 * b[0] + 7 * b[1]);
  const first = terms === undefined ? [] : [terms];
  return {
    x: draw(...lead, a[1] * b[1]),
    a: draw(...first, ...a),
    b: draw(...first, ...b),
    addend: draw(...lead, a[0] * b[0]),
    dY: draw(...lead, a[0] * b[0]),
  };
}

for (const sizes of CASES) {
  test(JSON.stringify(sizes), async () => {
    const { addend, dY, ...inputs } = problem(sizes);
    await hold('kroneckerLinear', 'plain', { inputs, reference: reference.kroneckerLinear });
    const options = { scale: -0.7 };
    await hold('kroneckerLinear', 'scaled and added', {
      inputs: { ...inputs, addend },
      options,
      reference: (seen) => reference.kroneckerLinear(seen, options),
    });
    for (const given of [{}, options])
      await hold('kroneckerLinearBackward', JSON.stringify(given), {
        inputs: { ...inputs, dY },
        options: given,
        reference: (seen) => reference.kroneckerLinearBackward(seen, given),
      });
  });
}

for (const dtype of halfDtypes) {
  for (const ofFactors of ['f32', dtype] as FloatDtype[]) {
    test(`${dtype}, factors in ${ofFactors}`, async () => {
      const { addend, dY, ...inputs } = problem({ lead: [19], terms: 2, a: [5, 4], b: [9, 10] });
      const dtypes = { other: dtype, a: ofFactors, b: ofFactors };
      for (const added of [undefined, addend])
        await hold('kroneckerLinear', dtype, {
          inputs: { ...inputs, addend: added },
          dtypes,
          reference: reference.kroneckerLinear,
          results: { y: dtype },
        });
      const backward = {
        inputs: { ...inputs, dY },
        dtypes,
        reference: reference.kroneckerLinearBackward,
      };
      await hold('kroneckerLinearBackward', dtype, backward);
      await hold('kroneckerLinearBackward', `${dtype}, gradDtype`, {
        ...backward,
        options: { gradDtype: 'input' },
        results: { dx: dtype, da: ofFactors, db: ofFactors },
      });
    });
  }
}

test('more rows than a slab has', async () => {
  // 2^22 numbers of T at a time: 4096 rows of 2 * 4 * 128
  const {
    addend: _addend,
    dY,
    ...inputs
  } = problem({ lead: [4500], terms: 2, a: [2, 4], b: [128, 2] });
  await hold('kroneckerLinear', 'slabs', { inputs, reference: reference.kroneckerLinear });
  await hold('kroneckerLinearBackward', 'slabs', {
    inputs: { ...inputs, dY },
    reference: reference.kroneckerLinearBackward,
    limits: { other: 5e-6 },
  });
});

test('the bits of a row do not depend on the rows beside it', async () => {
  const sizes: [[number, number], [number, number]][] = [
    [
      [4, 4],
      [12, 20],
    ],
    [
      [3, 2],
      [2, 9],
    ],
    [
      [2, 1],
      [9, 40],
    ],
    [
      [1, 30],
      [8, 3],
    ],
    [
      [20, 3],
      [40, 7],
    ],
    [
      [3, 2],
      [9, 4],
    ],
  ];
  for (const [a, b, terms] of sizes.flatMap(([a, b]) => [[a, b, 1] as const, [a, b, 2] as const])) {
    const { x, dY, a: left, b: right } = problem({ lead: [41], terms, a, b });
    const run = async (cut: (rows: typeof x) => typeof x) => {
      const factors = { a: left, b: right };
      const { y } = await call('kroneckerLinear', { x: cut(x), ...factors });
      const { dx } = await call('kroneckerLinearBackward', { x: cut(x), dY: cut(dY), ...factors });
      return { y, dx };
    };
    const all = await run((t) => t);
    const expectRows = async (cut: (t: typeof x) => typeof x, label: string): Promise<void> => {
      const part = await run(cut);
      for (const name of ['y', 'dx'] as const) {
        const whole = { data: all[name].data as Float32Array, shape: [...all[name].shape] };
        assert.equal([...part[name].data], [...cut(whole).data], `${a} ${b} ${name}, ${label}`);
      }
    };
    for (const rows of [1, 2, 3, 8, 9, 40])
      await expectRows((t) => firstRows(t, rows), `${rows} rows`);
    await expectRows((t) => rowOf(t, 17), 'a row alone');
  }
});

test('bad input', () => {
  const draw = normals(7);
  const [x, a, b] = [draw(2, 6), draw(4, 3), draw(5, 2)];
  const fails = (inputs: any, options: any, kind: any, pattern: RegExp): void =>
    throwsWith(() => kroneckerLinearSync(inputs, options), kind, pattern);
  fails(
    { x: draw(2, 7), a, b },
    {},
    RangeError,
    /^\[kroneckerLinear\] x: expected shape \[\.\.\.,inA \* inB\] = \[\.\.\.,6\]/,
  );
  fails(
    { x, a, b: draw(1, 5, 2) },
    {},
    RangeError,
    /b: expected shape \[outB,inB\], got \[1,5,2\]/,
  );
  fails(
    { x, a: draw(2, 4, 3), b: draw(3, 5, 2) },
    {},
    RangeError,
    /b: expected shape \[terms,outB,inB\] = \[2,5,2\]/,
  );
  fails({ x, a: draw(4), b }, {}, RangeError, /a: expected shape/);
  fails({ x, a, b, addend: draw(2, 21) }, {}, RangeError, /addend: expected shape .* = \[2,20\]/);
  fails({ x, a, b }, { scale: Number.NaN }, RangeError, /scale: /);
  fails({ x, a }, {}, TypeError, /b: expected a tensor/);
  throwsWith(
    () => kroneckerLinearBackwardSync({ x, a, b, dY: draw(3, 20) }),
    RangeError,
    /^\[kroneckerLinearBackward\] dY: expected shape/,
  );
});

test.run();
