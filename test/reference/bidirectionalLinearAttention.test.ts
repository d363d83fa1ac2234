/** The reference of linear attention without order: a value by hand, and gradients against central differences. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { checkGradient, dot } from '../support/gradcheck.ts';
import { Random } from '../support/random.ts';
import type { Tensor64 } from '../support/tensor.ts';
import { sizeOf, toFloat64 } from '../support/tensor.ts';
import {
  bidirectionalLinearAttention,
  bidirectionalLinearAttentionBackward,
} from './bidirectionalLinearAttention.ts';

const test = suite('reference: linear attention without order');
const random = new Random(84);

function normal(...shape: number[]): Tensor64 {
  return toFloat64({ data: random.normals(sizeOf(shape)), shape });
}

test('by hand', () => {
  const of = (shape: number[], ...data: number[]) => ({ data, shape });
  const inputs = {
    q: of([1, 1, 1, 1], 2),
    k: of([1, 2, 1, 1], 1, 3),
    v: of([1, 2, 1, 1], 10, 20),
  };
  const value = (more: object, options: object): number =>
    bidirectionalLinearAttention({ ...inputs, ...more }, options).o.data[0];
  assert.is(value({}, { eps: 0 }), 17.5);
  assert.is(value({}, { eps: 2 }), 14);
  assert.is(value({}, { normalize: false, scale: 0.5 }), 70);
  assert.is(value({ alpha: of([1, 2, 1], 3, 1) }, { eps: 0 }), 15);
  assert.is(value({ modulate: of([1, 1, 1, 1], 4) }, { eps: 0 }), 70);
  // weights 2 softmax(2, 6)
  const [a, b] = [1 / (1 + Math.exp(4)), 1 / (1 + Math.exp(-4))];
  const expected = (10 * a + 60 * b) / (a + 3 * b);
  assert.ok(Math.abs(value({}, { eps: 0, rankAugmented: true }) - expected) < 1e-12);
});

const FORMS = [
  { name: 'plain', options: { normalize: false, scale: 0.7 } },
  { name: 'elu1, weights of keys, modulation', options: { featureMap: 'elu1' }, beside: true },
  { name: 'rank augmented', options: { featureMap: 'elu1', rankAugmented: true } },
  { name: 'hedgehog', options: { featureMap: 'hedgehog' }, weight: [[4], [2]] },
  { name: 'shared weights', options: { featureMap: 'hedgehogExp' }, weight: [[], []] },
  { name: 'packed', options: { featureMap: 'softmax', rankAugmented: true }, packed: true },
  { name: 'taylor2', options: { featureMap: 'taylor2', eps: 0.1 } },
] as const;

for (const { name, options, ...form } of FORMS)
  test(`gradients: ${name}`, () => {
    const [B, T, S] = 'packed' in form ? [1, 6, 5] : [2, 4, 3];
    const inputs: Record<string, Tensor64> = {
      q: normal(B, T, 4, 3),
      k: normal(B, S, 2, 3),
      v: normal(B, S, 2, 2),
    };
    if ('beside' in form)
      Object.assign(inputs, { alpha: normal(B, S, 2), modulate: normal(B, T, 4, 2) });
    if ('beside' in form) inputs.alpha.data = inputs.alpha.data.map(Math.abs);
    if ('weight' in form) {
      inputs.qWeight = normal(...form.weight[0], 3, 2);
      inputs.kWeight = normal(...form.weight[1], 3, 2);
    }
    const starts = { cuSeqlens: [0, 2, 2, 6], cuSeqlensK: [0, 3, 4, 5] };
    const all = { ...options, ...('packed' in form && starts) };
    const dO = normal(B, T, 4, 2);
    const loss = (): number => dot(bidirectionalLinearAttention(inputs as any, all).o, dO);
    const results: any = bidirectionalLinearAttentionBackward({ ...inputs, dO } as any, all);
    for (const [input, x] of Object.entries(inputs)) {
      const gradient = `d${input[0].toUpperCase()}${input.slice(1)}`;
      checkGradient(input, loss, x, results[input.length === 1 ? `d${input}` : gradient]);
    }
  });

test.run();
