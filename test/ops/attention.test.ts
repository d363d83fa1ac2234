/** attention against its float64 reference: shapes, masks, packed sequences, sinks, gates, dtypes, and what must not matter. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import * as rankone from '../../ts/index';
import { type AttentionOptions, attention, attentionBackward } from '../reference/attention.ts';
import { expectSame } from '../support/bits.ts';
import { decode, encode } from '../support/half.ts';
import { call, expectNear, normals } from '../support/layers.ts';
import { slice } from '../support/slices.ts';
import type { Tensor32 } from '../support/tensor.ts';
import { endOfAborted, rejectsWith, throwsWith } from './helpers.ts';

const test = suite('attention');
const { attentionSync, attentionBackwardSync } = rankone;

type Sizes = [B: number, T: number, S: number, H: number, HKV: number, K: number, V: number];

const FULL: AttentionOptions = { causal: false };
const CASES: [Sizes, AttentionOptions][] = [
  [[1, 1, 1, 1, 1, 1, 1], {}],
  [[2, 5, 5, 3, 1, 7, 4], {}],
  [[2, 37, 37, 4, 2, 33, 20], {}],
  [[1, 37, 130, 6, 2, 64, 48], { softcap: 3 }],
  [[1, 70, 50, 2, 1, 16, 17], {}], // more queries than keys: the first see none
  [[1, 3, 0, 2, 1, 8, 8], {}],
  [[2, 0, 9, 2, 2, 8, 8], {}],
  [[0, 5, 5, 2, 2, 8, 8], {}],
  [[1, 130, 200, 2, 2, 16, 130], FULL],
  [[1, 200, 200, 2, 2, 40, 72], { window: [50, 0], sinkTokens: 3 }],
  [[1, 200, 200, 2, 1, 16, 24], { ...FULL, window: [20, 9] }],
  [[1, 150, 300, 2, 2, 16, 24], { ...FULL, window: [11, 20], sinkTokens: 130, scale: 0.7 }],
  [[2, 3, 100, 4, 2, 20, 24], { ...FULL, window: [30, 3] }],
  [[1, 4, 300, 2, 1, 40, 36], { window: [100, 0], sinkTokens: 5 }],
  [[1, 1, 1500, 4, 2, 20, 24], { window: [1300, 0], sinkTokens: 5, softcap: 20 }], // parts of keys, few rows
  [[1, 12, 4300, 1, 1, 8, 8], {}], // and more of them
  [[1, 20, 2100, 8, 8, 8, 8], {}], // backward: more keys than a task sums at once
  [[1, 5, 600, 3, 3, 200, 136], {}],
];

const LIMITS = { other: 2e-6, dq: 3e-6, dk: 3e-6, dv: 3e-6, dSinks: 5e-6, dGate: 3e-6 };

function draw([B, T, S, H, HKV, K, V]: Sizes, extras: boolean) {
  const make = normals(B + 3 * T + 5 * S + 7 * K);
  const inputs = { q: make(B, T, H, K), k: make(B, S, HKV, K), v: make(B, S, HKV, V) };
  const more = { sinks: make(H), gate: make(B, T, H, V) };
  const gradients = { dO: make(B, T, H, V), dLse: make(B, T, H) };
  return {
    inputs: { ...inputs, ...(extras && more) },
    gradients: { dO: gradients.dO, ...(extras && { dLse: gradients.dLse }) },
  };
}

/** Where a query sees nothing lse is -Infinity, which no error can be taken of. */
function finite({ data, shape }: { data: ArrayLike<number>; shape: readonly number[] }): Tensor32 {
  return { data: Float32Array.from(data, (x) => (x === -Infinity ? -1e30 : x)), shape: [...shape] };
}

