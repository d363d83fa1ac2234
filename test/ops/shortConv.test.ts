/** shortConv against its float64 reference: widths, states, short and long sequences, decoding token by token. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { Tensor } from '../../ts/index';
import { shortConvSync } from '../../ts/index';
import { shortConv, shortConvBackward } from '../reference/layers.ts';
import { call, expectNear, normals } from '../support/layers.ts';
import { throwsWith } from './helpers.ts';

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
  throwsWith(
    () => shortConvSync({ x, weight: draw(3, 4) }, { activation: 'relu' as any }),
    Error,
    /^\[shortConv\] activation: /,
  );
});

test.run();
