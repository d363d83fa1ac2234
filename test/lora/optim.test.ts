/** The optimiser rules against their papers' statements in float64. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { alloraGradient, alloraRowScale, loraPlusRates, loraProGradients } from '../../ts/index';
import { Random } from '../support/random.ts';
import type { Tensor32 } from '../support/tensor.ts';
import {
  add,
  distance,
  identity,
  inverse,
  type Matrix,
  multiply,
  norm,
  scaled,
  subtract,
  toMatrix,
  toTensor32,
  transpose,
} from './reference.ts';

function atMost(value: number, limit: number, label: string): void {
  assert.ok(value <= limit, `${label}: ${value}, at most ${limit}`);
}

const random = (rows: number, columns: number, seed: number): Tensor32 => ({
  data: new Random(seed).normals(rows * columns),
  shape: [rows, columns],
});

/** Projector on the columns of a. */
const onto = (a: Matrix): Matrix => multiply(a, inverse(multiply(transpose(a), a)), transpose(a));

interface Problem {
  a: Matrix;
  b: Matrix;
  full: Matrix;
  scale: number;
  dA: Matrix;
  dB: Matrix;
}

function problem(out: number, columns: number, rank: number, scale: number): Problem {
  const a = toMatrix(random(rank, columns, out + rank));
  const b = toMatrix(random(out, rank, columns + rank));
  const full = toMatrix(random(out, columns, 3));
  return {
    a,
    b,
    full,
    scale,
    dA: scaled(multiply(transpose(b), full), scale),
    dB: scaled(multiply(full, transpose(a)), scale),
  };
}

function adjusted({ a, b, dA, dB, scale }: Problem): { dA: Matrix; dB: Matrix } {
  const inputs = { a: toTensor32(a), b: toTensor32(b), dA: toTensor32(dA), dB: toTensor32(dB) };
  const result = loraProGradients(inputs, { scale });
  return { dA: toMatrix(result.dA), dB: toMatrix(result.dB) };
}

for (const [out, columns, rank, scale] of [
  [20, 30, 4, 2],
  [30, 20, 7, 0.5],
  [9, 9, 1, 1],
  [12, 10, 10, 1],
]) {
  const p = problem(out, columns, rank, scale);
  const name = `LoRA-Pro [${out},${columns}] of rank ${rank}`;

  test(`${name}: the step of the weight is the nearest to the full gradient`, () => {
    const { dA, dB } = adjusted(p);
    const step = add(scaled(multiply(p.b, dA), scale), scaled(multiply(dB, p.a), scale));
    const offB = subtract(identity(out), onto(p.b));
    const offA = subtract(identity(columns), onto(transpose(p.a)));
    const expected = subtract(p.full, multiply(offB, p.full, offA));
    atMost(distance(step, expected), 3e-6, 'projection');
    // Least squares: what is left is orthogonal to everything that the factors can do.
    const left = subtract(p.full, step);
    atMost(norm(multiply(transpose(p.b), left)) / norm(p.full), 1e-5, 'b^T (g - step)');
    atMost(norm(multiply(left, transpose(p.a))) / norm(p.full), 1e-5, '(g - step) a^T');
  });

  test(`${name}: theorem 2.1, and the X of theorem 2.3`, () => {
    const { a, b, dA, dB } = p;
    const result = adjusted(p);
    const bb = inverse(multiply(transpose(b), b));
    const aa = inverse(multiply(a, transpose(a)));
    const offB = subtract(identity(out), onto(b));
    const plainA = scaled(multiply(bb, dA), scale ** -2);
    const plainB = scaled(multiply(offB, dB, aa), scale ** -2);
    const x = multiply(subtract(result.dA, plainA), transpose(a), aa);
    atMost(distance(result.dA, add(plainA, multiply(x, a))), 1e-5, 'dA');
    atMost(distance(result.dB, subtract(plainB, multiply(b, x))), 1e-5, 'dB');
    const left = add(multiply(transpose(b), b, x), multiply(x, a, transpose(a)));
    const right = scaled(multiply(bb, dA, transpose(a)), -(scale ** -2));
    atMost(distance(left, right), 1e-4, 'Sylvester');
    // No other X is nearer to the gradients as they were.
    const cost = (y: Matrix): number =>
      norm(subtract(add(result.dA, multiply(y, a)), dA)) ** 2 +
      norm(subtract(subtract(result.dB, multiply(b, y)), dB)) ** 2;
    const none = cost(scaled(x, 0));
    for (let seed = 0; seed < 5; seed++) {
      const other = scaled(toMatrix(random(rank, rank, seed)), 1e-2);
      assert.ok(cost(other) > none * (1 - 1e-6));
    }
  });

  test(`${name}: the loss falls`, () => {
    const { dA, dB } = adjusted(p);
    const product = (x: Matrix, y: Matrix): number =>
      x.flat().reduce((sum, v, i) => sum + v * y.flat()[i], 0);
    assert.ok(product(dA, p.dA) + product(dB, p.dB) > 0);
  });
}

