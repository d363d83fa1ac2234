/** The initialisers against the formulas of their papers in float64. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import * as rankone from '../../ts/index';
import { Random } from '../support/random.ts';
import type { Tensor32 } from '../support/tensor.ts';
import {
  add,
  columnsFrom,
  deltaOf,
  diagonal,
  distance,
  identity,
  inverse,
  multiply,
  norm,
  scaled,
  spectrum,
  subtract,
  svd,
  tail,
  toMatrix,
  toTensor32,
  transpose,
  truncated,
  withSpectrum,
} from './reference.ts';

const ROUNDING = 1e-6;

function atMost(value: number, limit: number, label: string): void {
  assert.ok(value <= limit, `${label}: ${value}, at most ${limit}`);
}

const random = (rows: number, columns: number, seed: number, deviation = 1): Tensor32 => ({
  data: new Random(seed).normals(rows * columns, deviation),
  shape: [rows, columns],
});

/** Shapes of weights: wide, tall, square. */
const SHAPES = [
  [24, 40],
  [40, 24],
  [32, 32],
];

function expectShapes(adapter: rankone.InitialAdapter, weight: Tensor32, rank: number): void {
  const [out, columns] = weight.shape;
  assert.equal(adapter.a.shape, [rank, columns]);
  assert.equal(adapter.b.shape, [out, rank]);
  for (const { data, shape } of [adapter.a, adapter.b]) assert.is(data.length, shape[0] * shape[1]);
}

function expectWhole(
  { adapter, base }: { adapter: rankone.InitialAdapter; base?: rankone.Tensor },
  weight: Tensor32,
): void {
  atMost(distance(add(toMatrix(base!), deltaOf(adapter)), toMatrix(weight)), ROUNDING, 'whole');
}

