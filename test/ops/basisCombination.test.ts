/** basisCombination and randLora against their float64 references; bases of a seed against the generator in TypeScript. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import {
  basisCombinationBackwardSync,
  basisCombinationSync,
  randLoraBackwardSync,
  randLoraSync,
} from '../../ts/index';
import { normals as philoxNormals } from '../../ts/linalg/philox';
import * as reference from '../reference/companions.ts';
import { hold } from '../support/companions.ts';
import type { FloatDtype } from '../support/half.ts';
import { halfDtypes } from '../support/half.ts';
import { call, normals } from '../support/layers.ts';
import type { Tensor32 } from '../support/tensor.ts';
import { throwsWith } from './helpers.ts';

const test = suite('combinations of bases');

/** [count, rows, columns, heads, headAxis] */
const CASES: [number, number, number, number?, ('rows' | 'columns')?][] = [
  [1, 1, 1],
  [3, 5, 7],
  [100, 9, 130],
  [4, 64, 100, 4],
  [4, 64, 100, 5, 'columns'],
  [7, 6, 33, 3, 'columns'],
  [2, 300, 150, 300, 'rows'],
  [0, 3, 4],
  [3, 0, 4],
  [3, 4, 0],
];

for (const [count, rows, columns, heads, headAxis] of CASES) {
  test(`${count} bases [${rows},${columns}], heads ${heads} ${headAxis ?? ''}`, async () => {
    const draw = normals(count + rows);
    const inputs = {
      coefficients: heads ? draw(heads, count) : draw(count),
      bases: draw(count, rows, columns),
    };
    const options = headAxis ? { headAxis } : {};
    await hold('basisCombination', 'given', {
      inputs,
      options,
      reference: (seen) => reference.basisCombination(seen, options),
      limits: { sum: 1e-7 },
    });
    await hold('basisCombinationBackward', 'given', {
      inputs: { ...inputs, dSum: draw(rows, columns) },
      options,
      reference: (seen) => reference.basisCombinationBackward(seen, options),
      limits: { other: 1e-7 },
    });
  });
}

for (const dtype of halfDtypes) {
  for (const ofCoefficients of ['f32', dtype] as FloatDtype[]) {
    test(`bases in ${dtype}, coefficients in ${ofCoefficients}`, async () => {
      const draw = normals(4);
      const inputs = { coefficients: draw(2, 5), bases: draw(5, 6, 70) };
      const dtypes = { other: dtype, coefficients: ofCoefficients };
      await hold('basisCombination', dtype, {
        inputs,
        dtypes,
        reference: reference.basisCombination,
        results: { sum: dtype },
      });
      const backward = {
        inputs: { ...inputs, dSum: draw(6, 70) },
        dtypes,
        reference: reference.basisCombinationBackward,
      };
      await hold('basisCombinationBackward', dtype, backward);
      await hold('basisCombinationBackward', `${dtype}, gradDtype`, {
        ...backward,
        options: { gradDtype: 'input' },
        results: { dCoefficients: ofCoefficients, dBases: dtype },
      });
    });
  }
}

/** What a seed stands for, as given bases. */
function drawn(count: number, rows: number, columns: number, options: any): Tensor32 {
  const { seed = 0, stream = 0, deviation = 1 } = options;
  const data = new Float32Array(count * rows * columns);
  for (let i = 0; i < count; i++)
    data.set(
      philoxNormals(rows * columns, { seed, stream: stream + i, deviation }),
      i * rows * columns,
    );
  return { data, shape: [count, rows, columns] };
}

for (const [count, rows, columns, options] of [
  [3, 1, 4],
  [5, 9, 33, { seed: 7 }],
  [40, 70, 130, { seed: 2 ** 53 - 1, stream: 2 ** 32 - 40, deviation: 0.02 }],
  [2, 130, 300, { seed: 12345678901, headAxis: 'columns' }],
] as [number, number, number, object?][]) {
  test(`${count} bases [${rows},${columns}] of a seed, ${JSON.stringify(options)}`, async () => {
    const draw = normals(count);
    const bases = drawn(count, rows, columns, options ?? {});
    const { headAxis } = (options ?? {}) as { headAxis?: 'columns' };
    const coefficients = headAxis ? draw(10, count) : draw(count);
    const given = { ...options, rows, columns };
    await hold('basisCombination', 'drawn', {
      inputs: { coefficients },
      options: given,
      reference: (seen) => reference.basisCombination({ ...seen, bases }, { headAxis }),
      limits: { sum: 1e-7 },
    });
    await hold('basisCombinationBackward', 'drawn', {
      inputs: { coefficients, dSum: draw(rows, columns) },
      options: given,
      reference: (seen) => ({
        dCoefficients: reference.basisCombinationBackward({ ...seen, bases }, { headAxis })
          .dCoefficients,
      }),
      limits: { other: 1e-7 },
    });
  });
}

