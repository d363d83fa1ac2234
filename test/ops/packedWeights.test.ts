/** Packed weights: what their formats round to, and that codes of others keep their values. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { packQuantised, packQuantisedSync, packWeightSync, quantiseNf4 } from '../../ts/index';
import {
  dequantise,
  dynamicMap,
  elementOf,
  NF4_VALUES,
  scaleIndex,
  twoPerByte,
} from '../reference/packedWeight.ts';
import { encode, halfDtypes, round } from '../support/half.ts';
import { makeCodes, weightFormats } from '../support/lora.ts';
import { native } from '../support/native.ts';
import { Random } from '../support/random.ts';
import type { Tensor32 } from '../support/tensor.ts';

const test = suite('packed weights');

const SHAPES = [
  [1, 1],
  [3, 7],
  [33, 31],
  [40, 64],
  [17, 100],
  [65, 257],
  [5, 2100],
];

const weight = (shape: number[], seed = 1): Tensor32 => {
  return { data: new Random(seed).normals(shape[0] * shape[1], 0.3), shape };
};

test('f32, bf16 and f16: the nearest, ties to even', () => {
  for (const shape of SHAPES)
    for (const format of ['f32', ...halfDtypes] as const)
      for (const dtype of ['f32', ...halfDtypes] as const) {
        const given = encode(dtype, weight(shape));
        const seen = weight(shape).data.map((v) => round(dtype, v));
        const packed = native.packWeightSync(given, { format }) as any;
        assert.is(packed.format, format);
        assert.equal([packed.outFeatures, packed.inFeatures], shape);
        const { data, shape: got } = packed.toTensor();
        assert.equal(got, shape);
        assert.equal(
          data,
          seen.map((v) => round(format, v)),
          `${format} of ${dtype} [${shape}]`,
        );
        packed.dispose();
      }
});

/** Largest magnitude, and the value that has it, of every group that shares a scale. */
function largestOf(format: 'int8' | 'q8' | 'q4' | 'nf4', { data, shape }: Tensor32): number[] {
  const values: number[] = [];
  for (let i = 0; i < data.length; i++) {
    const at = scaleIndex(format, Math.floor(i / shape[1]), i % shape[1], shape[1]);
    if (values[at] === undefined || Math.abs(data[i]) > Math.abs(values[at])) values[at] = data[i];
  }
  return values;
}

for (const format of ['int8', 'q8', 'q4', 'nf4'] as const)
  test(`${format}: the scale of the largest element, and the nearest code`, () => {
    for (const shape of SHAPES) {
      const w = weight(shape);
      if (shape[0] > 16) w.data.fill(0, 3 * shape[1], 9 * shape[1]); // groups of zeros
      const packed = packWeightSync(w, { format });
      const got = packed.toTensor().data;
      const largest = largestOf(format, w);
      const codes = Array.from(
        { length: format === 'q4' || format === 'nf4' ? 16 : 255 },
        (_, i) => (format === 'q4' || format === 'nf4' ? i : i - 127),
      );
      const divisor = { int8: 127, q8: 127, q4: -8, nf4: 1 }[format];
      for (let i = 0; i < got.length; i++) {
        const most = largest[scaleIndex(format, Math.floor(i / shape[1]), i % shape[1], shape[1])];
        const scale = (format === 'q4' ? most : Math.abs(most)) / divisor;
        const near = Math.min(
          ...codes.map((c) => Math.abs(elementOf(format, c, scale) - w.data[i])),
        );
        const off = Math.abs(got[i] - w.data[i]);
        const slack = 1e-6 * Math.abs(most);
        assert.ok(off <= near + slack, `[${shape}] ${i}: ${w.data[i]} became ${got[i]}`);
      }
      packed.dispose();
    }
  });