test('LoRA-Pro where LoRA starts, and with a factor of lower rank', () => {
  const p = problem(12, 16, 3, 2);
  const zero = { ...p, b: scaled(p.b, 0), dA: scaled(p.dA, 0) };
  const { dA, dB } = adjusted(zero);
  assert.is(norm(dA), 0);
  const aa = inverse(multiply(p.a, transpose(p.a)));
  atMost(distance(dB, scaled(multiply(p.dB, aa), 1 / 4)), 1e-6, 'dB');
  const b = p.b.map((row) => [row[0], row[1], row[1]]);
  const dA2 = scaled(multiply(transpose(b), p.full), 2);
  const result = adjusted({ ...p, b, dA: dA2 });
  const step = add(scaled(multiply(b, result.dA), 2), scaled(multiply(result.dB, p.a), 2));
  const offB = subtract(identity(12), onto(b.map((row) => row.slice(0, 2))));
  const offA = subtract(identity(16), onto(transpose(p.a)));
  const expected = subtract(p.full, multiply(offB, p.full, offA));
  atMost(distance(step, expected), 1e-5, 'projection');
});

test('LoRA+: the ratio is between the rates', () => {
  assert.equal(loraPlusRates({ lr: 0.5 }), { a: 0.5, b: 8 });
  assert.equal(loraPlusRates({ lr: 0.5, ratio: 4 }), { a: 0.5, b: 2 });
  assert.throws(() => loraPlusRates({ lr: 0 }), /\[loraPlusRates\] lr: expected a finite number/);
  assert.throws(() => loraPlusRates({ lr: 1, ration: 2 } as any), /nearest: ratio/);
});

test('ALLoRA: the factor of each output, and the gradients behind it', () => {
  const [out, columns, rank, eta] = [7, 11, 3, 4];
  const a = toMatrix(random(rank, columns, 1));
  const b = toMatrix(random(out, rank, 2)).map((row, i) => row.map((x) => (i === 2 ? 0 : x)));
  const factors = multiply(b, a).map((row) => 1 / Math.sqrt(Math.hypot(...row) + 1 / eta ** 2));
  const inputs = { a: toTensor32(a), b: toTensor32(b) };
  const scale = alloraRowScale(inputs, { eta });
  assert.equal(scale.shape, [out]);
  for (let i = 0; i < out; i++) atMost(Math.abs(scale.data[i] / factors[i] - 1), 1e-6, `${i}`);
  assert.is(scale.data[2], eta);
  const dY = toMatrix(random(5, out, 3));
  const result = alloraGradient({ ...inputs, dY: toTensor32(dY) }, { eta });
  const expected = dY.map((row) => row.map((x, i) => x * factors[i]));
  atMost(distance(toMatrix(result), expected), 1e-6, 'dY');
});

test('errors', () => {
  const [a, b] = [random(2, 5, 1), random(4, 2, 2)];
  const wrong = (run: () => unknown, pattern: RegExp) =>
    assert.throws(run, (e: Error) => pattern.test(e.message));
  wrong(
    () => loraProGradients({ a, b, dA: a, dB: a }),
    /\[loraProGradients\] dB: expected shape \[4,2\]/,
  );
  wrong(() => loraProGradients({ a, b, dA: a } as any), /dB: expected a tensor/);
  wrong(() => loraProGradients({ a, b, dA: a, dB: b }, { scale: -1 }), /scale: expected a finite/);
  wrong(() => alloraRowScale({ a, b }, {} as any), /\[alloraRowScale\] eta: expected a number/);
  wrong(() => alloraRowScale({ a, b: a }, { eta: 1 }), /b: expected shape \[rows,2\], got \[2,5\]/);
  wrong(() => alloraGradient({ a, b, dY: a }, { eta: 1 }), /dY: expected shape \[rows,4\]/);
});

test.run();
