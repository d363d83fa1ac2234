/** rope, its gradient and its form in place against their float64 reference. */

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import * as rankone from '../../ts/index';
import { ropeBackwardSync, ropeInPlaceSync, ropeSync, tensor } from '../../ts/index';
import { rope, ropeBackward } from '../reference/layers.ts';
import { expectSame } from '../support/bits.ts';
import { decode, encode } from '../support/half.ts';
import { call, expectNear, normals } from '../support/layers.ts';
import fc from '../support/property.ts';
import { startsOf, throwsWith } from './helpers.ts';

const test = suite('rope');

const SHAPES = [
  [1, 1, 1, 2],
  [2, 3, 2, 6],
  [2, 17, 3, 64],
  [1, 130, 1, 34],
  [3, 1, 8, 128],
  [0, 4, 2, 8],
  [2, 0, 2, 8],
  [2, 3, 0, 8],
];
const FORMS = [
  {},
  { interleaved: true },
  { theta: 500000, offset: 1000, scale: 1.3 },
  { interleaved: true, offset: -5, scale: -2 },
] as const;

for (const [B, T, H, D] of SHAPES) {
  test(`B ${B}, T ${T}, H ${H}, D ${D}`, async () => {
    const draw = normals(B + 3 * T + 5 * H + 7 * D);
    const [x, dY] = [draw(B, T, H, D), draw(B, T, H, D)];
    for (const form of FORMS) {
      for (const rotaryDim of [undefined, 2 * Math.ceil(D / 6)]) {
        const options = { ...form, ...(rotaryDim && { rotaryDim }) };
        const label = JSON.stringify(options);
        expectNear(label, await call('rope', { x }, options), rope({ x }, options), 2e-7);
        const gradients = await call('ropeBackward', { dY }, options);
        expectNear(label, gradients, ropeBackward({ dY }, options), 2e-7);
      }
    }
    const inverseFrequencies = tensor(
      Float32Array.from({ length: D / 2 }, (_, i) => 0.9 / (i + 1)),
      [D / 2],
    );
    const position = (i: number) => (i * 7919) % 100003;
    for (const shape of [[T], [B, T]]) {
      const length = shape.reduce((a, b) => a * b);
      const positions = { data: Int32Array.from({ length }, (_, i) => position(i)), shape };
      const angles = { positions, inverseFrequencies };
      expectNear(
        `positions [${shape}]`,
        await call('rope', { x, ...angles }),
        rope({ x, ...angles }),
        2e-7,
      );
      expectNear(
        `positions [${shape}]`,
        await call('ropeBackward', { dY, ...angles }),
        ropeBackward({ dY, ...angles }),
        2e-7,
      );
    }
  });
}

test('any shape, packing and form', () => {
  const lengths = fc.array(fc.nat(20), { minLength: 1, maxLength: 5 });
  fc.assert(
    fc.property(
      lengths,
      fc.integer({ min: 1, max: 4 }),
      fc.integer({ min: 1, max: 40 }),
      fc.nat(9),
      fc.boolean(),
      fc.integer({ min: -100, max: 100000 }),
      (sizes, H, half, rest, interleaved, offset) => {
        const starts = startsOf(sizes);
        const draw = normals(H + half);
        const x = draw(1, starts[starts.length - 1], H, 2 * half + rest);
        const cuSeqlens = Int32Array.from(starts);
        const options = { cuSeqlens, rotaryDim: 2 * half, interleaved, offset };
        expectNear('y', { ...ropeSync({ x }, options) }, rope({ x }, options), 2e-7);
        expectNear(
          'dx',
          { ...ropeBackwardSync({ dY: x }, options) },
          ropeBackward({ dY: x }, options),
          2e-7,
        );
        const { y } = ropeSync({ x }, options);
        ropeInPlaceSync({ q: x }, options);
        assert.equal(x.data, y.data);
      },
    ),
    { seed: 11, numRuns: 60 },
  );
});

test('positions far out, and frequencies of any size', () => {
  const draw = normals(3);
  const x = draw(1, 6, 2, 8);
  const positions = {
    data: Int32Array.of(0, 1 << 20, 2 ** 31 - 1, -(2 ** 31), 1600000, -1600001),
    shape: [6],
  };
  for (const frequencies of [
    [1, 0.1, 0.01, 0.001],
    [0, -1, 1e-30, 3],
  ]) {
    const inverseFrequencies = tensor(Float32Array.from(frequencies), [4]);
    const inputs = { x, positions, inverseFrequencies };
    expectNear('far', { ...ropeSync(inputs) }, rope(inputs), 2e-7);
  }
  // What is no angle spoils its own pair only.
  const inverseFrequencies = tensor(
    Float32Array.of(1, Number.POSITIVE_INFINITY, 3e38, Number.NaN),
    [4],
  );
  const { data } = ropeSync({ x, inverseFrequencies }, { offset: 1, interleaved: true }).y;
  data.forEach((value, i) => {
    assert.is(Number.isNaN(value), [2, 3, 6, 7].includes(i % 8), `element ${i}`);
  });
});

