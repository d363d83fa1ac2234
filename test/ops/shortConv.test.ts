/** shortConv against its float64 reference: widths, states, short, long and packed sequences, decoding token by token. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { Tensor } from '../../ts/index';
import * as rankone from '../../ts/index';
import { createState, shortConvSync } from '../../ts/index';
import { shortConv, shortConvBackward } from '../reference/layers.ts';
import { encode } from '../support/half.ts';
import { call, expectNear, normals } from '../support/layers.ts';
import { startsOf, throwsWith } from './helpers.ts';

const test = suite('shortConv');

const SHAPES = [
  [1, 1, 1, 1],
  [2, 1, 37, 4],
  [2, 3, 9, 7],
  [2, 64, 16, 4],
  [2, 65, 70, 3],
  [1, 130, 600, 2],
  [3, 150, 33, 5],
  [1, 100, 40, 16],
  [2, 70, 21, 64],
  [1, 2, 5, 64],
  [2, 0, 6, 4],
  [0, 5, 6, 4],
];
const LIMITS = { other: 1e-6, dWeight: 3e-6, dBias: 1e-5 };

for (const [B, T, D, W] of SHAPES) {
  test(`B ${B}, T ${T}, D ${D}, W ${W}`, async () => {
    for (const activation of ['none', 'silu'] as const) {
      for (const carried of [false, true]) {
        const draw = normals(B + 3 * T + 5 * D + 7 * W);
        const state = { bias: draw(D), initialState: draw(B, D, W - 1) };
        const inputs = { x: draw(B, T, D), weight: draw(D, W), ...(carried && state) };
        const label = `${activation}${carried ? ', state and bias' : ''}`;
        const options = { activation, outputFinalState: true };
        const results = await call('shortConv', inputs, options);
        expectNear(label, results, shortConv(inputs, options), { other: 1e-6, finalState: 0 });

        const dY = draw(B, T, D);
        const gradients = { ...inputs, dY, ...(carried && { dFinalState: draw(B, D, W - 1) }) };
        const expected = shortConvBackward(gradients, { activation });
        const { dInitialState, ...others } = expected;
        const actual = await call('shortConvBackward', gradients, { activation });
        expectNear(label, actual, carried ? { ...others, dInitialState } : others, LIMITS);
      }
    }
  });
}

/** Lengths of packed sequences. */
const packs = [[5], [3, 0, 70, 1], [0, 64, 65, 2, 128], [0, 0]];

for (const lengths of packs) {
  for (const [D, W] of [
    [9, 4],
    [530, 3],
    [6, 1],
    [5, 64],
  ]) {
    test(`packed [${lengths}], D ${D}, W ${W}`, async () => {
      const [N, T] = [lengths.length, lengths.reduce((a, b) => a + b)];
      const starts = startsOf(lengths);
      const draw = normals(T + D + W);
      const inputs = {
        x: draw(1, T, D),
        weight: draw(D, W),
        bias: draw(D),
        initialState: draw(N, D, W - 1),
      };
      for (const cuSeqlens of [Int32Array.from(starts), BigInt64Array.from(starts, BigInt)]) {
        const options = { activation: 'silu', outputFinalState: true, cuSeqlens } as const;
        const results = await call('shortConv', inputs, options);
        expectNear('packed', results, shortConv(inputs, options), { other: 1e-6, finalState: 0 });
        const gradients = { ...inputs, dY: draw(1, T, D), dFinalState: draw(N, D, W - 1) };
        const backward = { activation: 'silu', cuSeqlens } as const;
        const actual = await call('shortConvBackward', gradients, backward);
        expectNear('packed', actual, { ...shortConvBackward(gradients, backward) }, LIMITS);
        // Each by itself has the same bits.
        const size = D * (W - 1);
        lengths.forEach((length, n) => {
          const [from, to] = [starts[n] * D, starts[n + 1] * D];
          const alone = {
            ...inputs,
            x: { data: inputs.x.data.slice(from, to), shape: [1, length, D] },
            initialState: {
              data: inputs.initialState.data.slice(n * size, (n + 1) * size),
              shape: [1, D, W - 1],
            },
          };
          const one = shortConvSync(alone, { activation: 'silu', outputFinalState: true });
          assert.equal(results.y.data.slice(from, to), one.y.data);
          assert.equal(
            results.finalState.data.slice(n * size, (n + 1) * size),
            one.finalState!.data,
          );
        });
      }
    });
  }
}

