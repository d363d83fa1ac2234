/** windowLinearAttention against its float64 reference: shapes, windows, states, decodes, dtypes, and what must not matter. */

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import * as rankone from '../../ts/index';
import {
  type WindowLinearOptions,
  windowLinearAttention,
  windowLinearAttentionBackward,
} from '../reference/windowLinearAttention.ts';
import { expectSame } from '../support/bits.ts';
import { checkGradient, dot } from '../support/gradcheck.ts';
import { decode, encode } from '../support/half.ts';
import { call, expectNear, normals } from '../support/layers.ts';
import { native } from '../support/native.ts';
import fc from '../support/property.ts';
import { join, slice } from '../support/slices.ts';
import type { Tensor32 } from '../support/tensor.ts';
import { toFloat64 } from '../support/tensor.ts';
import { endOfAborted, rejectsWith, throwsWith } from './helpers.ts';

const test = suite('windowLinearAttention');
const { createWindowLinearCache } = rankone;

interface Sizes {
  B: number;
  T: number;
  H: number;
  HKV: number;
  HF: number;
  K: number;
  V: number;
  F: number;
}
type Named = Record<string, any>;
interface Problem {
  inputs: Named;
  gradients: Named;
}

const LIMITS = { other: 1e-5, dWindowFactors: 5e-5, o: 2e-6 };
const STATES = ['initialState', 'initialZ', 'dFinalState', 'dFinalZ'];

/** Features as maps have them, not negative. */
const positive = (x: Tensor32): Tensor32 => ({ ...x, data: x.data.map((a) => Math.abs(a) * 0.3) });

function draw({ B, T, H, HKV, HF, K, V, F }: Sizes, state: boolean, N = B, seed = 1): Problem {
  const make = normals(seed + 3 * T + 7 * K);
  const inputs: Named = {
    q: make(B, T, H, K),
    k: make(B, T, HKV, K),
    v: make(B, T, HKV, V),
    phiQ: positive(make(B, T, H, F)),
    phiK: positive(make(B, T, HF, F)),
    windowFactors: make(H),
  };
  const gradients: Named = { dO: make(B, T, H, V) };
  if (state) {
    inputs.initialState = make(N, HF, F, V);
    inputs.initialZ = positive(make(N, HF, F));
    gradients.dFinalState = make(N, HF, F, V);
    gradients.dFinalZ = make(N, HF, F);
  }
  return { inputs, gradients };
}

const EVEN: Sizes = { B: 1, T: 70, H: 4, HKV: 2, HF: 4, K: 20, V: 24, F: 12 };
const CASES: [Sizes, WindowLinearOptions, boolean][] = [
  [{ B: 1, T: 1, H: 1, HKV: 1, HF: 1, K: 1, V: 1, F: 1 }, { window: 1 }, false],
  [{ B: 2, T: 5, H: 3, HKV: 1, HF: 3, K: 7, V: 4, F: 5 }, { window: 2 }, false],
  [EVEN, { window: 9 }, false],
  [EVEN, { window: 9, scale: 0.7 }, true],
  [{ ...EVEN, HF: 2 }, { window: 9, terraced: true }, true],
  [{ ...EVEN, T: 130, K: 33, V: 20, F: 17 }, { affine: true }, true],
  [{ ...EVEN, B: 2, T: 40, V: 70, F: 65 }, { window: 1, affine: true }, false],
  [{ ...EVEN, T: 150, HF: 2 }, { window: 33, terraced: true, affine: true }, false],
  [{ ...EVEN, B: 0 }, {}, true],
  [{ ...EVEN, B: 2, T: 0 }, {}, true],
];
/** Long enough for several tasks to a head. */
const LONG: [Sizes, WindowLinearOptions, boolean][] = [
  [{ B: 1, T: 1100, H: 2, HKV: 1, HF: 1, K: 8, V: 16, F: 8 }, { window: 40 }, true],
  [{ B: 1, T: 1100, H: 1, HKV: 1, HF: 1, K: 6, V: 5, F: 7 }, { window: 70, terraced: true }, false],
];

