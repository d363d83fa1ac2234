/** scatterAdd, spmm and sddmm against their float64 references: COO and CSR, empty rows, duplicates, every dtype. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { scatterAdd, scatterAddSync, sddmmSync, spmmBackwardSync, spmmSync } from '../../ts/index';
import * as reference from '../reference/companions.ts';
import { firstRows, hold, rowOf } from '../support/companions.ts';
import type { FloatDtype } from '../support/half.ts';
import { decode, encode, halfDtypes } from '../support/half.ts';
import { call, expectNear, normals } from '../support/layers.ts';
import { Random } from '../support/random.ts';
import { rejectsWith, sameBits, throwsWith } from './helpers.ts';

const test = suite('sparse');

type Wide = 'i32' | 'i64';

function indexTensor(values: number[], wide: Wide) {
  const data = wide === 'i64' ? BigInt64Array.from(values, BigInt) : Int32Array.from(values);
  return { data, shape: [values.length] };
}

/** Every form of the same matrix; entries at random, some positions twice, row 1 empty where there is another. */
function matrixOf(out: number, inFeatures: number, count: number, seed: number) {
  const random = new Random(seed);
  const pairs = Array.from({ length: out && inFeatures ? count : 0 }, () => {
    const row = random.integer(out);
    return [row === 1 ? 0 : row, random.integer(inFeatures)];
  });
  if (pairs.length > 3) pairs[3] = pairs[0];
  const values = normals(seed + 1)(pairs.length);
  const order = pairs.map((_, p) => p).sort((p, q) => pairs[p][0] - pairs[q][0] || p - q);
  const indptr = Array.from({ length: out + 1 }, (_, row) => pairs.filter(([r]) => r < row).length);
  const coo = (wide: Wide) => ({
    rows: indexTensor(
      pairs.map(([row]) => row),
      wide,
    ),
    columns: indexTensor(
      pairs.map(([, column]) => column),
      wide,
    ),
  });
  const csr = (wide: Wide) => ({
    indptr: indexTensor(indptr, wide),
    columns: indexTensor(
      order.map((p) => pairs[p][1]),
      wide,
    ),
  });
  const csrValues = { data: Float32Array.from(order, (p) => values.data[p]), shape: values.shape };
  return [
    { name: 'COO', values, positions: coo('i32') },
    { name: 'COO, 64 bits', values, positions: coo('i64') },
    { name: 'CSR', values: csrValues, positions: csr('i32') },
    { name: 'CSR, 64 bits', values: csrValues, positions: csr('i64') },
  ];
}

/** [leading dimensions, out, in, values] */
const CASES: [number[], number, number, number][] = [
  [[1], 1, 1, 1],
  [[], 9, 7, 11],
  [[2, 3], 40, 33, 100],
  [[33], 70, 130, 900],
  [[17], 5, 600, 2500],
  [[1], 300, 1100, 3000],
  [[600], 10, 20, 60],
  [[4], 30, 20, 0],
  [[0], 4, 5, 6],
  [[3], 4, 0, 0],
  [[3], 0, 5, 0],
];

for (const [lead, out, inFeatures, count] of CASES) {
  test(`x [${[...lead, inFeatures]}], S [${out},${inFeatures}], ${count} values`, async () => {
    for (const { name, values, positions } of matrixOf(out, inFeatures, count, out + count)) {
      const draw = normals(out + 3 * inFeatures);
      const [x, dY] = [draw(...lead, inFeatures), draw(...lead, out)];
      for (const addend of [undefined, draw(...lead, out)]) {
        const options = { scale: addend ? -0.3 : 1, outFeatures: out };
        await hold('spmm', name, {
          inputs: { x, values, addend },
          others: positions,
          options,
          reference: (seen) => reference.spmm(seen, options),
        });
      }
      await hold('spmmBackward', name, {
        inputs: { x, values, dY },
        others: positions,
        options: { scale: 1.5 },
        reference: (seen) => reference.spmmBackward(seen, { scale: 1.5 }),
      });
      await hold('sddmm', name, {
        inputs: { a: dY, b: x },
        others: positions,
        options: { scale: 2 },
        reference: (seen) => reference.sddmm(seen, { scale: 2 }),
      });
    }
  });
}

for (const dtype of halfDtypes) {
  for (const ofValues of ['f32', dtype] as FloatDtype[]) {
    test(`${dtype}, values in ${ofValues}`, async () => {
      const [{ values, positions }] = matrixOf(70, 50, 600, 8);
      const draw = normals(9);
      const [x, dY, addend] = [draw(37, 50), draw(37, 70), draw(37, 70)];
      const dtypes = { other: dtype, values: ofValues, addend: ofValues };
      await hold('spmm', dtype, {
        inputs: { x, values, addend },
        dtypes,
        others: positions,
        reference: reference.spmm,
        results: { y: dtype },
      });
      const backward = { inputs: { x, values, dY }, dtypes, others: positions };
      await hold('spmmBackward', dtype, { ...backward, reference: reference.spmmBackward });
      await hold('spmmBackward', `${dtype}, gradDtype`, {
        ...backward,
        options: { gradDtype: 'input' },
        reference: reference.spmmBackward,
        results: { dx: dtype, dValues: ofValues },
      });
      await hold('sddmm', dtype, {
        inputs: { a: dY, b: x },
        dtypes,
        others: positions,
        reference: reference.sddmm,
      });
    });
  }
}