test('a pool of states is advanced in place, in the slots named and no others', async () => {
  const [D, W, slots] = [70, 4, 5];
  const draw = normals(8);
  const parameters = { weight: draw(D, W), bias: draw(D) };
  const before = draw(slots, D, 1, W - 1);
  const stateIndices = Int32Array.of(3, 0);
  const row = (of: Tensor, slot: number) =>
    of.data.slice(slot * D * (W - 1), (slot + 1) * D * (W - 1));
  for (const cuSeqlens of [undefined, Int32Array.of(0, 1, 1), Int32Array.of(0, 2, 9)]) {
    const T = cuSeqlens ? cuSeqlens[2] : 1;
    const x = draw(cuSeqlens ? 1 : 2, T, D);
    const given = { activation: 'silu', ...(cuSeqlens && { cuSeqlens }) } as const;
    const initialState = {
      data: Float32Array.from([...row(before, 3), ...row(before, 0)]),
      shape: [2, D, W - 1],
    };
    const { y, finalState } = shortConvSync(
      { x, ...parameters, initialState },
      { ...given, outputFinalState: true },
    );
    for (const asynchronous of [false, true]) {
      const state = createState({ batch: slots, valueHeads: D, keyDim: 1, valueDim: W - 1 });
      state.copyFrom(before);
      const inputs = { x, ...parameters, state };
      const options = { ...given, stateIndices };
      const result = asynchronous
        ? await rankone.shortConv(inputs, options)
        : shortConvSync(inputs, options);
      assert.equal(result.y.data, y.data);
      const after = state.toTensor();
      assert.equal(row(after, 3), row(finalState!, 0));
      assert.equal(row(after, 0), row(finalState!, 1));
      for (const slot of [1, 2, 4]) assert.equal(row(after, slot), row(before, slot));
      state.dispose();
    }
  }
});

test('decoding with a state has the bits of the whole, in every dtype', () => {
  const [B, T, D, W] = [2, 9, 40, 4];
  const draw = normals(9);
  for (const dtype of ['f32', 'bf16', 'f16'] as const) {
    const x = encode(dtype, draw(B, T, D)) as any;
    const weight = draw(D, W);
    const whole = shortConvSync({ x, weight }, { activation: 'silu' }).y.data;
    // Any heads whose keys are D elements wide together.
    using state = createState({ batch: B, valueHeads: 8, keyDim: 5, valueDim: W - 1 });
    for (let t = 0; t < T; t++) {
      const data = new x.data.constructor(B * D);
      for (let b = 0; b < B; b++)
        data.set(x.data.subarray((b * T + t) * D, (b * T + t + 1) * D), b * D);
      const step = { ...x, data, shape: [B, 1, D] };
      const { y } = shortConvSync({ x: step, weight, state }, { activation: 'silu' });
      for (let b = 0; b < B; b++)
        assert.equal(
          y.data.slice(b * D, (b + 1) * D),
          whole.slice((b * T + t) * D, (b * T + t + 1) * D),
        );
    }
  }
});

test('token by token the same bits as whole', () => {
  const [B, T, D, W] = [2, 90, 24, 4];
  const draw = normals(5);
  const [x, weight] = [draw(B, T, D), draw(D, W)];
  const whole = shortConvSync({ x, weight }, { activation: 'silu' }).y.data;
  let initialState: Tensor | undefined;
  for (let t = 0; t < T; t++) {
    const step = { data: new Float32Array(B * D), shape: [B, 1, D] };
    for (let b = 0; b < B; b++) {
      step.data.set(x.data.subarray((b * T + t) * D, (b * T + t + 1) * D), b * D);
    }
    const options = { activation: 'silu', outputFinalState: true } as const;
    const given = { x: step, weight, ...(initialState && { initialState }) };
    const { y, finalState } = shortConvSync(given, options);
    for (let b = 0; b < B; b++) {
      const expected = whole.slice((b * T + t) * D, (b * T + t + 1) * D);
      assert.equal(y.data.slice(b * D, (b + 1) * D), expected, `token ${t}`);
    }
    initialState = finalState;
  }
});