for (const [sizes, options, state] of [...CASES, ...LONG])
  test(`${JSON.stringify(sizes)} ${JSON.stringify(options)}${state ? ', a state' : ''}`, async () => {
    const { inputs, gradients } = draw(sizes, state);
    const asked = { ...options, outputFinalState: true };
    const found = await call('windowLinearAttention', inputs, asked);
    expectNear('forward', found, { ...windowLinearAttention(inputs as any, options) }, LIMITS);
    const all = { ...inputs, ...gradients };
    const wanted = windowLinearAttentionBackward(all as any, options);
    expectNear(
      'backward',
      await call('windowLinearAttentionBackward', all, options),
      wanted,
      LIMITS,
    );
  });

test('drawn shapes', () => {
  const shapes = fc.record({
    B: fc.integer({ min: 1, max: 2 }),
    T: fc.oneof(fc.integer({ min: 1, max: 12 }), fc.constantFrom(31, 32, 33, 64, 80)),
    heads: fc.constantFrom([1, 1, 1], [2, 1, 1], [2, 1, 2], [4, 2, 4], [3, 3, 3], [4, 1, 2]),
    K: fc.integer({ min: 1, max: 40 }),
    V: fc.integer({ min: 1, max: 40 }),
    F: fc.integer({ min: 1, max: 40 }),
    window: fc.oneof(fc.integer({ min: 1, max: 12 }), fc.constantFrom(32, 33, 64, 1000)),
    terraced: fc.boolean(),
    affine: fc.boolean(),
    state: fc.boolean(),
    factors: fc.boolean(),
    seed: fc.integer({ min: 1, max: 1 << 20 }),
  });
  fc.assert(
    fc.property(
      shapes,
      ({ B, T, heads, K, V, F, window, terraced, affine, state, factors, seed }) => {
        const [H, HKV, HF] = heads;
        const { inputs, gradients } = draw({ B, T, H, HKV, HF, K, V, F }, state, B, seed);
        if (!factors) delete inputs.windowFactors;
        const options = { window, terraced, affine: affine && factors };
        const found = native.windowLinearAttentionSync(inputs, options);
        const { o } = windowLinearAttention(inputs as any, options);
        expectNear('o', found, { o }, LIMITS);
        const all = { ...inputs, ...gradients };
        const { dWindowFactors, ...grads } = native.windowLinearAttentionBackwardSync(all, options);
        const { dWindowFactors: wanted, ...rest } = windowLinearAttentionBackward(
          all as any,
          options,
        );
        // What cancels is held to the size of its terms.
        const limit = { ...LIMITS, other: 3e-5 };
        expectNear('backward', grads, rest, limit);
        wanted?.data.forEach((x, h) => {
          assert.ok(
            Math.abs(dWindowFactors.data[h] - x) <= 1e-5 * (T + Math.abs(x)),
            'dWindowFactors',
          );
        });
      },
    ),
    { numRuns: 40, seed: 3 },
  );
});

test('the reference: its gradients are those of its values', () => {
  for (const options of [{ window: 3 }, { window: 2, terraced: true, affine: true }]) {
    const sizes = { B: 1, T: 9, H: 2, HKV: 1, HF: 2, K: 3, V: 2, F: 3 };
    const { inputs, gradients } = draw(sizes, true);
    const wide = Object.fromEntries(
      Object.entries(inputs).map(([name, x]) => [name, toFloat64(x)]),
    ) as any;
    const loss = () => {
      const { o, finalState, finalZ } = windowLinearAttention(wide, options);
      const { dO, dFinalState, dFinalZ } = gradients;
      return dot(o, dO) + dot(finalState, dFinalState) + dot(finalZ, dFinalZ);
    };
    const found = windowLinearAttentionBackward({ ...wide, ...gradients }, options);
    for (const [name, x] of Object.entries(wide) as [string, any][])
      checkGradient(
        name,
        loss,
        x,
        found[`d${name[0].toUpperCase()}${name.slice(1)}`] ?? found[`d${name}`],
      );
  }
});

