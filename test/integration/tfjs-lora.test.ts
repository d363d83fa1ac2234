// loraLinear of rankone/tfjs beside TensorFlow.js's own operations: the same values and gradients, training, what is left
// behind, errors. tfjs-lora-gradients.test.ts holds it against the float64 reference.
import * as tf from '@tensorflow/tfjs-core';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import {
  AdapterBank,
  createAdapterBank,
  loraLinearSync,
  PackedWeight,
  packWeightSync,
} from '../../ts/index';
import { loraLinear } from '../../ts/integrations/tfjs/index';
import { throwsWith } from '../ops/helpers.ts';
import { expectNear, normals } from '../support/layers.ts';
import type { Tensor32, TensorLike } from '../support/tensor.ts';
import { toPlain, toTensor } from '../support/tfjsCases.ts';

const [ROWS, IN, OUT] = [6, 10, 7];
const LIMIT = 1e-5;
const draw = normals(43);
const weight = draw(OUT, IN);
const x = draw(ROWS, IN);
const bias = draw(OUT);

const test = suite('tfjs loraLinear');

const tensor = (t: TensorLike) => toTensor(t);
const W = tensor(weight);
const A = tensor(draw(3, IN));
const B = tensor(draw(OUT, 3));
const X = tensor(x);

function close(actual: tf.Tensor, expected: tf.Tensor, name: string): void {
  expectNear(name, { t: toPlain(actual) }, { t: toPlain(expected) }, LIMIT);
}

test('as a composition of matMul', () => {
  const own = (x: tf.Tensor, a: tf.Tensor, b: tf.Tensor, bias: tf.Tensor) => {
    const low = tf.matMul(tf.matMul(x, a, false, true), b, false, true);
    return tf.add(tf.add(tf.matMul(x, W, false, true), tf.mul(low, 2)), bias);
  };
  const ours = (x: tf.Tensor, a: tf.Tensor, b: tf.Tensor, bias: tf.Tensor) =>
    loraLinear({ x, base: W, adapters: { a, b, scale: 2 }, bias }).y;
  // In the middle of other operations, with the gradients of both ends.
  const loss =
    (f: (...xs: tf.Tensor[]) => tf.Tensor) =>
    (x: tf.Tensor, ...rest: tf.Tensor[]) =>
      tf.sum(tf.sin(f(tf.tanh(x), ...rest)));
  const args = [X, A, B, tensor(bias)];
  close(
    loss(ours as any)(...(args as [tf.Tensor])),
    loss(own as any)(...(args as [tf.Tensor])),
    'loss',
  );
  const expected = tf.grads(loss(own as any))(args);
  for (const [i, gradient] of tf
    .grads(loss(ours as any))(args)
    .entries())
    close(gradient, expected[i], `gradient ${i}`);
});

test('as a mixture of experts whose gates are a softmax', () => {
  const [a1, b1] = [tensor(draw(2, IN)), tensor(draw(OUT, 2))];
  const router = tensor(draw(IN, 2));
  const low = (x: tf.Tensor, a: tf.Tensor, b: tf.Tensor) =>
    tf.matMul(tf.matMul(x, a, false, true), b, false, true);
  const own = (x: tf.Tensor, router: tf.Tensor) => {
    const [g0, g1] = tf.split(tf.softmax(tf.matMul(x, router)), 2, 1);
    return tf.addN([
      tf.matMul(x, W, false, true),
      tf.mul(g0, low(x, A, B)),
      tf.mul(g1, low(x, a1, b1)),
    ]);
  };
  const ours = (x: tf.Tensor, router: tf.Tensor) => {
    const gates = tf.softmax(tf.matMul(x, router));
    const ids = tf.tile(tf.tensor1d([0, 1], 'int32'), [ROWS]);
    const adapters = [
      { a: A, b: B },
      { a: a1, b: b1 },
    ];
    return loraLinear({ x, base: W, adapters, routing: { kind: 'topK', k: 2, ids, gates } }).y;
  };
  close(ours(X, router), own(X, router), 'y');
  const dY = tensor(draw(ROWS, OUT));
  const expected = tf.grads(own)([X, router], dY);
  for (const [i, gradient] of tf.grads(ours)([X, router], dY).entries())
    close(gradient, expected[i], `gradient ${i}`);
});

