/** Routing of mixture-of-memories, rows into its order and back, and what they make of a recurrence. */

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import * as rankone from '../../ts/index';
import * as reference from '../reference/mom.ts';
import { expectSame } from '../support/bits.ts';
import { checkGradient, dot } from '../support/gradcheck.ts';
import { decode, encode } from '../support/half.ts';
import { call, expectNear, normals } from '../support/layers.ts';
import { native } from '../support/native.ts';
import fc from '../support/property.ts';
import { slice } from '../support/slices.ts';
import type { Tensor32, Tensor64 } from '../support/tensor.ts';
import { toFloat64 } from '../support/tensor.ts';
import { endOfAborted, rejectsWith, throwsWith } from './helpers.ts';

const test = suite('mom');
const { momRouteSync, momGatherSync, momCombineSync } = rankone;

type Named = Record<string, any>;

/** Small whole numbers, many of which are equal. */
const coarse = (x: Tensor32): Tensor32 => ({ ...x, data: x.data.map((a) => Math.round(a)) });

function expectRoute(label: string, found: Named, wanted: Named): void {
  const { weights, ...indices } = found;
  expectNear(label, { weights }, { weights: wanted.weights }, 2e-7);
  for (const [name, x] of Object.entries(indices)) {
    assert.instance(x.data, Int32Array);
    assert.is(x.dtype, 'i32');
    assert.equal(x.shape, wanted[name].shape, `${label}: ${name}`);
    assert.equal(Array.from(x.data), Array.from(wanted[name].data), `${label}: ${name}`);
  }
}

test('routes of drawn logits, ties among them', async () => {
  const shapes = fc.record({
    B: fc.integer({ min: 0, max: 3 }),
    T: fc.oneof(fc.integer({ min: 0, max: 9 }), fc.constant(200)),
    M: fc.integer({ min: 1, max: 9 }),
    share: fc.double({ min: 0, max: 1, noNaN: true }),
    renormalize: fc.boolean(),
    ties: fc.boolean(),
    seed: fc.integer({ min: 1, max: 1 << 20 }),
  });
  await fc.assert(
    fc.asyncProperty(shapes, async ({ B, T, M, share, renormalize, ties, seed }) => {
      const make = normals(seed);
      const logits = (ties ? coarse : (x: Tensor32) => x)(make(B, T, M));
      const topK = 1 + Math.floor(share * (M - 1));
      const options = { topK, renormalize };
      const found = await call('momRoute', { logits }, options);
      expectRoute('route', found, reference.momRoute({ logits }, options));
      const all = { logits, dWeights: make(B, T, topK) };
      const { dLogits } = await call('momRouteBackward', all, options);
      const wanted = reference.momRouteBackward(all, options).dLogits;
      // A weight that is always 1 has a gradient of 0.
      for (let i = 0; i < wanted.data.length; i++)
        assert.ok(Math.abs(dLogits.data[i] - wanted.data[i]) <= 1e-6, `dLogits at ${i}`);
    }),
    { numRuns: 40, seed: 7 },
  );
});

test('packed sequences; defaults; logits that are no numbers', async () => {
  const logits = normals(5)(1, 40, 4);
  const cuSeqlens = Int32Array.of(0, 7, 7, 30, 40);
  const found = await call('momRoute', { logits }, { cuSeqlens });
  expectRoute('packed', found, reference.momRoute({ logits }, { cuSeqlens }));
  assert.equal(found.weights.shape, [1, 40, 2]);
  assert.equal(
    momRouteSync({ logits: normals(1)(1, 3, 1) }).weights.data,
    Float32Array.of(1, 1, 1),
  );
  const strange = {
    data: Float32Array.of(1, NaN, 2, Infinity, -Infinity, 3, 4, 1e30, -1e30),
    shape: [1, 3, 3],
  };
  const { memories, weights } = momRouteSync({ logits: strange });
  assert.equal(Array.from(memories.data), [1, 2, 0, 2, 1, 0]);
  assert.equal(Array.from(weights.data.subarray(4)), [1, 0]);
  assert.ok(Number.isNaN(weights.data[0]));
});