test('a lone basis has the numbers of the generator', async () => {
  const length = 200_003;
  const coefficients = { data: Float32Array.of(0, 1, 0), shape: [3] };
  for (const deviation of [1, 0.5]) {
    const options = { rows: 1, columns: length, seed: 99, stream: 3, deviation };
    const { sum } = await call('basisCombination', { coefficients }, options);
    const expected = philoxNormals(length, { seed: 99, stream: 4, deviation });
    let different = 0;
    for (let i = 0; i < length; i++) {
      if (sum.data[i] === expected[i]) continue;
      different++;
      assert.ok(Math.abs(sum.data[i] / expected[i] - 1) < 2 ** -22, `value ${i}`);
    }
    assert.ok(different <= 1, `${different} of ${length} differ`);
  }
});

for (const [count, out, inFeatures, rank, shared] of [
  [1, 1, 1, 1, true],
  [5, 20, 33, 4, true],
  [3, 70, 1100, 6, true],
  [4, 9, 40, 3, false],
  [0, 3, 4, 2, true],
  [2, 3, 4, 0, true],
  [2, 0, 4, 3, false],
] as [number, number, number, number, boolean][]) {
  test(`randLora, ${count} terms of rank ${rank}, [${out},${inFeatures}]`, async () => {
    const draw = normals(out + inFeatures);
    const inputs = {
      a: draw(...(shared ? [] : [count]), rank, inFeatures),
      b: draw(count, out, rank),
      lambda: draw(count, rank),
      gamma: draw(count, inFeatures),
    };
    for (const dtype of ['f32', 'bf16', 'f16'] as FloatDtype[]) {
      const dtypes = { a: dtype, b: dtype };
      for (const options of [{}, { scale: -0.4 }]) {
        await hold('randLora', dtype, {
          inputs,
          dtypes,
          options,
          reference: (seen) => reference.randLora(seen, options),
        });
        await hold('randLoraBackward', dtype, {
          inputs: { ...inputs, dDelta: draw(out, inFeatures) },
          dtypes,
          options,
          reference: (seen) => reference.randLoraBackward(seen, options),
        });
      }
    }
  });
}

test('bad input', () => {
  const draw = normals(7);
  const coefficients = draw(3);
  const bases = draw(3, 4, 6);
  const fails = (inputs: any, options: any, kind: any, pattern: RegExp): void =>
    throwsWith(() => basisCombinationSync(inputs, options), kind, pattern);
  fails(
    { coefficients: draw(2), bases },
    {},
    RangeError,
    /^\[basisCombination\] bases: expected shape .* = \[2,4,6\]/,
  );
  fails(
    { coefficients: draw(3, 3), bases },
    {},
    RangeError,
    /coefficients: .*heads that divide rows = 4, got \[3,3\]/,
  );
  fails(
    { coefficients: draw(4, 3), bases },
    { headAxis: 'columns' },
    RangeError,
    /heads that divide columns = 6/,
  );
  fails({ coefficients: draw(0, 3), bases }, {}, RangeError, /coefficients: /);
  fails({ coefficients, bases }, { headAxis: 'both' }, RangeError, /headAxis: expected one of/);
  fails(
    { coefficients, bases },
    { seed: 1 },
    TypeError,
    /seed: expected none where bases are given/,
  );
  fails(
    { coefficients },
    { columns: 3 },
    TypeError,
    /rows: expected an integer where there are no bases/,
  );
  fails(
    { coefficients },
    { rows: 2 ** 20, columns: 2 ** 20 },
    RangeError,
    /rows: expected at most 2\^34/,
  );
  fails({ coefficients }, { rows: 2, columns: 2, seed: -1 }, RangeError, /seed: /);
  fails(
    { coefficients },
    { rows: 2, columns: 2, stream: 2 ** 32 - 2 },
    RangeError,
    /stream: .*for 3 bases/,
  );
  fails({ coefficients }, { rows: 2, columns: 2, deviation: -1 }, RangeError, /deviation: /);
  throwsWith(
    () => basisCombinationBackwardSync({ coefficients, bases, dSum: draw(6, 4) }),
    RangeError,
    /^\[basisCombinationBackward\] dSum: expected shape \[rows,columns\] = \[4,6\]/,
  );
  const [a, b, lambda, gamma] = [draw(2, 5), draw(3, 4, 2), draw(3, 2), draw(3, 5)];
  randLoraSync({ a, b, lambda, gamma });
  const randFails = (inputs: any, pattern: RegExp): void =>
    throwsWith(() => randLoraSync(inputs), RangeError, pattern);
  randFails(
    { a: draw(3, 5), b, lambda, gamma },
    /^\[randLora\] a: expected shape \[rank,in\] = \[2,5\]/,
  );
  randFails(
    { a: draw(2, 2, 5), b, lambda, gamma },
    /a: expected shape \[count,rank,in\] = \[3,2,5\]/,
  );
  randFails({ a, b, lambda: draw(2, 3), gamma }, /lambda: expected shape \[count,rank\] = \[3,2\]/);
  randFails({ a, b, lambda, gamma: draw(5) }, /gamma: expected shape/);
  throwsWith(
    () => randLoraBackwardSync({ a, b, lambda, gamma, dDelta: draw(5, 4) }),
    RangeError,
    /^\[randLoraBackward\] dDelta: expected shape \[out,in\] = \[4,5\]/,
  );
});

test.run();
