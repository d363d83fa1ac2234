/**
 * localLinearAttention against its float64 reference, which solves the paper's system directly: shapes, masks, packed
 * sequences, dtypes, what stands for no convergence, a cache, and what must not matter.
 */

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import * as rankone from '../../ts/index';
import {
  type LocalLinearOptions,
  localLinearAttention,
  localLinearAttentionBackward,
} from '../reference/localLinearAttention.ts';
import { expectSame } from '../support/bits.ts';
import { decode, encode } from '../support/half.ts';
import { call, expectNear, normals } from '../support/layers.ts';
import fc from '../support/property.ts';
import { slice } from '../support/slices.ts';
import type { Tensor32 } from '../support/tensor.ts';
import { endOfAborted, throwsWith } from './helpers.ts';

const test = suite('localLinearAttention');
const { attentionSync, localLinearAttentionSync, localLinearAttentionBackwardSync } = rankone;

type Sizes = [B: number, T: number, S: number, H: number, HKV: number, K: number, V: number];

const FULL: LocalLinearOptions = { causal: false };
const CASES: [Sizes, LocalLinearOptions][] = [
  [[2, 5, 5, 3, 1, 7, 4], {}],
  [[2, 37, 37, 4, 2, 33, 20], {}],
  [[1, 70, 50, 2, 1, 16, 17], {}], // more queries than keys: the first see none
  [[1, 3, 0, 2, 1, 8, 8], {}],
  [[2, 0, 9, 2, 2, 8, 8], {}],
  [[0, 5, 5, 2, 2, 8, 8], {}],
  [[1, 60, 130, 6, 2, 24, 40], FULL],
  [[1, 140, 140, 2, 2, 20, 70], { window: [50, 0], sinkTokens: 3 }],
  [[1, 90, 200, 2, 1, 16, 24], { ...FULL, window: [20, 9], sinkTokens: 110, scale: 0.7 }],
  [[2, 1, 300, 4, 2, 12, 10], {}],
  [[1, 3, 4300, 1, 1, 6, 5], {}], // more blocks of keys than weights are kept of
];

const LIMITS = { o: 3e-6, dLambda: 3e-5, other: 1e-5 };

/** Ridges of about a tenth of the keys' spread. */
function draw([B, T, S, H, HKV, K, V]: Sizes, seed = B + 3 * T + 5 * S + 7 * K) {
  const make = normals(seed);
  const lambda = make(B, T, H);
  lambda.data = lambda.data.map((x) => 0.3 + Math.abs(x));
  const inputs = { q: make(B, T, H, K), k: make(B, S, HKV, K), v: make(B, S, HKV, V), lambda };
  return { inputs, dO: make(B, T, H, V) };
}

for (const [sizes, options] of CASES)
  test(`[${sizes}] ${JSON.stringify(options)}`, async () => {
    const { inputs, dO } = draw(sizes);
    const asked = { ...options, outputSolution: true, outputResidual: true };
    const { o, solution, residual } = await call('localLinearAttention', inputs, asked);
    expectNear('forward', { o }, { ...localLinearAttention(inputs, options) }, LIMITS);
    assert.ok(residual.data.every((x) => x < 1e-5));
    const given = { ...inputs, dO };
    const wanted = { ...localLinearAttentionBackward(given, options) };
    const name = 'localLinearAttentionBackward';
    expectNear('backward', await call(name, given, options), wanted, LIMITS);
    const saved = await call(name, { ...given, solution }, { ...options, outputResidual: true });
    assert.ok(saved.residual.data.every((x) => x < 1e-5));
    const { residual: _asked, ...gradients } = saved;
    expectNear('backward, solution given', gradients, wanted, LIMITS);
  });