test('a window of everything is softmax attention, with its gradients', () => {
  const { inputs, gradients } = draw({ ...EVEN, T: 100 }, false);
  const { q, k, v } = inputs as any;
  const { o } = native.windowLinearAttentionSync(inputs, { window: 100 });
  expectNear('o', { o }, { o: rankone.attentionSync({ q, k, v }).o }, 1e-6);
  const all = { ...inputs, ...gradients };
  const { dq, dk, dv, dPhiQ, dWindowFactors } = native.windowLinearAttentionBackwardSync(all, {
    window: 100,
  });
  const wanted = rankone.attentionBackwardSync({ q, k, v, dO: gradients.dO as any });
  expectNear('gradients', { dq, dk, dv }, { ...wanted }, 3e-6);
  assert.ok(dPhiQ.data.every((x: number) => x === 0));
  assert.ok(
    dWindowFactors.data.every((x: number) => x === 0),
    'one weight alone is no weight',
  );
});

test('a state is what came before: linear attention with its normaliser where the factors say so', () => {
  // With gamma = 0 to float32's digits, o is what linear attention finds before the window.
  const { inputs } = draw({ ...EVEN, H: 2, HKV: 2, HF: 2 }, true);
  const { phiQ, phiK, v, initialState, initialZ } = inputs as any;
  const windowFactors = { data: Float32Array.of(-80, -80), shape: [2] };
  const { o } = native.windowLinearAttentionSync({ ...inputs, windowFactors }, { window: 1 });
  const shifted = (x: Tensor32) => slice(x, 1, 0, EVEN.T - 1);
  const [k, values] = [phiK, v].map(shifted);
  const q = slice(phiQ, 1, 1, EVEN.T);
  const linear = rankone.linearAttentionSync(
    { q, k, v: values, initialState, initialZ },
    { normalize: true, scale: 1 },
  );
  expectNear('o', { o: slice(o, 1, 1, EVEN.T) as any }, { o: linear.o }, 2e-6);
});

for (const dtype of ['bf16', 'f16'] as const)
  test(`${dtype}: o and gradients`, async () => {
    const limit = { bf16: 2.5e-3, f16: 3.5e-4 }[dtype];
    const { inputs, gradients } = draw({ ...EVEN, K: 33, V: 21 }, true);
    for (const features of ['f32', dtype] as const) {
      const coded = (x: Named): Named =>
        Object.fromEntries(
          Object.entries(x).map(([name, t]) => {
            const own = /^phi/.test(name) ? features : dtype;
            return [name, [...STATES, 'windowFactors'].includes(name) ? t : encode(own, t)];
          }),
        );
      const given = coded(inputs);
      const all: Named = { ...given, ...coded(gradients) };
      const seen = Object.fromEntries(Object.entries(all).map(([n, x]) => [n, decode(x)])) as any;
      const options = { window: 9 };
      const { o } = await call('windowLinearAttention', given, options);
      assert.is(o.dtype as string, dtype);
      expectNear('o', { o: decode(o) }, { o: windowLinearAttention(seen, options).o }, limit);
      const wanted = windowLinearAttentionBackward(seen, options);
      const grads = await call('windowLinearAttentionBackward', all, options);
      expectNear('gradients', grads, wanted, LIMITS);
      const rounded = native.windowLinearAttentionBackwardSync(all, {
        ...options,
        gradDtype: 'input',
      });
      for (const [name, x] of Object.entries(grads)) {
        const argument = `${name[1].toLowerCase()}${name.slice(2)}`;
        expectSame(name, rounded[name], encode((all[argument].dtype ?? 'f32') as any, x as any));
      }
    }
  });

const STEPS: [number, number][] = [
  [0, 1],
  [1, 2],
  [2, 37],
  [37, 38],
  [38, 38],
  [38, 69],
  [69, 70],
];

