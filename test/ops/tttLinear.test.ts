/** TTT-Linear against its float64 reference, which goes token by token where the kernel takes mini-batches. */

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { TttOptions } from '../reference/tttLinear.ts';
import * as reference from '../reference/tttLinear.ts';
import { expectSame } from '../support/bits.ts';
import { contract } from '../support/compare.ts';
import { checkGradient, dot } from '../support/gradcheck.ts';
import type { FloatDtype } from '../support/half.ts';
import { decode, encode, halfDtypes } from '../support/half.ts';
import { call, expectNear } from '../support/layers.ts';
import type { AnyTensor } from '../support/native.ts';
import { native } from '../support/native.ts';
import fc from '../support/property.ts';
import { Random } from '../support/random.ts';
import { slice } from '../support/slices.ts';
import type { Tensor32 } from '../support/tensor.ts';
import { sizeOf, toFloat64 } from '../support/tensor.ts';
import { throwsWith } from './helpers.ts';

const test = suite('tttLinear');

interface Shape {
  B: number;
  T: number;
  H: number;
  D: number;
  seed: number;
}

/** With `sequences` given every one of them starts from a model of its own. */
function draw({ B, T, H, D, seed }: Shape, sequences?: number) {
  const random = new Random(seed);
  const normal = (by: number, ...shape: number[]): Tensor32 => ({
    data: random.normals(sizeOf(shape)).map((x) => x * by),
    shape,
  });
  const own = sequences === undefined ? [] : [sequences];
  const inputs = {
    q: normal(1, B, T, H, D),
    k: normal(1, B, T, H, D),
    v: normal(1, B, T, H, D),
    eta: { data: random.uniforms(B * T * H, 0, 0.5 / D), shape: [B, T, H] },
    lnWeight: normal(1, H, D),
    lnBias: normal(0.3, H, D),
    W: normal(D ** -0.5, ...own, H, D, D),
    b: normal(0.5, ...own, H, D),
  };
  const N = sequences ?? B;
  const gradients = {
    dO: normal(1, B, T, H, D),
    dFinalW: normal(1, N, H, D, D),
    dFinalB: normal(1, N, H, D),
  };
  return { inputs, gradients };
}

const HALVES = ['q', 'k', 'v', 'dO'];
const LIMITS = { o: 2e-6, finalW: 1e-5, finalB: 1e-5, other: 5e-5 };

async function check(
  label: string,
  { inputs, gradients }: ReturnType<typeof draw>,
  options: TttOptions,
  dtype: FloatDtype = 'f32',
): Promise<void> {
  const encoded = (tensors: object) =>
    Object.fromEntries(
      Object.entries(tensors).map(([name, x]) => [
        name,
        HALVES.includes(name) ? encode(dtype, x) : x,
      ]),
    ) as Record<string, AnyTensor>;
  const decoded = (tensors: object) =>
    Object.fromEntries(
      Object.entries(tensors).map(([name, x]) => [name, decode(x as AnyTensor)]),
    ) as any;
  const given = encoded(inputs);
  const all = { ...given, ...encoded(gradients) };
  const limits = { ...LIMITS, ...(dtype !== 'f32' && { o: contract[dtype].o[0][1] }) };
  const forward = await call('tttLinear', given, { ...options, outputFinalState: true });
  expectNear(label, decoded(forward), { ...reference.tttLinear(decoded(given), options) }, limits);
  const backward: any = await call('tttLinearBackward', all, options);
  expectNear(label, backward, reference.tttLinearBackward(decoded(all), options), limits);
  if (dtype === 'f32') return;
  const rounded = native.tttLinearBackwardSync(all, { ...options, gradDtype: 'input' });
  expectSame('dk', rounded.dk, encode(dtype, backward.dk));
}

const shapes = fc.record({
  B: fc.integer({ min: 1, max: 2 }),
  T: fc.integer({ min: 1, max: 40 }),
  H: fc.integer({ min: 1, max: 2 }),
  D: fc.constantFrom(2, 5, 16, 17, 32, 37),
  seed: fc.integer({ min: 1, max: 1 << 30 }),
  miniBatch: fc.constantFrom(1, 3, 16, 64),
  own: fc.boolean(),
});

test('drawn shapes', async () => {
  await fc.assert(
    fc.asyncProperty(shapes, async ({ miniBatch, own, ...shape }) => {
      // Norms over few numbers are far from linear.
      const eps = shape.D < 10 ? 0.1 : 1e-6;
      await check(JSON.stringify(shape), draw(shape, own ? shape.B : undefined), {
        miniBatch,
        eps,
      });
    }),
    { numRuns: 12, seed: 4 },
  );
});

for (const dtype of halfDtypes) {
  test(dtype, () => check(dtype, draw({ B: 2, T: 37, H: 2, D: 24, seed: 9 }), {}, dtype));
}

