// registerMatMul: the products of TensorFlow.js computed by the engine, against the backend's own kernels.
import * as tf from '@tensorflow/tfjs-core';
import '@tensorflow/tfjs-backend-cpu';
import '@tensorflow/tfjs-core/dist/register_all_gradients';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { registerMatMul } from '../../ts/integrations/tfjs/index';
import { expectNear, normals } from '../support/layers.ts';

tf.env().set('IS_TEST', true);

const draw = normals(40);
const tensor = (...shape: number[]): tf.Tensor => tf.tensor(draw(...shape).data, shape);
const plain = (t: tf.Tensor) => ({ data: t.dataSync() as Float32Array, shape: t.shape });
const kernelOf = (name: string) => tf.getKernel(name, 'cpu').kernelFunc;

/** What `body` gives with the engine and without it, and how often the backend's own kernels ran meanwhile. */
function compare(label: string, body: () => tf.Tensor | tf.Tensor[], fallbacks = 0): void {
  const names = ['BatchMatMul', '_FusedMatMul'];
  const originals = names.map((name) => tf.getKernel(name, 'cpu'));
  const expected = [body()].flat().map(plain);
  let calls = 0;
  const counted = originals.map((original) => {
    const kernelFunc: typeof original.kernelFunc = (call) => {
      calls++;
      return original.kernelFunc(call);
    };
    return { ...original, kernelFunc };
  });
  const put = (configs: tf.KernelConfig[]) => {
    for (const config of configs) {
      tf.unregisterKernel(config.kernelName, 'cpu');
      tf.registerKernel(config);
    }
  };
  put(counted);
  const restore = registerMatMul();
  const before = tf.memory().numDataBuffers;
  const results = [body()].flat();
  assert.is(tf.memory().numDataBuffers - before, results.length, `${label}: buffers`);
  const actual = results.map(plain);
  restore();
  put(originals);
  assert.is(calls, fallbacks, `${label}: calls of the backend's own kernels`);
  for (const [i, result] of actual.entries())
    expectNear(label, { y: result }, { y: expected[i] }, 2e-6);
}

test('shapes, batches and transposes', () => {
  for (const [a, b] of [
    [
      [3, 4],
      [4, 5],
    ],
    [
      [1, 70],
      [70, 1],
    ],
    [
      [2, 3, 4],
      [2, 4, 5],
    ],
    [
      [2, 3, 4],
      [4, 5],
    ],
    [
      [3, 4],
      [2, 4, 5],
    ],
    [
      [1, 3, 4],
      [6, 4, 5],
    ],
    [
      [2, 6, 3, 4],
      [1, 1, 4, 5],
    ],
    [
      [2, 6, 3, 4],
      [2, 6, 4, 5],
    ],
    [
      [1, 3, 4],
      [4, 5],
    ],
    [
      [3, 0],
      [0, 5],
    ],
  ]) {
    const swap = (s: number[]) => [...s.slice(0, -2), s.at(-1)!, s.at(-2)!];
    for (const [tA, tB] of [
      [false, false],
      [true, false],
      [false, true],
      [true, true],
    ]) {
      const [x, y] = [tensor(...(tA ? swap(a) : a)), tensor(...(tB ? swap(b) : b))];
      compare(`[${x.shape}] [${y.shape}] ${tA} ${tB}`, () => tf.matMul(x, y, tA, tB));
    }
  }
});

test('what the engine has no product for goes to the backend', () => {
  const ints = tf.tensor([1, 2, 3, 4], [2, 2], 'int32');
  compare('int32', () => tf.matMul(ints, ints), 1);
  compare('fused int32', () => tf.fused.matMul({ a: ints, b: ints }), 1);
  const [x, y] = [tensor(2, 1, 3, 4), tensor(1, 2, 4, 5)];
  compare('broadcast', () => tf.matMul(x, y), 1);
});

test('bias and activation', () => {
  const [a, b] = [tensor(6, 4), tensor(4, 5)];
  const alpha = tensor(5);
  const activations = ['linear', 'relu', 'relu6', 'elu', 'sigmoid', 'leakyrelu', 'prelu'] as const;
  for (const activation of activations) {
    for (const bias of [
      undefined,
      tensor(5),
      tensor(1, 5),
      tensor(6, 5),
      tensor(6, 1),
      tensor(1),
    ]) {
      const preluActivationWeights = activation === 'prelu' ? alpha : undefined;
      const call = { a, b, bias, activation, preluActivationWeights, leakyreluAlpha: 0.3 };
      compare(`${activation} [${bias?.shape}]`, () => tf.fused.matMul(call));
    }
  }
  const [x, y, bias] = [tensor(2, 6, 4), tensor(2, 4, 5), tensor(5)];
  compare('batched', () => tf.fused.matMul({ a: x, b: y, bias, activation: 'relu' }));
});

test('gradients', () => {
  const inputs = [tensor(3, 6, 4), tensor(3, 4, 5), tensor(5)];
  const loss = (a: tf.Tensor, b: tf.Tensor, bias: tf.Tensor) =>
    tf.sum(tf.square(tf.fused.matMul({ a, b, bias, activation: 'linear' })));
  compare('grads', () => tf.tidy(() => tf.grads(loss)(inputs)));
});

test('tensors that were cast keep the array that they were cast from', () => {
  const w = tensor(3, 4);
  const counts = tf.tensor2d([1, 2, 3, 4, 5, 6], [2, 3], 'int32');
  const mask = tf.tensor2d([1, 0, 1, 0, 0, 1], [2, 3], 'bool');
  compare('int32', () => tf.matMul(tf.cast(counts, 'float32'), w));
  compare('bool', () => tf.matMul(tf.cast(mask, 'float32'), w));
});

test('registered twice, restored once and for all', () => {
  const own = kernelOf('BatchMatMul');
  const ownFused = kernelOf('_FusedMatMul');
  const first = registerMatMul();
  const engine = kernelOf('BatchMatMul');
  assert.is.not(engine, own);
  const second = registerMatMul();
  assert.is(kernelOf('BatchMatMul'), engine);
  first();
  first();
  assert.is(kernelOf('BatchMatMul'), engine);
  second();
  assert.is(kernelOf('BatchMatMul'), own);
  assert.is(kernelOf('_FusedMatMul'), ownFused);
});

test('a backend without kernels is one clear error', () => {
  const own = tf.getKernel('BatchMatMul', 'cpu');
  tf.unregisterKernel('BatchMatMul', 'cpu');
  try {
    assert.throws(
      () => registerMatMul(),
      /^\[registerMatMul\] .*import @tensorflow\/tfjs-backend-cpu/,
    );
  } finally {
    tf.registerKernel(own);
  }
});

test.run();
