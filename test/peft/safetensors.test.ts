import fs from 'node:fs';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import {
  embeddingSync,
  type FloatTensor,
  type IndexTensor,
  linearAttentionSync,
  readSafetensors,
  readSafetensorsSync,
  type StoredTensor,
  type WritableTensor,
  writeSafetensors,
  writeSafetensorsSync,
} from '../../ts/index';
import { reverseElements } from '../../ts/peft/dtypes';
import { f32, fresh, packed, refused, safetensors, words, writeFile } from './files';

const entry = (shape: unknown, offsets: unknown, dtype: unknown = 'F32') => ({
  dtype,
  shape,
  data_offsets: offsets,
});

/** From memory and from a file, in both forms. */
async function malformed(bytes: Uint8Array, ...parts: (string | RegExp)[]): Promise<void> {
  const read = (file: string | Uint8Array): [() => unknown, () => Promise<unknown>] => [
    () => readSafetensorsSync(file),
    () => readSafetensors(file),
  ];
  await refused(read(bytes), RangeError, '[readSafetensors] the bytes: ', ...parts);
  const file = writeFile(bytes);
  await refused(read(file), RangeError, `[readSafetensors] ${file}: `, ...parts);
}

test('every form of reading gives the same', async () => {
  const bytes = packed(
    {
      x: f32([2, 3], [1, 2, 3, 4, 5, -0]),
      half: words('BF16', [2], [0x3f80, 0xffc1]),
      other: words('F16', [1, 1], [0x3c00]),
    },
    { format: 'pt', note: 'ä' },
  );
  const file = writeFile(bytes);
  const first = readSafetensorsSync(file);
  assert.equal([...first.tensors.keys()], ['x', 'half', 'other']);
  const { x, half, other } = Object.fromEntries(first.tensors);
  assert.equal(x, { data: new Float32Array([1, 2, 3, 4, 5, -0]), shape: [2, 3], dtype: 'f32' });
  assert.ok(Object.is(x.data[5], -0));
  assert.equal(half, { data: new Uint16Array([0x3f80, 0xffc1]), shape: [2], dtype: 'bf16' });
  assert.equal(other, { data: new Uint16Array([0x3c00]), shape: [1, 1], dtype: 'f16' });
  assert.equal(first.metadata, { format: 'pt', note: 'ä' });
  const odd = new Uint8Array(bytes.length + 3);
  odd.set(bytes, 3);
  for (const source of [file, pathToFileURL(file), bytes, Buffer.from(bytes), odd.subarray(3)]) {
    assert.equal(readSafetensorsSync(source), first);
    assert.equal(await readSafetensors(source), first);
  }
});

test('tensors beyond the first four gigabytes', async () => {
  const size = 5 * 2 ** 30;
  const header = { big: entry([size], [0, size], 'U8'), small: entry([2], [size, size + 8]) };
  const file = writeFile(safetensors(header));
  const at = fs.statSync(file).size + size;
  const fd = fs.openSync(file, 'r+');
  fs.writeSync(fd, new Uint8Array(new Float32Array([3, 4]).buffer), 0, 8, at); // a hole before
  fs.closeSync(fd);
  const options = { filter: (name: string) => name === 'small' };
  for (const read of [readSafetensorsSync(file, options), await readSafetensors(file, options)])
    assert.equal([...read.tensors.get('small')!.data], [3, 4]);
  fs.rmSync(file);
});

test('what shrinks while it is read', async () => {
  const bytes = packed({ x: f32([2], [1, 2]) });
  const file = fresh();
  const shrinking = {
    filter: () => {
      fs.truncateSync(file, bytes.length - 4);
      return true;
    },
  };
  const read = <T>(form: (file: string, options: typeof shrinking) => T): T => {
    fs.writeFileSync(file, bytes);
    return form(file, shrinking);
  };
  await refused(
    [() => read(readSafetensorsSync), () => read(readSafetensors)],
    RangeError,
    `${file}: ended at byte ${bytes.length - 4} while it was read`,
  );
  const memory = new (ArrayBuffer as any)(bytes.length, { maxByteLength: bytes.length });
  const view = new Uint8Array(memory);
  view.set(bytes);
  const filter = () => {
    memory.resize(bytes.length - 4);
    return true;
  };
  assert.throws(() => readSafetensorsSync(view, { filter }), /the bytes: ended at byte/);
});

