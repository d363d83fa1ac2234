// Packed weights: what is refused, what is kept, and how they end. What their formats stand for: packedWeights.test.ts.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import * as rankone from '../../ts/index';
import { rejectsWith, sameBits, throwsWith } from '../ops/helpers';
import { Random } from '../support/random';

type Format = rankone.WeightFormat;

function weightOf(rows: number, columns: number): rankone.Tensor {
  const data = new Random(rows * 1009 + columns).normals(rows * columns);
  return { data, shape: [rows, columns] };
}

const FORMATS: Format[] = ['f32', 'f16', 'bf16', 'int8', 'q8', 'q4', 'nf4'];

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