for (const dtype of ['f32', 'bf16'] as const)
  for (const window of [1, 9, 40])
    for (const terraced of [false, true])
      test(`decode ${dtype}, window ${window}${terraced ? ', terraced' : ''}: any steps are the whole`, async () => {
        const { inputs } = draw({ ...EVEN, B: 2, V: 32 }, false);
        const { windowFactors, ...tokens } = inputs;
        const given: Named = Object.fromEntries(
          Object.entries(tokens).map(([name, x]) => [name, encode(dtype, x)]),
        );
        const options = { window, terraced };
        const seen = Object.fromEntries(Object.entries(given).map(([n, x]) => [n, decode(x)]));
        const { o: whole } = windowLinearAttention({ ...seen, windowFactors } as any, options);
        const held = createWindowLinearCache({
          batch: 5,
          kvHeads: EVEN.HKV,
          featureHeads: EVEN.HF,
          keyDim: EVEN.K,
          valueDim: 32,
          featureDim: EVEN.F,
          dtype,
          ...options,
        });
        const bytes = held.cache.bytes;
        const stateIndices = Int32Array.of(3, 1);
        const parts: Tensor32[] = [];
        for (const [i, [first, end]] of STEPS.entries()) {
          const part = Object.fromEntries(
            Object.entries(tokens).map(([name, x]) => [
              name,
              encode(dtype, slice(x, 1, first, end)),
            ]),
          );
          const call = { ...part, windowFactors, ...held };
          const { o } =
            i % 2
              ? await native.windowLinearAttention(call, { ...options, stateIndices })
              : native.windowLinearAttentionSync(call, { ...options, stateIndices });
          parts.push(decode(o));
        }
        const limit = dtype === 'f32' ? 2e-6 : 2.5e-3;
        expectNear('o', { o: join(parts, 1) as any }, { o: whole }, limit);
        assert.is(held.cache.bytes, bytes, 'memory does not grow');
        assert.is(held.cache.length(3), EVEN.T);
        assert.is(held.cache.length(0), 0);
        held.cache.dispose();
        held.state.dispose();
      });

test('packed sequences, each with the bits that it has alone', async () => {
  const cuSeqlens = Int32Array.of(0, 9, 9, 10, 70);
  const { inputs, gradients } = draw(EVEN, true, 4);
  const options = { window: 7, cuSeqlens };
  const all = { ...inputs, ...gradients };
  const results = {
    ...(await call('windowLinearAttention', inputs, { ...options, outputFinalState: true })),
    ...(await call('windowLinearAttentionBackward', all, options)),
  } as Named;
  const wanted = windowLinearAttentionBackward(all as any, options);
  for (const [name, x] of Object.entries(wanted))
    expectNear('packed', { [name]: results[name] }, { [name]: x }, LIMITS);
  for (let n = 0; n < 4; n++) {
    const part = (x: any, name: string): any =>
      /indowFactors/.test(name)
        ? x
        : /State|Z$/.test(name)
          ? slice(x, 0, n, n + 1)
          : slice(x, 1, cuSeqlens[n], cuSeqlens[n + 1]);
    const one = Object.fromEntries(Object.entries(all).map(([name, x]) => [name, part(x, name)]));
    const { dO, dFinalState, dFinalZ, ...forward } = one;
    const own: Named = {
      ...native.windowLinearAttentionSync(forward, { window: 7, outputFinalState: true }),
      ...native.windowLinearAttentionBackwardSync(one, { window: 7 }),
    };
    for (const [name, x] of Object.entries(own))
      if (name !== 'dWindowFactors') expectSame(`${name} of ${n}`, part(results[name], name), x);
  }
});

test('extreme factors and scores leave no NaN; a share of c goes to each of the largest', () => {
  const { inputs, gradients } = draw(EVEN, false);
  for (const factor of [-1000, -90, 90, 1000])
    for (const affine of [false, true]) {
      const windowFactors = { data: new Float32Array(EVEN.H).fill(factor), shape: [EVEN.H] };
      const { o } = native.windowLinearAttentionSync(
        { ...inputs, windowFactors },
        { window: 5, affine, scale: 100 },
      );
      assert.ok(o.data.every(Number.isFinite), `${factor}`);
    }
  // Keys that come again every third token.
  const row = EVEN.HKV * EVEN.K;
  const again = (x: Tensor32) => ({
    ...x,
    data: x.data.map((_, i) => x.data[(Math.floor(i / row) % 3) * row + (i % row)]),
  });
  const all = { ...inputs, ...gradients, k: again(inputs.k) };
  const wanted = windowLinearAttentionBackward(all as any, { window: 6, scale: 1 });
  expectNear(
    'ties',
    native.windowLinearAttentionBackwardSync(all, { window: 6, scale: 1 }),
    wanted,
    LIMITS,
  );
});