const asFloat = (tensor: StoredTensor<'f32' | 'bf16' | 'f16'>): FloatTensor => tensor;
const asIndices = (tensor: StoredTensor<'i32'>): IndexTensor => tensor;

test('what is read is what operations take, in memory of its own', () => {
  const bytes = packed({
    q: f32([1, 1, 1, 1], [2]),
    h: words('BF16', [1, 1, 1, 1], [0x4000]),
    ids: { dtype: 'I32', shape: [2], bytes: Uint8Array.of(1, 0, 0, 0, 0, 0, 0, 0) },
  });
  const { tensors } = readSafetensorsSync(bytes);
  const q = tensors.get('q') as StoredTensor<'f32'>;
  const h = tensors.get('h') as StoredTensor<'bf16'>;
  const ids = tensors.get('ids') as StoredTensor<'i32'>;
  bytes.fill(0);
  const table = asFloat({ data: new Float32Array([5, 6]), shape: [2, 1], dtype: 'f32' });
  const { y } = embeddingSync({ ids: asIndices(ids), weight: table as StoredTensor<'f32'> });
  assert.equal([...y.data], [6, 5]);
  assert.equal([...linearAttentionSync({ q, k: q, v: q }).o.data], [8]);
  assert.equal([...linearAttentionSync({ q: h, k: h, v: h }).o.data], [0x4100]);
  assert.is(q.data.buffer.byteLength, 4);
});

const SAMPLES: [string, WritableTensor, string][] = [
  ['F64', { data: new Float64Array([1.5, -Infinity]), shape: [2] }, 'f64'],
  ['F32', { data: new Float32Array([1.5, -2]), shape: [2, 1] }, 'f32'],
  ['BF16', { data: new Uint16Array([1, 65535]), shape: [2], dtype: 'bf16' }, 'bf16'],
  ['F16', { data: new Uint16Array([1, 65535]), shape: [2], dtype: 'f16' }, 'f16'],
  ['I64', { data: new BigInt64Array([-1n, 2n ** 62n]), shape: [2] }, 'i64'],
  ['U64', { data: new BigUint64Array([2n ** 64n - 1n]), shape: [] }, 'u64'],
  ['I32', { data: new Int32Array([-1, 7]), shape: [2] }, 'i32'],
  ['U32', { data: new Uint32Array([2 ** 32 - 1]), shape: [1] }, 'u32'],
  ['I16', { data: new Int16Array([-3]), shape: [1] }, 'i16'],
  ['U16', { data: new Uint16Array([3]), shape: [1], dtype: 'u16' }, 'u16'],
  ['I8', { data: new Int8Array([-3, 0, 1]), shape: [3] }, 'i8'],
  ['U8', { data: new Uint8Array([3, 255]), shape: [2] }, 'u8'],
  ['BOOL', { data: new Uint8Array([1, 0]), shape: [2], dtype: 'bool' }, 'bool'],
  ['F8_E4M3', { data: new Uint8Array([0x7f]), shape: [1], dtype: 'f8_e4m3' }, 'f8_e4m3'],
  ['F32', { data: new Float32Array(0), shape: [3, 0] }, 'f32'],
];

for (const [name, tensor, dtype] of SAMPLES)
  test(`${name} [${tensor.shape}] through a file`, async () => {
    const file = fresh();
    await writeSafetensors(file, { 'a.b': tensor });
    assert.match(fs.readFileSync(file).toString('latin1'), `"dtype":"${name}"`);
    const { tensors, metadata } = readSafetensorsSync(file);
    const back = tensors.get('a.b')!;
    assert.is(back.dtype, dtype);
    assert.equal(back.shape, [...tensor.shape]);
    assert.equal(back.data, tensor.data);
    assert.equal(metadata, {});
  });