test('the reference against central differences', () => {
  for (const own of [false, true]) {
    const drawn = draw({ B: 1, T: 7, H: 2, D: 3, seed: 21 }, own ? 2 : undefined);
    const options = { miniBatch: 3, eps: 0.1, ...(own && { cuSeqlens: [0, 3, 7] }) };
    const wide = (tensors: object) =>
      Object.fromEntries(
        Object.entries(tensors).map(([name, x]) => [name, toFloat64(x as Tensor32)]),
      ) as any;
    const [inputs, { dO, dFinalW, dFinalB }] = [wide(drawn.inputs), wide(drawn.gradients)];
    const loss = (): number => {
      const { o, finalW, finalB } = reference.tttLinear(inputs, options);
      return dot(o, dO) + dot(finalW, dFinalW) + dot(finalB, dFinalB);
    };
    const all = reference.tttLinearBackward({ ...inputs, dO, dFinalW, dFinalB }, options);
    for (const name of Object.keys(inputs)) {
      const gradient = /^(eta|ln)/.test(name)
        ? `d${name[0].toUpperCase()}${name.slice(1)}`
        : `d${name}`;
      checkGradient(name, loss, inputs[name], all[gradient], { tolerance: 1e-6 });
    }
  }
});

test('packed sequences have the bits that they have alone', async () => {
  const { inputs, gradients } = draw({ B: 1, T: 50, H: 2, D: 16, seed: 8 }, 3);
  const cuSeqlens = Int32Array.of(0, 30, 30, 50);
  await check('packed', { inputs, gradients }, { cuSeqlens });
  const all = native.tttLinearSync(inputs, { cuSeqlens, outputFinalState: true });
  for (let n = 0; n < 3; n++) {
    const part = Object.fromEntries(
      Object.entries(inputs).map(([name, x]) => [
        name,
        /^ln/.test(name)
          ? x
          : /^[Wb]$/.test(name)
            ? slice(x, 0, n, n + 1)
            : slice(x, 1, cuSeqlens[n], cuSeqlens[n + 1]),
      ]),
    );
    const alone = native.tttLinearSync(part, { outputFinalState: true });
    expectSame(`o ${n}`, slice(all.o, 1, cuSeqlens[n], cuSeqlens[n + 1]), alone.o);
    expectSame(`finalW ${n}`, slice(all.finalW, 0, n, n + 1), alone.finalW);
  }
});

test('cut between mini-batches, the same bits', () => {
  const { inputs } = draw({ B: 2, T: 40, H: 2, D: 20, seed: 6 });
  const whole = native.tttLinearSync(inputs, { outputFinalState: true });
  const cut = (from: number, to: number) =>
    Object.fromEntries(
      (['q', 'k', 'v', 'eta'] as const).map((name) => [name, slice(inputs[name], 1, from, to)]),
    );
  const first = native.tttLinearSync({ ...inputs, ...cut(0, 32) }, { outputFinalState: true });
  const rest = native.tttLinearSync(
    { ...inputs, ...cut(32, 40), W: first.finalW, b: first.finalB },
    { outputFinalState: true },
  );
  expectSame('o', rest.o, slice(whole.o, 1, 32, 40));
  expectSame('finalW', rest.finalW, whole.finalW);
  expectSame('finalB', rest.finalB, whole.finalB);
});

test('nothing to do', () => {
  for (const shape of [
    { B: 2, T: 0, H: 2, D: 4, seed: 1 },
    { B: 0, T: 3, H: 2, D: 4, seed: 1 },
  ]) {
    const { inputs, gradients } = draw(shape, shape.B);
    const { finalW } = native.tttLinearSync(inputs, { outputFinalState: true });
    assert.equal(finalW.data, inputs.W.data);
    const { dW, dLnBias } = native.tttLinearBackwardSync({ ...inputs, ...gradients });
    assert.equal(dW.data, gradients.dFinalW.data);
    assert.ok(dLnBias.data.every((x: number) => x === 0));
  }
});

test('bad input', () => {
  const { inputs, gradients } = draw({ B: 2, T: 4, H: 3, D: 6, seed: 1 });
  const run = (edit: object, options = {}) => native.tttLinearSync({ ...inputs, ...edit }, options);
  throwsWith(() => run({ eta: undefined }), TypeError, /^\[tttLinear\] eta: expected/);
  throwsWith(() => run({ eta: inputs.b }), RangeError, /eta: expected shape \[B,T,H\]/);
  throwsWith(() => run({ W: inputs.q }), RangeError, /W: expected shape \[B,H,D,D\]/);
  throwsWith(() => run({ W: inputs.b }), RangeError, /W: expected shape \[H,D,D\]/);
  throwsWith(() => run({}, { miniBatch: 0 }), RangeError, /miniBatch: expected an integer from 1/);
  throwsWith(() => run({}, { eps: -1 }), RangeError, /eps/);
  throwsWith(() => run({ k: encode('f16', inputs.k) }), TypeError, /k: expected dtype f32/);
  const backward = { ...inputs, ...gradients, dO: inputs.W };
  throwsWith(() => native.tttLinearBackwardSync(backward), RangeError, /dO: expected/);
});

test.run();