test('lambda of a head', async () => {
  const { inputs, dO } = draw([2, 20, 20, 4, 2, 12, 10]);
  const given = { ...inputs, lambda: { data: Float32Array.of(0.3, 2, 0.7, 5), shape: [4] } };
  expectNear(
    'o',
    await call('localLinearAttention', given),
    { ...localLinearAttention(given) },
    3e-6,
  );
  const wanted = { ...localLinearAttentionBackward({ ...given, dO }) };
  expectNear(
    'gradients',
    await call('localLinearAttentionBackward', { ...given, dO }),
    wanted,
    LIMITS,
  );
});

for (const dtype of ['bf16', 'f16'] as const)
  test(`${dtype}: o and gradients`, async () => {
    const { inputs, dO } = draw([1, 40, 60, 4, 2, 20, 12]);
    const { lambda, ...rest } = { ...inputs, dO };
    const limit = { bf16: 2.5e-3, f16: 3.5e-4 }[dtype];
    const given: any = { lambda };
    for (const [name, x] of Object.entries(rest)) given[name] = encode(dtype, x);
    const seen = Object.fromEntries(
      Object.entries(given).map(([name, x]) => [name, decode(x as Tensor32)]),
    ) as any;
    const { dO: _later, ...forward } = given;
    const { o } = await call('localLinearAttention', forward);
    assert.is(o.dtype as string, dtype);
    expectNear('o', { o: decode(o) }, { o: localLinearAttention(seen).o }, limit);
    const wanted = { ...localLinearAttentionBackward(seen) };
    expectNear('gradients', await call('localLinearAttentionBackward', given), wanted, LIMITS);
    const rounded = localLinearAttentionBackwardSync(given, { gradDtype: 'input' }) as any;
    for (const [name, x] of Object.entries(rounded) as [string, any][])
      assert.is(x.dtype, name === 'dLambda' ? 'f32' : dtype, name);
    const decoded = Object.fromEntries(
      Object.entries(rounded).map(([name, x]) => [name, decode(x as Tensor32)]),
    );
    expectNear('gradients, rounded', decoded, wanted, limit);
  });

test('drawn problems: values that are a line of the keys are found, whatever the weights', () => {
  fc.assert(
    fc.property(
      fc.record({
        T: fc.integer({ min: 12, max: 40 }),
        K: fc.integer({ min: 1, max: 6 }),
        V: fc.integer({ min: 1, max: 5 }),
        seed: fc.integer(),
      }),
      ({ T, K, V, seed }) => {
        // With more keys than K and hardly any ridge, the fit of v = W k + c at the query is W q + c.
        const make = normals(seed);
        const [q, k, W, c] = [make(1, 1, 1, K), make(1, T, 1, K), make(V, K), make(V)];
        const line = (x: Float32Array, row: number, out: number): number => {
          let sum = c.data[out];
          for (let i = 0; i < K; i++) sum += W.data[out * K + i] * x[row * K + i];
          return sum;
        };
        const values = (x: Tensor32, rows: number): Tensor32 => ({
          data: Float32Array.from({ length: rows * V }, (_, i) =>
            line(x.data, Math.floor(i / V), i % V),
          ),
          shape: [1, rows, 1, V],
        });
        const lambda = { data: Float32Array.of(1e-6), shape: [1] };
        const inputs = { q, k, v: values(k, T), lambda };
        const { o } = localLinearAttentionSync(inputs, {
          causal: false,
          scale: 0.1,
          maxIterations: 60,
        });
        // Against the size of the line's terms: its value may be what is left of them.
        const wanted = values(q, 1).data;
        for (let out = 0; out < V; out++) {
          const terms = [c.data[out], ...q.data.map((x, i) => x * W.data[out * K + i])];
          const error = Math.abs(o.data[out] - wanted[out]);
          assert.ok(error <= 3e-4 * Math.hypot(...terms), `${error} of ${terms}`);
        }
      },
    ),
    { numRuns: 25 },
  );
});

