/** The contract's own check: it must fail where it should, and say where. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { TensorName } from './compare.ts';
import { contract, expectWithin, layouts, relativeErrors, roundedRow, rowFor } from './compare.ts';
import { Random } from './random.ts';

const compare = suite('support: compare');

const shape = [2, 5, 3, 4];
const o = rowFor('o', 5);

function reference(): Float64Array {
  return Float64Array.from(new Random(3).normals(2 * 5 * 3 * 4));
}

/** Index into [2,5,3,4]. */
function at(b: number, t: number, h: number, x: number): number {
  return ((b * 5 + t) * 3 + h) * 4 + x;
}

compare('rows of the contract', () => {
  assert.is(rowFor('o', 512).limit, 2e-6);
  assert.is(rowFor('o', 513).limit, 1e-5);
  assert.is(rowFor('o', 8193).limit, 2e-5);
  assert.is(rowFor('dInitialState', 9).limit, contract.f32.state);
  assert.is(rowFor('dInitialState', 9).layout, layouts.state);
  assert.is(rowFor('dbeta', 9).limit, 5e-5);
  assert.is(rowFor('dDtBias', 9).layout, layouts.heads);
  assert.is(rowFor('dInitialZ', 9).layout, layouts.state);
});

compare('rows of other dtypes', () => {
  const limits = (...names: TensorName[]) => {
    const dtypes = ['bf16', 'f16', 'bf16 compute', 'bf16 compute, beta to 2'] as const;
    return dtypes.map((dtype) => names.map((name) => rowFor(name, 4096, dtype).limit));
  };
  assert.equal(limits('o', 'dv', 'dInitialState', 'dg'), [
    [2.5e-3, 1e-5, 1e-5, 5e-5],
    [3.5e-4, 1e-5, 1e-5, 5e-5],
    [6e-3, 1e-2, 1e-2, 2e-2],
    [1e-2, 1.5e-2, 1.5e-2, 3e-2],
  ]);
  assert.throws(() => rowFor('o', 4097, 'bf16 compute, beta to 2'), /no row/);
  assert.equal(roundedRow('dg', 'bf16'), { limit: 2.5e-3, layout: layouts.tokens });
  assert.equal(roundedRow('dALog', 'f16'), { limit: 3.5e-4, layout: layouts.heads });
});

compare('equal values pass, float32 rounding too', () => {
  const ref = reference();
  expectWithin('same', ref, ref, shape, o);
  expectWithin('rounded', Float32Array.from(ref), ref, shape, o);
});

compare('finds the worst row', () => {
  const ref = new Float64Array(120).fill(1);
  const out = ref.slice();
  out[at(1, 4, 2, 3)] += 0.1;
  const { row, token } = relativeErrors(out, ref, { shape, axes: layouts.tokens });
  assert.equal(row.index, [1, 2]);
  assert.ok(Math.abs(row.error - 0.1 / Math.sqrt(20)) < 1e-12);
  assert.equal(token!.index, [1, 2]);
  assert.is(token!.token, 4);
  assert.ok(Math.abs(token!.error - 0.05) < 1e-12);
  const message = /label: outside.*worst row \[1,2\].*token 4, row \[1,2\]/s;
  assert.throws(() => expectWithin('label', out, ref, shape, o), message);
});

compare('a small head does not hide behind a large one', () => {
  const ref = new Float64Array(120).fill(1);
  for (let t = 0; t < 5; t++) ref.fill(1e-6, at(0, t, 1, 0), at(0, t, 2, 0));
  const out = ref.slice();
  for (let t = 0; t < 5; t++) out[at(0, t, 1, 0)] *= 1 + 1e-4;
  assert.throws(() => expectWithin('small', out, ref, shape, o), /worst row \[0,1\]/);
});

compare('one bad token does not hide in a long row', () => {
  const T = 500;
  const ref = new Float64Array(T).fill(1);
  const out = ref.slice();
  out[123] += 3e-5;
  const message = /worst row \[0,0\]: measured 1\.34e-6, within.*token 123.*ABOVE/s;
  assert.throws(() => expectWithin('token', out, ref, [1, T, 1], o), message);
});

compare('NaN, infinities and wrong lengths fail', () => {
  const ref = reference();
  for (const bad of [NaN, Infinity, -Infinity]) {
    const out = ref.slice();
    out[at(0, 3, 1, 2)] = bad;
    assert.throws(() => expectWithin('bad', out, ref, shape, o), /not finite at \[0,3,1,2\]/);
    assert.throws(() => expectWithin('bad', ref, out, shape, o), /not finite/);
    const { row } = relativeErrors(out, ref, { shape, axes: layouts.tokens });
    assert.is(row.error, Infinity);
  }
  assert.throws(() => expectWithin('short', ref.slice(1), ref, shape, o), /got 119/);
  assert.throws(() => expectWithin('long', ref, ref, [2, 5, 3, 3], o), /wants 90/);
});

compare('zero references are compared absolutely', () => {
  const zero = new Float64Array(120);
  expectWithin('zero', zero, zero, shape, o);
  const tiny = zero.slice();
  tiny[7] = 1e-20;
  assert.throws(() => expectWithin('all zero', tiny, zero, shape, o), /ABOVE/);
  const ref = reference();
  for (let t = 0; t < 5; t++) ref.fill(0, at(0, t, 0, 0), at(0, t, 1, 0));
  const out = ref.slice();
  out[0] = 1e-7;
  expectWithin('zero head, small error', out, ref, shape, o);
  out[0] = 1e-3;
  assert.throws(() => expectWithin('zero head', out, ref, shape, o), /worst row \[0,0\]/);
});

compare('states, head gates and nothing at all', () => {
  const ref = reference();
  const out = ref.slice();
  out[at(1, 4, 2, 3)] += 1;
  const state = rowFor('finalState', 1);
  assert.throws(() => expectWithin('state', out, ref, shape, state), /worst row \[1,4\]/);
  const dg = rowFor('dg', 1);
  assert.throws(() => expectWithin('dg', [1, 2.1], [1, 2], [2], dg), /worst row \[1\]/);
  expectWithin('empty', [], [], [2, 0, 3, 4], o);
});

compare('packed sequences are rows of their own', () => {
  const ref = Float64Array.of(1, 1, 1, 1, 1e-3, 1e-3);
  const out = ref.slice();
  out[5] *= 1 + 1e-5;
  expectWithin('whole', out, ref, [1, 6, 1], o);
  const message = /worst row \[0,0,2\]/;
  assert.throws(
    () => expectWithin('packed', out, ref, [1, 6, 1], o, { cuSeqlens: [0, 2, 2, 3] }),
    message,
  );
});

compare('noise forgives its own row and token, and no more', () => {
  const ref = new Float64Array(120).fill(1);
  const out = ref.slice();
  out[at(0, 2, 1, 0)] += 1e-3;
  const noise = new Float64Array(120);
  noise[at(0, 2, 1, 1)] = 7e-5;
  expectWithin('noisy', out, ref, shape, o, { noise });
  noise[at(0, 2, 1, 1)] = 5e-5;
  assert.throws(() => expectWithin('too little', out, ref, shape, o, { noise }), /ABOVE/);
  noise.fill(1).fill(0, at(0, 0, 0, 0), at(1, 0, 0, 0));
  assert.throws(() => expectWithin('elsewhere', out, ref, shape, o, { noise }), /row \[0,1\]/);
  out[0] = NaN;
  assert.throws(() => expectWithin('NaN', out, ref, shape, o, { noise }), /not finite/);
});

compare.run();