test('the same bits as the function itself', () => {
  const bank = createAdapterBank({ inFeatures: IN, outFeatures: OUT });
  const base = packWeightSync(weight, { format: 'f32' });
  const id = bank.load({ a: toPlain(A), b: toPlain(B), scale: 3 });
  const { y } = loraLinearSync({ x, base, bank, routing: { kind: 'one', id } });
  for (const given of [base, W]) {
    const own = loraLinear({ x: X, base: given, adapters: { a: A, b: B, scale: 3 } });
    assert.equal(toPlain(own.y).data, y.data);
  }
  bank.dispose();
  base.dispose();
});

test('an optimizer trains the factors and leaves the base', () => {
  const target = tf.matMul(X, tensor(draw(IN, OUT)));
  const base = tf.variable(W.clone());
  const a = tf.variable(A.clone());
  const b = tf.variable(tf.zeros([OUT, 3]));
  const optimizer = tf.train.adam(0.05);
  const losses: number[] = [];
  for (let step = 0; step < 60; step++) {
    const loss = optimizer.minimize(
      () => {
        const { y } = loraLinear({ x: X, base, adapters: { a, b } });
        return tf.losses.meanSquaredError(target, y) as tf.Scalar;
      },
      true,
      [a, b],
    )!;
    losses.push(loss.dataSync()[0]);
  }
  // Three of the seven directions are as much as the factors have.
  assert.ok(losses[59] < 0.5 * losses[0], `${losses[0]} to ${losses[59]}`);
  assert.equal(toPlain(base).data, toPlain(W).data);
  // A frozen weight is none of the function's arguments.
  throwsWith(
    () => tf.grad((w: tf.Tensor) => loraLinear({ x: X, base: w, adapters: { a, b } }).y)(W),
    Error,
    /Cannot compute gradient/,
  );
});

/** What the engine holds for this operation while `body` runs, and after it. */
function watched<T>(body: () => T): { result: T; banks: AdapterBank[]; weights: number } {
  const banks: AdapterBank[] = [];
  let weights = 0;
  const { load } = AdapterBank.prototype;
  const { dispose } = PackedWeight.prototype;
  AdapterBank.prototype.load = function (spec) {
    banks.push(this);
    return load.call(this, spec);
  };
  PackedWeight.prototype.dispose = function () {
    if (!this.disposed) weights++;
    dispose.call(this);
  };
  try {
    return { result: body(), banks, weights };
  } finally {
    AdapterBank.prototype.load = load;
    PackedWeight.prototype.dispose = dispose;
  }
}

/** One bank and, with a base to pack, one weight for every pass, all of them given back. */
function expectNothingHeld({ banks }: { banks: AdapterBank[] }, passes: number): void {
  assert.is(new Set(banks).size, passes);
  assert.ok(banks.every((bank) => bank.disposed));
}

test('nothing is left behind: no tensors, banks or weights', () => {
  const adapters = { a: A, b: B };
  const step = () =>
    tf.tidy(() => {
      const f = (a: tf.Tensor) =>
        tf.sum(tf.square(loraLinear({ x: X, base: W, adapters: { a, b: B } }).y));
      return tf.valueAndGrad(f)(A).grad.dataSync()[0] as any;
    });
  step();
  const before = tf.memory();
  const backward = watched(() => {
    for (let i = 0; i < 5; i++) step();
  });
  expectNothingHeld(backward, 10);
  const after = tf.memory();
  for (const name of ['numTensors', 'numDataBuffers', 'numBytes'] as const)
    assert.is(after[name], before[name], name);

  const forward = watched(() => loraLinear({ x: X, base: W, adapters }).y);
  expectNothingHeld(forward, 1);
  assert.is(forward.weights, 1);
  assert.is(tf.memory().numTensors, before.numTensors + 1);
  forward.result.dispose();

  // On the tape, and its gradient never taken.
  const untaken = watched(() =>
    tf.grads((x: tf.Tensor, a: tf.Tensor) => {
      loraLinear({ x, base: W, adapters: { a, b: B } });
      return tf.add(tf.sum(x), tf.sum(a));
    })([X, A]),
  );
  expectNothingHeld(untaken, 1);
  tf.dispose(untaken.result);

  // Errors in the middle: of the second adapter, and of the call itself.
  const wrong = tf.zeros([OUT + 1, 3]);
  const failed = watched(() =>
    assert.throws(() =>
      loraLinear({
        x: X,
        base: W,
        adapters: [adapters, { a: A, b: wrong }],
        routing: { kind: 'one', id: 0 },
      }),
    ),
  );
  expectNothingHeld(failed, 1);
  assert.is(failed.weights, 1);
  const refused = watched(() =>
    assert.throws(() => loraLinear({ x: X, base: W, adapters, routing: { kind: 'one', id: 7 } })),
  );
  expectNothingHeld(refused, 1);
  wrong.dispose();
  assert.is(tf.memory().numTensors, before.numTensors);
});