test('a file is laid out as the format has it', () => {
  const file = fresh();
  const tensors = new Map<string, WritableTensor>([
    ['z', { data: new Uint8Array([9]), shape: [1] }],
    ['b', { data: new Float32Array([1]), shape: [1] }],
    ['half', { data: new Uint16Array([7]), shape: [1], dtype: 'bf16' }],
    ['a', { data: new Float32Array([2, 3]), shape: [2] }],
    ['wide', { data: new Float64Array([4]), shape: [] }],
  ]);
  writeSafetensorsSync(file, tensors, { format: 'pt' });
  const bytes = fs.readFileSync(file);
  const text =
    '{"__metadata__":{"format":"pt"},' +
    '"wide":{"dtype":"F64","shape":[],"data_offsets":[0,8]},' +
    '"a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]},' +
    '"b":{"dtype":"F32","shape":[1],"data_offsets":[16,20]},' +
    '"half":{"dtype":"BF16","shape":[1],"data_offsets":[20,22]},' +
    '"z":{"dtype":"U8","shape":[1],"data_offsets":[22,23]}}';
  const length = Math.ceil(text.length / 8) * 8;
  assert.is(Number(bytes.readBigUInt64LE(0)), length);
  assert.is(bytes.toString('utf8', 8, 8 + length), text.padEnd(length));
  const data = bytes.subarray(8 + length);
  assert.is(data.length, 23);
  assert.is(data.readDoubleLE(0), 4);
  assert.equal([data.readFloatLE(8), data.readFloatLE(12), data.readFloatLE(16)], [2, 3, 1]);
  assert.equal([data.readUInt16LE(20), data[22]], [7, 9]);
});

test('views write their own part, and a file replaces another as a whole', async () => {
  const file = fresh();
  const wide = new Float32Array([9, 1, 2, 9]);
  const x = { data: wide.subarray(1, 3), shape: [2] };
  await writeSafetensors(file, { x });
  await writeSafetensors(pathToFileURL(file), { x, y: x });
  assert.equal([...readSafetensorsSync(file).tensors.get('y')!.data], [1, 2]);
  const beside = fs.readdirSync(path.dirname(file)).filter((name) => name.startsWith('.'));
  assert.equal(beside, []);
  const shared = new Float32Array(new SharedArrayBuffer(8)).fill(5);
  writeSafetensorsSync(file, { shared: { data: shared, shape: [2] } });
  assert.equal([...readSafetensorsSync(file).tensors.get('shared')!.data], [5, 5]);
});

test('an array that is taken away while it is written leaves the old file', async () => {
  const file = fresh();
  writeSafetensorsSync(file, {});
  const data = new Float32Array(4);
  const pending = writeSafetensors(file, { x: { data, shape: [4] } });
  structuredClone(data.buffer, { transfer: [data.buffer] });
  await refused([() => pending, () => pending], RangeError, 'detached or resized');
  assert.is(readSafetensorsSync(file).tensors.size, 0);
  const beside = fs.readdirSync(path.dirname(file)).filter((name) => name.startsWith('.'));
  assert.equal(beside, []);
});

test('only the tensors that are asked for are read', () => {
  const bytes = packed({ a: f32([1], [1]), b: f32([2], [2, 3]), c: f32([1], [4]) });
  const seen: unknown[] = [];
  const { tensors } = readSafetensorsSync(bytes, {
    filter: (name, info) => {
      seen.push([name, info.dtype, info.shape]);
      return name === 'b';
    },
  });
  assert.equal([...tensors.keys()], ['b']);
  assert.equal([...tensors.get('b')!.data], [2, 3]);
  assert.equal(seen, [
    ['a', 'f32', [1]],
    ['b', 'f32', [2]],
    ['c', 'f32', [1]],
  ]);
});

