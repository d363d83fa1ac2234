/** matmul against its float64 reference: every transpose, batches, tails of every tile, the narrow products of a decode. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { matmulBackwardSync, matmulSync } from '../../ts/index';
import { matmul, matmulBackward } from '../reference/layers.ts';
import { call, expectNear, normals } from '../support/layers.ts';
import { throwsWith } from './helpers.ts';

const test = suite('matmul');

const SIZES = [
  [1, 1, 1],
  [1, 70, 33],
  [3, 41, 50],
  [8, 100, 40],
  [40, 5, 61],
  [90, 1, 30],
  [9, 9, 9],
  [13, 33, 17],
  [25, 31, 800],
  [50, 64, 70],
  [130, 70, 40],
] as const;

/** Leading dimensions of a and b. */
const BATCHES = [
  [[], []],
  [
    [2, 3],
    [2, 3],
  ],
  [[3], []],
  [[], [3]],
];

for (const transposeA of [false, true]) {
  for (const transposeB of [false, true]) {
    const options = { transposeA, transposeB };
    test(`op(a) op(b), ${JSON.stringify(options)}`, async () => {
      for (const [M, N, K] of SIZES) {
        for (const [leadA, leadB] of BATCHES) {
          const draw = normals(M + 7 * N + 31 * K);
          const a = draw(...leadA, ...(transposeA ? [K, M] : [M, K]));
          const b = draw(...leadB, ...(transposeB ? [N, K] : [K, N]));
          const bias = leadA.length === 1 ? undefined : draw(N);
          const label = `[${a.shape}] [${b.shape}]`;
          const y = await call('matmul', { a, b, ...(bias && { bias }) }, options);
          expectNear(label, y, { y: matmul({ a, b, bias }, options) }, 2e-6);
          const dY = draw(...y.y.shape);
          const withBias = bias !== undefined;
          const grads = await call('matmulBackward', { a, b, dY }, { ...options, withBias });
          const expected = matmulBackward({ a, b, bias, dOut: dY }, options);
          expectNear(label, grads, { ...expected }, { other: 2e-6, dBias: 1e-5 });
        }
      }
    });
  }
}

test('products that are cut into slabs, blocks of K, chunks and groups of a batch', async () => {
  for (const [batch, M, N, K] of [
    [1, 1100, 9, 2048],
    [1, 20, 33, 2100],
    [1, 2, 700, 900],
    [1, 700, 3, 900],
    [90, 33, 17, 20],
    [3, 1, 300, 200],
  ]) {
    const draw = normals(M + N + K);
    const lead = batch === 1 ? [] : [batch];
    for (const transposeB of [false, true]) {
      const a = draw(...lead, M, K);
      const b = draw(...lead, ...(transposeB ? [N, K] : [K, N]));
      const y = await call('matmul', { a, b }, { transposeB });
      const label = `[${a.shape}] [${b.shape}]`;
      expectNear(label, y, { y: matmul({ a, b }, { transposeB }) }, 2e-6);
      const dY = draw(...lead, M, N);
      const expected = matmulBackward({ a, b, dOut: dY }, { transposeB });
      const actual = await call('matmulBackward', { a, b, dY }, { transposeB });
      expectNear(label, actual, { ...expected }, 2e-6);
    }
  }
});

test('the bits of a row do not depend on the rows beside it', async () => {
  for (const [N, K] of [
    [9, 40],
    [70, 33],
    [40, 2100],
  ]) {
    const draw = normals(N + K);
    const a = draw(60, K);
    for (const transposeB of [false, true]) {
      const b = transposeB ? draw(N, K) : draw(K, N);
      const all = (await call('matmul', { a, b }, { transposeB })).y.data;
      // up to four rows against a transposed b are dot products, summed in another order
      for (const M of transposeB ? [5, 8, 13, 59] : [1, 2, 4, 5, 8, 13, 37, 59]) {
        const rows = { data: a.data.slice(0, M * K), shape: [M, K] };
        const { y } = await call('matmul', { a: rows, b }, { transposeB });
        assert.equal([...y.data], [...all.slice(0, M * N)], `${M} rows, [${b.shape}]`);
      }
    }
  }
});

test('sizes of zero', async () => {
  const draw = normals(1);
  for (const [M, N, K] of [
    [0, 3, 4],
    [3, 0, 4],
    [3, 4, 0],
    [0, 0, 0],
  ]) {
    const [a, b, bias, dY] = [draw(M, K), draw(K, N), draw(N), draw(M, N)];
    const y = await call('matmul', { a, b, bias });
    expectNear('y', y, { y: matmul({ a, b, bias }) }, 0);
    const grads = await call('matmulBackward', { a, b, dY }, { withBias: true });
    expectNear('gradients', grads, { ...matmulBackward({ a, b, bias, dOut: dY }) }, 1e-6);
  }
  expectNear(
    'no batch',
    await call('matmul', { a: draw(0, 2, 3), b: draw(3, 4) }),
    {
      y: { data: [], shape: [0, 2, 4] },
    },
    0,
  );
});

test('a long sum stays accurate', async () => {
  const draw = normals(2);
  const [a, b, dY] = [draw(20000, 3), draw(3, 2), draw(20000, 2)];
  const grads = await call('matmulBackward', { a, b, dY }, { withBias: true });
  const expected = matmulBackward({ a, b, bias: draw(2), dOut: dY });
  expectNear('gradients', grads, { ...expected }, 1e-5);
});

test('bad input', () => {
  const draw = normals(3);
  const fails = (inputs: any, options: object, kind: any, pattern: RegExp): void =>
    throwsWith(() => matmulSync(inputs, options), kind, pattern);
  const [a, b] = [draw(4, 5), draw(5, 7)];
  fails(
    { a, b: draw(6, 7) },
    {},
    RangeError,
    /^\[matmul\] b: expected shape \[\.\.\.,K,N\] with K = 5/,
  );
  fails({ a, b, bias: draw(6) }, {}, RangeError, /^\[matmul\] bias: expected shape \[N\] = \[7\]/);
  fails({ a: draw(5), b }, {}, RangeError, /^\[matmul\] a: expected shape \[\.\.\.,M,K\]/);
  fails({ a: draw(2, 4, 5), b: draw(3, 5, 7) }, {}, RangeError, /^\[matmul\] b: .*leading/);
  fails({ a }, {}, TypeError, /^\[matmul\] b: /);
  fails({ a, b }, { transpose: true }, TypeError, /^\[matmul\] .*transpose/);
  throwsWith(
    () => matmulBackwardSync({ a, b, dY: a }),
    RangeError,
    /^\[matmulBackward\] dY: expected shape \[\.\.\.,M,N\] = \[4,7\], got \[4,5\]/,
  );
});

test.run();