test('a query without a linear part has gradients, however small its factor is', () => {
  const { inputs, gradients } = draw(EVEN, false);
  inputs.windowFactors.data.fill(-100);
  inputs.phiQ.data.fill(0);
  gradients.dO.data.forEach((x: number, i: number) => {
    gradients.dO.data[i] = 10 * x;
  });
  const all = native.windowLinearAttentionBackwardSync({ ...inputs, ...gradients }, { window: 4 });
  for (const [name, { data }] of Object.entries(all as Named))
    assert.ok(data.every(Number.isFinite), name);
});

test('a cache that was truncated, or filled with another window, is refused before anything is written', () => {
  const { inputs } = draw({ ...EVEN, T: 12 }, false);
  const part = (from: number, to: number): Named => ({
    ...Object.fromEntries(
      Object.entries(inputs).map(([name, x]) => [
        name,
        name === 'windowFactors' ? x : slice(x, 1, from, to),
      ]),
    ),
  });
  const run = (given: Named, options: object): Named =>
    native.windowLinearAttentionSync(given, options);
  const shape = { batch: 1, kvHeads: 2, featureHeads: 4, keyDim: 20, valueDim: 24, featureDim: 12 };
  const held = createWindowLinearCache({ ...shape, window: 8 });
  run({ ...part(0, 3), ...held }, { window: 4 }); // nothing is in the state yet
  run({ ...part(3, 10), ...held }, { window: 8 });
  const before = held.state.toTensor().data.slice();
  const refused = /^\[windowLinearAttention\] cache: .* slot 0 of 10 tokens to have 7 .* got 3/;
  throwsWith(() => run({ ...part(10, 12), ...held }, { window: 4 }), RangeError, refused);
  assert.equal(held.state.toTensor().data, before);
  const long = rankone.createKvCache({
    ...{ batch: 1, kvHeads: 2, keyDim: 44, valueDim: 24, capacity: 20 },
  });
  const pair = { state: createWindowLinearCache(shape).state, cache: long };
  run({ ...part(0, 10), ...pair }, { window: 4 });
  long.truncate(0, 9);
  throwsWith(() => run({ ...part(9, 12), ...pair }, { window: 4 }), RangeError, /was truncated/);
  long.reset();
  pair.state = createWindowLinearCache(shape).state;
  const { o } = run({ ...part(0, 12), ...pair }, { window: 4 });
  expectNear('after a reset', { o }, { o: toFloat64(run(part(0, 12), { window: 4 }).o) }, 1e-6);
});

test('a cache for wide features of many heads', () => {
  const sizes = { batch: 1, kvHeads: 1, featureHeads: 4, keyDim: 128, valueDim: 8 };
  const held = createWindowLinearCache({ ...sizes, featureDim: 256, window: 2 });
  for (const x of [held.state, held.cache]) x.dispose();
});

