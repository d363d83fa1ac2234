/** `compute: 'int8'`: against the same rounding in plain code, exactly where sums are, and on its own terms. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import {
  createAdapterBank,
  info,
  loraLinearSync,
  packQuantisedSync,
  packWeightSync,
  setNumThreads,
} from '../../ts/index';
import { Random } from '../support/random.ts';
import { throwsWith } from './helpers.ts';

const test = suite("loraLinear: compute 'int8'");
const hasDot = info().isa === 'avx512bf16';
const withDot = hasDot ? test : test.skip;

interface Sizes {
  rows: number;
  inFeatures: number;
  outFeatures: number;
}

function make({ rows, inFeatures, outFeatures }: Sizes, seed: number) {
  const random = new Random(seed);
  const codes = Int8Array.from(
    { length: outFeatures * inFeatures },
    () => random.integer(255) - 127,
  );
  const scales = random.uniforms(outFeatures, 0.001, 0.1);
  const x = random.uniforms(rows * inFeatures, -3, 3);
  const base = packQuantisedSync({
    format: 'int8',
    codes,
    scales,
    shape: [outFeatures, inFeatures],
  });
  return { codes, scales, x, base, random };
}

/** Codes of a row of x as float32 arithmetic rounds them, and what one of them stands for. */
function roundRow(row: Float32Array): { codes: number[]; step: number } {
  const largest = row.reduce((m, v) => Math.max(m, Math.abs(v)), 0);
  const inverse = largest > 0 ? Math.fround(127 / largest) : 0;
  const codes = Array.from(row, (v) => {
    const exact = Math.fround(v * inverse);
    const down = Math.floor(exact);
    const rest = exact - down;
    return rest > 0.5 || (rest === 0.5 && down % 2 !== 0) ? down + 1 : down;
  });
  return { codes, step: Math.fround(largest / 127) };
}

withDot('equals its own formula to the last roundings', () => {
  for (const inFeatures of [1, 3, 4, 5, 63, 64, 65, 300, 2049, 9001])
    for (const rows of [1, 2, 7, 13, 40]) {
      const outFeatures = inFeatures > 2000 ? 35 : 67;
      const { codes, scales, x, base } = make({ rows, inFeatures, outFeatures }, rows + inFeatures);
      const { y } = loraLinearSync(
        { x: { data: x, shape: [rows, inFeatures] }, base },
        { compute: 'int8' },
      );
      for (let m = 0; m < rows; m++) {
        const row = roundRow(x.subarray(m * inFeatures, (m + 1) * inFeatures));
        for (let n = 0; n < outFeatures; n++) {
          let sum = 0;
          for (let k = 0; k < inFeatures; k++) sum += row.codes[k] * codes[n * inFeatures + k];
          const wanted = sum * row.step * scales[n];
          const error = Math.abs(y.data[m * outFeatures + n] - wanted);
          assert.ok(error <= 3e-7 * Math.abs(wanted), `${inFeatures}, row ${m}, column ${n}`);
        }
      }
      base.dispose();
    }
});

withDot("a row's bits depend neither on others, which may be NaN, nor on threads", () => {
  const sizes = { rows: 50, inFeatures: 257, outFeatures: 100 };
  const { x, base, random } = make(sizes, 1);
  const bank = createAdapterBank({ inFeatures: sizes.inFeatures, outFeatures: sizes.outFeatures });
  const id = bank.load({
    a: { data: random.normals(5 * 257), shape: [5, 257] },
    b: { data: random.normals(100 * 5), shape: [100, 5] },
  });
  x.fill(Number.NaN, 3 * 257, 4 * 257);
  x[8 * 257 + 5] = Number.POSITIVE_INFINITY;
  const ids = Int32Array.from({ length: 50 }, (_, m) => (m % 3 === 0 ? -1 : id));
  const run = (first: number, count: number) =>
    loraLinearSync(
      {
        x: { data: x.subarray(first * 257, (first + count) * 257), shape: [count, 257] },
        base,
        bank,
        routing: { kind: 'tokens', ids: ids.subarray(first, first + count) },
      },
      { compute: 'int8' },
    ).y.data;
  const whole = run(0, 50);
  for (const threads of [1, 3]) {
    setNumThreads(threads);
    assert.equal(new Uint32Array(run(0, 50).buffer), new Uint32Array(whole.buffer));
  }
  for (let m = 0; m < 50; m++) {
    const alone = run(m, 1);
    const inBatch = whole.slice(m * 100, (m + 1) * 100);
    assert.equal(new Uint32Array(alone.buffer), new Uint32Array(inBatch.buffer), `row ${m}`);
    const finite = alone.every((v) => Number.isFinite(v));
    assert.is(finite, m !== 3 && m !== 8, `row ${m}`);
  }
  bank.dispose();
});