for (const [out, columns] of SHAPES) {
  const weight = withSpectrum(out, columns, spectrum(24), out);
  const exact = svd(toMatrix(weight));
  const options = { rank: 4, scale: 2 };
  const name = (paper: string): string => `${paper}, [${out},${columns}]`;

  test(name('PiSSA: the best approximation, balanced, and the weight in all'), async () => {
    const result = await rankone.initPissa({ weight }, options);
    const { a, b, scale } = result.adapter;
    assert.is(scale, 2);
    expectShapes(result.adapter, weight, 4);
    expectWhole(result, weight);
    atMost(distance(deltaOf(result.adapter), truncated(exact, 4)), 1e-5, 'product');
    atMost(norm(toMatrix(result.base)) / tail(exact.s, 4), 1 + ROUNDING, 'Eckart-Young');
    const lengths = exact.s.slice(0, 4).map((s) => s / 2);
    const [aa, bb] = [
      multiply(toMatrix(a), transpose(toMatrix(a))),
      multiply(transpose(toMatrix(b)), toMatrix(b)),
    ];
    atMost(distance(aa, diagonal(lengths)), 1e-5, 'a a^T = S / scale');
    atMost(distance(bb, diagonal(lengths)), 1e-5, 'b^T b = S / scale');
  });

  test(name('MiLoRA: the last singular values, and the weight in all'), async () => {
    const result = await rankone.initMilora({ weight }, options);
    expectShapes(result.adapter, weight, 4);
    expectWhole(result, weight);
    const most = Math.min(out, columns) - 4;
    const minor = subtract(toMatrix(weight), truncated(exact, most));
    const delta = deltaOf(result.adapter);
    atMost(norm(subtract(delta, minor)) / exact.s[0], ROUNDING, 'product');
    atMost(Math.abs(norm(delta) - tail(exact.s, most)), 1e-4 * exact.s[most - 1] + 1e-6, 'size');
  });

  test(name('SVFit: orthonormal factors around the singular values'), async () => {
    const result = await rankone.initSvfit({ weight }, options);
    const { a, b, mid } = result.adapter;
    expectShapes(result.adapter, weight, 4);
    expectWhole(result, weight);
    assert.equal(mid!.shape, [4]);
    for (let k = 0; k < 4; k++) atMost(Math.abs((mid!.data[k] * 2) / exact.s[k] - 1), 1e-5, 'mid');
    atMost(distance(multiply(toMatrix(a), transpose(toMatrix(a))), identity(4)), ROUNDING, 'a');
    atMost(distance(multiply(transpose(toMatrix(b)), toMatrix(b)), identity(4)), ROUNDING, 'b');
    atMost(distance(deltaOf(result.adapter), truncated(exact, 4)), 1e-5, 'product');
  });

  test(name('OLoRA: the first columns of Q and rows of R'), async () => {
    const result = await rankone.initOlora({ weight }, options);
    const [a, b] = [toMatrix(result.adapter.a), toMatrix(result.adapter.b)];
    expectShapes(result.adapter, weight, 4);
    expectWhole(result, weight);
    atMost(distance(multiply(transpose(b), b), identity(4)), ROUNDING, 'b orthonormal');
    for (let i = 0; i < 4; i++) {
      assert.ok(a[i][i] > 0);
      for (let j = 0; j < i; j++) assert.is(a[i][j], 0);
    }
    const w = toMatrix(weight);
    const first = columnsFrom(w, 0, 4);
    atMost(distance(multiply(b, columnsFrom(a, 0, 4)), first), ROUNDING, 'Q R = first columns');
    atMost(distance(a, multiply(transpose(b), w)), ROUNDING, 'R = Q^T W');
  });

  test(name('LoLDU: unit factors around the pivots'), async () => {
    const result = await rankone.initLoldu({ weight }, options);
    const { a, b, mid } = result.adapter;
    expectShapes(result.adapter, weight, 4);
    expectWhole(result, weight);
    assert.equal(mid!.shape, [4]);
    // Elimination leaves zeros in the first columns and in the pivots' rows.
    const rest = subtract(toMatrix(weight), scaled(deltaOf(result.adapter), 1 / 2));
    atMost(norm(columnsFrom(rest, 0, 4)), ROUNDING, 'eliminated columns');
    const pivots = [0, 1, 2, 3].map((k) => {
      const column = toMatrix(b).map((row) => row[k]);
      assert.ok(column.every((x) => Math.abs(x) <= 1));
      return column.findIndex(
        (x, i) =>
          x === 1 &&
          toMatrix(b)
            [i].slice(k + 1)
            .every((y) => y === 0),
      );
    });
    assert.is(new Set(pivots).size, 4);
    atMost(norm(pivots.map((i) => rest[i])), ROUNDING, 'eliminated rows');
    const u = toMatrix(a);
    for (let i = 0; i < 4; i++) {
      assert.is(u[i][i], 1);
      for (let j = 0; j < i; j++) assert.is(u[i][j], 0);
    }
  });

  test(name('NLoRA: the Nyström approximation'), async () => {
    const noisy = random(out, columns, 5);
    const result = await rankone.initNlora({ weight: noisy }, options);
    expectShapes(result.adapter, noisy, 4);
    expectWhole(result, noisy);
    const w = toMatrix(noisy);
    const block = inverse(columnsFrom(w.slice(0, 4), 0, 4));
    const expected = multiply(columnsFrom(w, 0, 4), block, w.slice(0, 4));
    atMost(distance(deltaOf(result.adapter), expected), 1e-5, 'C W^-1 R');
    const four = toTensor32(multiply(columnsFrom(w, 0, 4), w.slice(0, 4)));
    const whole = await rankone.initNlora({ weight: four }, options);
    atMost(norm(toMatrix(whole.base!)) / norm(toMatrix(four)), 1e-5, 'nothing left of rank 4');
    const plain = await rankone.initNlora({ weight: noisy }, { ...options, mid: 'block' });
    assert.is(plain.base, undefined);
    assert.equal(toMatrix(plain.adapter.mid!), columnsFrom(w.slice(0, 4), 0, 4));
    assert.equal(toMatrix(plain.adapter.a), w.slice(0, 4));
    assert.equal(toMatrix(plain.adapter.b), columnsFrom(w, 0, 4));
    const both = await rankone.initNlora(
      { weight: noisy },
      { ...options, mid: 'block', residual: true },
    );
    expectWhole(both, noisy);
  });

  test(name('LoRA-GA: singular vectors of the gradient'), async () => {
    const gradient = withSpectrum(out, columns, spectrum(24), 77);
    const { u, v } = svd(toMatrix(gradient));
    const stable = out ** 0.25 / 4;
    const weightS = svd(toMatrix(weight)).s;
    const mean = weightS.slice(0, 4).reduce((sum, s) => sum + Math.sqrt(s / 2) / 4, 0);
    for (const [direction, ofA, ofB] of [
      ['ArB2r', [0, 1, 2, 3], [4, 5, 6, 7]],
      ['A2rBr', [4, 5, 6, 7], [0, 1, 2, 3]],
      ['ArBr', [1, 3, 5, 7], [0, 2, 4, 6]],
    ] as const)
      for (const [magnitude, length] of [
        ['stable', stable],
        ['gd', 1 / 2],
        ['unit', 1],
        ['weight', mean],
      ] as const) {
        const chosen = { ...options, direction, magnitude };
        const result = await rankone.initLoraGa({ weight, gradient }, chosen);
        expectShapes(result.adapter, weight, 4);
        expectWhole(result, weight);
        const [a, b] = [toMatrix(result.adapter.a), toMatrix(result.adapter.b)];
        const alongA = multiply(a, v);
        const alongB = multiply(transpose(b), u);
        for (let k = 0; k < 4; k++) {
          const label = `${direction} ${magnitude} ${k}`;
          atMost(Math.abs(Math.abs(alongA[k][ofA[k]]) / length - 1), 1e-4, `a, ${label}`);
          atMost(Math.abs(Math.abs(alongB[k][ofB[k]]) / length - 1), 1e-4, `b, ${label}`);
          atMost(Math.abs(Math.hypot(...a[k]) / length - 1), 1e-5, `length, ${label}`);
        }
      }
    const defaults = await rankone.initLoraGa({ weight, gradient }, options);
    const explicit = { ...options, direction: 'ArB2r', magnitude: 'stable', gamma: 16 } as const;
    assert.equal(defaults, await rankone.initLoraGa({ weight, gradient }, explicit));
    // The first update of b a, from the factors' gradients, is the gradient on their 2r directions.
    const [a, b] = [toMatrix(defaults.adapter.a), toMatrix(defaults.adapter.b)];
    const g = toMatrix(gradient);
    const update = add(multiply(b, transpose(b), g), multiply(g, transpose(a), a));
    const best = truncated(svd(g), 8);
    atMost(distance(scaled(update, stable ** -2), best), 1e-4, 'first update');
  });

  test(name('LoRA-SB: the best approximation of the first step'), async () => {
    const gradient = random(out, columns, 6);
    for (const [step, update] of [
      ['sign', toMatrix(gradient).map((row) => row.map((x) => -0.01 * Math.sign(x)))],
      ['gradient', scaled(toMatrix(gradient), -0.01)],
    ] as const) {
      const all = { ...options, learningRate: 0.01, step, oversample: 40 };
      const { adapter, ...rest } = await rankone.initLoraSb({ gradient }, all);
      assert.equal(rest, {});
      expectShapes(adapter, gradient, 4);
      assert.equal(adapter.mid!.shape, [4, 4]);
      atMost(distance(deltaOf(adapter), truncated(svd(update), 4)), 1e-4, step);
      const [a, b] = [toMatrix(adapter.a), toMatrix(adapter.b)];
      atMost(distance(multiply(a, transpose(a)), identity(4)), ROUNDING, 'a');
      atMost(distance(multiply(transpose(b), b), identity(4)), ROUNDING, 'b');
    }
  });

  test(name('CorDA: the part of the weight that the inputs see'), async () => {
    const x = toMatrix(random(200, columns, 8)).map((row) => row.map((y, j) => y * 0.9 ** j));
    const covariance = toTensor32(scaled(multiply(transpose(x), x), 1 / 200));
    const noisy = random(out, columns, 9);
    const result = await rankone.initCorda(
      { weight: noisy, covariance },
      { ...options, oversample: 40 },
    );
    expectShapes(result.adapter, noisy, 4);
    expectWhole(result, noisy);
    const c = toMatrix(covariance);
    const mean = c.reduce((sum, row, i) => sum + row[i] / columns, 0);
    const damped = add(c, scaled(identity(columns), 0.01 * mean));
    const w = toMatrix(noisy);
    const { u, s, v } = svd(multiply(w, damped));
    const least = await rankone.initCorda(
      { weight: noisy, covariance },
      { ...options, mode: 'knowledge', powerIterations: 20 },
    );
    expectWhole(least, noisy);
    const taken = multiply(deltaOf(least.adapter), damped);
    const last = subtract(multiply(w, damped), truncated({ u, s, v }, s.length - 4));
    atMost(norm(subtract(taken, last)) / s[0], ROUNDING, 'the least of W C');
    const expected = multiply(truncated({ u, s, v }, 4), inverse(damped));
    atMost(distance(deltaOf(result.adapter), expected), 1e-4, 'U S V^T C^-1');
    const seen = norm(multiply(toMatrix(result.base), damped));
    atMost(seen / tail(s, 4), 1 + 1e-5, 'least of W C left in the base');
    const b = toMatrix(result.adapter.b);
    const lengths = diagonal(s.slice(0, 4).map((y) => y / 2));
    atMost(distance(multiply(transpose(b), b), lengths), 1e-4, 'b^T b = S / scale');
  });
}