test("a caller's packed weight stays the caller's", () => {
  const base = packWeightSync(weight, { format: 'int8' });
  const { weights } = watched(() =>
    tf.grad((x: tf.Tensor) => loraLinear({ x, base, adapters: { a: A, b: B } }).y)(X),
  );
  assert.is(weights, 0);
  assert.is(base.disposed, false);
  base.dispose();
  throwsWith(() => loraLinear({ x: X, base, adapters: { a: A, b: B } }), Error, /disposed/);
});

test('tensors may be disposed, and options change, before the gradient is taken', () => {
  const expected = tf.grads((x, a) => {
    const { y } = loraLinear(
      { x, base: W, adapters: { a: tf.mul(a, 2), b: B } },
      { dropout: { p: 0.5, seed: 9 } },
    );
    return y;
  })([X, A]);
  const actual = tf.grads((x, a) => {
    const doubled = tf.mul(a, 2);
    const base = W.clone();
    const b = B.clone();
    const ids = Int32Array.of(0);
    const indptr = Int32Array.of(0, ROWS);
    const dropout = { p: 0.5, seed: 9 };
    const adapters = [{ a: doubled, b }];
    const routing = { kind: 'segments', indptr, ids } as const;
    const { y } = loraLinear({ x, base, adapters, routing }, { dropout });
    tf.dispose([doubled, base, b]);
    dropout.seed = 10;
    ids[0] = -1;
    indptr[1] = 0;
    adapters.pop();
    return y;
  })([X, A]);
  for (const [i, gradient] of actual.entries())
    assert.equal(toPlain(gradient).data, toPlain(expected[i]).data);
});

test('one tensor in several places gets the sum of its gradients', () => {
  const square = tensor(draw(IN, IN));
  const y = (a: tf.Tensor, b: tf.Tensor) =>
    tf.sum(tf.square(loraLinear({ x: X, base: 'identity', adapters: { a, b } }).y));
  const total = tf.grad((t: tf.Tensor) => y(t, t))(square);
  const [first, second] = tf.grads(y)([square, square.clone()]);
  close(total, tf.add(first, second), 'sum');
});

test('a gradient of a gradient is an error, not a wrong number', () => {
  const first = tf.grad((x: tf.Tensor) =>
    tf.sum(tf.square(loraLinear({ x, base: W, adapters: { a: A, b: B } }).y)),
  );
  throwsWith(
    () => tf.grad((x: tf.Tensor) => tf.sum(tf.add(first(x), tf.square(x))))(X),
    Error,
    /^\[loraLinear\] gradients of gradients are not available/,
  );
});

test('kernels have their names in a profile', async () => {
  const { kernelNames } = await tf.profile(() => loraLinear({ x: X, base: W }).y);
  assert.equal(kernelNames, ['RankoneLoraLinear']);
});

