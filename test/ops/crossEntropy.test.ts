/** crossEntropy against its float64 reference. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { crossEntropyBackwardSync, crossEntropySync } from '../../ts/index';
import { crossEntropy, crossEntropyBackward } from '../reference/layers.ts';
import { call, expectNear, indices, normals } from '../support/layers.ts';
import { throwsWith } from './helpers.ts';

const test = suite('crossEntropy');

const SHAPES = [
  [1, 2],
  [3, 5],
  [17, 100],
  [5, 1024],
  [5, 1025],
  [4, 5000],
  [1, 50257],
  [700, 33],
  [0, 7],
];

for (const [N, V] of SHAPES) {
  test(`logits [${N},${V}]`, async () => {
    for (const { spread, ignoreIndex, dLoss } of [
      { spread: 2, ignoreIndex: undefined, dLoss: undefined },
      { spread: 20, ignoreIndex: 7_777_777, dLoss: -0.3 },
    ]) {
      const logits = normals(N + V)(N, V);
      for (let i = 0; i < logits.data.length; i++) logits.data[i] *= spread;
      const targets = indices(V, V, N);
      for (let row = 1; row < N; row += 4) targets.data[row] = ignoreIndex ?? -100;
      const options = ignoreIndex === undefined ? {} : { ignoreIndex };
      const { loss, losses } = crossEntropy({ logits, targets }, options);
      const label = `spread ${spread}`;
      const results = await call('crossEntropy', { logits, targets }, options);
      expectNear(label, results, { loss: { data: [loss], shape: [] }, losses }, 1e-6);

      const scale = dLoss === undefined ? undefined : Math.fround(dLoss);
      const given = { data: Float32Array.of(scale ?? 1), shape: [] };
      const inputs = { logits, targets, ...(scale !== undefined && { dLoss: given }) };
      const expected = crossEntropyBackward({ logits, targets, dLoss: scale }, options);
      expectNear(label, await call('crossEntropyBackward', inputs, options), { ...expected }, 2e-6);
    }
  });
}

test('leading dimensions are rows', () => {
  const logits = normals(1)(2, 3, 10);
  const targets = indices(1, 10, 2, 3);
  const { loss, losses } = crossEntropySync({ logits, targets });
  const flat = crossEntropySync({
    logits: { data: logits.data, shape: [6, 10] },
    targets: { data: targets.data, shape: [6] },
  });
  assert.equal(losses.shape, [2, 3]);
  assert.equal([...losses.data], [...flat.losses.data]);
  assert.equal([...loss.data], [...flat.loss.data]);
});

test('no row that counts', () => {
  const logits = normals(2)(3, 4);
  const targets = { data: Int32Array.of(-100, -100, -100), shape: [3] };
  const { loss, losses } = crossEntropySync({ logits, targets });
  assert.equal([loss.data[0], ...losses.data], [0, 0, 0, 0]);
  const { dLogits } = crossEntropyBackwardSync({ logits, targets });
  assert.ok(dLogits.data.every((x) => x === 0));
});

test('NaN and infinity', () => {
  const V = 3000;
  const logits = normals(3)(3, V);
  const targets = { data: Int32Array.of(0, 1, V - 1), shape: [3] };
  logits.data[V + 5] = Number.NaN;
  logits.data.fill(Number.NEGATIVE_INFINITY, 2 * V, 2 * V + 2500);
  const losses = crossEntropySync({ logits, targets }).losses.data;
  assert.equal(Array.from(losses, Number.isFinite), [true, false, true]);
  assert.ok(Number.isNaN(losses[1]));
  const gradient = crossEntropyBackwardSync({ logits, targets }).dLogits.data;
  assert.ok(gradient.subarray(0, V).every(Number.isFinite));
  assert.ok(gradient.subarray(2 * V).every(Number.isFinite));
});

test('bad input', () => {
  const logits = normals(4)(2, 3);
  const targets = (...data: number[]) => ({ data: Int32Array.from(data), shape: [data.length] });
  const fails = (inputs: any, pattern: RegExp): void =>
    throwsWith(() => crossEntropySync(inputs), RangeError, pattern);
  const range =
    /^\[crossEntropy\] targets: expected classes from 0 to 2 .*, got (3|-1) at position 1/;
  fails({ logits, targets: targets(0, 3) }, range);
  fails({ logits, targets: targets(0, -1) }, range);
  fails({ logits, targets: targets(0, 1, 2) }, /^\[crossEntropy\] targets: expected the shape of/);
  throwsWith(
    () => crossEntropyBackwardSync({ logits, targets: targets(0, 1), dLoss: normals(5)(1) }),
    RangeError,
    /^\[crossEntropyBackward\] dLoss: expected shape \[\]/,
  );
});

test.run();