test('CorDA: a covariance of few inputs and no damping', async () => {
  const weight = random(12, 20, 1);
  const x = toMatrix(random(2, 20, 2));
  const covariance = toTensor32(multiply(transpose(x), x));
  const result = await rankone.initCorda({ weight, covariance }, { rank: 4, damp: 0 });
  expectWhole(result, weight);
  const seen = multiply(toMatrix(result.base), transpose(x));
  atMost(norm(seen) / norm(multiply(toMatrix(weight), transpose(x))), 1e-5, 'left in the base');
});

test('CorDA: what inputs speak to least of a weight that has none of it', async () => {
  for (const [out, columns] of SHAPES) {
    const weight = withSpectrum(out, columns, spectrum(10), 4);
    const covariance = toTensor32(identity(columns));
    const result = await rankone.initCorda({ weight, covariance }, { rank: 4, mode: 'knowledge' });
    expectWhole(result, weight);
    atMost(norm(deltaOf(result.adapter)), ROUNDING, `adapter, [${out},${columns}]`);
    assert.ok(result.adapter.a.data.every((x) => Math.abs(x) < 1e-2));
  }
});

test('LoRA and SLoRA: nothing is added before training', async () => {
  const sizes = { inFeatures: 100, outFeatures: 30 };
  const { adapter } = await rankone.initLora(sizes, { rank: 5, scale: 3, seed: 1 });
  assert.equal([adapter.a.shape, adapter.b.shape, adapter.scale], [[5, 100], [30, 5], 3]);
  assert.ok(adapter.b.data.every((x) => x === 0));
  const [least, most] = [Math.min(...adapter.a.data), Math.max(...adapter.a.data)];
  assert.ok(least >= -0.1 && least < -0.095 && most < 0.1 && most > 0.095, `${least}, ${most}`);
  const gaussian = await rankone.initLora(sizes, { rank: 5, distribution: 'gaussian' });
  const deviation = Math.hypot(...gaussian.adapter.a.data) / Math.sqrt(500);
  assert.ok(Math.abs(deviation - 0.2) < 0.02, `${deviation}`);
  const again = await rankone.initLora(sizes, { rank: 5, scale: 3, seed: 1 });
  assert.equal(again.adapter, adapter);
  const slora = (await rankone.initSlora(sizes, { rank: 5, seed: 1 })).adapter;
  assert.equal(slora.a, adapter.a);
  assert.equal(slora.mid!.shape, [5, 5]);
  assert.ok(slora.mid!.data.every((x) => x !== 0 && Math.abs(x) <= 1 / Math.sqrt(5)));
  assert.ok(slora.b.data.every((x) => x === 0));
});