test('names that objects treat as special', () => {
  const names = ['__proto__', 'constructor', 'toString', '', '1', 'ä\n"\\', '𝒳'];
  const file = fresh();
  const tensors = new Map(
    names.map((name, i) => [name, { data: new Float32Array([i]), shape: [1] }]),
  );
  const metadata = JSON.parse('{"__proto__":"x","constructor":"y"}');
  writeSafetensorsSync(file, tensors, metadata);
  const back = readSafetensorsSync(file);
  assert.equal(
    names.map((name) => back.tensors.get(name)?.data[0]),
    names.map((_, i) => i),
  );
  assert.is(Object.getPrototypeOf(back.metadata), Object.prototype);
  assert.equal(Object.entries(back.metadata), Object.entries(metadata));
  assert.is(({} as any).x, undefined);
});

test('space around the header, and an empty file', () => {
  assert.is(readSafetensorsSync(safetensors('{}')).tensors.size, 0);
  const spaced = '{ "x" :\n{"shape":[ 1 ],"data_offsets":[0, 4],"dtype":"F32"}\t}   ';
  assert.is(readSafetensorsSync(safetensors(spaced, new Uint8Array(4))).tensors.size, 1);
});

const four = new Uint8Array(4);
const MALFORMED: [string, Uint8Array, ...(string | RegExp)[]][] = [
  ['nothing', new Uint8Array(), 'expected a header length of 8 bytes, got a file of 0'],
  ['seven bytes', new Uint8Array(7), 'got a file of 7'],
  ['no header', new Uint8Array(8), "begins with '{'"],
  [
    'a length of 2^64 - 1',
    safetensors('{}', four, 2n ** 64n - 1n),
    'got a length of 18446744073709551615',
  ],
  ['a length of 2^63', safetensors('{}', four, 2n ** 63n), 'at most 100000000 bytes'],
  ['a length of 2^53', safetensors('{}', four, 2n ** 53n), 'at most 100000000 bytes'],
  [
    'a length beyond the file',
    safetensors('{}', four, 99n),
    'a header of 99 bytes, got a file of 14: it is cut off',
  ],
  ['a space first', safetensors(' {}'), 'begins with \'{\', got " "'],
  ['a byte order mark', safetensors('\ufeff{}'), "begins with '{'"],
  ['bytes that are not UTF-8', safetensors(Buffer.from('7b22ff223a7d', 'hex')), 'UTF-8'],
  ['an overlong encoding', safetensors(Buffer.from('7b22c0af223a317d', 'hex')), 'UTF-8'],
  ['an encoded surrogate', safetensors(Buffer.from('7b22eda080223a317d', 'hex')), 'UTF-8'],
  ['an escaped half of a pair', safetensors('{"\\ud800":1}'), 'half a surrogate pair'],
  ['an array', safetensors('[]'), "begins with '{'"],
  ['half an object', safetensors('{"x":'), 'its end'],
  ['a string without an end', safetensors('{"x'), 'has no end'],
  ['a bad escape', safetensors('{"\\q":1}'), 'expected a JSON string'],
  ['a line feed in a string', safetensors('{"a\nb":1}'), 'expected a JSON string'],
  ['something behind', safetensors('{}{}'), 'expected nothing more at character 2, got "{"'],
  ['zeros behind', safetensors('{}\0'), 'expected nothing more'],
  [
    'a comma too many',
    safetensors('{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},}', four),
    'expected a string',
  ],
  ['a comma too few', safetensors('{"x":{"dtype":"F32" "shape":[1]}}', four), "expected '}'"],
  [
    'equal names',
    safetensors(
      '{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"x":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}',
      new Uint8Array(8),
    ),
    'has the key "x" twice',
  ],
  [
    'equal names by an escape',
    safetensors('{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"\\u0078":{}}', four),
    'has the key "x" twice',
  ],
  [
    'equal fields',
    safetensors('{"x":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}', four),
    '"x": "x" has the key "dtype" twice',
  ],
  [
    'metadata twice',
    safetensors('{"__metadata__":{},"__metadata__":{}}'),
    'has the key "__metadata__" twice',
  ],
  [
    'a metadata key twice',
    safetensors('{"__metadata__":{"a":"b","a":"c"}}'),
    '__metadata__ has the key "a" twice',
  ],
  [
    'metadata of a number',
    safetensors('{"__metadata__":{"a":1}}'),
    '"__metadata__": expected a string',
  ],
  ['metadata of nothing', safetensors('{"__metadata__":null}'), "expected '{'"],
  [
    'a nested object',
    safetensors(`{"x":${'{"x":'.repeat(99999)}`),
    '"x": expected dtype, shape, data_offsets, got "x"',
  ],
  ['nested arrays', safetensors(`{"x":{"shape":${'['.repeat(99999)}`), '"x": expected a number'],
  [
    'nested metadata',
    safetensors(`{"__metadata__":{"x":${'['.repeat(99999)}`),
    'expected a string',
  ],
  ['a tensor that is null', safetensors({ x: null }), '"x": expected \'{\''],
  [
    'no dtype',
    safetensors({ x: { shape: [1], data_offsets: [0, 4] } }, four),
    '"x": expected dtype, shape, data_offsets, got less',
  ],
  ['no shape', safetensors({ x: { dtype: 'F32', data_offsets: [0, 4] } }, four), 'got less'],
  ['no offsets', safetensors({ x: { dtype: 'F32', shape: [1] } }, four), 'got less'],
  [
    'another field',
    safetensors({ x: { ...entry([1], [0, 4]), strides: [1] } }, four),
    'got "strides"',
  ],
  [
    'a field __proto__',
    safetensors('{"x":{"__proto__":{"dtype":"F32"},"shape":[1],"data_offsets":[0,4]}}', four),
    'got "__proto__"',
  ],
  [
    'an unknown dtype',
    safetensors({ x: entry([1], [0, 4], 'F31') }, four),
    '"x": expected one of the dtypes BOOL, U8',
    'got "F31"',
  ],
  [
    'a dtype of objects',
    safetensors({ x: entry([1], [0, 4], 'constructor') }, four),
    'got "constructor"',
  ],
  ['a sub-byte dtype', safetensors({ x: entry([8], [0, 4], 'F4') }, four), 'got "F4"'],
  [
    'a dtype that is a number',
    safetensors({ x: entry([1], [0, 4], 1) }, four),
    '"x": expected a string',
  ],
  [
    'a negative dimension',
    safetensors({ x: entry([-1], [0, 4]) }, four),
    '"x": expected an integer from 0 to 2^53 - 1, got -1',
  ],
  ['two negative dimensions', safetensors({ x: entry([-1, -1], [0, 4]) }, four), 'got -1'],
  [
    'a negative zero',
    safetensors('{"x":{"dtype":"F32","shape":[-0],"data_offsets":[0,0]}}'),
    'got -0',
  ],
  ['half a dimension', safetensors({ x: entry([1.5], [0, 6]) }, four), 'got 1.5'],
  [
    'a dimension 1e0',
    safetensors('{"x":{"dtype":"F32","shape":[1e0],"data_offsets":[0,4]}}', four),
    'got 1e0',
  ],
  [
    'a dimension 01',
    safetensors('{"x":{"dtype":"F32","shape":[01],"data_offsets":[0,4]}}', four),
    "expected ']'",
  ],
  [
    'a dimension of 2^53',
    safetensors('{"x":{"dtype":"U8","shape":[9007199254740992],"data_offsets":[0,4]}}', four),
    'got 9007199254740992',
  ],
  [
    'a dimension of 400 digits',
    safetensors(`{"x":{"dtype":"U8","shape":[${'9'.repeat(400)}],"data_offsets":[0,4]}}`, four),
    `got ${'9'.repeat(40)}`,
  ],
  [
    'a product that overflows to its size',
    safetensors({ x: entry([2 ** 32, 2 ** 32, 1], [0, 0]) }),
    '"x": expected a shape of less than 2^53 bytes',
  ],
  ['a shape that is a number', safetensors({ x: entry(1, [0, 4]) }, four), '"x": expected \'[\''],
  ['a shape that is a string', safetensors({ x: entry('1', [0, 4]) }, four), '"x": expected \'[\''],
  [
    'sixty-five dimensions',
    safetensors({ x: entry(new Array(65).fill(1), [0, 4]) }, four),
    'at most 64 numbers in shape',
  ],
  ['one offset', safetensors({ x: entry([1], [0]) }, four), 'expected two data_offsets, got 1'],
  [
    'three offsets',
    safetensors({ x: entry([1], [0, 4, 4]) }, four),
    'at most 2 numbers in data_offsets',
  ],
  [
    'offsets the wrong way round',
    safetensors({ x: entry([1], [4, 0]) }, four),
    '"x": expected 4 bytes of F32 [1], got data_offsets [4,0]',
  ],
  ['a negative offset', safetensors({ x: entry([1], [-4, 0]) }, four), 'got -4'],
  [
    'a shape of more than its bytes',
    safetensors({ x: entry([2], [0, 4]) }, four),
    '"x": expected 8 bytes of F32 [2]',
  ],
  [
    'a huge tensor',
    safetensors({ x: entry([2 ** 40], [0, 2 ** 42]) }, four),
    '"x": expected it to end within 4 bytes, got 4398046511104',
  ],
  [
    'an overlap',
    safetensors({ x: entry([1], [0, 4]), y: entry([1], [2, 6]) }, new Uint8Array(6)),
    '"y": expected it to begin at byte 4, got 2: it overlaps',
  ],
  [
    'the same bytes twice',
    safetensors({ x: entry([1], [0, 4]), y: entry([1], [0, 4]) }, four),
    '"y": expected it to begin at byte 4, got 0: it overlaps',
  ],
  [
    'a gap',
    safetensors({ x: entry([1], [0, 4]), y: entry([1], [8, 12]) }, new Uint8Array(12)),
    '"y": expected it to begin at byte 4, got 8: a gap',
  ],
  [
    'a gap in front',
    safetensors({ x: entry([1], [4, 8]) }, new Uint8Array(8)),
    '"x": expected it to begin at byte 0, got 4: a gap',
  ],
  [
    'an empty tensor in the middle of another',
    safetensors({ x: entry([2], [0, 8]), y: entry([0], [4, 4]) }, new Uint8Array(8)),
    '"y": expected it to begin at byte 8, got 4: it overlaps',
  ],
  [
    'bytes that no tensor owns',
    safetensors({ x: entry([1], [0, 4]) }, new Uint8Array(5)),
    'expected 4 bytes behind the header, got 5',
  ],
  ['no tensor, but bytes', safetensors('{}', four), 'expected 0 bytes behind the header, got 4'],
  [
    'a cut file',
    safetensors({ x: entry([2], [0, 8]) }, four),
    '"x": expected it to end within 4 bytes, got 8: the file is cut off',
  ],
];