test('in place, q and k of different numbers of heads, in every dtype', async () => {
  for (const dtype of ['f32', 'bf16', 'f16'] as const) {
    for (const interleaved of [false, true]) {
      const draw = normals(21);
      const options = { interleaved, rotaryDim: 12, offset: 77 };
      const [q, k] = [draw(2, 3, 4, 19), draw(2, 3, 1, 19)].map((x) => encode(dtype, x)) as any[];
      const copy = (x: any) => ({ ...x, data: x.data.slice() });
      const expected = [q, k].map((x) => ropeSync({ x }, options).y);
      const near = rope({ x: decode(q) as any }, options).y;
      const limit = { f32: 2e-7, bf16: 2.5e-3, f16: 3.5e-4 }[dtype];
      expectNear(dtype, { y: decode(expected[0]) as any }, { y: near }, limit);
      const [a, b, c] = [copy(q), copy(k), copy(q)];
      assert.equal(ropeInPlaceSync({ q: a, k: b }, options), {});
      expectSame('q', a, expected[0]);
      expectSame('k', b, expected[1]);
      await rankone.ropeInPlace({ q: c }, options);
      expectSame('q, asynchronous', c, expected[0]);
      // A gradient in the dtype of dY is the one in float32, rounded.
      const full = ropeBackwardSync({ dY: q }, options).dx;
      assert.is(full.dtype, 'f32');
      const rounded = ropeBackwardSync({ dY: q }, { ...options, gradDtype: 'input' }).dx;
      expectSame('dx', rounded as any, encode(dtype, full as any) as any);
    }
  }
});

test('a token by itself has the bits that it has among others', () => {
  const [T, H, D] = [40, 3, 26];
  const x = normals(31)(1, T, H, D);
  const whole = ropeSync({ x }).y.data;
  for (let t = 0; t < T; t++) {
    const one = { data: x.data.slice(t * H * D, (t + 1) * H * D), shape: [1, 1, H, D] };
    const { y } = ropeSync({ x: one }, { offset: t });
    assert.equal(y.data, whole.slice(t * H * D, (t + 1) * H * D));
  }
});

test('bad input', () => {
  const x = normals(1)(2, 3, 2, 8);
  const fails = (inputs: any, options: any, kind: any, pattern: RegExp): void =>
    throwsWith(() => ropeSync({ x, ...inputs }, options), kind, pattern);
  const positions = tensor(Int32Array.of(0, 1, 2), [3]);
  const inverseFrequencies = tensor(new Float32Array(4), [4]);
  fails({ x: normals(1)(3, 2, 8) }, {}, RangeError, /^\[rope\] x: expected shape \[B,T,H,D\]/);
  fails(
    { x: normals(1)(1, 1, 1, 7) },
    {},
    RangeError,
    /x: expected shape \[B,T,H,D\] with an even D/,
  );
  for (const rotaryDim of [0, 3, 10, -2])
    fails({}, { rotaryDim }, RangeError, /rotaryDim: expected an even number from 2 to D = 8/);
  fails({}, { theta: 0 }, RangeError, /theta: expected a number above 0, got 0/);
  fails({}, { theta: Number.NaN }, RangeError, /theta: expected/);
  fails({}, { scale: Number.POSITIVE_INFINITY }, RangeError, /scale: expected/);
  fails({}, { offset: 2 ** 40 }, RangeError, /offset: expected/);
  fails({}, { base: 5 }, TypeError, /base/);
  fails({ positions }, { offset: 1 }, TypeError, /offset: expected none beside positions/);
  fails(
    { x: normals(1)(1, 3, 2, 8), positions },
    { cuSeqlens: Int32Array.of(0, 3) },
    TypeError,
    /cuSeqlens: expected none beside positions/,
  );
  fails(
    { positions: tensor(Int32Array.of(0), [1]) },
    {},
    RangeError,
    /positions: expected shape \[T\] = \[3\], got \[1\]/,
  );
  fails(
    { positions: tensor(new Int32Array(3), [3, 1]) },
    {},
    RangeError,
    /positions: expected shape \[T\] or \[B,T\] = \[2,3\]/,
  );
  fails(
    { inverseFrequencies: tensor([1], [1]) },
    {},
    RangeError,
    /inverseFrequencies: expected shape \[R\/2\] = \[4\]/,
  );
  fails(
    { inverseFrequencies },
    { theta: 5 },
    TypeError,
    /theta: expected none beside inverseFrequencies/,
  );
  fails({}, { cuSeqlens: Int32Array.of(0, 3) }, RangeError, /cuSeqlens: expected B = 1/);
  throwsWith(
    () => ropeInPlaceSync({ q: x, k: x }),
    RangeError,
    /^\[ropeInPlace\] .*(memory|share)/,
  );
  throwsWith(
    () => ropeInPlaceSync({ q: x, k: normals(1)(2, 2, 2, 8) }),
    RangeError,
    /^\[ropeInPlace\] k: expected shape/,
  );
  throwsWith(
    () => ropeBackwardSync({ dY: normals(1)(2, 3) }),
    RangeError,
    /^\[ropeBackward\] dY: expected/,
  );
});

test.run();