test('errors name the function and the argument', async () => {
  const weight = random(6, 8, 1);
  const fails = async (run: () => Promise<unknown>, pattern: RegExp): Promise<void> => {
    const error = await run().then(
      () => undefined,
      (e) => e,
    );
    assert.instance(error, Error);
    assert.match(error.message, pattern);
  };
  const all = rankone as any;
  for (const name of ['initPissa', 'initSvfit', 'initOlora', 'initLoldu', 'initNlora']) {
    const says = (text: string) => new RegExp(`^\\[${name}\\] ${text}`);
    await fails(() => all[name]({ weight }, { rank: 7 }), says('rank: expected an integer from 1'));
    await fails(
      () => all[name]({ weight }, { rank: 1, scale: 0 }),
      says('scale: expected a finite'),
    );
    await fails(() => all[name]({ weight }, { rank: 1, alpha: 2 }), says('alpha: expected one of'));
    await fails(
      () => all[name]({ weigth: weight }, { rank: 1 }),
      says('weigth: .*nearest: weight'),
    );
    await fails(() => all[name]({}, { rank: 1 }), says('weight: expected a tensor'));
    await fails(() => all[name]({ weight }), says('options: expected an object'));
  }
  const gradient = random(6, 7, 1);
  await fails(() => rankone.initLoraGa({ weight, gradient: weight }, { rank: 4 }), /from 1 to 3/);
  await fails(
    () => rankone.initLoraGa({ weight, gradient }, { rank: 2 }),
    /gradient: expected shape \[6,8\], got \[6,7\]/,
  );
  await fails(
    () => all.initLoraGa({ weight, gradient: weight }, { rank: 2, direction: 'up' }),
    /direction: expected one of 'ArB2r'/,
  );
  await fails(() => all.initLoraSb({ gradient }, { rank: 2 }), /learningRate: expected a number/);
  await fails(
    () => rankone.initCorda({ weight, covariance: weight }, { rank: 2 }),
    /covariance: expected shape \[8,8\]/,
  );
  const zero = { data: new Float32Array(48), shape: [6, 8] };
  await fails(() => rankone.initLoldu({ weight: zero }, { rank: 2 }), /pivots, got zero at 0/);
  await fails(() => all.initLora({ inFeatures: 3 }, { rank: 2 }), /outFeatures: expected an int/);
});

test.run();