test('a large ridge, or no step at all, is softmax attention', () => {
  const { inputs } = draw([1, 50, 50, 4, 2, 16, 12]);
  const { lambda, ...rest } = inputs;
  const softmax = { o: attentionSync(rest).o };
  const stiff = { ...lambda, data: lambda.data.map(() => 1e9) };
  expectNear('ridge', localLinearAttentionSync({ ...rest, lambda: stiff }), softmax, 1e-6);
  const none = localLinearAttentionSync(inputs, { maxIterations: 0, outputResidual: true });
  expectNear('steps', { o: none.o }, softmax, 1e-6);
  // Not converged: nothing is thrown, the residual says so.
  assert.ok(none.residual!.data.every((x) => x === 1));
  const some = localLinearAttentionSync(inputs, { maxIterations: 3, outputResidual: true });
  const left = some.residual!.data.reduce((a, b) => Math.max(a, b));
  assert.ok(left > 1e-4 && left < 1, `${left}`);
});

test('keys of equal distance, one key, equal keys', () => {
  const { inputs, dO } = draw([1, 1, 1, 2, 1, 8, 8]);
  const { o } = localLinearAttentionSync(inputs); // the line through one point that leans least is flat
  expectNear('one key', { o }, { o: localLinearAttention(inputs).o }, 1e-6);
  const { dv, ...rest } = localLinearAttentionBackwardSync({ ...inputs, dO });
  expectNear('dv', { dv }, { dv: localLinearAttentionBackward({ ...inputs, dO }).dv }, 1e-6);
  for (const [name, x] of Object.entries(rest))
    assert.ok(
      x.data.every((value) => Math.abs(value) < 1e-5),
      name,
    );
  const many = draw([1, 40, 40, 2, 1, 8, 8]).inputs;
  many.k.data = many.k.data.map((_, i) => many.k.data[i % 8]);
  expectNear('equal keys', localLinearAttentionSync(many), { ...localLinearAttention(many) }, 1e-5);
});

/** Keys some of whose channels are far from 0. */
function drawOffset(sizes: Sizes) {
  const { inputs, dO } = draw(sizes);
  inputs.k.data = inputs.k.data.map((x, i) => (i % sizes[5] < 4 ? x + 100 : x));
  return { inputs, dO };
}

for (const [sizes, options] of [
  [[1, 200, 200, 1, 1, 32, 16], {}],
  [[2, 70, 90, 4, 2, 20, 8], FULL],
  [[1, 150, 150, 1, 1, 24, 8], { window: [40, 0], sinkTokens: 2 }],
] as [Sizes, LocalLinearOptions][])
  test(`keys with a part in common cost no digits: [${sizes}] ${JSON.stringify(options)}`, () => {
    const { inputs, dO } = drawOffset(sizes);
    const all = { ...inputs, dO };
    const { o } = localLinearAttentionSync(inputs, options as any);
    expectNear('o', { o }, { o: localLinearAttention(inputs, options).o }, 1e-5);
    const grads = { ...localLinearAttentionBackwardSync(all, options as any) };
    const wanted = { ...localLinearAttentionBackward(all, options) };
    expectNear('gradients', grads, wanted, { ...LIMITS, other: 2e-5 });
  });

test('equal keys are softmax attention, whatever the ridge', () => {
  const { inputs } = draw([1, 40, 40, 2, 1, 8, 8]);
  inputs.k.data = inputs.k.data.map((_, i) => inputs.k.data[i % 8]);
  const { lambda, ...rest } = inputs;
  for (const ridge of [1e-30, 1e-10, 1e-3]) {
    const given = { ...rest, lambda: { ...lambda, data: lambda.data.map(() => ridge) } };
    expectNear(`${ridge}`, localLinearAttentionSync(given), { o: attentionSync(rest).o }, 1e-6);
  }
});

