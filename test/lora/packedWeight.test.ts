// Packed weights: what each format stands for, against plain code.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import * as rankone from '../../ts/index';
import { rejectsWith, sameBits, throwsWith } from '../ops/helpers';
import { decode, encode, type FloatDtype } from '../support/half';
import { Random } from '../support/random';

type Format = rankone.WeightFormat;
type Numbers = ArrayLike<number>;

const SHAPES = [
  [1, 1],
  [5, 7],
  [3, 64],
  [17, 40],
  [33, 129],
  [70, 96],
  [2, 1000],
];
const { fround } = Math;

function weightOf(rows: number, columns: number, dtype: FloatDtype = 'f32') {
  const data = new Random(rows * 1009 + columns).normals(rows * columns);
  return encode(dtype, { data, shape: [rows, columns] }) as rankone.Tensor;
}

/** Rounds each block of a row, or of the whole matrix, to codes: what the format's description says. */
function inBlocks(
  data: Numbers,
  blocks: [begin: number, end: number][],
  rounding: (block: number[]) => (x: number) => number,
): Float32Array {
  const to = new Float32Array(data.length);
  for (const [begin, end] of blocks) {
    const block = Array.from({ length: end - begin }, (_, i) => data[begin + i]);
    to.set(block.map(rounding(block)), begin);
  }
  return to;
}

function blocksOfRows(rows: number, columns: number, size: number): [number, number][] {
  const blocks: [number, number][] = [];
  for (let row = 0; row < rows; row++)
    for (let at = 0; at < columns; at += size)
      blocks.push([row * columns + at, row * columns + Math.min(at + size, columns)]);
  return blocks;
}

const magnitude = (block: number[]): number => Math.max(...block.map(Math.abs));

function toBytes(block: number[]): (x: number) => number {
  const scale = fround(magnitude(block) / 127);
  return (x) => (scale === 0 ? 0 : Math.round(x / scale) * scale);
}

function toNibbles(block: number[]): (x: number) => number {
  const largest = block.reduce((a, b) => (Math.abs(b) > Math.abs(a) ? b : a));
  const scale = fround(largest / -8);
  return (x) => (scale === 0 ? 0 : Math.min(7, Math.max(-8, Math.round(x / scale))) * scale);
}

function expected(format: Format, { data, shape }: rankone.Tensor): Float32Array {
  const [rows, columns] = shape;
  if (format === 'f32') return data;
  if (format === 'int8') return inBlocks(data, blocksOfRows(rows, columns, columns), toBytes);
  if (format === 'q8') return inBlocks(data, blocksOfRows(rows, columns, 32), toBytes);
  if (format === 'q4') return inBlocks(data, blocksOfRows(rows, columns, 32), toNibbles);
  if (format === 'nf4') return rankone.dequantiseNf4(rankone.quantiseNf4({ data, shape })).data;
  return decode(encode(format, { data, shape })).data;
}

const FORMATS: Format[] = ['f32', 'f16', 'bf16', 'int8', 'q8', 'q4', 'nf4'];

for (const format of FORMATS)
  test(`${format} stands for what its description says`, () => {
    for (const [rows, columns] of SHAPES)
      for (const dtype of ['f32', 'bf16', 'f16'] as const) {
        const weight = weightOf(rows, columns, dtype);
        const packed = rankone.packWeightSync(weight, { format });
        const values = packed.toTensor();
        const from = decode(weight);
        const wanted = expected(format, from);
        const name = `${format} [${rows},${columns}] from ${dtype}`;
        assert.equal(values.shape, [rows, columns]);
        assert.equal(
          [packed.outFeatures, packed.inFeatures, packed.format],
          [rows, columns, format],
        );
        // Where x / scale lies within rounding of the middle between two codes, the other one is as right.
        const most = magnitude([...from.data]);
        const step = most / (format === 'q4' ? 8 : 127);
        const exact = format === 'f32' || format.endsWith('16');
        let other = 0;
        values.data.forEach((x, i) => {
          const error = Math.abs(x - wanted[i]);
          if (error <= (exact ? 0 : most * 2 ** -22)) return;
          const middle = Math.abs(Math.abs(x - from.data[i]) - Math.abs(wanted[i] - from.data[i]));
          assert.ok(
            !exact && middle < step * 1e-3,
            `${name}: ${x} instead of ${wanted[i]} at ${i}, for ${from.data[i]}`,
          );
          other++;
        });
        assert.ok(other <= 1 + values.data.length / 200, `${name}: ${other} codes differ`);
        packed.dispose();
      }
  });

