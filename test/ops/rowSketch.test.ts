/** rowSketch against its float64 reference, and its gradient against the exact one on average. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { rowSketchGradientSync, rowSketchSync } from '../../ts/index';
import { normals as philoxNormals } from '../../ts/linalg/philox';
import * as reference from '../reference/companions.ts';
import { hold } from '../support/companions.ts';
import type { FloatDtype } from '../support/half.ts';
import { normals } from '../support/layers.ts';
import type { Tensor32 } from '../support/tensor.ts';
import { sizeOf } from '../support/tensor.ts';
import { throwsWith } from './helpers.ts';

const test = suite('rowSketch');

function randomMatrix(
  rows: number,
  size: number,
  options: { seed?: number; stream?: number },
): Tensor32 {
  const { seed = 0, stream = 0 } = options;
  const data = philoxNormals(rows * size, { seed, stream, deviation: 1 / Math.sqrt(size) });
  return { data, shape: [rows, size] };
}

/** [leading dimensions, in, out, size] */
const CASES: [number[], number, number, number][] = [
  [[1], 1, 1, 1],
  [[], 5, 3, 2],
  [[2, 3], 33, 20, 7],
  [[300], 40, 50, 33],
  [[2500], 20, 9, 5],
  [[0], 4, 3, 2],
  [[3], 0, 4, 2],
];

for (const [lead, inFeatures, out, size] of CASES) {
  test(`x [${[...lead, inFeatures]}], dY [...,${out}], size ${size}`, async () => {
    const draw = normals(inFeatures + size);
    const [x, dY] = [draw(...lead, inFeatures), draw(...lead, out)];
    for (const options of [{}, { seed: 2 ** 40 + 3, stream: 17 }]) {
      const s = randomMatrix(sizeOf(lead), size, options);
      for (const dtype of ['f32', 'bf16', 'f16'] as FloatDtype[]) {
        const { sketch } = await hold('rowSketch', dtype, {
          inputs: { x },
          dtypes: { x: dtype },
          options: { ...options, size },
          reference: (seen) => reference.rowSketch(seen.x, s),
        });
        await hold('rowSketchGradient', dtype, {
          inputs: { dY, sketch: sketch as Tensor32 },
          dtypes: { dY: dtype },
          options,
          reference: (seen) => reference.rowSketchGradient(seen.dY, seen.sketch, s),
        });
      }
    }
  });
}

test('the estimate is unbiased and has the variance that its documentation states', () => {
  const [M, inFeatures, out, size] = [40, 3, 2, 8];
  const draw = normals(1);
  const [x, dY] = [draw(M, inFeatures), draw(M, out)];
  const exact = new Float64Array(out * inFeatures);
  for (let m = 0; m < M; m++)
    for (let i = 0; i < out; i++)
      for (let j = 0; j < inFeatures; j++)
        exact[i * inFeatures + j] += dY.data[m * out + i] * x.data[m * inFeatures + j];
  const square = (v: ArrayLike<number>) => Array.from(v).reduce((sum, e) => sum + e * e, 0);
  const variance = (square(x.data) * square(dY.data) + square(exact)) / size;
  const rounds = 4000;
  const mean = new Float64Array(exact.length);
  let error = 0;
  for (let seed = 0; seed < rounds; seed++) {
    const { sketch } = rowSketchSync({ x }, { size, seed });
    const { dWeight } = rowSketchGradientSync({ dY, sketch }, { seed });
    const off = Array.from(dWeight.data, (d, i) => d - exact[i]);
    error += square(off) / rounds;
    off.forEach((d, i) => {
      mean[i] += d / rounds;
    });
  }
  assert.ok(Math.abs(error / variance - 1) < 0.1, `squared error ${error}, stated ${variance}`);
  assert.ok(
    square(mean) < (3 * variance) / rounds,
    `the mean is off by ${Math.sqrt(square(mean))}`,
  );
});

test('bad input', () => {
  const draw = normals(7);
  const x = draw(4, 5);
  const fails = (options: any, kind: any, pattern: RegExp): void =>
    throwsWith(() => rowSketchSync({ x }, options), kind, pattern);
  fails({}, TypeError, /^\[rowSketch\] size: expected an integer, got none/);
  fails({ size: 0 }, RangeError, /size: expected an integer from 1/);
  fails({ size: 2, seed: 2 ** 53 }, RangeError, /seed: /);
  fails({ size: 2, stream: 2 ** 32 }, RangeError, /stream: /);
  fails({ size: 2, deviation: 1 }, TypeError, /deviation: /);
  throwsWith(
    () => rowSketchGradientSync({ dY: x, sketch: draw(3) }),
    RangeError,
    /^\[rowSketchGradient\] sketch: expected shape \[size,in\]/,
  );
  throwsWith(
    () => rowSketchGradientSync({ dY: x, sketch: draw(0, 3) }),
    RangeError,
    /sketch: expected shape/,
  );
});

test.run();