test('what keys are held against is a key that every query sees', () => {
  const { inputs } = drawOffset([1, 200, 200, 1, 1, 12, 10]);
  const options = { window: [40, 0] } as const;
  const { o } = localLinearAttentionSync(inputs, options) as any;
  const cut = Object.fromEntries(
    Object.entries(inputs).map(([name, x]) => [name, slice(x as any, 1, 0, 75)]),
  ) as any;
  expectSame('prefix', slice(o, 1, 0, 75), localLinearAttentionSync(cut, options).o as any);
  for (const value of [1e18, NaN]) {
    const k = { ...inputs.k, data: Float32Array.from(inputs.k.data).fill(value, 0, 5 * 12) };
    const spoilt = localLinearAttentionSync({ ...inputs, k }, options).o as any;
    expectSame(`after ${value}`, slice(spoilt, 1, 45, 200), slice(o, 1, 45, 200));
  }
});

test('a tolerance that float32 cannot reach', () => {
  const few = draw([1, 4, 4, 1, 1, 64, 8]);
  few.inputs.lambda.data.fill(0.5);
  const near = draw([1, 60, 60, 2, 1, 17, 5]);
  near.inputs.lambda.data = near.inputs.lambda.data.map((x) => x - 0.25);
  for (const [{ inputs, dO }, mask] of [
    [few, {}],
    [near, { window: [1, 0] }],
  ] as const)
    for (const tolerance of [0, 1e-24, 1e-12]) {
      const options = { ...mask, tolerance, maxIterations: 130 } as any;
      const asked = { ...options, outputResidual: true };
      const { o, residual } = localLinearAttentionSync(inputs, asked);
      expectNear(
        `o, ${tolerance}`,
        { o },
        { o: localLinearAttention(inputs, mask as any).o },
        1e-5,
      );
      const grads = localLinearAttentionBackwardSync({ ...inputs, dO }, asked);
      for (const left of [residual!, grads.residual!])
        assert.ok(
          left.data.every((x) => x < 1e-4),
          `residual, ${tolerance}`,
        );
      for (const name of ['dq', 'dk', 'dv', 'dLambda'] as const)
        assert.ok(grads[name].data.every(Number.isFinite), name);
    }
});

test('two keys and a small ridge: the system is solved as far as float32 goes', () => {
  const { inputs, dO } = draw([1, 200, 200, 2, 1, 17, 5]);
  inputs.lambda.data = inputs.lambda.data.map((x) => x - 0.25);
  const options: LocalLinearOptions = { window: [1, 0] };
  const { o } = localLinearAttentionSync(inputs, options as any);
  expectNear('o', { o }, { o: localLinearAttention(inputs, options).o }, 5e-6);
  const all = { ...inputs, dO };
  const wanted = { ...localLinearAttentionBackward(all, options) };
  const limits = { dLambda: 4e-4, other: 1e-5 };
  const grads = { ...localLinearAttentionBackwardSync(all, options as any) };
  expectNear('gradients', grads, wanted, limits);
});

test('scores and gradients of any size', () => {
  const { inputs, dO } = draw([1, 40, 60, 2, 2, 16, 8]);
  const sharp = localLinearAttentionSync(inputs, { scale: 300 }).o;
  expectNear('sharp', { o: sharp }, { o: localLinearAttention(inputs, { scale: 300 }).o }, 2e-3);
  const flat = localLinearAttentionSync(inputs, { scale: 0 }).o;
  expectNear('flat', { o: flat }, { o: localLinearAttention(inputs, { scale: 0 }).o }, 3e-6);
  // The backward is linear in dO, whose squares do not fit into float32.
  const plain = localLinearAttentionBackwardSync({ ...inputs, dO });
  for (const by of [2 ** -80, 2 ** 80]) {
    const far = { ...dO, data: dO.data.map((x) => x * by) };
    const grads = localLinearAttentionBackwardSync({ ...inputs, dO: far });
    for (const [name, x] of Object.entries(grads) as [string, Tensor32][]) {
      const back = { ...x, data: x.data.map((value) => value / by) };
      expectNear(`${name} by ${by}`, { x: back }, { x: (plain as any)[name] }, 1e-6);
    }
  }
});