for (const dtype of ['bf16', 'f16'] as const)
  test(`${dtype}`, async () => {
    const make = normals(11);
    const logits = encode(dtype, make(2, 9, 4)) as any;
    const route = (await call('momRoute', { logits })) as Named;
    expectRoute('route', route, reference.momRoute({ logits: decode(logits) }));
    const x = encode(dtype, make(2, 9, 3, 5)) as any;
    const { order, slots, weights } = route;
    const { y } = (await call('momGather', { x, order })) as Named;
    assert.equal(
      decode(y).data,
      Float32Array.from(reference.momGather({ x: decode(x), order }).y.data),
    );
    const limit = { bf16: 2.5e-3, f16: 3.5e-4 }[dtype];
    const o = encode(dtype, make(1, 36, 3, 5)) as any;
    const shared = encode(dtype, make(2, 9, 3, 5)) as any;
    const combined = (await call('momCombine', { o, weights, slots, shared })) as Named;
    assert.is(combined.y.dtype, dtype);
    const seen = { o: decode(o), weights, slots, shared: decode(shared) };
    expectNear('combine', { y: decode(combined.y) }, { ...reference.momCombine(seen) }, limit);
    const dY = encode(dtype, make(2, 9, 3, 5)) as any;
    const all = { o, weights, slots, dY };
    const wide = { ...all, o: decode(o), dY: decode(dY) };
    const grads = (await call('momCombineBackward', all)) as Named;
    expectNear('gradients', grads, { ...reference.momCombineBackward(wide) }, 1e-6);
    const narrow = native.momCombineBackwardSync(all, { gradDtype: 'input' });
    expectSame('dO', narrow.dO, encode(dtype, grads.dO));
    const { dx } = (await call('momGatherBackward', { dY: o, slots })) as Named;
    expectNear('dx', { dx }, { ...reference.momGatherBackward({ dY: decode(o), slots }) }, 1e-6);
    const { dx: less } = native.momGatherBackwardSync({ dY: o, slots }, { gradDtype: 'input' });
    expectSame('dx', less, encode(dtype, dx));
  });

test('gather and combine, with their gradients', async () => {
  for (const [B, T, M, k, ...rest] of [
    [1, 1, 1, 1, 1],
    [2, 17, 4, 2, 3, 9],
    [1, 33, 5, 3, 2, 2, 7],
    [3, 5, 3, 1],
    [2, 0, 3, 2, 4],
    [1, 4, 3, 2, 1500],
    [1, 4, 3, 2, 0],
  ]) {
    const make = normals(B + T);
    const { order, slots, weights } = momRouteSync({ logits: make(B, T, M) }, { topK: k });
    const P = B * T * k;
    const x = make(B, T, ...rest);
    const label = `${[B, T, M, k, rest]}`;
    const near = (found: Named, wanted: Named) => expectNear(label, found, wanted, 1e-6);
    near(await call('momGather', { x, order }), { ...reference.momGather({ x, order }) });
    const o = make(1, P, ...rest);
    near(await call('momGatherBackward', { dY: o, slots }), {
      ...reference.momGatherBackward({ dY: o, slots }),
    });
    for (const shared of [undefined, make(B, T, ...rest)]) {
      const given = { o, weights, slots, shared };
      near(await call('momCombine', given), { ...reference.momCombine(given) });
    }
    const all = { o, weights, slots, dY: make(B, T, ...rest) };
    const { dO, dWeights } = (await call('momCombineBackward', all)) as Named;
    const wanted = reference.momCombineBackward(all);
    near({ dO }, { dO: wanted.dO });
    expectNear(label, { dWeights }, { dWeights: wanted.dWeights }, 5e-6);
  }
});

