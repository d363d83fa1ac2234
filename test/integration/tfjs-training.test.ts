// A small model trained in TensorFlow.js with a mixer of this package loses as much, step by step, as the same chain of
// native functions and their backwards.
import * as tf from '@tensorflow/tfjs-core';
import '@tensorflow/tfjs-backend-cpu';
import '@tensorflow/tfjs-core/dist/register_all_gradients';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import * as rankone from '../../ts/index';
import * as ops from '../../ts/integrations/tfjs/index';
import { normals } from '../support/layers.ts';
import { type Tensor32, zeros32 } from '../support/tensor.ts';

const [B, T, H, K, V, D, VOCABULARY] = [4, 24, 2, 8, 8, 16, 11];
const STEPS = 40;
const KEY_NORM = K ** -0.5;

type Name = 'table' | 'wq' | 'wk' | 'wv' | 'wg' | 'wb' | 'wo' | 'head';
type Weights = Record<Name, Tensor32>;

function initial(): Weights {
  const draw = normals(60);
  const matrix = (rows: number, columns: number, deviation = rows ** -0.5): Tensor32 => {
    const t = draw(rows, columns);
    return { ...t, data: t.data.map((x) => x * deviation) };
  };
  return {
    table: matrix(VOCABULARY, D, 1),
    wq: matrix(D, H * K),
    wk: matrix(D, H * K),
    wv: matrix(D, H * V),
    wg: matrix(D, H),
    wb: matrix(D, H),
    wo: matrix(H * V, D),
    head: matrix(D, VOCABULARY),
  };
}

/** Sequences in which a token says how far the next one is: it takes the last token to know. */
function batch(step: number): { ids: Int32Array; targets: Int32Array } {
  const ids = new Int32Array(B * T);
  const targets = new Int32Array(B * T);
  for (let b = 0; b < B; b++) {
    let token = (3 * b + step) % VOCABULARY;
    for (let t = 0; t < T; t++) {
      ids[b * T + t] = token;
      token = (token * token + b + 1) % VOCABULARY;
      targets[b * T + t] = token;
    }
  }
  return { ids, targets };
}

/** Losses of the chain of native functions; `update` changes a weight in place. */
function trainNative(update: (name: Name, weight: Tensor32, grad: Tensor32, step: number) => void) {
  const w = initial();
  const keyWeight = { data: new Float32Array(K).fill(KEY_NORM), shape: [K] };
  const as = ({ data }: { data: Float32Array }, ...shape: number[]): Tensor32 => ({ data, shape });
  const map = (t: Tensor32, f: (x: number, i: number) => number): Tensor32 => {
    return { data: t.data.map(f), shape: t.shape };
  };
  const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x));
  const losses: number[] = [];
  for (let step = 1; step <= STEPS; step++) {
    const { ids, targets } = batch(step);
    const indices = { data: ids, shape: [B, T] };
    const labels = { data: targets, shape: [B * T] };
    const { y: x } = rankone.embeddingSync({ ids: indices, weight: w.table });
    const times = (a: Tensor32, b: Tensor32) => rankone.matmulSync({ a, b }).y;
    const q = as(times(x, w.wq), B, T, H, K);
    const rawKey = as(times(x, w.wk), B, T, H, K);
    const k = rankone.rmsNormSync({ x: rawKey, weight: keyWeight }).y;
    const v = as(times(x, w.wv), B, T, H, V);
    const rawGate = times(x, w.wg);
    const rawBeta = times(x, w.wb);
    const g = map(rawGate, (z) => -Math.log1p(Math.exp(-z)));
    const beta = map(rawBeta, sigmoid);
    const mixer = { q, k, v, g, beta };
    const { o, saved } = rankone.gatedDeltaNetSync(mixer, { saveForBackward: true });
    const mixed = as(o, B, T, H * V);
    const out = times(mixed, w.wo);
    const hidden = map(x, (z, i) => z + out.data[i]);
    const logits = as(times(hidden, w.head), B * T, VOCABULARY);
    losses.push(rankone.crossEntropySync({ logits, targets: labels }).loss.data[0]);

    const { dLogits } = rankone.crossEntropyBackwardSync({ logits, targets: labels });
    const product = (a: Tensor32, b: Tensor32, dY: Tensor32) =>
      rankone.matmulBackwardSync({ a, b, dY });
    const last = product(hidden, w.head, as(dLogits, B, T, VOCABULARY));
    const output = product(mixed, w.wo, last.da);
    const dO = as(output.da, B, T, H, V);
    const d = rankone.gatedDeltaNetBackwardSync({ ...mixer, dO, saved });
    const dRawKey = rankone.rmsNormBackwardSync({ x: rawKey, weight: keyWeight, dY: d.dk }).dx;
    const dRawGate = map(d.dg, (z, i) => z * sigmoid(-rawGate.data[i]));
    const dRawBeta = map(d.dbeta, (z, i) => z * beta.data[i] * (1 - beta.data[i]));
    const parts = [
      product(x, w.wq, as(d.dq, B, T, H * K)),
      product(x, w.wk, as(dRawKey, B, T, H * K)),
      product(x, w.wv, as(d.dv, B, T, H * V)),
      product(x, w.wg, dRawGate),
      product(x, w.wb, dRawBeta),
    ];
    const dX = map(last.da, (z, i) => parts.reduce((sum, { da }) => sum + da.data[i], z));
    const { dWeight } = rankone.embeddingBackwardSync(
      { ids: indices, dY: dX },
      { numEmbeddings: VOCABULARY },
    );
    const [wq, wk, wv, wg, wb] = parts.map(({ db }) => db);
    const grads = { table: dWeight, wq, wk, wv, wg, wb, wo: output.db, head: last.db };
    for (const name of Object.keys(w) as Name[]) update(name, w[name], grads[name], step);
  }
  return losses;
}