test('packed sequences have the bits that they have alone', async () => {
  const [starts, startsK] = [Int32Array.of(0, 20, 20, 61), BigInt64Array.of(0n, 30n, 31n, 101n)];
  const { inputs, dO } = draw([1, 61, 101, 4, 2, 20, 12]);
  const mask = { window: [25, 0], sinkTokens: 2 } as const;
  const options = { ...mask, cuSeqlens: starts, cuSeqlensK: startsK };
  const given = { ...inputs, dO } as Record<string, Tensor32>;
  const { o } = await call('localLinearAttention', inputs, options);
  const grads = (await call('localLinearAttentionBackward', given, options)) as any;
  expectNear('o', { o }, { o: localLinearAttention(inputs, options).o }, 3e-6);
  const wanted = { ...localLinearAttentionBackward(given as any, options) };
  expectNear('gradients', grads, wanted, LIMITS);
  for (let n = 0; n < 3; n++) {
    const part = (x: Tensor32, name: string): any => {
      const at = ['k', 'v', 'dk', 'dv'].includes(name) ? startsK : starts;
      return slice(x as any, 1, Number(at[n]), Number(at[n + 1]));
    };
    const alone: any = Object.fromEntries(
      Object.entries(given).map(([name, x]) => [name, part(x, name)]),
    );
    const { dO: _later, ...forward } = alone;
    expectSame(`o of ${n}`, part(o as any, 'o'), localLinearAttentionSync(forward, mask).o as any);
    for (const [name, x] of Object.entries(localLinearAttentionBackwardSync(alone, mask)))
      expectSame(`${name} of ${n}`, part(grads[name], name), x as any);
  }
});

test('rows of a batch and causal prefixes have the bits that they have alone', () => {
  const { inputs } = draw([2, 150, 150, 4, 2, 12, 10]);
  const { o } = localLinearAttentionSync(inputs);
  const cut = (dimension: number, begin: number, end: number): any =>
    Object.fromEntries(
      Object.entries(inputs).map(([name, x]) => [name, slice(x as any, dimension, begin, end)]),
    );
  for (const b of [0, 1])
    expectSame(
      `row ${b}`,
      slice(o as any, 0, b, b + 1),
      localLinearAttentionSync(cut(0, b, b + 1)).o as any,
    );
  expectSame('prefix', slice(o as any, 1, 0, 70), localLinearAttentionSync(cut(1, 0, 70)).o as any);
});

test('a decode over a cache is the same as its rows of the whole', () => {
  const [B, T, H, HKV, K, V] = [2, 60, 4, 2, 12, 10];
  const { inputs } = draw([B, T, T, H, HKV, K, V]);
  const whole = localLinearAttentionSync(inputs, { window: [24, 0], sinkTokens: 2 }).o;
  const cache = rankone.createKvCache({
    batch: B,
    kvHeads: HKV,
    keyDim: K,
    valueDim: V,
    window: 24,
    sinkTokens: 2,
  });
  for (const [begin, end] of [
    [0, 41],
    [41, 42],
    [42, 60],
  ]) {
    const part: any = Object.fromEntries(
      Object.entries(inputs).map(([name, x]) => [name, slice(x as any, 1, begin, end)]),
    );
    const { o } = localLinearAttentionSync({ ...part, cache }, { window: [24, 0], sinkTokens: 2 });
    expectNear(`[${begin},${end}]`, { o }, { o: slice(whole as any, 1, begin, end) as any }, 3e-6);
  }
  cache.dispose();
});

