/** Rounding to 16 bits: every pattern survives, and the points half way go to the even neighbour. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { HalfDtype } from './half.ts';
import { decodeHalf, encodeHalf, roundToHalf } from './half.ts';

const half = suite('support: half');

for (const dtype of ['bf16', 'f16'] as const) {
  half(`${dtype}: every pattern`, () => {
    const all = Uint16Array.from({ length: 1 << 16 }, (_, i) => i);
    const values = decodeHalf(all, dtype);
    const back = encodeHalf(values, dtype);
    for (const i of all) {
      if (Number.isNaN(values[i])) assert.ok(Number.isNaN(decodeHalf([back[i]], dtype)[0]));
      else assert.is(back[i], i);
    }
  });

  half(`${dtype}: to nearest, ties to even`, () => {
    const largest = dtype === 'bf16' ? 0x7f7f : 0x7bff;
    for (let i = 0; i < largest; i += 7) {
      const [low, high] = decodeHalf([i, i + 1], dtype);
      const middle = (low + high) / 2;
      const even = i % 2 === 0 ? i : i + 1;
      const patterns = encodeHalf([middle, -middle], dtype);
      assert.is(patterns[0], even);
      assert.is(patterns[1], even | 0x8000);
      const [beforeIt, behindIt] = [(low + 3 * middle) / 4, (high + 3 * middle) / 4];
      if (Math.fround(beforeIt) !== beforeIt) continue; // smaller than float32's own steps
      assert.equal([...encodeHalf([beforeIt, behindIt], dtype)], [i, i + 1]);
    }
  });
}

half('known values', () => {
  const known: [number, HalfDtype, number][] = [
    [1, 'bf16', 0x3f80],
    [-2, 'bf16', 0xc000],
    [1, 'f16', 0x3c00],
    [-2, 'f16', 0xc000],
    [65504, 'f16', 0x7bff],
    [65519.99, 'f16', 0x7bff],
    [65520, 'f16', 0x7c00],
    [2 ** -24, 'f16', 1],
    [2 ** -25, 'f16', 0],
    [Number.POSITIVE_INFINITY, 'bf16', 0x7f80],
    [3.4e38, 'bf16', 0x7f80],
  ];
  for (const [value, dtype, pattern] of known) {
    assert.is(encodeHalf([value], dtype)[0], pattern, `${value} as ${dtype}`);
  }
  assert.equal([...roundToHalf([1.001, 0.1], 'bf16')], [1, 0.10009765625]);
});

half.run();