withDot('adapters are as exact as with bf16, and rows of zeros are zeros', () => {
  const sizes = { rows: 20, inFeatures: 128, outFeatures: 64 };
  const { x, base, random } = make(sizes, 2);
  const bank = createAdapterBank({ inFeatures: sizes.inFeatures, outFeatures: sizes.outFeatures });
  const id = bank.load({
    a: { data: random.normals(16 * 128), shape: [16, 128] },
    b: { data: random.normals(64 * 16), shape: [64, 16] },
    scale: 2,
  });
  const inputs = { x: { data: x, shape: [20, 128] }, bank, routing: { kind: 'one', id } } as const;
  const alone = loraLinearSync({ x: inputs.x, base }, { compute: 'int8' }).y.data;
  const both = loraLinearSync({ ...inputs, base }, { compute: 'int8' }).y.data;
  const delta = loraLinearSync({ ...inputs, base: null }, { compute: 'bf16' }).y.data;
  let error = 0;
  let norm = 0;
  for (let i = 0; i < both.length; i++) {
    error += (both[i] - alone[i] - delta[i]) ** 2;
    norm += delta[i] ** 2;
  }
  assert.ok(Math.sqrt(error / norm) < 1e-5);
  const zeros = { data: new Float32Array(128), shape: [1, 128] };
  const { y } = loraLinearSync({ x: zeros, base }, { compute: 'int8' });
  assert.ok(y.data.every((v) => v === 0));
  bank.dispose();
});

withDot('rows of the least numbers keep their codes', () => {
  const { x, base } = make({ rows: 1, inFeatures: 70, outFeatures: 40 }, 3);
  const run = (factor: number) =>
    loraLinearSync(
      { x: { data: x.map((v) => v * factor), shape: [1, 70] }, base },
      { compute: 'int8' },
    ).y.data;
  const wanted = run(1);
  const most = wanted.reduce((m, v) => Math.max(m, Math.abs(v)), 0);
  for (const exponent of [-90, -99, -101, -118, -123, -126, -130])
    for (const [n, y] of run(2 ** exponent).entries())
      assert.ok(Math.abs(y / 2 ** exponent - wanted[n]) < 1e-3 * most, `2^${exponent}, ${n}: ${y}`);
});

withDot('as many columns as integer sums hold, and no more', () => {
  const run = (inFeatures: number) => {
    const base = packQuantisedSync({
      format: 'int8',
      codes: new Int8Array(inFeatures).fill(-128),
      scales: Float32Array.of(1),
      shape: [1, inFeatures],
    });
    const x = { data: new Float32Array(inFeatures).fill(127), shape: [1, inFeatures] };
    return loraLinearSync({ x, base }, { compute: 'int8' }).y.data[0];
  };
  assert.is(run(2 ** 17), -128 * 127 * 2 ** 17);
  throwsWith(
    () => run(2 ** 17 + 1),
    RangeError,
    /^\[loraLinear\] compute: expected 'f32' or 'bf16' where in = 131073 is more than 131072/,
  );
});

test('is refused where there are no codes, or no dot product', () => {
  const x = { data: new Float32Array(8), shape: [1, 8] };
  const weight = { data: new Float32Array(32).fill(1), shape: [4, 8] };
  for (const format of ['f32', 'bf16', 'q8', 'nf4'] as const)
    throwsWith(
      () => loraLinearSync({ x, base: packWeightSync(weight, { format }) }, { compute: 'int8' }),
      RangeError,
      /^\[loraLinear\] compute: expected 'f32' or 'bf16' unless base has format 'int8', got 'int8'/,
    );
  throwsWith(
    () => loraLinearSync({ x, base: 'identity' }, { compute: 'int8' }),
    RangeError,
    /^\[loraLinear\] compute: /,
  );
  const base = packWeightSync(weight, { format: 'int8' });
  if (hasDot) return;
  throwsWith(
    () => loraLinearSync({ x, base }, { compute: 'int8' }),
    RangeError,
    /^\[loraLinear\] compute: expected 'f32' on this instruction set/,
  );
});

test.run();