for (const [sizes, options] of CASES)
  for (const extras of [false, true])
    test(`[${sizes}] ${JSON.stringify(options)}${extras ? ', sinks and gate' : ''}`, async () => {
      const { inputs, gradients } = draw(sizes, extras);
      const { o, lse } = await call('attention', inputs, { ...options, outputLse: true });
      const expected = attention(inputs, options);
      const found = { o, lse: finite(lse) };
      expectNear('forward', found, { o: expected.o, lse: finite(expected.lse) }, 2e-6);
      const given = { ...inputs, ...gradients };
      const wanted = { ...attentionBackward(given, options) };
      expectNear('backward', await call('attentionBackward', given, options), wanted, LIMITS);
      const saved = await call('attentionBackward', { ...given, o, lse }, options);
      expectNear('backward, o and lse given', saved, wanted, LIMITS);
    });

for (const dtype of ['bf16', 'f16'] as const)
  test(`${dtype}: o and gradients`, async () => {
    const { inputs, gradients } = draw([1, 70, 100, 4, 2, 33, 20], true);
    const limit = { bf16: 2.5e-3, f16: 3.5e-4 }[dtype];
    const { sinks, gate, ...rest } = { ...inputs, ...gradients } as Record<string, Tensor32>;
    for (const gateDtype of ['f32', dtype] as const) {
      const given: any = { sinks, gate: encode(gateDtype, gate) };
      for (const [name, x] of Object.entries(rest))
        given[name] = name === 'dLse' ? x : encode(dtype, x);
      const seen = Object.fromEntries(
        Object.entries(given).map(([name, x]) => [name, decode(x as Tensor32)]),
      ) as any;
      const { dO, dLse, ...forward } = given;
      const { o, lse } = await call('attention', forward, { outputLse: true });
      assert.is(o.dtype as string, dtype);
      const expected = attention(seen);
      expectNear('o', { o: decode(o) }, { o: expected.o }, limit);
      expectNear('lse', { lse }, { lse: expected.lse }, 2e-6);
      const wanted = { ...attentionBackward(seen) };
      expectNear('gradients', await call('attentionBackward', given), wanted, LIMITS);
      const rounded = attentionBackwardSync(given, { gradDtype: 'input' }) as any;
      for (const [name, x] of Object.entries(rounded) as [string, any][])
        assert.is(x.dtype, name === 'dSinks' ? 'f32' : name === 'dGate' ? gateDtype : dtype, name);
      const decoded = Object.fromEntries(
        Object.entries(rounded).map(([name, x]) => [name, decode(x as Tensor32)]),
      );
      expectNear('gradients, rounded', decoded, wanted, { other: limit, dSinks: 5e-6 });
    }
  });

test('packed sequences have the bits that they have alone', async () => {
  const [starts, startsK] = [Int32Array.of(0, 20, 20, 61), BigInt64Array.of(0n, 30n, 31n, 101n)];
  const { inputs, gradients } = draw([1, 61, 101, 4, 2, 20, 12], true);
  const mask = { window: [25, 0], sinkTokens: 2 } as const;
  const options = { ...mask, cuSeqlens: starts, cuSeqlensK: startsK };
  const given = { ...inputs, ...gradients } as Record<string, Tensor32>;
  const { o, lse } = await call('attention', inputs, { ...options, outputLse: true });
  const grads = (await call('attentionBackward', given, options)) as any;
  expectNear('o', { o }, { o: attention(inputs, options).o }, 2e-6);
  expectNear('gradients', grads, { ...attentionBackward(given as any, options) }, LIMITS);
  for (let n = 0; n < 3; n++) {
    const part = (x: Tensor32, name: string): any => {
      const at = ['k', 'v', 'dk', 'dv'].includes(name) ? startsK : starts;
      return name === 'sinks' ? x : slice(x as any, 1, Number(at[n]), Number(at[n + 1]));
    };
    const alone = Object.fromEntries(
      Object.entries(given).map(([name, x]) => [name, part(x, name)]),
    );
    const { dO, dLse, ...forward } = alone;
    const one = attentionSync(forward as any, { ...mask, outputLse: true });
    expectSame(`o of ${n}`, part(o as any, 'o'), one.o);
    expectSame(`lse of ${n}`, part(lse as any, 'lse'), one.lse as any);
    const { dSinks, ...own } = attentionBackwardSync(alone as any, mask) as any;
    for (const [name, x] of Object.entries(own))
      expectSame(`${name} of ${n}`, part(grads[name], name), x as any);
  }
});