test('the bits of a row do not depend on the rows beside it', async () => {
  const [{ values, positions }] = matrixOf(70, 90, 2000, 3);
  const x = normals(4)(67, 90);
  const options = { outFeatures: 70 };
  const all = (await call('spmm', { x, values, ...positions }, options)).y;
  const width = 70;
  for (const rows of [1, 2, 5, 16, 33, 66]) {
    const part = await call('spmm', { x: firstRows(x, rows), values, ...positions }, options);
    assert.equal([...part.y.data], [...all.data.slice(0, rows * width)], `${rows} rows`);
  }
  for (const at of [1, 40, 66]) {
    const { y } = await call('spmm', { x: rowOf(x, at), values, ...positions }, options);
    assert.equal([...y.data], [...all.data.slice(at * width, (at + 1) * width)], `row ${at}`);
  }
});

test('a long row and many rows stay accurate', async () => {
  const draw = normals(12);
  const count = 30000;
  const positions = {
    rows: indexTensor(new Array(count).fill(0), 'i32'),
    columns: indexTensor(
      Array.from({ length: count }, (_, i) => i),
      'i32',
    ),
  };
  const [values, x] = [draw(count), draw(2, count)];
  for (const v of [values.data, x.data]) v.set(v.map(Math.abs));
  const y = await call('spmm', { x, values, ...positions }, { outFeatures: 1 });
  expectNear('y', y, { ...reference.spmm({ x, values, ...positions }, { outFeatures: 1 }) }, 1e-6);
  const [a, b] = [draw(20000, 2), draw(20000, 3)];
  const few = { rows: indexTensor([0, 1, 1], 'i32'), columns: indexTensor([2, 0, 1], 'i32') };
  const inner = await call('sddmm', { a, b, ...few });
  expectNear('values', inner, { ...reference.sddmm({ a, b, ...few }) }, 2e-6);
});

test('what no value refers to is not read', () => {
  const x = { data: Float32Array.of(1, Number.NaN, 2, Number.POSITIVE_INFINITY), shape: [2, 2] };
  const positions = { rows: indexTensor([0], 'i32'), columns: indexTensor([0], 'i32') };
  const { y } = spmmSync({ x, values: normals(1)(1), ...positions }, { outFeatures: 2, scale: 1 });
  assert.ok(y.data.every(Number.isFinite));
  assert.equal([y.data[1], y.data[3]], [0, 0]);
});

for (const dtype of ['f32', ...halfDtypes] as FloatDtype[]) {
  test(`scatterAdd into ${dtype}, in place and back`, async () => {
    for (const { name, values, positions } of matrixOf(40, 70, 500, 6)) {
      const plain = normals(7)(40, 70);
      const w = encode(dtype, plain) as any;
      const given = decode(w);
      const before = w.data.slice();
      const v = encode(dtype, values) as any;
      const inputs = { values: v, ...positions };
      assert.equal(scatterAddSync({ w, ...inputs }, { scale: 0.5 }), {});
      const seen = { w: given, values: decode(v), ...positions };
      const expected = reference.scatterAdd(seen, { scale: 0.5 });
      const limit = { f32: 1e-7, bf16: 2.5e-3, f16: 3.5e-4 }[dtype];
      expectNear(name, { w: decode(w) as never }, { ...expected }, limit);
      const touched = reference.dense(
        positions,
        { data: new Array(500).fill(1), shape: [500] },
        40,
        70,
      );
      for (const [i, n] of touched.data.entries())
        if (n === 0) assert.is(w.data[i], before[i], `element ${i}`);
      const again = { ...w, data: before.slice() };
      assert.equal(await scatterAdd({ w: again, ...inputs }, { scale: 0.5 }), {});
      assert.equal(again.data, w.data, 'asynchronous');
      scatterAddSync({ w, ...inputs }, { scale: -0.5 });
      expectNear(`${name}, back`, { w: decode(w) as never }, { w: given }, 2 * limit);
    }
  });
}

test('a half-width element is rounded once, however many values it gets', () => {
  // 256 + 1 is 256 in bfloat16, and 256 + 1 + 1 is 258
  const w = encode('bf16', { data: Float32Array.of(256, 256), shape: [1, 2] }) as any;
  const positions = { rows: indexTensor([0, 0, 0], 'i32'), columns: indexTensor([0, 0, 1], 'i32') };
  scatterAddSync({ w, values: { data: Float32Array.of(1, 1, 1), shape: [3] }, ...positions });
  assert.equal([...decode(w).data], [258, 256]);
});

