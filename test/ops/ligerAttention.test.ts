/** ligerAttention against its float64 reference and against the calls that it is made of. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import * as rankone from '../../ts/index';
import {
  type LigerOptions,
  ligerAttention,
  ligerAttentionBackward,
} from '../reference/ligerAttention.ts';
import { expectSame } from '../support/bits.ts';
import { checkGradient, dot } from '../support/gradcheck.ts';
import { decode, encode } from '../support/half.ts';
import { call, expectNear, normals } from '../support/layers.ts';
import { native } from '../support/native.ts';
import { join, slice } from '../support/slices.ts';
import type { Tensor32 } from '../support/tensor.ts';
import { toFloat64 } from '../support/tensor.ts';
import { endOfAborted, rejectsWith, throwsWith } from './helpers.ts';

const test = suite('ligerAttention');

type Named = Record<string, any>;
type Sizes = [B: number, T: number, H: number, HKV: number, K: number, V: number];

function draw([B, T, H, HKV, K, V]: Sizes, extras: boolean, N = B) {
  const make = normals(B + 3 * T + 7 * K);
  const inputs: Named = { q: make(B, T, H, K), k: make(B, T, HKV, K), v: make(B, T, HKV, V) };
  const gradients: Named = { dO: make(B, T, H, V) };
  if (extras) {
    Object.assign(inputs, { windowQ: make(B, T, H, K), windowK: make(B, T, HKV, K) });
    inputs.initialState = make(N, H, K, V);
    gradients.dFinalState = make(N, H, K, V);
  }
  return { inputs, gradients };
}

const LIMITS = { o: 2e-6, other: 1e-5 };
const CASES: [Sizes, LigerOptions][] = [
  [[1, 1, 1, 1, 1, 1], { window: 1 }],
  [[2, 5, 3, 1, 7, 4], { window: 2 }],
  [[1, 70, 4, 2, 20, 24], { window: 9, gateNormalizer: 4 }],
  [[2, 40, 2, 2, 33, 17], { mix: [0.25, 1.5], scale: 0.7 }],
  [[0, 5, 2, 1, 4, 4], {}],
  [[2, 0, 2, 1, 4, 4], {}],
];

for (const [sizes, options] of CASES)
  for (const extras of [false, true])
    test(`[${sizes}] ${JSON.stringify(options)}${extras ? ', a state and a window of its own' : ''}`, async () => {
      const { inputs, gradients } = draw(sizes, extras);
      const asked = { ...options, outputFinalState: true };
      const found = await call('ligerAttention', inputs, asked);
      expectNear('forward', found, { ...ligerAttention(inputs as any, options) }, LIMITS);
      const all = { ...inputs, ...gradients };
      const wanted = ligerAttentionBackward(all as any, options);
      // One channel's softmax is 1.
      if (sizes[4] > 1)
        expectNear('backward', await call('ligerAttentionBackward', all, options), wanted, LIMITS);
    });

test('the reference: its gradients are those of its values', () => {
  const { inputs, gradients } = draw([1, 6, 2, 1, 3, 2], true);
  const wide = Object.fromEntries(
    Object.entries(inputs).map(([name, x]) => [name, toFloat64(x)]),
  ) as any;
  const options = { window: 3, gateNormalizer: 2 };
  const loss = () => {
    const { o, finalState } = ligerAttention(wide, options);
    return dot(o, gradients.dO) + dot(finalState, gradients.dFinalState);
  };
  const found = ligerAttentionBackward({ ...wide, ...gradients }, options);
  for (const [name, x] of Object.entries(wide) as [string, any][]) {
    const gradient = found[`d${name}`] ?? found[`d${name[0].toUpperCase()}${name.slice(1)}`];
    checkGradient(name, loss, x, gradient);
  }
});

for (const dtype of ['bf16', 'f16'] as const)
  test(`${dtype}: o and gradients`, async () => {
    const limit = { bf16: 2.5e-3, f16: 3.5e-4 }[dtype];
    const { inputs, gradients } = draw([1, 40, 4, 2, 20, 17], true);
    const coded = (x: Named): Named =>
      Object.fromEntries(
        Object.entries(x).map(([name, t]) => [name, /State/.test(name) ? t : encode(dtype, t)]),
      );
    const given = coded(inputs);
    const all: Named = { ...given, ...coded(gradients) };
    const seen = Object.fromEntries(Object.entries(all).map(([n, x]) => [n, decode(x)])) as any;
    const options = { window: 9 };
    const { o } = await call('ligerAttention', given, options);
    assert.is(o.dtype as string, dtype);
    expectNear('o', { o: decode(o) }, { o: ligerAttention(seen, options).o }, limit);
    const wanted = ligerAttentionBackward(seen, options);
    const grads = await call('ligerAttentionBackward', all, options);
    expectNear('gradients', grads, wanted, LIMITS);
    const rounded = native.ligerAttentionBackwardSync(all, { ...options, gradDtype: 'input' });
    for (const [name, x] of Object.entries(grads))
      expectSame(
        name,
        rounded[name],
        name === 'dInitialState' ? (x as any) : encode(dtype, x as any),
      );
  });

test('it is a mix of gla and attention', () => {
  const { inputs } = draw([1, 50, 2, 2, 16, 16], false);
  const { q, k, v } = inputs as any;
  const softmax = (x: Tensor32): Tensor32 => {
    const data = x.data.slice();
    for (let at = 0; at < data.length; at += 16) {
      const row = data.subarray(at, at + 16);
      const total = row.reduce((a, b) => a + Math.exp(b), 0);
      row.forEach((b, i) => {
        row[i] = Math.exp(b) / total;
      });
    }
    return { data, shape: x.shape };
  };
  const g = { ...k, data: k.data.map((x: number) => -Math.log1p(Math.exp(-x)) / 16) };
  const linear = rankone.glaSync({ q: softmax(q), k: softmax(k), v, g }, { scale: 1 }).o;
  const inside = rankone.attentionSync({ q, k, v }, { window: [63, 0] }).o;
  for (const mix of [
    [1, 0],
    [0, 1],
    [0.5, 0.5],
  ] as const) {
    const o = { ...linear, data: linear.data.map((x, i) => mix[0] * x + mix[1] * inside.data[i]) };
    expectNear('o', { o: rankone.ligerAttentionSync({ q, k, v }, { mix }).o }, { o }, 1e-6);
  }
});

for (const dtype of ['f32', 'f16'] as const)
  test(`decode ${dtype}: any steps are the whole`, async () => {
    const [B, T, H, HKV, K, V]: Sizes = [2, 40, 4, 2, 20, 24];
    const { inputs } = draw([B, T, H, HKV, K, V], false);
    const make = normals(4);
    const all: Named = { ...inputs, windowQ: make(B, T, H, K), windowK: make(B, T, HKV, K) };
    const options = { window: 7 };
    const seen = Object.fromEntries(
      Object.entries(all).map(([name, x]) => [name, decode(encode(dtype, x))]),
    );
    const { o: whole } = ligerAttention(seen as any, options);
    const state = rankone.createState({ batch: 4, valueHeads: H, keyDim: K, valueDim: V });
    const heads = { kvHeads: HKV, keyDim: K, valueDim: V };
    const cache = rankone.createKvCache({ batch: 4, ...heads, window: 6, dtype });
    const stateIndices = Int32Array.of(2, 0);
    const parts: Tensor32[] = [];
    for (const [first, end] of [
      [0, 1],
      [1, 20],
      [20, 21],
      [21, 40],
    ]) {
      const part = Object.fromEntries(
        Object.entries(all).map(([name, x]) => [name, encode(dtype, slice(x, 1, first, end))]),
      );
      const given = { ...part, state, cache };
      const { o } =
        first % 2
          ? await native.ligerAttention(given, { ...options, stateIndices })
          : native.ligerAttentionSync(given, { ...options, stateIndices });
      parts.push(decode(o));
    }
    const limit = { f32: 2e-6, f16: 3.5e-4 }[dtype];
    expectNear('o', { o: join(parts, 1) as any }, { o: whole }, limit);
    assert.is(cache.length(2), T);
    for (const x of [state, cache]) x.dispose();
  });

test('packed sequences, each with the bits that it has alone', async () => {
  const cuSeqlens = Int32Array.of(0, 9, 9, 10, 40);
  const { inputs, gradients } = draw([1, 40, 4, 2, 20, 24], true, 4);
  const options = { window: 7, cuSeqlens };
  const all: Named = { ...inputs, ...gradients };
  const results: Named = {
    ...(await call('ligerAttention', inputs, { ...options, outputFinalState: true })),
    ...(await call('ligerAttentionBackward', all, options)),
  };
  expectNear('o', { o: results.o }, { o: ligerAttention(inputs as any, options).o }, 2e-6);
  for (let n = 0; n < 4; n++) {
    const part = (x: any, name: string): any =>
      /State/.test(name) ? slice(x, 0, n, n + 1) : slice(x, 1, cuSeqlens[n], cuSeqlens[n + 1]);
    const one: Named = Object.fromEntries(
      Object.entries(all).map(([name, x]) => [name, part(x, name)]),
    );
    const { dO, dFinalState, ...forward } = one;
    const own: Named = {
      ...native.ligerAttentionSync(forward, { window: 7, outputFinalState: true }),
      ...native.ligerAttentionBackwardSync(one, { window: 7 }),
    };
    for (const [name, x] of Object.entries(own))
      expectSame(`${name} of ${n}`, part(results[name], name), x);
  }
});

test('keys and queries of any size', () => {
  const { inputs, gradients } = draw([1, 20, 2, 1, 8, 8], false);
  for (const by of [1e4, 1e30]) {
    const large = (x: Tensor32) => ({ ...x, data: x.data.map((a) => a * by) });
    const given = { ...inputs, q: large(inputs.q), k: large(inputs.k) };
    const options = { mix: [1, 0] as const, scale: 0 };
    const { o } = native.ligerAttentionSync(given, options);
    expectNear('o', { o }, { o: ligerAttention(given as any, options).o }, 1e-5);
    const grads = native.ligerAttentionBackwardSync({ ...given, ...gradients }, options);
    for (const x of Object.values(grads) as any[]) assert.ok(x.data.every(Number.isFinite));
  }
});

test('abort', async () => {
  const { inputs, gradients } = draw([1, 1500, 4, 2, 32, 32], false);
  const reason = new Error('enough');
  const run = (signal: AbortSignal) => native.ligerAttention(inputs, { signal });
  assert.is(await endOfAborted(run as any, reason), reason);
  const all = { ...inputs, ...gradients };
  const back = (signal: AbortSignal) => native.ligerAttentionBackward(all, { signal });
  assert.is(await endOfAborted(back as any, reason), reason);
});

test('bad input', async () => {
  const { inputs, gradients } = draw([1, 5, 4, 2, 8, 6], true);
  const make = normals(1);
  const fails = (change: object, options: object, kind: any, pattern: RegExp): void =>
    throwsWith(() => native.ligerAttentionSync({ ...inputs, ...change }, options), kind, pattern);
  fails({ q: make(1, 5, 8) }, {}, RangeError, /^\[ligerAttention\] q: expected shape \[B,T,H,K\]/);
  fails(
    { k: make(1, 5, 3, 8), windowQ: undefined, windowK: undefined, v: make(1, 5, 3, 6) },
    {},
    RangeError,
    /k: expected HKV to be a divisor of H = 4/,
  );
  fails({ v: make(1, 4, 2, 6) }, {}, RangeError, /v: expected shape/);
  fails({ k: encode('bf16', inputs.k) }, {}, TypeError, /k: expected dtype f32/);
  fails({ windowQ: undefined }, {}, TypeError, /windowQ: expected a tensor beside windowK/);
  fails({ windowK: make(1, 5, 2, 9) }, {}, RangeError, /windowK: expected/);
  fails({ initialState: make(1, 4, 8, 7) }, {}, RangeError, /initialState: expected shape/);
  fails({}, { window: 0 }, RangeError, /window: expected an integer from 1/);
  fails({}, { gateNormalizer: 0 }, RangeError, /gateNormalizer: expected a number above 0/);
  fails({}, { mix: 0.5 }, TypeError, /mix: expected an array of two numbers/);
  fails({}, { mix: [NaN, 1] }, RangeError, /mix: expected/);
  fails({}, { gate: 1 }, TypeError, /gate: /);
  fails(
    {},
    { cuSeqlens: Int32Array.of(0, 3) },
    RangeError,
    /cuSeqlens: expected T = 5 at 1, got 3/,
  );
  const none = { initialState: undefined };
  const state = rankone.createState({ batch: 1, valueHeads: 4, keyDim: 8, valueDim: 6 });
  const cache = rankone.createKvCache({ batch: 1, kvHeads: 2, keyDim: 8, valueDim: 6, window: 5 });
  fails({ ...none, state }, {}, TypeError, /cache: expected one beside state/);
  fails({ ...none, cache }, {}, TypeError, /state: expected one beside cache/);
  fails({ state, cache }, {}, TypeError, /initialState: expected none beside state/);
  fails({ ...none, state, cache }, { window: 7 }, RangeError, /window: expected .* left up to 5/);
  assert.is(cache.length(0), 0, 'nothing has been written');
  assert.ok(state.toTensor().data.every((x) => x === 0));
  for (const x of [state, cache]) x.dispose();
  const back = (change: object, kind: any, pattern: RegExp): void => {
    const given = { ...inputs, ...gradients, ...change };
    throwsWith(() => native.ligerAttentionBackwardSync(given), kind, pattern);
  };
  back({ dO: make(1, 5, 4, 8) }, RangeError, /dO: expected shape \[B,T,H,V\]/);
  back({ dFinalState: make(1, 4, 8, 5) }, RangeError, /dFinalState: expected shape/);
  await rejectsWith(() => native.ligerAttention(inputs, { mix: [1] }), TypeError, /mix/);
});

test.run();