test('a row of the batch has the bits that it has alone', () => {
  const { inputs } = draw([3, 40, 150, 4, 2, 24, 40], true);
  const whole = attentionSync(inputs).o;
  for (let b = 0; b < 3; b++) {
    const alone = Object.fromEntries(
      Object.entries(inputs).map(([name, x]) => [
        name,
        name === 'sinks' ? x : slice(x as any, 0, b, b + 1),
      ]),
    );
    expectSame(`row ${b}`, slice(whole as any, 0, b, b + 1), attentionSync(alone as any).o as any);
  }
});

test('a head has the bits that it has alone, however many threads there are', () => {
  const before = rankone.getNumThreads();
  const mask = { window: [1290, 0], sinkTokens: 3 } as const;
  for (const [T, S, G] of [
    [1, 1300, 1],
    [1, 90, 1],
    [3, 70, 1],
    [2, 1300, 2],
  ]) {
    const { inputs } = draw([2, T, S, 10 * G, 10, 20, 36], true);
    const head = (x: any, axis: number, h: number, count: number): any =>
      slice(x, axis, h * count, (h + 1) * count);
    const alone = Array.from({ length: 10 }, (_, h) => {
      const { q, k, v, sinks, gate } = inputs as Record<string, Tensor32>;
      const part = { q: head(q, 2, h, G), k: head(k, 2, h, 1), v: head(v, 2, h, 1) };
      const more = { sinks: head(sinks, 0, h, G), gate: head(gate, 2, h, G) };
      return attentionSync({ ...part, ...more }, { ...mask, outputLse: true }) as any;
    });
    for (const threads of [1, 2, 5]) {
      rankone.setNumThreads(threads);
      const { o, lse } = attentionSync(inputs, { ...mask, outputLse: true }) as any;
      for (const [h, one] of alone.entries()) {
        expectSame(`o of head ${h}`, head(o, 2, h, G), one.o);
        expectSame(`lse of head ${h}`, head(lse, 2, h, G), one.lse);
      }
    }
    rankone.setNumThreads(before);
  }
});

test('a causal prefix has the bits that it has in the whole', () => {
  const { inputs } = draw([1, 300, 300, 2, 2, 24, 24], false);
  const { o } = attentionSync(inputs);
  const prefix = Object.fromEntries(
    Object.entries(inputs).map(([name, x]) => [name, slice(x as any, 1, 0, 150)]),
  );
  expectSame('prefix', slice(o as any, 1, 0, 150), attentionSync(prefix as any).o as any);
});

test('a window of all tokens is none; heads of a group are repeated heads', () => {
  const { inputs, gradients } = draw([1, 130, 130, 4, 2, 24, 40], false);
  const plain = attentionSync(inputs).o;
  expectSame('window', attentionSync(inputs, { window: [130, 7] }).o as any, plain as any);
  expectSame('left', attentionSync(inputs, { window: [Infinity, 0] }).o as any, plain as any);
  const repeated = ({ data, shape }: Tensor32): Tensor32 => {
    const [B, S, HKV, K] = shape;
    const twice = new Float32Array(2 * data.length);
    for (let row = 0; row < B * S * HKV; row++)
      for (const copy of [0, 1])
        twice.set(data.subarray(row * K, (row + 1) * K), (2 * row + copy) * K);
    return { data: twice, shape: [B, S, 2 * HKV, K] };
  };
  const wide = { q: inputs.q, k: repeated(inputs.k), v: repeated(inputs.v) };
  const sum = ({ data, shape }: any): Tensor32 => {
    const [B, S, H, K] = shape;
    const half = new Float32Array(data.length / 2);
    for (let i = 0; i < half.length; i++) {
      const row = Math.floor(i / K);
      half[i] = data[2 * row * K + (i % K)] + data[(2 * row + 1) * K + (i % K)];
    }
    return { data: half, shape: [B, S, H / 2, K] };
  };
  expectNear('o', { o: plain }, { o: attentionSync(wide).o }, 1e-6);
  const grads = attentionBackwardSync({ ...inputs, dO: gradients.dO });
  const many = attentionBackwardSync({ ...wide, dO: gradients.dO });
  const joined = { dq: many.dq, dk: sum(many.dk), dv: sum(many.dv) };
  expectNear('gradients', grads as any, joined, 3e-6);
});

