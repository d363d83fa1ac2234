/** NF4, and the initialisers that work against a quantiser's rounding. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import {
  dequantiseNf4,
  initLoftq,
  initLqLora,
  nf4,
  type Quantiser,
  quantiseNf4,
} from '../../ts/index';
import { Random } from '../support/random.ts';
import type { Tensor32 } from '../support/tensor.ts';
import {
  add,
  deltaOf,
  distance,
  type Matrix,
  norm,
  subtract,
  svd,
  tail,
  toMatrix,
  toTensor32,
  truncated,
} from './reference.ts';

function atMost(value: number, limit: number, label: string): void {
  assert.ok(value <= limit, `${label}: ${value}, at most ${limit}`);
}

const random = (rows: number, columns: number, seed: number): Tensor32 => ({
  data: new Random(seed).normals(rows * columns),
  shape: [rows, columns],
});

/** QLoRA, appendix E. */
const VALUES = [
  -1.0, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.09105, 0, 0.0795803,
  0.1609302, 0.2461123, 0.3379152, 0.4407098, 0.562617, 0.7229568, 1.0,
];

test('NF4: its values stay as they are', () => {
  const data = Float32Array.from({ length: 128 }, (_, i) => 3 * VALUES[(i * 5) % 16]);
  const { codes, absmax } = quantiseNf4({ data, shape: [4, 32] });
  assert.equal([...absmax], [3, 3]);
  assert.is(codes.length, 64);
  assert.equal([codes[0] >> 4, codes[0] & 15, codes[1] >> 4], [0, 5, 10]);
  const back = dequantiseNf4({ codes, absmax, shape: [4, 32] });
  assert.equal(back.shape, [4, 32]);
  for (let i = 0; i < 128; i++) atMost(Math.abs(back.data[i] - data[i]), 1e-6, `${i}`);
});

test('NF4: the nearest value, in blocks of 64 over the ends of rows', () => {
  const weight = random(7, 29, 1); // 203 elements: three blocks and an odd rest
  const quantised = quantiseNf4(weight);
  assert.equal([quantised.codes.length, quantised.absmax.length], [102, 4]);
  const back = dequantiseNf4(quantised);
  for (let start = 0; start < 203; start += 64) {
    const block = weight.data.slice(start, start + 64);
    const largest = Math.max(...block.map(Math.abs));
    assert.is(quantised.absmax[start / 64], largest);
    for (const [i, x] of block.entries()) {
      const near = Math.min(...VALUES.map((value) => Math.abs(value * largest - x)));
      const off = Math.abs(back.data[start + i] - x);
      atMost(off - near, 1e-6 * largest, `element ${start + i}`);
    }
  }
  const zero = dequantiseNf4(quantiseNf4({ data: new Float32Array(6), shape: [2, 3] }));
  assert.equal([...zero.data], [0, 0, 0, 0, 0, 0]);
});

test('NF4: errors', () => {
  const weight = random(2, 5, 1);
  const { codes, absmax } = quantiseNf4(weight);
  const wrong = (quantised: any, pattern: RegExp) =>
    assert.throws(
      () => dequantiseNf4(quantised),
      (e: Error) => pattern.test(e.message),
    );
  wrong({ codes, absmax, shape: [2, 6] }, /\[dequantiseNf4\] codes: expected length 6, got 5/);
  wrong({ codes, absmax: [1], shape: [2, 5] }, /absmax: expected a Float32Array/);
  wrong({ codes, absmax, shape: [10] }, /shape: expected \[out,in\]/);
  assert.throws(() => quantiseNf4({ data: weight.data, shape: [10] }), /\[quantiseNf4\] weight/);
});

/** Rounds to multiples; what it returns is not a tensor. */
const coarse: Quantiser<{ steps: Int32Array; shape: readonly number[] }> = {
  quantise: ({ data, shape }) => ({
    steps: Int32Array.from(data, (x) => Math.round(x * 2)),
    shape,
  }),
  dequantise: ({ steps, shape }) => ({ data: Float32Array.from(steps, (x) => x / 2), shape }),
};

const EXACT = { oversample: 40 }; // a sketch as wide as the matrix

test('LoftQ: by turns the rounding of the rest and the best adapter for it', async () => {
  const weight = random(20, 34, 2);
  const w = toMatrix(weight);
  let expected: Matrix = w;
  let base: Matrix = w;
  const errors: number[] = [];
  for (let iterations = 1; iterations <= 4; iterations++) {
    base = toMatrix(dequantiseNf4(quantiseNf4(toTensor32(expected))));
    const exact = svd(subtract(w, base));
    const result = await initLoftq({ weight }, { rank: 5, scale: 2, iterations, ...EXACT });
    atMost(distance(toMatrix(result.base), base), iterations === 1 ? 1e-7 : 0.02, 'base');
    assert.equal(dequantiseNf4(result.quantised).data, result.base.data);
    const left = subtract(w, add(toMatrix(result.base), deltaOf(result.adapter)));
    errors.push(norm(left));
    const best = tail(svd(subtract(w, toMatrix(result.base))).s, 5);
    atMost(norm(left) / best, 1 + 1e-4, 'the best adapter for its base');
    expected = subtract(w, truncated(exact, 5));
  }
  const rounding = norm(subtract(w, toMatrix(dequantiseNf4(quantiseNf4(weight)))));
  atMost(errors[0] / rounding, 0.9, 'better than rounding alone');
  atMost(errors[3] / errors[0], 1, 'better by turns');
  const fifth = await initLoftq({ weight }, { rank: 5, ...EXACT });
  const explicit = { rank: 5, iterations: 5, quantiser: nf4, ...EXACT };
  assert.equal(fifth, await initLoftq({ weight }, explicit));
});

