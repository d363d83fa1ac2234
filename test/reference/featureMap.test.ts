/** The references of feature maps: values worked by hand, and gradients against central differences. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { checkGradient, dot } from '../support/gradcheck.ts';
import { Random } from '../support/random.ts';
import type { Tensor64 } from '../support/tensor.ts';
import { sizeOf, toFloat64 } from '../support/tensor.ts';
import { featureMap, featureMapBackward } from './featureMap.ts';

const test = suite('reference: feature maps');
const random = new Random(83);

function normal(...shape: number[]): Tensor64 {
  return toFloat64({ data: random.normals(sizeOf(shape)), shape });
}

const near = (label: string, y: Tensor64, expected: number[]): void => {
  assert.is(y.data.length, expected.length, label);
  expected.forEach((value, i) => {
    assert.ok(Math.abs(y.data[i] - value) < 1e-12, `${label}: ${y.data[i]} at ${i}, not ${value}`);
  });
};

test('by hand', () => {
  const x = { data: [3, -Math.log(2)], shape: [2] };
  near('elu1', featureMap({ x }, { kind: 'elu1' }), [4, 0.5]);
  near('relu', featureMap({ x }, { kind: 'relu' }), [3, 0]);
  const logs = { data: [0, Math.log(3)], shape: [2] };
  near('softmax', featureMap({ x: logs }, { kind: 'softmax' }), [0.25, 0.75]);
  near('hedgehog', featureMap({ x: logs }, { kind: 'hedgehog' }), [0.25, 0.75, 0.75, 0.25]);
  near('exp', featureMap({ x: logs }, { kind: 'hedgehogExp' }), [1, 3, 1, 1 / 3]);
  const weight = { data: [Math.log(3), 0], shape: [1, 2] };
  const one = { data: [1], shape: [1, 1] };
  const bias = { data: [0, Math.log(3)], shape: [2] };
  near('W', featureMap({ x: one, weight }, { kind: 'hedgehog' }), [0.75, 0.25, 0.25, 0.75]);
  near('b', featureMap({ x: one, weight, bias }, { kind: 'hedgehogExp' }), [3, 3, 1 / 3, 1 / 3]);
  // |(3, 4)| = 5, and of (9, 16) the direction
  const long = Math.hypot(9, 16);
  const focused = featureMap(
    { x: { data: [3, 4, -1], shape: [3] } },
    { kind: 'focused', power: 2, eps: 0 },
  );
  near('focused', focused, [45 / long, 80 / long, 0]);
  const taylor = featureMap({ x: { data: [2, 3], shape: [2] } }, { kind: 'taylor2' });
  near('taylor2', taylor, [1, 2 / 2 ** 0.25, 3 / 2 ** 0.25, 2, 6 / Math.SQRT2, 9 / 2]);
});

test('products of second-order features are a polynomial of the product', () => {
  const [a, b] = [normal(5), normal(5)];
  const s = dot(a, b) / Math.sqrt(5);
  const product = dot(
    featureMap({ x: a }, { kind: 'taylor2' }),
    featureMap({ x: b }, { kind: 'taylor2' }),
  );
  assert.ok(Math.abs(product - (1 + s + s ** 2 / 2)) < 1e-12);
});

for (const kind of ['elu1', 'relu', 'softmax', 'hedgehog', 'hedgehogExp', 'focused', 'taylor2'])
  test(`gradients of ${kind}`, () => {
    const x = normal(2, 3, 2, 4);
    const learned = kind.startsWith('hedgehog')
      ? [
          {},
          { weight: normal(2, 4, 3), bias: normal(2, 3) },
          { weight: normal(4, 5), bias: normal(5) },
        ]
      : [{}, ...(kind === 'focused' ? [{ scale: normal(4) }] : [])];
    const options = kind === 'focused' ? { kind, power: 4, eps: 0.1 } : { kind };
    for (const given of learned) {
      const inputs = { x, ...given } as Record<string, Tensor64>;
      const y = featureMap(inputs as any, options);
      const dY = normal(...y.shape);
      const loss = (): number => dot(featureMap(inputs as any, options), dY);
      const results: any = featureMapBackward({ ...inputs, dY } as any, options);
      checkGradient('x', loss, x, results.dx);
      if (inputs.weight) checkGradient('weight', loss, inputs.weight, results.dWeight);
      if (inputs.bias) checkGradient('bias', loss, inputs.bias, results.dBias);
      if (inputs.scale) checkGradient('scale', loss, inputs.scale, results.dScale);
    }
  });

test.run();