test('keys that are not seen leave no trace, even NaN', () => {
  for (const [T, S] of [
    [70, 100],
    [3, 40],
  ]) {
    const { inputs, gradients } = draw([1, T, S, 2, 1, 24, 40], false);
    const spoilt = { ...inputs };
    const late = S - 1; // seen by the last query only
    for (const name of ['k', 'v'] as const) {
      const { data, shape } = inputs[name];
      spoilt[name] = { data: Float32Array.from(data).fill(NaN, late * shape[3]), shape };
    }
    const [clean, dirty] = [inputs, spoilt].map((x) => attentionSync(x).o as any);
    expectSame('o', slice(dirty, 1, 0, T - 1), slice(clean, 1, 0, T - 1));
    assert.ok(slice(dirty, 1, T - 1, T).data.every(Number.isNaN));
    const [before, after] = [inputs, spoilt].map(
      (x) => attentionBackwardSync({ ...x, dO: gradients.dO }) as any,
    );
    expectSame('dq', slice(after.dq, 1, 0, T - 1), slice(before.dq, 1, 0, T - 1));
    // A query that is NaN spoils only the keys that it sees.
    const q = { data: Float32Array.from(inputs.q.data), shape: inputs.q.shape };
    q.data.fill(NaN, 0, 48);
    const { dk, dv } = attentionBackwardSync({ ...inputs, q, dO: gradients.dO }) as any;
    const unseen = S - T + 1;
    expectSame('dk', slice(dk, 1, unseen, S), slice(before.dk, 1, unseen, S));
    expectSame('dv', slice(dv, 1, unseen, S), slice(before.dv, 1, unseen, S));
  }
});

test('scores of any size', () => {
  const { inputs, gradients } = draw([1, 40, 200, 2, 2, 16, 8], false);
  const { o } = attentionSync(inputs, { scale: 1e4 });
  assert.ok(o.data.every(Number.isFinite));
  expectNear('o', { o }, { o: attention(inputs, { scale: 1e4 }).o }, 2e-2);
  const { o: flat } = attentionSync(inputs, { scale: 0 });
  expectNear('flat', { o: flat }, { o: attention(inputs, { scale: 0 }).o }, 2e-6);
  const sinks = { data: Float32Array.of(-Infinity, 300), shape: [2] };
  const expected = attention({ ...inputs, sinks });
  const actual = attentionSync({ ...inputs, sinks }, { outputLse: true });
  expectNear('sinks', actual as any, { ...expected }, 2e-6);
  // One key has all the weight, and float32 resolves no score: a weight is still none above one.
  const huge = draw([1, 40, 200, 2, 2, 16, 8], true);
  const { dv } = attentionBackwardSync({ ...huge.inputs, ...gradients }, { scale: 1e12 });
  const most = (data: ArrayLike<number>): number =>
    Array.from(data).reduce((a, x) => a + Math.abs(x), 0);
  assert.ok(most(dv!.data) <= most(gradients.dO.data) * 1.001, `${most(dv!.data)}`);
});

test('abort', async () => {
  const { inputs, gradients } = draw([1, 700, 700, 4, 4, 32, 32], false);
  const reason = new Error('enough');
  assert.is(await endOfAborted((signal) => rankone.attention(inputs, { signal }), reason), reason);
  const given = { ...inputs, dO: gradients.dO };
  assert.is(
    await endOfAborted((signal) => rankone.attentionBackward(given, { signal }), reason),
    reason,
  );
});

