/** matmul of half-width factors at the sizes where its kernels are cut, and with products in bf16. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { info } from '../../ts/index';
import { matmul, matmulBackward } from '../reference/layers.ts';
import { contract } from '../support/compare.ts';
import type { FloatDtype } from '../support/half.ts';
import { decode, encode, halfDtypes, round, toBits } from '../support/half.ts';
import type { Results } from '../support/layers.ts';
import { call, expectNear, normals } from '../support/layers.ts';
import type { AnyTensor } from '../support/native.ts';
import { native } from '../support/native.ts';
import type { Tensor32 } from '../support/tensor.ts';
import { throwsWith } from './helpers.ts';

const DTYPES: readonly FloatDtype[] = ['f32', ...halfDtypes];
const hasDot = info().isa === 'avx512bf16';

/** [batch, M, N, K]: slabs, blocks of K, chunks, groups of a batch, every count of narrow rows. */
const CUTS = [
  [1, 1100, 9, 2048],
  [1, 20, 33, 2100],
  [1, 14, 40, 4100],
  [1, 2, 700, 900],
  [1, 700, 3, 900],
  [90, 33, 17, 20],
  [3, 1, 300, 200],
  ...Array.from({ length: 9 }, (_, i) => [1, i + 1, 37, 50 + i]),
  ...Array.from({ length: 9 }, (_, i) => [2, 37, i + 1, 50 + i]),
];

interface Factors {
  a: Tensor32;
  b: Tensor32;
  dY: Tensor32;
}

function draw([batch, M, N, K]: number[], transposeA: boolean, transposeB: boolean): Factors {
  const next = normals(batch + M + 3 * N + 7 * K);
  const lead = batch === 1 ? [] : [batch];
  return {
    a: next(...lead, ...(transposeA ? [K, M] : [M, K])),
    b: next(...lead, ...(transposeB ? [N, K] : [K, N])),
    dY: next(...lead, M, N),
  };
}

function encodeAll(dtype: FloatDtype, { a, b, dY }: Factors) {
  return { a: encode(dtype, a), b: encode(dtype, b), dY: encode(dtype, dY) };
}

function decodeAll<T extends object>(tensors: T): { [P in keyof T]: Tensor32 } {
  const all = Object.entries(tensors).map(([name, x]) => [name, decode(x as AnyTensor)]);
  return Object.fromEntries(all);
}

const limitOf = (dtype: FloatDtype): number => (dtype === 'f32' ? 2e-6 : contract[dtype].o[0][1]);

const test = suite('matmul, dtypes');

for (const dtype of halfDtypes) {
  for (const transposeA of [false, true]) {
    for (const transposeB of [false, true]) {
      test(`${dtype}, every cut, ${JSON.stringify({ transposeA, transposeB })}`, async () => {
        for (const size of CUTS) {
          const { a, b, dY } = encodeAll(dtype, draw(size, transposeA, transposeB));
          const seen = decodeAll({ a, b, dY });
          const options = { transposeA, transposeB };
          const label = `[${size}]`;
          const y = decodeAll(await call('matmul', { a, b }, options)) as unknown as Results;
          expectNear(label, y, { y: matmul(seen, options) }, limitOf(dtype));
          const expected = matmulBackward({ ...seen, dOut: seen.dY }, options);
          const grads = await call('matmulBackward', { a, b, dY }, options);
          expectNear(label, grads, { ...expected }, 2e-6);
          const rounded = native.matmulBackwardSync(
            { a, b, dY },
            { ...options, gradDtype: 'input', withBias: true },
          );
          for (const name of ['da', 'db']) {
            assert.is(rounded[name].dtype, dtype);
            const once = Uint16Array.from((encode(dtype, grads[name]) as AnyTensor).data);
            assert.equal(rounded[name].data, once, `${label}: ${name} is rounded once`);
          }
          assert.is(rounded.dBias.dtype, dtype);
        }
      });
    }
  }

  test(`${dtype}, a result of several bands of columns`, () => {
    const next = normals(4);
    const [M, N] = [2200, 2100];
    const [a, b] = [encode(dtype, next(M, 1)), encode(dtype, next(1, N))];
    const [rows, columns] = [decode(a).data, decode(b).data];
    const y = native.matmulSync({ a, b }).y.data;
    for (let i = 0; i < M; i += 31)
      for (let j = 0; j < N; j++)
        assert.is(y[i * N + j], toBits(dtype, Math.fround(rows[i] * columns[j])), `[${i},${j}]`);
  });

  test(`${dtype}, a factor shared by the batch`, async () => {
    for (const [leadA, leadB] of [
      [[3], []],
      [[], [3]],
    ]) {
      const next = normals(11);
      const [a, b] = [encode(dtype, next(...leadA, 40, 50)), encode(dtype, next(...leadB, 50, 30))];
      const dY = encode(dtype, next(3, 40, 30));
      const seen = decodeAll({ a, b, dY });
      const expected = matmulBackward({ ...seen, dOut: seen.dY });
      expectNear('gradients', await call('matmulBackward', { a, b, dY }), { ...expected }, 2e-6);
    }
  });
}

