/** The layer references: values worked by hand, and gradients against central differences. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { checkGradient, dot } from '../support/gradcheck.ts';
import { Random } from '../support/random.ts';
import type { Tensor64 } from '../support/tensor.ts';
import { sizeOf, toFloat64, zeros } from '../support/tensor.ts';
import {
  adamW,
  crossEntropy,
  crossEntropyBackward,
  embedding,
  embeddingBackward,
  l2norm,
  l2normBackward,
  matmul,
  matmulBackward,
  rmsNorm,
  rmsNormBackward,
  rmsNormGated,
  rmsNormGatedBackward,
  rope,
  ropeBackward,
  shortConv,
  shortConvBackward,
  swiglu,
  swigluBackward,
} from './layers.ts';

const layers = suite('reference: layers');
const random = new Random(71);

function normal(...shape: number[]): Tensor64 {
  return toFloat64({ data: random.normals(sizeOf(shape)), shape });
}

function of(shape: number[], ...values: number[]): Tensor64 {
  return { data: Float64Array.from(values), shape };
}

layers('matmul by hand', () => {
  const a = of([2, 2], 1, 2, 3, 4);
  const b = of([2, 1], 5, 6);
  assert.equal(matmul({ a, b, bias: of([1], 0.5) }), of([2, 1], 17.5, 39.5));
  assert.equal(matmul({ a, b }, { transposeA: true }), of([2, 1], 23, 34));
  assert.equal(matmul({ a, b: of([1, 2], 5, 6) }, { transposeB: true }), of([2, 1], 17, 39));
});

for (const transposeA of [false, true]) {
  for (const transposeB of [false, true]) {
    for (const [aBatch, bBatch] of [
      [[], []],
      [
        [2, 2],
        [2, 2],
      ],
      [[3], []],
      [[], [3]],
    ]) {
      const label = `${transposeA ? 'A^T' : 'A'} ${transposeB ? 'B^T' : 'B'}`;
      layers(`matmul gradients, ${label}, batches [${aBatch}] [${bBatch}]`, () => {
        const a = normal(...aBatch, ...(transposeA ? [4, 3] : [3, 4]));
        const b = normal(...bBatch, ...(transposeB ? [2, 4] : [4, 2]));
        const bias = normal(2);
        const lead = aBatch.length > 0 ? aBatch : bBatch;
        const dOut = normal(...lead, 3, 2);
        const options = { transposeA, transposeB };
        const loss = (): number => dot(matmul({ a, b, bias }, options), dOut);
        const grads = matmulBackward({ a, b, bias, dOut }, options);
        checkGradient('a', loss, a, grads.da);
        checkGradient('b', loss, b, grads.db);
        checkGradient('bias', loss, bias, grads.dBias!);
      });
    }
  }
}

layers('embedding', () => {
  const weight = normal(5, 3);
  const indices = { data: Int32Array.of(4, 0, 4, 2), shape: [2, 2] };
  const dOut = normal(2, 2, 3);
  const out = embedding({ weight, indices });
  assert.equal(out.shape, [2, 2, 3]);
  assert.equal(out.data.slice(0, 3), weight.data.slice(12));
  const loss = (): number => dot(embedding({ weight, indices }), dOut);
  const { dWeight } = embeddingBackward({ weight, indices, dOut });
  checkGradient('weight', loss, weight, dWeight);
  assert.throws(() => embedding({ weight, indices: { data: [5], shape: [1] } }), /outside/);
});

layers('shortConv by hand', () => {
  const { y, finalState } = shortConv({
    x: of([1, 2, 1], 1, 2),
    weight: of([1, 3], 100, 10, 1),
    bias: of([1], 0.5),
    initialState: of([1, 1, 2], 8, 9),
  });
  // The last tap meets the current token, the first one the oldest.
  assert.equal(y, of([1, 2, 1], 891.5, 912.5));
  assert.equal(finalState, of([1, 1, 2], 1, 2));
});

layers('shortConv carries its state', () => {
  const x = normal(1, 5, 2);
  const weight = normal(2, 4);
  const part = (from: number, to: number): Tensor64 => {
    return { data: x.data.slice(from * 2, to * 2), shape: [1, to - from, 2] };
  };
  const all = shortConv({ x, weight });
  const head = shortConv({ x: part(0, 1), weight });
  const tail = shortConv({ x: part(1, 5), weight, initialState: head.finalState });
  assert.equal([...head.y.data, ...tail.y.data], Array.from(all.y.data));
  assert.equal(tail.finalState, all.finalState);
});

for (const activation of ['none', 'silu'] as const) {
  for (const [T, W] of [
    [6, 4],
    [2, 4],
    [3, 1],
  ]) {
    layers(`shortConv gradients, ${activation}, T ${T}, W ${W}`, () => {
      const inputs = {
        x: normal(2, T, 3),
        weight: normal(3, W),
        bias: normal(3),
        initialState: normal(2, 3, W - 1),
        dY: normal(2, T, 3),
        dFinalState: normal(2, 3, W - 1),
      };
      const loss = (): number => {
        const { y, finalState } = shortConv(inputs, { activation });
        return dot(y, inputs.dY) + dot(finalState, inputs.dFinalState);
      };
      const grads = shortConvBackward(inputs, { activation });
      checkGradient('x', loss, inputs.x, grads.dx);
      checkGradient('weight', loss, inputs.weight, grads.dWeight);
      checkGradient('bias', loss, inputs.bias, grads.dBias!);
      checkGradient('initialState', loss, inputs.initialState, grads.dInitialState);
    });
  }
}

layers('shortConv gradients, packed', () => {
  const options = { activation: 'silu', cuSeqlens: [0, 1, 1, 6] } as const;
  const inputs = {
    x: normal(1, 6, 3),
    weight: normal(3, 4),
    bias: normal(3),
    initialState: normal(3, 3, 3),
    dY: normal(1, 6, 3),
    dFinalState: normal(3, 3, 3),
  };
  const loss = (): number => {
    const { y, finalState } = shortConv(inputs, options);
    return dot(y, inputs.dY) + dot(finalState, inputs.dFinalState);
  };
  const grads = shortConvBackward(inputs, options);
  checkGradient('x', loss, inputs.x, grads.dx);
  checkGradient('weight', loss, inputs.weight, grads.dWeight);
  checkGradient('bias', loss, inputs.bias, grads.dBias!);
  checkGradient('initialState', loss, inputs.initialState, grads.dInitialState);
});

layers('rmsNorm by hand', () => {
  const y = rmsNorm({ x: of([1, 2], 1, 7), weight: of([2], 5, 10) }, { eps: 0 });
  assert.equal(y, of([1, 2], 1, 14));
  assert.equal(rmsNorm({ x: zeros([2, 3]) }), zeros([2, 3]));
});

for (const weighted of [true, false]) {
  for (const eps of [1e-6, 0.3]) {
    layers(`rmsNorm gradients, ${weighted ? 'weight' : 'no weight'}, eps ${eps}`, () => {
      const weight = normal(5);
      const inputs = {
        x: normal(2, 3, 5),
        gate: normal(2, 3, 5),
        dY: normal(2, 3, 5),
        ...(weighted && { weight }),
      };
      const plain = (): number => dot(rmsNorm(inputs, { eps }), inputs.dY);
      const plainGrads = rmsNormBackward(inputs, { eps });
      checkGradient('x', plain, inputs.x, plainGrads.dx);
      const gated = (): number => dot(rmsNormGated(inputs, { eps }), inputs.dY);
      const gatedGrads = rmsNormGatedBackward(inputs, { eps });
      checkGradient('gated x', gated, inputs.x, gatedGrads.dx);
      checkGradient('gate', gated, inputs.gate, gatedGrads.dGate);
      if (weighted) {
        checkGradient('weight', plain, weight, plainGrads.dWeight!);
        checkGradient('gated weight', gated, weight, gatedGrads.dWeight!);
      } else {
        assert.is(plainGrads.dWeight, undefined);
      }
    });
  }
}

for (const activation of ['silu', 'sigmoid'] as const) {
  for (const normBeforeGate of [true, false]) {
    const label = `${activation}, norm ${normBeforeGate ? 'first' : 'last'}`;
    layers(`rmsNormGated gradients, ${label}`, () => {
      const inputs = {
        x: normal(2, 3, 5),
        gate: normal(2, 3, 5),
        weight: normal(5),
        dY: normal(2, 3, 5),
      };
      const options = { activation, normBeforeGate, eps: 0.1 };
      const loss = (): number => dot(rmsNormGated(inputs, options), inputs.dY);
      const grads = rmsNormGatedBackward(inputs, options);
      checkGradient('x', loss, inputs.x, grads.dx);
      checkGradient('gate', loss, inputs.gate, grads.dGate);
      checkGradient('weight', loss, inputs.weight, grads.dWeight!);
    });
  }
}

layers('rmsNormGated by hand', () => {
  const inputs = { x: of([1, 2], 2, 14), gate: of([1, 2], 0, 0), weight: of([2], 5, 10) };
  const options = { eps: 0, activation: 'sigmoid' as const };
  assert.equal(rmsNormGated(inputs, options), of([1, 2], 0.5, 7));
  assert.equal(rmsNormGated(inputs, { ...options, normBeforeGate: false }), of([1, 2], 1, 14));
});

layers('l2norm', () => {
  assert.equal(l2norm({ x: of([1, 2], 3, 4) }, { eps: 0 }), of([1, 2], 0.6, 0.8));
  const inputs = { x: normal(2, 3, 5), dY: normal(2, 3, 5) };
  for (const eps of [1e-6, 0.3]) {
    const loss = (): number => dot(l2norm(inputs, { eps }), inputs.dY);
    checkGradient('x', loss, inputs.x, l2normBackward(inputs, { eps }).dx);
  }
});

layers('rope by hand', () => {
  // A quarter turn per position, of the first pair; the second one is half as fast; the last two elements stay.
  const inverseFrequencies = of([2], Math.PI / 2, Math.PI / 4);
  const x = of([1, 1, 1, 6], 1, 2, 3, 4, 5, 6);
  const positions = { data: [1], shape: [1] };
  const near = (options: object, expected: number[]): void => {
    const { y } = rope({ x, positions, inverseFrequencies }, { rotaryDim: 4, ...options });
    expected.forEach((value, i) => {
      assert.ok(Math.abs(y.data[i] - value) < 1e-12, `${i}: ${y.data[i]}`);
    });
  };
  const root = Math.SQRT1_2;
  near({}, [-3, root * (2 - 4), 1, root * (2 + 4), 5, 6]);
  near({ interleaved: true }, [-2, 1, root * (3 - 4), root * (3 + 4), 5, 6]);
  near({ interleaved: true, scale: 2 }, [-4, 2, 2 * root * -1, 2 * root * 7, 5, 6]);
});

layers('rope: products depend on distances only, and the gradient is the inverse', () => {
  const [x, z] = [normal(1, 7, 2, 6), normal(1, 7, 2, 6)];
  const product = (offset: number): number =>
    dot(rope({ x }, { offset }).y, rope({ x: z }, { offset: offset + 3 }).y);
  assert.ok(Math.abs(product(0) - product(1000)) < 1e-9);
  const options = { interleaved: true, scale: 0.7, theta: 50, cuSeqlens: [0, 2, 2, 7] };
  const loss = (): number => dot(rope({ x }, options).y, z);
  checkGradient('x', loss, x, ropeBackward({ dY: z }, options).dx);
  const packed = rope({ x }, options).y.data.slice(2 * 12, 4 * 12);
  const alone = { data: x.data.slice(2 * 12, 4 * 12), shape: [1, 2, 2, 6] };
  assert.equal(packed, rope({ x: alone }, { ...options, cuSeqlens: undefined }).y.data);
});

layers('swiglu', () => {
  const inputs = { a: normal(3, 4), b: normal(3, 4), dY: normal(3, 4) };
  const loss = (): number => dot(swiglu(inputs), inputs.dY);
  const grads = swigluBackward(inputs);
  checkGradient('a', loss, inputs.a, grads.da);
  checkGradient('b', loss, inputs.b, grads.db);
  const extremes = { a: of([2], 1000, -1000), b: of([2], 2, 2) };
  assert.equal(Array.from(swiglu(extremes).data, Math.abs), [2000, 0]);
});

layers('crossEntropy by hand', () => {
  const logits = of([3, 2], 0, Math.log(3), 1000, 1000, 5, 6);
  const targets = { data: Int32Array.of(1, 0, -100), shape: [3] };
  const { loss, losses } = crossEntropy({ logits, targets });
  const expected = [Math.log(4 / 3), Math.log(2), 0];
  assert.ok(expected.every((x, i) => Math.abs(losses.data[i] - x) < 1e-12));
  assert.ok(Math.abs(loss - (expected[0] + expected[1]) / 2) < 1e-12);
});

layers('crossEntropy gradients', () => {
  const logits = normal(4, 5);
  const targets = { data: Int32Array.of(3, -1, 0, 4), shape: [4] };
  const options = { ignoreIndex: -1 };
  const loss = (): number => 2.5 * crossEntropy({ logits, targets }, options).loss;
  const { dLogits } = crossEntropyBackward({ logits, targets, dLoss: 2.5 }, options);
  checkGradient('logits', loss, logits, dLogits);
});

layers('crossEntropy with nothing to count', () => {
  const inputs = { logits: normal(2, 3), targets: { data: [-100, -100], shape: [2] } };
  assert.is(crossEntropy(inputs).loss, 0);
  assert.equal(crossEntropyBackward(inputs).dLogits, zeros([2, 3]));
});

layers('adamW', () => {
  const inputs = { param: of([1], 2), grad: of([1], -3), m: zeros([1]), v: zeros([1]) };
  const options = { lr: 0.1, weightDecay: 0.5, eps: 0 };
  const first = adamW(inputs, { ...options, step: 1 });
  // Bias correction makes the first step lr * sign(grad), after the decay 2 * (1 - 0.05).
  assert.ok(Math.abs(first.param.data[0] - 2) < 1e-12);
  assert.ok(Math.abs(first.m.data[0] + 0.3) < 1e-12);
  assert.ok(Math.abs(first.v.data[0] - 0.009) < 1e-12);
  const second = adamW({ ...first, grad: of([1], 1) }, { ...options, step: 2 });
  const mHat = (0.9 * -0.3 + 0.1) / (1 - 0.9 ** 2);
  const vHat = (0.999 * 0.009 + 0.001) / (1 - 0.999 ** 2);
  const expected = 2 * 0.95 - (0.1 * mHat) / Math.sqrt(vHat);
  assert.ok(Math.abs(second.param.data[0] - expected) < 1e-12);
  assert.is(inputs.param.data[0], 2);
});

layers.run();