test('what is not finite stays with the queries that see it', () => {
  const { inputs, gradients } = draw({ ...EVEN, B: 2 }, false);
  const clean = native.windowLinearAttentionSync(inputs, { window: 8 }).o;
  for (const name of ['k', 'v', 'phiK']) {
    const { data, shape } = inputs[name];
    const spoilt = { data: data.slice(), shape };
    const at = 50; // a token of the first sequence
    const row = data.length / 2 / EVEN.T;
    spoilt.data.fill(NaN, at * row, (at + 1) * row);
    const { o } = native.windowLinearAttentionSync({ ...inputs, [name]: spoilt }, { window: 8 });
    const first = name === 'phiK' ? at + 8 : at; // where it leaves the window
    const before = (x: any) => slice(slice(x, 0, 0, 1) as any, 1, 0, first);
    expectSame(`${name}: before`, before(o), before(clean));
    expectSame(`${name}: the other one`, slice(o, 0, 1, 2), slice(clean, 0, 1, 2));
    const after = slice(slice(o, 0, 0, 1) as any, 1, first, name === 'k' ? at + 8 : EVEN.T);
    assert.ok((after.data as Float32Array).every(Number.isNaN), name);
  }
  const all = { ...inputs, ...gradients };
  const grads = native.windowLinearAttentionBackwardSync(all, { window: 8 });
  const q = { ...inputs.q, data: inputs.q.data.slice().fill(NaN, 0, 3 * EVEN.H * EVEN.K) };
  const { dk } = native.windowLinearAttentionBackwardSync({ ...all, q }, { window: 8 });
  const unseen = (x: any) => slice(x, 1, 3, EVEN.T);
  expectSame('dk of keys that the query does not see', unseen(dk), unseen(grads.dk));
});

test('into memory of the caller', () => {
  const { inputs, gradients } = draw(EVEN, true);
  for (const [name, given, options] of [
    ['windowLinearAttention', inputs, { window: 9, outputFinalState: true }],
    ['windowLinearAttentionBackward', { ...inputs, ...gradients }, { window: 9 }],
  ] as const) {
    const expected: Named = native[`${name}Sync`](given, options);
    const out = Object.fromEntries(
      Object.entries(expected).map(([key, { data, shape }]) => [
        key,
        { data: new Float32Array(data.length).fill(NaN), shape },
      ]),
    );
    native[`${name}Sync`](given, { ...options, out });
    for (const [key, x] of Object.entries(expected)) expectSame(`out.${key}`, out[key] as any, x);
  }
});

test('abort', async () => {
  const { inputs, gradients } = draw({ ...EVEN, T: 1500, K: 32, V: 32, F: 32 }, false);
  const reason = new Error('enough');
  const all = { ...inputs, ...gradients };
  for (const [name, given] of [
    ['windowLinearAttention', inputs],
    ['windowLinearAttentionBackward', all],
  ] as const) {
    const run = (signal: AbortSignal) => native[name](given, { signal });
    assert.is(await endOfAborted(run as any, reason), reason);
  }
});

