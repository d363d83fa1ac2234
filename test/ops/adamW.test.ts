/** adamW against its float64 reference, in place, in both forms. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { FloatTensor } from '../../ts/index';
import { adamW, adamWSync } from '../../ts/index';
import * as reference from '../reference/layers.ts';
import { decode, encode, halfDtypes } from '../support/half.ts';
import { expectNear, normals } from '../support/layers.ts';
import { throwsWith } from './helpers.ts';

const test = suite('adamW');

function problem(...shape: number[]) {
  const draw = normals(shape.length + shape[0]);
  const inputs = {
    param: draw(...shape),
    grad: draw(...shape),
    m: draw(...shape),
    v: draw(...shape),
  };
  for (const [i, v] of inputs.v.data.entries()) inputs.v.data[i] = v * v;
  return inputs;
}

const OPTIONS = [
  { lr: 1e-3, step: 1 },
  { lr: 3e-3, step: 2, beta1: 0.8, beta2: 0.95, eps: 1e-6, weightDecay: 0.1 },
  { lr: 1e-2, step: 100_000, weightDecay: 0 },
];

for (const shape of [[1], [33], [7, 5, 3], [300, 257], [0, 4]]) {
  test(`shape [${shape}]`, async () => {
    for (const options of OPTIONS) {
      const [inputs, again] = [problem(...shape), problem(...shape)];
      const expected = reference.adamW(inputs, options);
      adamWSync(inputs, options);
      const { param, m, v } = inputs;
      expectNear(JSON.stringify(options), { param, m, v }, { ...expected }, 1e-6);
      await adamW(again, options);
      assert.equal(again, inputs);
    }
  });
}

for (const dtype of halfDtypes) {
  test(`a gradient in ${dtype}`, () => {
    const options = { lr: 1e-3, step: 3 };
    const [half, full] = [problem(7, 37), problem(7, 37)];
    const grad = encode(dtype, half.grad);
    adamWSync({ ...half, grad: grad as FloatTensor }, options);
    adamWSync({ ...full, grad: decode(grad) }, options);
    for (const name of ['param', 'm', 'v'] as const) assert.equal(half[name], full[name]);
  });
}

test('many steps', () => {
  const inputs = problem(40);
  let expected: ReturnType<typeof reference.adamW> = reference.adamW(inputs, { step: 1, lr: 0.01 });
  adamWSync(inputs, { step: 1, lr: 0.01 });
  for (let step = 2; step <= 200; step++) {
    const grad = normals(step)(40);
    expected = reference.adamW({ ...expected, grad }, { step, lr: 0.01 });
    adamWSync({ ...inputs, grad }, { step, lr: 0.01 });
  }
  const { param, m, v } = inputs;
  expectNear('after 200', { param, m, v }, { ...expected }, 5e-6);
});

test('bad input', () => {
  const good = problem(3);
  const fails = (inputs: any, options: any, kind: any, pattern: RegExp): void =>
    throwsWith(() => adamWSync(inputs, options), kind, pattern);
  fails(good, { lr: 1 }, TypeError, /^\[adamW\] step: expected/);
  fails(good, { step: 1 }, TypeError, /^\[adamW\] lr: expected/);
  fails(good, { lr: 1, step: 0 }, RangeError, /^\[adamW\] step: expected an integer from 1/);
  fails(good, { lr: Number.NaN, step: 1 }, RangeError, /^\[adamW\] lr: expected/);
  fails(good, { lr: 1, step: 1, beta1: 1 }, RangeError, /^\[adamW\] beta1: expected/);
  fails({ ...good, grad: normals(1)(4) }, { lr: 1, step: 1 }, RangeError, /^\[adamW\] grad: /);
});

test('with beta1 = 0 the first moment is the gradient, whatever it was', () => {
  const of = (x: number) => ({ data: new Float32Array(20).fill(x), shape: [20] });
  const inputs = { param: of(1), grad: of(-0.75), m: of(3e38), v: of(1) };
  adamWSync(inputs, { step: 1, lr: 0.1, beta1: 0 });
  assert.equal(inputs.m.data, of(-0.75).data);
});

test.run();