test('what a format holds it keeps', () => {
  for (const format of FORMATS) {
    const first = rankone.packWeightSync(weightOf(33, 129), { format }).toTensor();
    const again = rankone.packWeightSync(first, { format }).toTensor();
    const worst = again.data.reduce((a, x, i) => Math.max(a, Math.abs(x - first.data[i])), 0);
    assert.ok(worst < 1e-6, `${format}: ${worst}`);
  }
});

test('asynchronously the same, from memory that changes afterwards', async () => {
  for (const format of FORMATS) {
    const weight = weightOf(70, 96);
    const wanted = rankone.packWeightSync(weight, { format }).toTensor();
    const pending = rankone.packWeight(weight, { format });
    weight.data.fill(1);
    sameBits((await pending).toTensor(), wanted);
  }
});

test('larger formats take more memory', () => {
  const sizes = FORMATS.map(
    (format) => rankone.packWeightSync(weightOf(256, 256), { format }).bytes / 256 ** 2,
  );
  const [f32, f16, bf16, int8, q8, q4, nf4] = sizes;
  for (const [size, bits] of [
    [f32, 32],
    [f16, 16],
    [bf16, 16],
    [int8, 8.125],
    [q8, 9],
    [q4, 5],
    [nf4, 4.5],
  ])
    assert.ok(8 * size >= bits && 8 * size < bits + 0.5, `${8 * size} for ${bits} bits`);
});

test('what is not finite reaches what shares its scale, and nothing else', () => {
  for (const format of ['int8', 'q8', 'q4', 'nf4'] as const) {
    const weight = weightOf(4, 128);
    weight.data[130] = NaN;
    const { data } = rankone.packWeightSync(weight, { format }).toTensor();
    const block = { int8: 128, q8: 32, q4: 32, nf4: 64 }[format];
    data.forEach((x, i) => {
      assert.is(Number.isNaN(x), i >= 128 && i < 128 + block, `${format}: ${x} at ${i}`);
    });
  }
});

const codes = (length: number, from: number, to: number) => {
  const random = new Random(length);
  return Array.from({ length }, () => from + random.integer(to - from));
};

function scalesOf(length: number): Float32Array {
  return new Random(length + 7).normals(length);
}

test('packQuantised: int8 and q8', async () => {
  for (const [rows, columns] of SHAPES)
    for (const format of ['int8', 'q8'] as const) {
      const perRow = format === 'int8' ? 1 : Math.ceil(columns / 32);
      const bytes = Int8Array.from(codes(rows * columns, -128, 128));
      const scales = scalesOf(rows * perRow);
      const data = { format, codes: bytes, scales, shape: [rows, columns] };
      const wanted = Float32Array.from(bytes, (code, i) => {
        const [row, column] = [Math.floor(i / columns), i % columns];
        return code * scales[row * perRow + (format === 'int8' ? 0 : Math.floor(column / 32))];
      });
      sameBits(rankone.packQuantisedSync(data).toTensor(), {
        data: wanted,
        shape: [rows, columns],
      });
      sameBits((await rankone.packQuantised(data)).toTensor(), {
        data: wanted,
        shape: [rows, columns],
      });
    }
});

const nibble = (bytes: Uint8Array, i: number): number =>
  i & 1 ? bytes[i >> 1] & 15 : bytes[i >> 1] >> 4;

test('packQuantised: q4', () => {
  for (const [rows, columns] of SHAPES) {
    const bytes = Uint8Array.from(codes(Math.ceil((rows * columns) / 2), 0, 256));
    const perRow = Math.ceil(columns / 32);
    const scales = scalesOf(rows * perRow);
    const wanted = Float32Array.from({ length: rows * columns }, (_, i) => {
      const [row, column] = [Math.floor(i / columns), i % columns];
      return (nibble(bytes, i) - 8) * scales[row * perRow + Math.floor(column / 32)];
    });
    const packed = rankone.packQuantisedSync({
      format: 'q4',
      codes: bytes,
      scales,
      shape: [rows, columns],
    });
    sameBits(packed.toTensor(), { data: wanted, shape: [rows, columns] });
  }
});

test('packQuantised: nf4 as quantiseNf4 returns it', () => {
  for (const [rows, columns] of SHAPES) {
    const quantised = rankone.quantiseNf4(weightOf(rows, columns));
    const packed = rankone.packQuantisedSync({ format: 'nf4', ...quantised });
    sameBits(packed.toTensor(), rankone.dequantiseNf4(quantised));
    assert.is(packed.format, 'nf4');
  }
});