test('bad input', async () => {
  const draw = normals(2);
  const values = draw(3);
  const rows = indexTensor([0, 3, 1], 'i32');
  const columns = indexTensor([4, 0, 2], 'i32');
  const x = draw(2, 5);
  const options = { outFeatures: 4 };
  const good = { x, values, rows, columns };
  const fails = (inputs: any, opts: any, kind: any, pattern: RegExp): void =>
    throwsWith(() => spmmSync(inputs, opts), kind, pattern);
  spmmSync(good, options);
  const over = (v: number[], wide: Wide = 'i32') => indexTensor(v, wide);
  fails(
    { ...good, rows: over([0, 4, 1]) },
    options,
    RangeError,
    /^\[spmm\] rows: expected indices from 0 to 3, got 4 at position 1/,
  );
  fails(
    { ...good, columns: over([0, 1, 5]) },
    options,
    RangeError,
    /columns: .*0 to 4, got 5 at position 2/,
  );
  fails(
    { ...good, columns: over([0, -1, 4]) },
    options,
    RangeError,
    /columns: .*got -1 at position 1/,
  );
  fails(
    { ...good, columns: over([0, 2 ** 40, 4], 'i64') },
    options,
    RangeError,
    /columns: .*got 1099511627776/,
  );
  fails(good, {}, TypeError, /^\[spmm\] outFeatures: expected an integer where/);
  fails(good, { outFeatures: 2 ** 31 }, RangeError, /outFeatures: expected an integer from 0/);
  fails(
    { x, values, columns },
    options,
    TypeError,
    /^\[spmm\] rows: expected rows \(COO\) or indptr \(CSR\)/,
  );
  const indptr = over([0, 1, 2, 2, 3]);
  fails({ ...good, indptr }, options, TypeError, /^\[spmm\] indptr: expected none beside rows/);
  const csr = { x, values, columns, indptr };
  spmmSync(csr);
  fails(
    { ...csr, indptr: over([0, 2, 1, 2, 3]) },
    {},
    RangeError,
    /indptr: .*do not fall, got 1 after 2 at position 2/,
  );
  fails(
    { ...csr, indptr: over([1, 1, 2, 2, 3]) },
    {},
    RangeError,
    /indptr: expected to start at 0, got 1/,
  );
  fails(
    { ...csr, indptr: over([0, 1, 2, 2, 4]) },
    {},
    RangeError,
    /indptr: expected to end at .* 3, got 4/,
  );
  fails({ ...csr, indptr: over([]) }, {}, RangeError, /indptr: /);
  fails(
    csr,
    { outFeatures: 5 },
    RangeError,
    /indptr: expected shape \[out \+ 1\] = \[6\], got \[5\]/,
  );
  fails({ ...csr, values: draw(2) }, {}, RangeError, /values: expected shape \[count\] = \[3\]/);
  fails({ ...csr, addend: draw(2, 3) }, {}, RangeError, /indptr: expected shape/);
  fails({ ...csr, addend: draw(3, 4) }, {}, RangeError, /addend: expected shape \[\.\.\.,out\]/);
  fails(
    { ...csr, x: { ...x, data: x.data.slice(1) } },
    {},
    RangeError,
    /x: expected data of length/,
  );
  fails(csr, { scale: Number.NaN }, RangeError, /scale: /);
  fails({ ...csr, rows: draw(3) }, {}, TypeError, /rows: expected dtype i32 or i64/);
  throwsWith(
    () => spmmBackwardSync({ ...csr, dY: draw(3, 4) }),
    RangeError,
    /^\[spmmBackward\] dY: expected shape \[\.\.\.,out\]/,
  );
  throwsWith(
    () => sddmmSync({ a: draw(2, 4), b: draw(3, 5), columns, indptr }),
    RangeError,
    /^\[sddmm\] b: expected the leading dimensions of a/,
  );
  const w = draw(4, 5);
  const kept = { data: w.data.slice(), shape: w.shape };
  throwsWith(
    () => scatterAddSync({ w, values, rows: over([0, 1, 4]), columns }),
    RangeError,
    /^\[scatterAdd\] rows/,
  );
  throwsWith(
    () => scatterAddSync({ w, values: { data: w.data.subarray(0, 3), shape: [3] }, rows, columns }),
    RangeError,
    /^\[scatterAdd\] w: expected memory of its own/,
  );
  await rejectsWith(
    () => scatterAdd({ w, values, rows: over([0, 1, 4]), columns }),
    RangeError,
    /^\[scatterAdd\] rows/,
  );
  sameBits(w, kept);
});

test('a shape without rows may claim any number of features', () => {
  const huge = 2 ** 31 - 1;
  const none = (features: number) => ({ data: new Float32Array(0), shape: [0, features] });
  const positions = {
    rows: indexTensor([huge - 1], 'i32'),
    columns: indexTensor([huge - 1], 'i32'),
  };
  const { values } = sddmmSync({ a: none(huge), b: none(huge), ...positions });
  assert.equal([...values.data], [0]);
  const inputs = { x: none(huge), values: normals(1)(1), ...positions };
  assert.equal([...spmmBackwardSync({ ...inputs, dY: none(huge) }).dValues.data], [0]);
  assert.equal(spmmSync(inputs, { outFeatures: huge }).y.shape, [0, huge]);
});

test.run();