test('keys that are not seen leave no trace, even NaN', () => {
  const [T, S] = [70, 100];
  const { inputs, dO } = draw([1, T, S, 2, 1, 24, 40]);
  const spoilt: any = { ...inputs };
  for (const name of ['k', 'v'] as const) {
    const { data, shape } = inputs[name];
    spoilt[name] = { data: Float32Array.from(data).fill(NaN, (S - 1) * shape[3]), shape };
  }
  const [clean, dirty] = [inputs, spoilt].map((x) => localLinearAttentionSync(x).o as any);
  expectSame('o', slice(dirty, 1, 0, T - 1), slice(clean, 1, 0, T - 1));
  assert.ok(slice(dirty, 1, T - 1, T).data.every(Number.isNaN));
  const [before, after] = [inputs, spoilt].map(
    (x) => localLinearAttentionBackwardSync({ ...x, dO }) as any,
  );
  for (const name of ['dq', 'dLambda'])
    expectSame(name, slice(after[name], 1, 0, T - 1), slice(before[name], 1, 0, T - 1));
  // A query or a ridge that is NaN spoils its own row, and only the keys that it sees.
  for (const name of ['q', 'lambda'] as const) {
    const { data, shape } = inputs[name];
    const spoilt = { data: Float32Array.from(data).fill(NaN, 0, data.length / T), shape };
    const { o } = localLinearAttentionSync({ ...inputs, [name]: spoilt }) as any;
    assert.ok(slice(o, 1, 0, 1).data.every(Number.isNaN), name);
    expectSame(name, slice(o, 1, 1, T), slice(clean, 1, 1, T));
    const { dk, dv } = localLinearAttentionBackwardSync({ ...inputs, [name]: spoilt, dO }) as any;
    const unseen = S - T + 1;
    expectSame('dk', slice(dk, 1, unseen, S), slice(before.dk, 1, unseen, S));
    expectSame('dv', slice(dv, 1, unseen, S), slice(before.dv, 1, unseen, S));
  }
});

test('abort', async () => {
  const { inputs, dO } = draw([1, 500, 500, 4, 4, 32, 32]);
  const reason = new Error('enough');
  const { localLinearAttention: forward, localLinearAttentionBackward: backward } = rankone;
  assert.is(await endOfAborted((signal) => forward(inputs, { signal }), reason), reason);
  const given = { ...inputs, dO };
  assert.is(await endOfAborted((signal) => backward(given, { signal }), reason), reason);
});

test('bad input', () => {
  const { inputs, dO } = draw([1, 5, 5, 4, 2, 8, 6]);
  const make = normals(1);
  const fails = (change: object, options: object, kind: any, pattern: RegExp): void =>
    throwsWith(
      () => localLinearAttentionSync({ ...inputs, ...change } as any, options as any),
      kind,
      pattern,
    );
  fails({ lambda: undefined }, {}, TypeError, /^\[localLinearAttention\] lambda: expected/);
  fails({ lambda: make(3) }, {}, RangeError, /lambda: expected shape \[H\] = \[4\]/);
  fails({ lambda: make(5, 4) }, {}, RangeError, /lambda: expected shape \[B,T,H\]/);
  fails({ k: make(1, 5, 3, 8) }, {}, RangeError, /k: expected HKV to be a divisor of H = 4|v: /);
  fails({ v: encode('bf16', inputs.v) }, {}, TypeError, /v: expected dtype f32/);
  fails({}, { tolerance: -1 }, RangeError, /tolerance: expected a finite number >= 0/);
  fails({}, { tolerance: NaN }, RangeError, /tolerance: expected a finite number >= 0/);
  fails({}, { maxIterations: 1.5 }, RangeError, /maxIterations: expected an integer/);
  fails(
    {},
    { maxIterations: 1e5 },
    RangeError,
    /maxIterations: expected an integer from 0 to 10000/,
  );
  fails({}, { softcap: 3 }, TypeError, /softcap/);
  fails({}, { window: [-1, 0] }, RangeError, /window: expected two integers >= 0/);
  const solution = make(1, 5, 4, 6);
  throwsWith(
    () => localLinearAttentionBackwardSync({ ...inputs, dO, solution } as any),
    RangeError,
    /^\[localLinearAttentionBackward\] solution: expected shape \[B,T,H,K\]/,
  );
});

test.run();
