/** The rounding that the half dtypes of the other tests rest on. */

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { HalfDtype } from './half.ts';
import { decode, encode, fromBits, halfDtypes, round, toBits } from './half.ts';
import fc from './property.ts';

const test = suite('support: half dtypes');

const known: [HalfDtype, number, number][] = [
  ['bf16', 1, 0x3f80],
  ['bf16', -2, 0xc000],
  ['bf16', 0, 0],
  ['bf16', -0, 0x8000],
  ['bf16', Infinity, 0x7f80],
  ['bf16', -Infinity, 0xff80],
  ['bf16', NaN, 0x7fc0],
  ['bf16', 2 ** -126, 0x0080],
  ['bf16', 2 ** -133, 1],
  ['bf16', 2 ** -134, 0],
  ['bf16', 1.5 * 2 ** -133, 2],
  ['bf16', 1 + 2 ** -8, 0x3f80],
  ['bf16', 1 + 3 * 2 ** -8, 0x3f82],
  ['bf16', 1 + 2 ** -8 + 2 ** -50, 0x3f81],
  ['bf16', (2 - 2 ** -7) * 2 ** 127, 0x7f7f],
  ['bf16', (2 - 2 ** -8) * 2 ** 127, 0x7f80],
  ['bf16', 1e300, 0x7f80],
  ['f16', 1, 0x3c00],
  ['f16', -2, 0xc000],
  ['f16', -0, 0x8000],
  ['f16', 65504, 0x7bff],
  ['f16', 65519.999, 0x7bff],
  ['f16', 65520, 0x7c00],
  ['f16', -1e6, 0xfc00],
  ['f16', 2 ** -14, 0x0400],
  ['f16', 2 ** -24, 1],
  ['f16', 2 ** -25, 0],
  ['f16', -(2 ** -25) * 1.0001, 0x8001],
  ['f16', 5e-324, 0],
  ['f16', 0.1, 0x2e66],
  ['f16', NaN, 0x7e00],
];

test('known patterns', () => {
  for (const [dtype, x, bits] of known) {
    assert.is(toBits(dtype, x).toString(16), bits.toString(16), `${dtype} ${x}`);
  }
});

for (const dtype of halfDtypes) {
  test(`${dtype}: every pattern comes back`, () => {
    let numbers = 0;
    for (let bits = 0; bits < 2 ** 16; bits++) {
      const value = fromBits(dtype, bits);
      if (Number.isNaN(value)) continue;
      numbers++;
      assert.is(toBits(dtype, value), bits);
      assert.is(Math.fround(value), value);
    }
    assert.is(numbers, 2 ** 16 - 2 * (dtype === 'bf16' ? 2 ** 7 - 1 : 2 ** 10 - 1));
  });

  test(`${dtype}: none is nearer, and a tie is even`, () => {
    const draw = fc.oneof(
      fc.double({ noNaN: true }),
      fc.double({ min: -70000, max: 70000, noNaN: true }),
      fc.double({ min: -1e-4, max: 1e-4, noNaN: true }),
      // Half way between two neighbours.
      fc.integer({ min: 0, max: (dtype === 'bf16' ? 0x7f80 : 0x7c00) - 2 }).map((bits) => {
        return (fromBits(dtype, bits) + fromBits(dtype, bits + 1)) / 2;
      }),
    );
    const property = fc.property(draw, (x) => {
      const bits = toBits(dtype, x);
      const value = fromBits(dtype, bits);
      if (!Number.isFinite(value)) return;
      const magnitude = bits & 0x7fff;
      for (const neighbour of [magnitude - 1, magnitude + 1]) {
        const other = neighbour < 0 ? NaN : fromBits(dtype, (bits & 0x8000) | neighbour);
        if (!Number.isFinite(other)) continue;
        const [here, there] = [Math.abs(value - x), Math.abs(other - x)];
        assert.ok(here < there || (here === there && bits % 2 === 0), `${x} as ${value}`);
      }
    });
    fc.assert(property, { seed: 61, numRuns: 3000 });
  });
}

test('as the runtime rounds to f16, where it does', () => {
  const toFloat16 = (Math as { f16round?: (x: number) => number }).f16round;
  const values = [0.1, 1 / 3, 65519, 65520, 1e-7, 3e-8, -(2 ** -24), 1e-9];
  const expected = [
    0.0999755859375,
    0.333251953125,
    65504,
    Infinity,
    1.1920928955078125e-7,
    2 ** -24,
    -(2 ** -24),
    0,
  ];
  assert.equal(
    values.map((x) => round('f16', x)),
    expected,
  );
  if (toFloat16) assert.equal(values.map(toFloat16), expected);
});

test('tensors', () => {
  const x = { data: [1, -0.1, 1e6], shape: [3, 1] };
  const half = encode('f16', x);
  assert.equal(half, { data: Uint16Array.of(0x3c00, 0xae66, 0x7c00), shape: [3, 1], dtype: 'f16' });
  assert.equal(decode(half).data, Float32Array.of(1, -0.0999755859375, Infinity));
  assert.equal(decode(encode('f32', x)).data, Float32Array.from(x.data));
});

test.run();