/** M states per sequence, each updated by its own tokens alone, in float64 and token by token: y and the last states. */
function naive(x: Record<string, Tensor64>, topK: number) {
  const { q, k, v, g, beta, logits } = x;
  const [B, T, H, K] = q.shape;
  const V = v.shape[3];
  const M = logits.shape[2];
  const y = { data: new Float64Array(B * T * H * V), shape: [B, T, H, V] };
  const states = new Float64Array(M * B * H * K * V);
  for (let b = 0; b < B; b++)
    for (let t = 0; t < T; t++) {
      const token = b * T + t;
      const row = Array.from(logits.data.subarray(token * M, (token + 1) * M));
      const chosen = row
        .map((_, m) => m)
        .sort((a, c) => row[c] - row[a])
        .slice(0, topK);
      const total = chosen.reduce((sum, m) => sum + Math.exp(row[m]), 0);
      for (const m of chosen)
        for (let h = 0; h < H; h++) {
          const at = token * H + h;
          const first = ((m * B + b) * H + h) * K * V;
          const S = states.subarray(first, first + K * V);
          for (let i = 0; i < S.length; i++) S[i] *= Math.exp(g.data[at]);
          for (let c = 0; c < V; c++) {
            let old = 0;
            for (let i = 0; i < K; i++) old += S[i * V + c] * k.data[at * K + i];
            const error = beta.data[at] * (v.data[at * V + c] - old);
            for (let i = 0; i < K; i++) S[i * V + c] += k.data[at * K + i] * error;
            let answer = 0;
            for (let i = 0; i < K; i++) answer += S[i * V + c] * q.data[at * K + i];
            y.data[at * V + c] += ((Math.exp(row[m]) / total) * answer) / Math.sqrt(K);
          }
        }
    }
  return { y, states };
}

function memoryProblem(B: number, T: number, H: number, K: number, V: number, M: number) {
  const make = normals(B + T + M);
  const scaled = (x: Tensor32, by: number) => ({ ...x, data: x.data.map((a) => a * by) });
  return {
    q: make(B, T, H, K),
    k: scaled(make(B, T, H, K), K ** -0.5),
    v: make(B, T, H, V),
    g: { ...make(B, T, H), data: make(B, T, H).data.map((a) => -Math.abs(a) / 4) },
    beta: { ...make(B, T, H), data: make(B, T, H).data.map((a) => 1 / (1 + Math.exp(-a))) },
    logits: make(B, T, M),
  };
}

const PARTS = ['q', 'k', 'v', 'g', 'beta'] as const;

test('a routed gatedDeltaNet is a loop over memories, with its gradients', () => {
  const [B, T, H, K, V, M, topK] = [2, 11, 2, 4, 3, 3, 2];
  const { logits, ...tokens } = memoryProblem(B, T, H, K, V, M);
  const { order, slots, weights, cuSeqlens } = momRouteSync({ logits }, { topK });
  const packed: Named = {};
  for (const name of PARTS) packed[name] = momGatherSync({ x: tokens[name], order }).y;
  const options = { cuSeqlens: cuSeqlens.data };
  const { o, finalState } = native.gatedDeltaNetSync(packed, {
    ...options,
    outputFinalState: true,
  });
  const { y } = momCombineSync({ o, weights, slots });
  const wide: Named = Object.fromEntries(
    Object.entries({ ...tokens, logits }).map(([name, x]) => [name, toFloat64(x)]),
  );
  const wanted = naive(wide, topK);
  expectNear('y', { y }, { y: wanted.y }, 2e-6);
  const states = { data: wanted.states, shape: finalState.shape };
  expectNear('states', { finalState }, { finalState: states }, 2e-6);

  const dY = normals(77)(B, T, H, V);
  const { dO, dWeights } = rankone.momCombineBackwardSync({ o, weights, slots, dY });
  const inner = native.gatedDeltaNetBackwardSync({ ...packed, dO }, options);
  const loss = () => dot(naive(wide, topK).y, dY);
  for (const name of PARTS) {
    const { dx } = rankone.momGatherBackwardSync({ dY: inner[`d${name}`], slots });
    checkGradient(name, loss, wide[name], dx, { tolerance: 5e-6 });
  }
  const { dLogits } = rankone.momRouteBackwardSync({ logits, dWeights }, { topK });
  checkGradient('logits', loss, wide.logits, dLogits, { tolerance: 5e-6 });
});