test('bad input', async () => {
  const { inputs, gradients } = draw([1, 5, 5, 4, 2, 8, 6], true);
  const { q, k, v, gate } = inputs as any;
  const make = normals(1);
  const fails = (change: object, options: object, kind: any, pattern: RegExp): void =>
    throwsWith(() => attentionSync({ ...inputs, ...change } as any, options as any), kind, pattern);
  const starts = Int32Array.of(0, 5);
  fails({ q: make(1, 5, 8) }, {}, RangeError, /^\[attention\] q: expected shape \[B,T,H,K\]/);
  fails(
    { k: make(1, 5, 3, 8), v: make(1, 5, 3, 6) },
    {},
    RangeError,
    /k: expected HKV to be a divisor of H = 4/,
  );
  fails({ v: make(1, 4, 2, 6) }, {}, RangeError, /v: expected shape \[B,S,HKV,V\] = \[1,5,2,6\]/);
  fails({ k: encode('bf16', k) }, {}, TypeError, /k: expected dtype f32 \(that of q\)/);
  fails(
    { q: make(1, 5, 4, 1025), k: make(1, 5, 2, 1025) },
    {},
    RangeError,
    /head size from 1 to 1024/,
  );
  fails({ sinks: make(3) }, {}, RangeError, /sinks: expected shape \[H\] = \[4\]/);
  fails({ gate: make(1, 5, 4, 8) }, {}, RangeError, /gate: expected shape \[B,T,H,V\]/);
  fails({}, { window: 5 }, TypeError, /window: expected an array of two numbers/);
  fails({}, { window: [-1, 0] }, RangeError, /window: expected two integers >= 0/);
  fails({}, { window: [1.5, 0] }, RangeError, /window: expected two integers >= 0/);
  fails({}, { window: [NaN, 0] }, RangeError, /window: expected two integers >= 0/);
  fails({}, { sinkTokens: -1 }, RangeError, /sinkTokens: expected an integer from 0/);
  fails({}, { scale: Infinity }, RangeError, /scale: expected a number that float32 can hold/);
  fails({}, { softcap: -1 }, RangeError, /softcap: expected a finite number >= 0/);
  fails(
    {},
    { cuSeqlens: Int32Array.of(0, 3) },
    RangeError,
    /cuSeqlens: expected T = 5 at 1, got 3/,
  );
  fails({}, { cuSeqlensK: starts }, TypeError, /cuSeqlensK: expected cuSeqlens beside it/);
  fails(
    {},
    { cuSeqlens: starts, cuSeqlensK: Int32Array.of(0, 4) },
    RangeError,
    /cuSeqlensK: expected S = 5/,
  );
  fails(
    {},
    { stateIndices: Int32Array.of(0) },
    TypeError,
    /stateIndices: expected a cache beside them/,
  );
  fails({}, { cuseqlens: starts }, TypeError, /cuseqlens: .*nearest: cuSeqlens/);
  fails({ cache: {} }, {}, TypeError, /cache: expected what createKvCache\(\) returned/);
  const dO = (gradients as any).dO;
  const back = (change: object, kind: any, pattern: RegExp): void =>
    throwsWith(() => attentionBackwardSync({ q, k, v, gate, dO, ...change } as any), kind, pattern);
  back(
    { dO: make(1, 5, 4, 8) },
    RangeError,
    /^\[attentionBackward\] dO: expected shape \[B,T,H,V\]/,
  );
  back({ o: dO }, TypeError, /lse: expected a tensor, or neither o nor lse/);
  back({ dLse: make(1, 4, 5) }, RangeError, /dLse: expected shape \[B,T,H\]/);
  await rejectsWith(
    () => rankone.attention({ q, k, v }, { causal: 1 } as any),
    TypeError,
    /causal: expected true or false/,
  );
});

test.run();