for (const [name, bytes, ...parts] of MALFORMED)
  test(`refused: ${name}`, () => malformed(bytes, ...parts));

test('empty tensors lie anywhere between others', () => {
  const header = {
    a: entry([0, 5], [4, 4]),
    x: entry([1], [0, 4]),
    b: entry([0], [0, 0]),
    y: entry([1], [4, 8]),
    c: entry([0], [8, 8]),
  };
  assert.is(readSafetensorsSync(safetensors(header, new Uint8Array(8))).tensors.size, 5);
});

test('a header of a hundred thousand tensors', () => {
  const header = Object.fromEntries(
    Array.from({ length: 100_000 }, (_, i) => [`t${i}`, entry([0], [0, 0])]),
  );
  assert.is(readSafetensorsSync(safetensors(header)).tensors.size, 100_000);
});

test('what is no file', async () => {
  const forms = (file: any): [() => unknown, () => Promise<unknown>] => [
    () => readSafetensorsSync(file),
    () => readSafetensors(file),
  ];
  for (const bad of [undefined, null, 1, {}, '', [], new Float32Array(8), new ArrayBuffer(8)])
    await refused(forms(bad), TypeError, '[readSafetensors] file: expected a path');
  await refused(forms(new URL('https://example.org/x')), TypeError, 'expected a file: URL');
  await refused(forms(path.dirname(fresh())), TypeError, 'expected a file, got something else');
  await refused(forms(fresh()), Error, 'ENOENT');
});