test('decode: tokens one by one over a pool of states are the whole', () => {
  const [B, T, H, K, V, M, topK] = [2, 7, 1, 4, 3, 3, 2];
  const { logits, ...tokens } = memoryProblem(B, T, H, K, V, M);
  const wide: Named = Object.fromEntries(
    Object.entries({ ...tokens, logits }).map(([name, x]) => [name, toFloat64(x)]),
  );
  const wanted = naive(wide, topK).y;
  // Sequences own slots 3 and 0 of a pool for five, whose states are by memory.
  const slotsOf = [3, 0];
  const [pool, rows] = [5, new Int32Array(M * B)];
  for (let m = 0; m < M; m++) for (let n = 0; n < B; n++) rows[m * B + n] = m * pool + slotsOf[n];
  const state = rankone.createState({ batch: M * pool, valueHeads: H, keyDim: K, valueDim: V });
  for (let t = 0; t < T; t++) {
    const at = (x: Tensor32) => slice(x, 1, t, t + 1);
    const { order, slots, weights, cuSeqlens } = momRouteSync({ logits: at(logits) }, { topK });
    const packed: Named = {};
    for (const name of PARTS) packed[name] = momGatherSync({ x: at(tokens[name]), order }).y;
    const options = { cuSeqlens: cuSeqlens.data, stateIndices: rows };
    const { o } = native.gatedDeltaNetSync({ ...packed, state }, options);
    const { y } = momCombineSync({ o, weights, slots });
    const row = { data: Float32Array.from(wanted.data), shape: wanted.shape };
    expectNear(`token ${t}`, { y }, { y: slice(row, 1, t, t + 1) }, 2e-6);
  }
  state.dispose();
});

test('slots that name a row twice, or never: the gradient of what combine does', async () => {
  const make = normals(9);
  const slots = { data: Int32Array.of(0, 3, 3, 5, 1, 1), shape: [1, 3, 2] };
  const all = { o: make(1, 6, 20), weights: make(1, 3, 2), slots, dY: make(1, 3, 20) };
  const { dO, dWeights } = await call('momCombineBackward', all);
  const wanted = reference.momCombineBackward(all);
  expectNear('gradients', { dO, dWeights }, { ...wanted }, 1e-6);
});

test('into memory of the caller, and no trace of what is not taken', async () => {
  const logits = normals(3)(1, 20, 4);
  const route = momRouteSync({ logits });
  const { order, slots, weights } = route;
  const out = { weights: { data: new Float32Array(40).fill(NaN), shape: [1, 20, 2] } };
  momRouteSync({ logits }, { out });
  expectSame('weights', out.weights as any, weights as any);
  const indices = (x: any) => ({ data: new Int32Array(x.data.length).fill(-1), shape: x.shape });
  const own = { order: indices(order), slots: indices(slots) };
  await rankone.momRoute({ logits }, { out: own });
  assert.equal([own.order.data, own.slots.data], [order.data, slots.data]);
  const o = normals(4)(1, 40, 6);
  const clean = momCombineSync({ o, weights, slots }).y;
  const spoilt = { ...o, data: o.data.slice().fill(NaN, 0, 6) };
  const token = Math.floor(order.data[0] / 2);
  const { y } = momCombineSync({ o: spoilt, weights, slots });
  const kept = (x: any) =>
    Array.from(x.data as Float32Array).filter((_, i) => Math.floor(i / 6) !== token);
  assert.equal(kept(y), kept(clean));
  const target = { y: { data: new Float32Array(120).fill(NaN), shape: [1, 20, 6] } };
  momCombineSync({ o, weights, slots }, { out: target });
  expectSame('y', target.y as any, clean as any);
});

test('abort', async () => {
  const make = normals(1);
  const logits = make(1, 20000, 64);
  const { order } = momRouteSync({ logits });
  const x = make(1, 20000, 64);
  const reason = new Error('enough');
  const run = (signal: AbortSignal) => rankone.momRoute({ logits }, { signal });
  assert.is(await endOfAborted(run as any, reason), reason);
  const rows = (signal: AbortSignal) => rankone.momGather({ x, order }, { signal });
  assert.is(await endOfAborted(rows as any, reason), reason);
});