/** bitsandbytes' create_dynamic_map(), in float64. */
function dynamicMap(): number[] {
  const values = [0, 1];
  for (let i = 0; i < 7; i++)
    for (let j = 0; j < 2 ** i; j++) {
      const mean = 0.1 + (0.9 * (j + 0.5)) / 2 ** i;
      values.push(10 ** (i - 6) * mean, -(10 ** (i - 6)) * mean);
    }
  return values.sort((a, b) => a - b);
}

test('packQuantised: nf4 whose scales are quantised too', () => {
  const map = dynamicMap();
  assert.is(map.length, 256);
  for (const [rows, columns] of [...SHAPES, [64, 1024]])
    for (const own of [false, true]) {
      const { codes: bytes, absmax } = rankone.quantiseNf4(weightOf(rows, columns));
      const blockSize = own ? 3 : 256;
      const nested = {
        codes: Uint8Array.from(codes(absmax.length, 0, 256)),
        absmax: scalesOf(Math.ceil(absmax.length / blockSize)),
        offset: 0.75,
        ...(own ? { blockSize, codebook: scalesOf(256) } : {}),
      };
      const inner = Float32Array.from(nested.codes, (code, i) => {
        const value = own ? nested.codebook![code] : map[code];
        return value * nested.absmax[Math.floor(i / blockSize)] + nested.offset;
      });
      const shape = [rows, columns];
      const wanted = rankone.dequantiseNf4({ codes: bytes, absmax: inner, shape }).data;
      const { data } = rankone
        .packQuantisedSync({ format: 'nf4', codes: bytes, absmax: nested, shape })
        .toTensor();
      data.forEach((x, i) => {
        assert.ok(Math.abs(x - wanted[i]) < 2e-6, `${x} instead of ${wanted[i]} at ${i}`);
      });
    }
});

type Any = any;
const quantised = {
  format: 'int8',
  codes: new Int8Array(6),
  scales: new Float32Array(2),
  shape: [2, 3],
};
const nf4 = { format: 'nf4', codes: new Uint8Array(3), absmax: new Float32Array(1), shape: [2, 3] };
const nested = { codes: new Uint8Array(1), absmax: new Float32Array(1), offset: 0 };