test('LoftQ: any quantiser', async () => {
  const weight = random(20, 20, 3);
  const { quantised, base, adapter } = await initLoftq(
    { weight },
    { rank: 3, iterations: 1, quantiser: coarse, ...EXACT },
  );
  assert.equal(quantised.steps, coarse.quantise(weight).steps);
  assert.equal(base.data, coarse.dequantise(quantised).data);
  const exact = svd(subtract(toMatrix(weight), toMatrix(base)));
  atMost(distance(deltaOf(adapter), truncated(exact, 3)), 1e-3, 'adapter');
});

test('LQ-LoRA: an adapter first, and the best of the search', async () => {
  const weight = random(20, 34, 4);
  const w = toMatrix(weight);
  const one = await initLqLora({ weight }, { rank: 5, scale: 2, iterations: 1, ...EXACT });
  atMost(distance(deltaOf(one.adapter), truncated(svd(w), 5)), 1e-3, 'the weight itself first');
  const rest = toTensor32(subtract(w, deltaOf(one.adapter)));
  const rounded = toMatrix(dequantiseNf4(quantiseNf4(rest)));
  atMost(distance(toMatrix(one.base), rounded), 0.01, 'rounding of the rest');
  const error = ({ base, adapter }: typeof one): number =>
    norm(subtract(w, add(toMatrix(base), deltaOf(adapter))));
  let last = error(one);
  for (let iterations = 2; iterations < 6; iterations++) {
    const next = error(await initLqLora({ weight }, { rank: 5, scale: 2, iterations, ...EXACT }));
    atMost(next, last, 'never worse');
    last = next;
  }
  const found = await initLqLora({ weight }, { rank: 5, ...EXACT });
  atMost(error(found), last * (1 + 1e-4), 'all of them');
  atMost(error(found) / error(one), 0.98, 'than the first');
});

test('LQ-LoRA: weights of the errors', async () => {
  const weight = random(18, 24, 5);
  const w = toMatrix(weight);
  const row = Array.from({ length: 18 }, (_, i) => 1.3 ** -i);
  const column = Array.from({ length: 24 }, (_, j) => 1.2 ** -j);
  // Of rank one the two roots are all there is to the weights: the first adapter is the best one.
  const fisher = toTensor32(row.map((x) => column.map((y) => x * y)));
  const weighted = (a: Matrix): Matrix =>
    a.map((r, i) => r.map((x, j) => x * Math.sqrt(row[i] * column[j])));
  const options = { rank: 4, scale: 3, ...EXACT };
  const first = await initLqLora({ weight, fisher }, { ...options, iterations: 1 });
  const left = norm(weighted(subtract(w, deltaOf(first.adapter))));
  atMost(left / tail(svd(weighted(w)).s, 4), 1 + 1e-4, 'the best adapter under weights');
  const error = ({ base, adapter }: typeof first): number =>
    norm(weighted(subtract(w, add(toMatrix(base), deltaOf(adapter)))));
  const plain = await initLqLora({ weight }, options);
  atMost(error(await initLqLora({ weight, fisher }, options)) / error(plain), 0.9, 'than without');
});

test('errors', async () => {
  const weight = random(6, 6, 1);
  const fails = async (run: () => Promise<unknown>, pattern: RegExp): Promise<void> => {
    const error = await run().then(
      () => undefined,
      (e) => e,
    );
    assert.instance(error, Error);
    assert.match(error.message, pattern);
  };
  const quantise = coarse.quantise;
  await fails(
    () => initLoftq({ weight }, { rank: 1, quantiser: { quantise } as any }),
    /\[initLoftq\] quantiser: expected an object with quantise\(\)/,
  );
  const short: Quantiser<number> = { quantise: () => 1, dequantise: () => random(2, 3, 1) };
  await fails(
    () => initLoftq({ weight }, { rank: 1, quantiser: short }),
    /quantiser: expected shape/,
  );
  await fails(() => initLoftq({ weight }, { rank: 1, iterations: 0 }), /iterations: .* at least 1/);
  const fisher = { data: new Float32Array(36).fill(1), shape: [6, 6] };
  fisher.data.fill(0, 6, 12);
  await fails(() => initLqLora({ weight, fisher }, { rank: 1 }), /fisher: expected no row/);
  fisher.data[3] = -1;
  await fails(() => initLqLora({ weight, fisher }, { rank: 1 }), /fisher: .* not negative/);
});

test.run();