test('bad input', async () => {
  const make = normals(1);
  const logits = make(1, 4, 3);
  const { order, slots, weights } = momRouteSync({ logits });
  const ids = (...data: number[]) => ({ data: Int32Array.from(data), shape: [data.length] });
  const fails = (name: string, inputs: object, options: object, kind: any, pattern: RegExp): void =>
    throwsWith(() => native[`${name}Sync`](inputs, options), kind, pattern);
  fails(
    'momRoute',
    { logits: make(4, 3) },
    {},
    RangeError,
    /^\[momRoute\] logits: expected shape \[B,T,M\]/,
  );
  fails('momRoute', { logits: make(1, 4, 0) }, {}, RangeError, /logits: expected M from 1/);
  fails('momRoute', { logits }, { topK: 4 }, RangeError, /topK: expected an integer from 1 to 3/);
  fails('momRoute', { logits }, { topK: 0 }, RangeError, /topK: expected an integer from 1 to 3/);
  fails('momRoute', { logits }, { topk: 1 }, TypeError, /topk: .*nearest: topK/);
  fails(
    'momRoute',
    { logits },
    { cuSeqlens: Int32Array.of(0, 3) },
    RangeError,
    /cuSeqlens: expected/,
  );
  fails(
    'momRoute',
    { logits },
    { out: { order: weights } },
    TypeError,
    /out.order: expected dtype i32/,
  );
  const dWeights = make(1, 4, 3);
  fails(
    'momRouteBackward',
    { logits, dWeights },
    {},
    RangeError,
    /dWeights: expected shape \[B,T,k\]/,
  );
  const none = { data: new Int32Array(0), shape: [1, 4, 0] };
  const noEntries = { o: make(1, 0, 5), slots: none, weights: make(1, 4, 0) };
  fails('momCombine', noEntries, {}, RangeError, /slots: expected shape \[B,T,k\] with k >= 1/);
  const x = make(1, 4, 5);
  fails('momGather', { x: make(4), order }, {}, RangeError, /^\[momGather\] x: /);
  fails(
    'momGather',
    { x, order: ids(0, 1) },
    {},
    RangeError,
    /order: expected a multiple of B T = 4/,
  );
  fails(
    'momGather',
    { x, order: ids(0, 1, 2, 4) },
    {},
    RangeError,
    /order: expected indices from 0 to 3, got 4 at/,
  );
  fails('momGather', { x, order: ids(0, -1, 2, 3) }, {}, RangeError, /got -1 at position 1/);
  const dY = make(1, 8, 5);
  fails(
    'momGatherBackward',
    { dY, slots: ids(0, 1) },
    {},
    RangeError,
    /slots: expected shape \[B,T,k\]/,
  );
  fails(
    'momGatherBackward',
    { dY: make(1, 7, 5), slots },
    {},
    RangeError,
    /dY: expected shape \[1,B T k,...\] = \[1,8,5\]/,
  );
  const wrong = { ...slots, data: Int32Array.from(slots.data).fill(8, 3, 4) };
  fails(
    'momGatherBackward',
    { dY, slots: wrong },
    {},
    RangeError,
    /slots: expected indices from 0 to 7, got 8 at position 3/,
  );
  const o = dY;
  fails(
    'momCombine',
    { o, weights: x, slots },
    {},
    RangeError,
    /weights: expected shape \[B,T,k\]/,
  );
  fails('momCombine', { o, weights, slots: wrong }, {}, RangeError, /slots: expected indices/);
  fails(
    'momCombine',
    { o, weights, slots, shared: dY },
    {},
    RangeError,
    /shared: expected shape \[B,T,...\] = \[1,4,5\]/,
  );
  const half = encode('bf16', x);
  fails(
    'momCombine',
    { o, weights, slots, shared: half },
    {},
    TypeError,
    /shared: expected dtype f32/,
  );
  const all = { o, weights, slots, dY: x };
  fails('momCombineBackward', { ...all, dY }, {}, RangeError, /dY: expected shape \[B,T,...\]/);
  fails('momCombineBackward', { ...all, slots: wrong }, {}, RangeError, /slots: expected indices/);
  await rejectsWith(
    () => native.momRoute({ logits }, { renormalize: 1 }),
    TypeError,
    /renormalize/,
  );
});

test.run();