type Variables = Record<Name, tf.Variable>;

/** The model's loss; only the mixer is of this package, or each of its parts. */
function lossOf(w: Variables, step: number, everything: boolean): tf.Scalar {
  const { ids, targets } = batch(step);
  const indices = tf.tensor(ids, [B, T], 'int32');
  const labels = tf.tensor(targets, [B * T], 'int32');
  const times = (a: tf.Tensor, b: tf.Tensor): tf.Tensor => {
    if (everything) return ops.matmul({ a, b }).y;
    const rows = tf.reshape(a, [-1, a.shape.at(-1)!]);
    return tf.reshape(tf.matMul(rows, b), [...a.shape.slice(0, -1), b.shape[1]!]);
  };
  const x = everything
    ? ops.embedding({ ids: indices, weight: w.table }).y
    : tf.gather(w.table, indices);
  const rawKey = tf.reshape(times(x, w.wk), [B, T, H, K]);
  const rms = tf.sqrt(tf.add(tf.mean(tf.square(rawKey), -1, true), 1e-6));
  const { o } = ops.gatedDeltaNet({
    q: tf.reshape(times(x, w.wq), [B, T, H, K]),
    k: everything
      ? ops.rmsNorm({ x: rawKey, weight: tf.fill([K], KEY_NORM) }).y
      : tf.mul(tf.div(rawKey, rms), KEY_NORM),
    v: tf.reshape(times(x, w.wv), [B, T, H, V]),
    // Not tf.logSigmoid, whose gradient reads an argument that it does not keep.
    g: tf.neg(tf.softplus(tf.neg(times(x, w.wg)))),
    beta: tf.sigmoid(times(x, w.wb)),
  });
  const hidden = tf.add(x, times(tf.reshape(o, [B, T, H * V]), w.wo));
  const logits = tf.reshape(times(hidden, w.head), [B * T, VOCABULARY]);
  if (everything) return ops.crossEntropy({ logits, targets: labels }).loss as tf.Scalar;
  return tf.losses.softmaxCrossEntropy(tf.oneHot(labels, VOCABULARY), logits) as tf.Scalar;
}

function trainTensorFlow(optimizer: tf.Optimizer, everything: boolean): number[] {
  const variables = Object.fromEntries(
    Object.entries(initial()).map(([name, t]) => [name, tf.variable(tf.tensor(t.data, t.shape))]),
  ) as Variables;
  const losses: number[] = [];
  let tensors = 0;
  for (let step = 1; step <= STEPS; step++) {
    const loss = optimizer.minimize(() => lossOf(variables, step, everything), true)!;
    losses.push(loss.dataSync()[0]);
    loss.dispose();
    if (step === 2) tensors = tf.memory().numTensors;
  }
  assert.is(tf.memory().numTensors, tensors, 'no step leaves a tensor behind');
  for (const variable of Object.values(variables)) variable.dispose();
  return losses;
}

function expectSameLosses(actual: number[], expected: number[]): void {
  for (const [i, loss] of expected.entries())
    assert.ok(
      Math.abs(actual[i] - loss) <= 1e-4 * loss,
      `step ${i + 1}: ${actual[i]}, native ${loss}`,
    );
}

const test = suite('tfjs: training');

const moments = new Map<Name, { m: Tensor32; v: Tensor32 }>();
const native = {
  adam: trainNative((name, param, grad, step) => {
    const { m, v } = moments.get(name) ?? { m: zeros32(param.shape), v: zeros32(param.shape) };
    moments.set(name, { m, v });
    rankone.adamWSync({ param, grad, m, v }, { step, lr: 0.01, eps: 1e-7, weightDecay: 0 });
  }),
  sgd: trainNative((_name, param, grad) => {
    for (let i = 0; i < param.data.length; i++) param.data[i] -= 0.3 * grad.data[i];
  }),
};
const optimizers = {
  adam: () => tf.train.adam(0.01, 0.9, 0.999, 1e-7),
  sgd: () => tf.train.sgd(0.3),
};

for (const name of ['adam', 'sgd'] as const) {
  test(`${name}: the native chain learns`, () => {
    const [first, last] = [native[name][0], native[name].at(-1)!];
    assert.ok(last < 0.7 * first, `${first} to ${last}`);
  });
  test(`${name}: a rankone mixer among operations of TensorFlow.js`, () => {
    expectSameLosses(trainTensorFlow(optimizers[name](), false), native[name]);
  });
  test(`${name}: every part of rankone`, () => {
    expectSameLosses(trainTensorFlow(optimizers[name](), true), native[name]);
  });
}

test("the engine's matMul under the operations of TensorFlow.js", () => {
  const restore = ops.registerMatMul();
  try {
    expectSameLosses(trainTensorFlow(optimizers.adam(), false), native.adam);
  } finally {
    restore();
  }
});

test.run();