test('bad input', () => {
  const draw = normals(6);
  const fails = (inputs: any, pattern: RegExp): void =>
    throwsWith(() => shortConvSync(inputs), RangeError, pattern);
  const x = draw(1, 2, 3);
  fails({ x, weight: draw(3, 65) }, /^\[shortConv\] weight: expected a width W from 1 to 64/);
  fails({ x, weight: draw(3, 0) }, /^\[shortConv\] weight: expected a width W from 1 to 64/);
  fails({ x, weight: draw(4, 4) }, /^\[shortConv\] weight: expected shape \[D,W\] = \[3,4\]/);
  fails(
    { x, weight: draw(3, 4), initialState: draw(1, 3, 4) },
    /^\[shortConv\] initialState: expected shape \[B,D,W-1\] = \[1,3,3\], got \[1,3,4\]/,
  );
  const weight = draw(3, 4);
  const state = createState({ batch: 2, valueHeads: 3, keyDim: 1, valueDim: 3 });
  const failsWith = (inputs: any, options: any, kind: any, pattern: RegExp): void =>
    throwsWith(() => shortConvSync({ x, weight, ...inputs }, options), kind, pattern);
  const packed = Int32Array.of(0, 1, 2);
  failsWith(
    { state },
    {},
    RangeError,
    /^\[shortConv\] state: expected shape \[B,D,1,W-1\] = \[1,3,1,3\], got \[2,3,1,3\]/,
  );
  failsWith(
    { state, weight: draw(3, 2) },
    { cuSeqlens: packed },
    RangeError,
    /state: expected shape \[N,D,1,W-1\] = \[2,3,1,1\]/,
  );
  failsWith(
    { state, initialState: draw(2, 3, 3) },
    { cuSeqlens: packed },
    TypeError,
    /initialState: expected none beside state/,
  );
  failsWith(
    { state },
    { cuSeqlens: packed, outputFinalState: true },
    TypeError,
    /outputFinalState: a call with state/,
  );
  failsWith(
    {},
    { stateIndices: Int32Array.of(0) },
    TypeError,
    /stateIndices: expected a state beside them/,
  );
  failsWith(
    { state },
    { stateIndices: Int32Array.of(2) },
    RangeError,
    /stateIndices: expected slots from 0 to 1, got 2 at 0/,
  );
  failsWith(
    { state },
    { stateIndices: Int32Array.of(0, 0), cuSeqlens: packed },
    RangeError,
    /stateIndices: expected every slot once/,
  );
  failsWith(
    {},
    { cuSeqlens: Int32Array.of(0, 3) },
    RangeError,
    /^\[shortConv\] cuSeqlens: expected values that do not decrease, up to T = 2/,
  );
  failsWith({ x: draw(2, 2, 3) }, { cuSeqlens: packed }, RangeError, /cuSeqlens: expected B = 1/);
  failsWith(
    { initialState: draw(1, 3, 3) },
    { cuSeqlens: packed },
    RangeError,
    /initialState: expected shape \[N,D,W-1\] = \[2,3,3\]/,
  );
  const sums = createState({ batch: 1, valueHeads: 3, keyDim: 1, valueDim: 3, keyHeads: 1 });
  failsWith({ state: sums }, {}, TypeError, /state: expected one made without keyHeads/);
  state.dispose();
  failsWith({ state }, { cuSeqlens: packed }, Error, /^\[shortConv\] state: it has been disposed/);
  throwsWith(
    () => shortConvSync({ x, weight: draw(3, 4) }, { activation: 'relu' as any }),
    Error,
    /^\[shortConv\] activation: /,
  );
});

test.run();