if (hasDot) {
  for (const dtype of DTYPES) {
    test(`products in bf16, ${dtype}`, async () => {
      for (const transposeA of [false, true]) {
        for (const transposeB of [false, true]) {
          const options = { transposeA, transposeB, compute: 'bf16' };
          for (const size of [[1, 130, 70, 33], [2, 25, 31, 64], [1, 13, 40, 1], ...CUTS]) {
            const factors = draw(size, transposeA, transposeB);
            const { a, b, dY } = encodeAll(dtype, factors);
            // What the products see: operands in their dtype, then in bf16.
            const seen = decodeAll({ a, b, dY });
            for (const x of Object.values(seen)) x.data = x.data.map((v) => round('bf16', v));
            const label = `[${size}] ${JSON.stringify(options)}`;
            const y = decodeAll(await call('matmul', { a, b }, options)) as unknown as Results;
            expectNear(label, y, { y: matmul(seen, options) }, limitOf(dtype));
            const grads = await call('matmulBackward', { a, b, dY }, options);
            const expected = matmulBackward({ ...seen, dOut: seen.dY }, options);
            expectNear(label, grads, { ...expected }, 2e-6);
          }
        }
      }
    });
  }

  test('products in bf16 keep infinities and NaN', () => {
    const ones = (rows: number, columns: number): Tensor32 => {
      return { data: new Float32Array(rows * columns).fill(1), shape: [rows, columns] };
    };
    for (const rows of [2, 20]) {
      const a = ones(rows, 5);
      a.data.set([Number.NaN, 1, 1, 1, 1, 1, 1, 1, 1, Number.NEGATIVE_INFINITY]);
      const y = native.matmulSync({ a, b: ones(5, 3) }, { compute: 'bf16' }).y.data;
      assert.equal([...y.slice(0, 3)], [Number.NaN, Number.NaN, Number.NaN]);
      assert.equal([...y.slice(3, 6)], Array(3).fill(Number.NEGATIVE_INFINITY));
      assert.equal([...y.slice(6)], Array(3 * (rows - 2)).fill(5));
    }
  });
} else {
  test('products in bf16 need their instructions', () => {
    const { a, b, dY } = draw([1, 2, 3, 4], false, false);
    const { isa } = info();
    const pattern = new RegExp(
      `compute: expected 'f32' on this instruction set \\(${isa}\\), got 'bf16'$`,
    );
    for (const [name, inputs] of [
      ['matmul', { a, b }],
      ['matmulBackward', { a, b, dY }],
    ] as const)
      throwsWith(() => native[`${name}Sync`](inputs, { compute: 'bf16' }), RangeError, pattern);
  });
}

test.run();