for (const format of ['int8', 'q8', 'q4', 'nf4'] as const)
  test(`${format}: codes of others keep their values`, async () => {
    for (const shape of SHAPES) {
      const { weight: given, values } = makeCodes(format, shape, new Random(7));
      const packed = packQuantisedSync(given as never);
      assert.equal([packed.format, packed.outFeatures, packed.inFeatures], [format, ...shape]);
      assert.equal(packed.toTensor().data, values.data, `[${shape}]`);
      const later = await packQuantised(given as never);
      assert.equal(later.toTensor().data, values.data);
      packed.dispose();
      later.dispose();
    }
  });

test('int8: the code -128 too', () => {
  const codes = Int8Array.of(-128, 127, 0, -1, 1, -128);
  const given = { format: 'int8' as const, codes, scales: Float32Array.of(0.5, 2), shape: [2, 3] };
  const packed = packQuantisedSync(given);
  assert.equal([...packed.toTensor().data], [-64, 63.5, 0, -2, 2, -256]);
  const x = { data: Float32Array.of(1, 0, 0), shape: [1, 3] };
  const { y } = native.loraLinearSync({ x, base: packed });
  assert.equal([...y.data], [-64, -2]);
  packed.dispose();
});

test('nf4: what quantiseNf4 returns, and the values of the paper', () => {
  const w = weight([9, 50]);
  const quantised = quantiseNf4(w);
  const packed = packQuantisedSync({ format: 'nf4', ...quantised });
  const own = packWeightSync(w, { format: 'nf4' });
  assert.equal(packed.toTensor().data, own.toTensor().data);
  const codes = twoPerByte(Array.from({ length: 16 }, (_, i) => i));
  const sixteen = { format: 'nf4' as const, codes, absmax: Float32Array.of(1), shape: [1, 16] };
  const values = packQuantisedSync(sixteen);
  assert.equal([...values.toTensor().data], NF4_VALUES.map(Math.fround));
  for (const each of [packed, own, values]) each.dispose();
});

test('nf4: double quantisation', () => {
  for (const [shape, blockSize] of [
    [[9, 50], 256],
    [[40, 100], 16],
    [[300, 128], 256],
  ] as const) {
    const random = new Random(3);
    const { weight: given, codes } = makeCodes('nf4', [...shape], random);
    const blocks = Math.ceil((shape[0] * shape[1]) / 64);
    const scales = Uint8Array.from({ length: blocks }, () => random.integer(256));
    const nested = random.uniforms(Math.ceil(blocks / blockSize), 0.5, 1);
    const offset = 0.7;
    const check = (map: readonly number[], extra: object): void => {
      const absmax = { codes: scales, absmax: nested, offset, ...extra };
      const packed = packQuantisedSync({ ...given, absmax } as never);
      const resolved = Array.from(scales, (c, i) => {
        return map[c] * nested[Math.floor(i / blockSize)] + offset;
      });
      const expected = dequantise('nf4', codes, resolved, shape).data;
      const got = packed.toTensor().data;
      for (let i = 0; i < got.length; i++)
        assert.ok(Math.abs(got[i] - expected[i]) <= 1e-6, `${i}`);
      packed.dispose();
    };
    const size = blockSize === 256 ? {} : { blockSize };
    check(dynamicMap(), size);
    const codebook = random.uniforms(256, 0, 1).sort();
    check([...codebook], { ...size, codebook });
  }
});

test('memory: bytes are those of the format', () => {
  const w = weight([512, 1024]);
  const bits = { f32: 32, bf16: 16, f16: 16, int8: 8, q8: 9, q4: 5, nf4: 4.5 };
  for (const format of weightFormats) {
    const packed = packWeightSync(w, { format });
    const least = (512 * 1024 * bits[format]) / 8;
    assert.ok(packed.bytes >= least && packed.bytes < 1.1 * least, `${format}: ${packed.bytes}`);
    packed.dispose();
    assert.is(packed.disposed, true);
    assert.throws(() => packed.toTensor(), /disposed/);
    const x = { data: new Float32Array(1024), shape: [1, 1024] };
    assert.throws(
      () => native.loraLinearSync({ x, base: packed }),
      /^\[loraLinear\] base: .*disposed/,
    );
  }
});

test.run();