test('options that are none', async () => {
  const forms = (options: any): [() => unknown, () => Promise<unknown>] => [
    () => readSafetensorsSync(packed({}), options),
    () => readSafetensors(packed({}), options),
  ];
  await refused(forms(null), TypeError, '[readSafetensors] options: expected an object');
  await refused(forms({ filtre: 1 }), TypeError, 'filtre: expected one of filter');
  await refused(forms({ filter: 1 }), TypeError, 'filter: expected a function, got 1');
});

test('tensors that cannot be written', async () => {
  const file = fresh();
  const good = { data: new Float32Array(2), shape: [2] };
  const forms = (tensors: any, metadata?: any): [() => unknown, () => Promise<unknown>] => [
    () => writeSafetensorsSync(file, tensors, metadata),
    () => writeSafetensors(file, tensors, metadata),
  ];
  const bad: [any, new (...args: any[]) => Error, string][] = [
    [null, TypeError, 'tensors: expected tensors by name, got null'],
    [new Map([[1, good]]), TypeError, 'tensors: expected names that are strings, got 1'],
    [{ x: null }, TypeError, '"x": expected a tensor'],
    [{ x: { data: [1], shape: [1] } }, TypeError, '"x": expected a typed array'],
    [
      { x: { data: new Uint16Array(1), shape: [1] } },
      TypeError,
      '"x": expected a typed array and its dtype',
    ],
    [{ x: { ...good, dtype: 'bf16' } }, TypeError, "with dtype 'bf16'"],
    [{ x: { ...good, dtype: 'F32' } }, TypeError, "with dtype 'F32'"],
    [{ x: { ...good, shape: 2 } }, TypeError, '"x": expected a shape'],
    [{ x: { ...good, shape: [3] } }, RangeError, '"x": expected 12 bytes of f32 [3], got 8'],
    [{ x: { ...good, shape: [-1, -2] } }, RangeError, 'non-negative integers, got -1'],
    [{ x: { ...good, shape: [1.5] } }, RangeError, 'got 1.5'],
    [{ __metadata__: good }, RangeError, '"__metadata__": expected another name'],
    [{ 'x\ud800': good }, RangeError, 'expected another name'],
  ];
  for (const [tensors, kind, message] of bad)
    await refused(forms(tensors), kind, '[writeSafetensors] ', message);
  await refused(forms({}, 'pt'), TypeError, 'metadata: expected an object');
  await refused(forms({}, { a: 1 }), TypeError, 'metadata: "a": expected a string, got 1');
  await refused(forms({}, { a: '\udc00' }), RangeError, 'half a surrogate pair');
  assert.not(fs.existsSync(file));
  await refused(
    [() => writeSafetensorsSync(5 as any, {}), () => writeSafetensors(5 as any, {})],
    TypeError,
    '[writeSafetensors] file: expected a path',
  );
});

test('a header that no reader takes is not written', async () => {
  const file = fresh();
  const metadata = { long: 'x'.repeat(1e8) };
  const write = () => writeSafetensorsSync(file, {}, metadata);
  const later = () => writeSafetensors(file, {}, metadata);
  await refused(
    [write, later],
    RangeError,
    'expected a header of at most 100000000 bytes, got 1000',
  );
  assert.not(fs.existsSync(file));
});

test('bytes of the other order', () => {
  const bytes = Uint8Array.from([1, 2, 3, 4, 5, 6, 7, 8]);
  reverseElements(bytes, 4);
  assert.equal([...bytes], [4, 3, 2, 1, 8, 7, 6, 5]);
});

test.run();