const bad: [string, 'packWeight' | 'packQuantised', Any[], Any, RegExp][] = [
  [
    'no weight',
    'packWeight',
    [undefined, { format: 'f32' }],
    TypeError,
    /weight: expected a tensor/,
  ],
  ['no format', 'packWeight', [weightOf(2, 3), {}], TypeError, /format: expected .*got undefined/],
  ['no options', 'packWeight', [weightOf(2, 3)], TypeError, /format: expected/],
  [
    'another format',
    'packWeight',
    [weightOf(2, 3), { format: 'q5' }],
    RangeError,
    /format: .*'q5'/,
  ],
  ['a typo', 'packWeight', [weightOf(2, 3), { fromat: 'q4' }], TypeError, /nearest: format/],
  [
    'rank 3',
    'packWeight',
    [{ data: new Float32Array(6), shape: [1, 2, 3] }, { format: 'f32' }],
    RangeError,
    /weight: expected shape \[out,in\].*\[1,2,3\]/,
  ],
  [
    'no rows',
    'packWeight',
    [{ data: new Float32Array(0), shape: [0, 3] }, { format: 'f32' }],
    RangeError,
    /weight: .*\[0,3\]/,
  ],
  [
    'doubles',
    'packWeight',
    [{ data: new Float64Array(6), shape: [2, 3] }, { format: 'f32' }],
    TypeError,
    /weight: .*Float64Array/,
  ],
  [
    'integers',
    'packWeight',
    [{ data: new Int32Array(6), shape: [2, 3] }, { format: 'f32' }],
    TypeError,
    /weight: expected dtype f32, bf16 or f16/,
  ],
  [
    'bytes',
    'packWeight',
    [{ data: new Uint8Array(6), shape: [2, 3] }, { format: 'f32' }],
    TypeError,
    /weight: /,
  ],
  ['nothing', 'packQuantised', [undefined], TypeError, /inputs: expected an object/],
  [
    'an unknown key',
    'packQuantised',
    [{ ...quantised, scale: 1 }],
    TypeError,
    /scale: .*nearest: scales/,
  ],
  ['no shape', 'packQuantised', [{ ...quantised, shape: undefined }], TypeError, /shape: /],
  ['half a shape', 'packQuantised', [{ ...quantised, shape: [6] }], TypeError, /shape: /],
  [
    'an empty shape',
    'packQuantised',
    [{ ...quantised, shape: [0, 3] }],
    RangeError,
    /shape: .*\[0,3\]/,
  ],
  [
    'a huge shape',
    'packQuantised',
    [{ ...quantised, shape: [2 ** 40, 2 ** 40] }],
    RangeError,
    /shape: /,
  ],
  [
    'a dense format',
    'packQuantised',
    [{ ...quantised, format: 'f16' }],
    RangeError,
    /format: expected 'int8'/,
  ],
  [
    'codes too few',
    'packQuantised',
    [{ ...quantised, codes: new Int8Array(5) }],
    RangeError,
    /codes: expected length 6, got 5/,
  ],
  [
    'codes without sign',
    'packQuantised',
    [{ ...quantised, codes: new Uint8Array(6) }],
    TypeError,
    /codes: expected an Int8Array/,
  ],
  [
    'codes in an array',
    'packQuantised',
    [{ ...quantised, codes: [1, 2] }],
    TypeError,
    /codes: expected .*an array/,
  ],
  ['no codes', 'packQuantised', [{ ...quantised, codes: undefined }], TypeError, /codes: /],
  [
    'no scales',
    'packQuantised',
    [{ ...quantised, scales: undefined }],
    TypeError,
    /scales: expected a Float32Array/,
  ],
  [
    'scales too many',
    'packQuantised',
    [{ ...quantised, scales: new Float32Array(3) }],
    RangeError,
    /scales: expected length 2, got 3/,
  ],
  [
    'absmax beside int8',
    'packQuantised',
    [{ ...quantised, absmax: new Float32Array(1) }],
    TypeError,
    /absmax: expected none/,
  ],
  [
    'scales beside nf4',
    'packQuantised',
    [{ ...nf4, scales: new Float32Array(1) }],
    TypeError,
    /scales: expected none/,
  ],
  ['no absmax', 'packQuantised', [{ ...nf4, absmax: undefined }], TypeError, /absmax: /],
  [
    'absmax too short',
    'packQuantised',
    [{ ...nf4, absmax: new Float32Array(0) }],
    RangeError,
    /absmax: expected length 1, got 0/,
  ],
  [
    'absmax of doubles',
    'packQuantised',
    [{ ...nf4, absmax: new Float64Array(1) }],
    TypeError,
    /absmax: expected a Float32Array/,
  ],
  [
    'nested without offset',
    'packQuantised',
    [{ ...nf4, absmax: { ...nested, offset: undefined } }],
    TypeError,
    /absmax\.offset: /,
  ],
  [
    'nested codes too few',
    'packQuantised',
    [{ ...nf4, absmax: { ...nested, codes: new Uint8Array(0) } }],
    RangeError,
    /absmax\.codes: /,
  ],
  [
    'nested without codes',
    'packQuantised',
    [{ ...nf4, absmax: { ...nested, codes: undefined } }],
    TypeError,
    /absmax\.codes: /,
  ],
  [
    'a short codebook',
    'packQuantised',
    [{ ...nf4, absmax: { ...nested, codebook: new Float32Array(16) } }],
    RangeError,
    /absmax\.codebook: /,
  ],
  [
    'no block size',
    'packQuantised',
    [{ ...nf4, absmax: { ...nested, blockSize: 0 } }],
    RangeError,
    /absmax\.blockSize: /,
  ],
  [
    'a nested typo',
    'packQuantised',
    [{ ...nf4, absmax: { ...nested, blocksize: 64 } }],
    TypeError,
    /nearest: blockSize/,
  ],
];

for (const [name, operation, args, kind, pattern] of bad)
  test(`${operation} refuses ${name}`, async () => {
    const text = new RegExp(`^\\[${operation}\\] .*${pattern.source}`);
    throwsWith(() => (rankone as Any)[`${operation}Sync`](...args), kind, text);
    await rejectsWith(() => (rankone as Any)[operation](...args), kind, text);
  });

test('a disposed weight says so, and the constructor is no way to one', () => {
  const packed = rankone.packWeightSync(weightOf(4, 4), { format: 'f32' });
  packed.dispose();
  packed.dispose();
  assert.ok(packed.disposed);
  assert.is(packed.bytes, 0);
  assert.equal([packed.outFeatures, packed.inFeatures, packed.format], [4, 4, 'f32']);
  throwsWith(
    () => packed.toTensor(),
    Error,
    /^\[PackedWeight.toTensor\] base: it has been disposed/,
  );
  const x = weightOf(2, 4);
  throwsWith(
    () => rankone.loraLinearSync({ x, base: packed }),
    Error,
    /^\[loraLinear\] base: it has been disposed/,
  );
  throwsWith(() => new (rankone.PackedWeight as Any)(), TypeError, /expected packWeight\(\)/);
  for (const base of [Object.create(packed), new Proxy(packed, {}), {}, 1, 'identitty'])
    throwsWith(() => rankone.loraLinearSync({ x, base } as Any), TypeError, /base: expected/);
});

test.run();