test('bad input', () => {
  const good = { x: X, base: W, adapters: { a: A, b: B } };
  const call = (inputs: object, options?: object) => () =>
    (loraLinear as any)({ ...good, ...inputs }, options);
  const says = (text: string) => new RegExp(`^\\[loraLinear\\] ${text}`);
  const type = (body: () => unknown, text: string) => throwsWith(body, TypeError, says(text));
  const range = (body: () => unknown, text: string) => throwsWith(body, RangeError, says(text));
  type(call({ x: x }), 'x: expected a tf.Tensor, got an object');
  type(call({ x: tf.cast(X, 'int32') }), 'x: expected a float32 tensor, got one of int32');
  type(call({ x: undefined }), 'x: expected a tf.Tensor, got undefined');
  range(call({ x: tf.scalar(1) }), 'x: expected shape \\[...,in\\]');
  range(call({ x: tf.zeros([2, IN + 1]) }), 'base|adapters');
  type(call({ base: weight }), 'base: expected a tf.Tensor, what packWeight');
  type(call({ base: 3 }), 'base: expected');
  range(call({ base: tf.zeros([2, 3, 4]) }), 'base');
  type(call({ bas: W }), 'bas: expected one of .* nearest: base');
  type(call({ adapters: 4 }), 'adapters\\[0\\]: expected an object, got 4');
  type(call({ adapters: [{ a: A }] }), 'adapters\\[0\\].b: expected a tf.Tensor, got undefined');
  type(call({ adapters: { a: A, b: B, scael: 1 } }), 'scael: expected one of .* nearest: scale');
  type(call({ adapters: { a: A, b: B, scale: '2' } }), 'adapters\\[0\\].scale: expected a number');
  type(
    call({ adapters: { a: A, b: B, scale: tf.ones([2]) } }),
    'adapters\\[0\\].scale: expected one',
  );
  range(call({ adapters: { a: B, b: B } }), 'adapters\\[0\\].a: expected shape');
  range(call({ adapters: { a: A, b: A } }), 'adapters\\[0\\].b: expected shape');
  range(call({ adapters: { a: Int32Array.of(0, 1, IN), b: B } }), 'adapters\\[0\\].a: ');
  type(call({ adapters: [] }), 'routing: expected one with 0 adapters');
  type(
    call({ base: null, adapters: { a: A, b: Int32Array.of(0, 1, 2) } }),
    'base: expected a weight where neither',
  );
  const two = [good.adapters, good.adapters];
  type(call({ adapters: two }), 'routing: expected one with 2 adapters, got undefined');
  range(call({ adapters: two, routing: { kind: 'one', id: 2 } }), 'routing.id: expected -1 or');
  type(call({ routing: { kind: 'tokens' } }), 'routing.ids: ');
  type(call({ routing: { kind: 'tokens', ids: tf.zeros([ROWS]) } }), 'routing.ids: ');
  range(call({ routing: { kind: 'tokens', ids: tf.zeros([1], 'int32') } }), 'routing.ids: ');
  type(call({ routing: 3 }), 'routing: expected an object, got 3');
  type(call({}, { out: {} }), 'out: expected no such option');
  type(call({}, { saveRank: true }), 'saveRank: expected one of');
  type(call({}, { saveForBackward: 1 }), 'saveForBackward: expected a boolean');
  type(call({}, { dropout: 3 }), 'dropout: expected an object');
  range(call({}, { dropout: { p: 1, seed: 1 } }), 'dropout.p: expected');
  const gone = A.clone();
  gone.dispose();
  throwsWith(
    call({ adapters: { a: gone, b: B } }),
    Error,
    says('adapters\\[0\\].a: expected a tensor, got one that is disposed'),
  );
  // An error leaves TensorFlow.js as it was.
  assert.is(tf.engine().isTapeOn(), false);
  assert.is(tf.engine().state.kernelDepth, 0);
});

test.run();

/** Compiled, never run. */
export function types(t: tf.Tensor, packed: PackedWeight, ids: Int32Array, wrong: Tensor32): void {
  const y: tf.Tensor = loraLinear({ x: t, base: packed, adapters: { a: t, b: t } }).y;
  loraLinear({ x: t, base: t, bias: t }, { compute: 'bf16' });
  loraLinear({ x: t, base: 'identity', adapters: [{ a: ids, b: t, scale: t, act: { topK: 2 } }] });
  loraLinear(
    {
      x: t,
      adapters: [
        { a: t, b: t },
        { a: t, b: t, mid: t, rank: 2 },
      ],
      routing: { kind: 'topK', k: 2, ids: t, gates: t },
    },
    { dropout: { p: 0.1, seed: 1 }, skip: { p: 0.1, seed: 1 }, saveForBackward: false },
  );
  loraLinear({
    x: t,
    base: t,
    adapters: { a: t, b: t },
    routing: { kind: 'segments', indptr: new BigInt64Array(2), ids },
  });
  void y;
  // @ts-expect-error no b
  loraLinear({ x: t, base: t, adapters: { a: t } });
  // @ts-expect-error not a tf.Tensor
  loraLinear({ x: wrong, base: t });
  // @ts-expect-error not a tf.Tensor
  loraLinear({ x: t, base: wrong });
  // @ts-expect-error gates belong to topK
  loraLinear({ x: t, base: t, adapters: [], routing: { kind: 'tokens', ids, gates: t } });
  // @ts-expect-error TensorFlow.js makes the results
  loraLinear({ x: t, base: t }, { out: { y: t } });
  // @ts-expect-error the tape keeps it
  loraLinear({ x: t, base: t }, { saveRank: true });
  // @ts-expect-error a typo
  loraLinear({ x: t, base: t, adapters: { a: t, b: t, scael: 1 } });
}