test('bad input', async () => {
  const { inputs, gradients } = draw(EVEN, true);
  const make = normals(1);
  const name = 'windowLinearAttention';
  const fails = (change: object, options: object, kind: any, pattern: RegExp): void =>
    throwsWith(() => native[`${name}Sync`]({ ...inputs, ...change }, options), kind, pattern);
  fails({ q: make(1, 70, 8) }, {}, RangeError, /^\[windowLinearAttention\] q: expected shape/);
  fails({ phiQ: make(1, 70, 4, 9) }, {}, RangeError, /phiK: expected shape \[B,T,HF,F\]/);
  fails({ phiK: make(1, 70, 3, 12) }, {}, RangeError, /phiK: expected HF to be a divisor of H and/);
  fails({ phiK: make(1, 70, 1, 12) }, {}, RangeError, /phiK: expected HF to be a divisor of H and/);
  fails({ k: make(1, 70, 3, 20), v: make(1, 70, 3, 24) }, {}, RangeError, /k: expected HKV/);
  fails({ v: make(1, 70, 2, 1025) }, {}, RangeError, /head size from 1 to 1024/);
  fails({ k: encode('f16', inputs.k) }, {}, TypeError, /k: expected dtype f32/);
  fails({ phiQ: encode('f16', inputs.phiQ) }, {}, TypeError, /phiQ: expected dtype f32/);
  fails({ windowFactors: make(3) }, {}, RangeError, /windowFactors: expected shape \[H\] = \[4\]/);
  fails(
    { windowFactors: undefined },
    { affine: true },
    TypeError,
    /affine: expected windowFactors/,
  );
  fails({ initialZ: undefined }, {}, TypeError, /initialZ: expected a tensor beside initialState/);
  fails({}, { window: 0 }, RangeError, /window: expected an integer from 1/);
  fails({}, { window: 1.5 }, RangeError, /window: expected an integer/);
  fails({}, { scale: NaN }, RangeError, /scale: expected/);
  fails(
    {},
    { cuSeqlens: Int32Array.of(0, 3) },
    RangeError,
    /cuSeqlens: expected T = 70 at 1, got 3/,
  );
  fails({}, { windows: 3 }, TypeError, /windows: .*nearest: window/);
  fails({}, { stateIndices: Int32Array.of(0) }, TypeError, /stateIndices: expected a state/);
  const none = { initialState: undefined, initialZ: undefined };
  const shape = { batch: 1, kvHeads: 2, featureHeads: 4, keyDim: 20, valueDim: 24, featureDim: 12 };
  const held = createWindowLinearCache({ ...shape, window: 8 });
  fails(held, {}, TypeError, /initialState: expected none beside state/);
  fails({ ...none, state: held.state }, {}, TypeError, /cache: expected one beside state/);
  fails({ ...none, cache: held.cache }, {}, TypeError, /state: expected one beside cache/);
  fails(
    { ...none, ...held },
    { outputFinalState: true },
    TypeError,
    /outputFinalState: a call with/,
  );
  fails({ ...none, ...held }, {}, RangeError, /cache: expected one that keeps the last 63 tokens/);
  const terraced = { window: 8, terraced: true };
  fails({ ...none, ...held }, terraced, RangeError, /keeps the last 15 tokens, got window 7/);
  const other = createWindowLinearCache({ ...shape, featureDim: 11 });
  fails({ ...none, ...other }, {}, RangeError, /state: expected batch, valueHeads/);
  fails({ ...none, ...held, cache: other.cache }, {}, RangeError, /cache: expected batch = 1/);
  const short = { ...shape, kvHeads: 2, keyDim: 44, batch: 1, capacity: 3 };
  const { featureHeads: _heads, featureDim: _dim, ...cacheShape } = short;
  const full = rankone.createKvCache(cacheShape);
  fails(
    { ...none, ...held, cache: full },
    {},
    RangeError,
    /cache: expected room for 70 tokens more/,
  );
  assert.is(held.cache.length(0), 0, 'nothing has been written');
  assert.ok(held.state.toTensor().data.every((x) => x === 0));
  for (const x of [held.state, held.cache, other.state, other.cache, full]) x.dispose();
  fails({ ...none, ...held }, {}, Error, /disposed/);
  for (const [change, kind, pattern] of [
    [{ keyDim: 2000 }, RangeError, /^\[createWindowLinearCache\] keyDim: /],
    [{ featureHeads: 3 }, RangeError, /featureHeads: expected a multiple of kvHeads = 2, got 3/],
    [{ window: 0 }, RangeError, /window: expected an integer from 1, got 0/],
    [{ batch: '1' }, TypeError, /batch: expected an integer/],
    [{ terraced: 1 }, TypeError, /terraced: expected true or false/],
    [{ dtype: 'f64' }, TypeError, /^\[createWindowLinearCache\] dtype: expected/],
    [{ windows: 3 }, TypeError, /windows/],
  ] as const)
    throwsWith(() => createWindowLinearCache({ ...shape, ...change } as any), kind, pattern);
  throwsWith(() => createWindowLinearCache(null as any), TypeError, /shape: expected/);
  const back = (change: object, kind: any, pattern: RegExp): void => {
    const given = { ...inputs, ...gradients, ...change };
    throwsWith(() => native[`${name}BackwardSync`](given), kind, pattern);
  };
  back({ dO: make(1, 70, 4, 8) }, RangeError, /dO: expected shape \[B,T,H,V\]/);
  back({ dFinalZ: undefined }, TypeError, /dFinalZ: expected a tensor beside dFinalState/);
  await rejectsWith(
    () => native[name](inputs, { terraced: 1 }),
    TypeError,
    /terraced: expected true/,
  );
});

test.run();
