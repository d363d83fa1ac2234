// rankone/tfjs: values and gradients through the tape of TensorFlow.js against the float64 references, memory, errors.
import * as tf from '@tensorflow/tfjs-core';
import '@tensorflow/tfjs-backend-cpu';
import '@tensorflow/tfjs-core/dist/register_all_gradients';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { createState, gatedDeltaNetSync, SavedForward } from '../../ts/index';
import { differentiable } from '../../ts/integrations/tfjs/differentiable';
import * as ops from '../../ts/integrations/tfjs/index';
import { throwsWith } from '../ops/helpers.ts';
import { makeProblem } from '../support/cases.ts';
import { expectNear, normals } from '../support/layers.ts';
import { toFloat64 } from '../support/tensor.ts';
import { CASES, LIMITS, run, toPlain, toTensor } from '../support/tfjsCases.ts';

const oracle = suite('tfjs: against the references');

oracle('every operation has a case', () => {
  const covered = new Set<string>(CASES.map((c) => c.op));
  const missing = Object.keys(ops).filter((name) => !covered.has(name));
  // loraLinear has a suite of its own: its tensors stand in lists of objects.
  assert.equal(missing, ['loraLinear', 'registerMatMul']);
});

for (const given of CASES) {
  const wanted = Object.keys(given.gradients).filter((name) => given.gradients[name]);
  oracle(`${given.op}: ${Object.keys(given.inputs)} ${JSON.stringify(given.options ?? {})}`, () => {
    const keeps = 'finalState' in given.outputs && given.op !== 'shortConv';
    for (const options of keeps ? [{}, { saveForBackward: false }] : [{}]) {
      const actual = run({ ...given, options: { ...given.options, ...options } }, wanted);
      expectNear('outputs', actual.outputs, given.outputs, 5e-6);
      expectNear('gradients', actual.gradients as any, given.gradients, LIMITS);
    }
    // One input at a time: TensorFlow.js then prunes the others.
    for (const name of wanted) {
      const one = { [name]: given.gradients[name] };
      expectNear(`only ${name}`, run(given, [name]).gradients as any, one, LIMITS);
    }
  });
}

oracle.run();

const test = suite('tfjs');

const KEYS = ['q', 'k', 'v', 'g', 'beta'] as const;

function problem(seed = 3) {
  const shape = { B: 1, T: 40, H: 2, K: 8, V: 8, seed };
  const { q, k, v, g, beta } = makeProblem({ ...shape, gate: 'token', update: 'delta' });
  return { q, k, v, g: g!, beta: beta! };
}

function tensors(seed = 3) {
  const { q, k, v, g, beta } = problem(seed);
  const [tq, tk, tv, tg, tb] = [q, k, v, g, beta].map(toTensor);
  return { q: tq, k: tk, v: tv, g: tg, beta: tb };
}

test('central differences through tf.grads agree with its gradients', () => {
  // The references above are float64; this one needs none: the same tape gives loss and gradient.
  const draw = normals(20);
  const inputs = tensors();
  const weight = toTensor(draw(1, 40, 2, 8));
  const f = (...xs: tf.Tensor[]): tf.Scalar => {
    const [q, k, v, g, beta] = xs;
    const { o } = ops.gatedDeltaNet({
      q,
      k: tf.mul(k, tf.tanh(k)),
      v,
      g: tf.neg(tf.square(g)),
      beta,
    });
    return tf.sum(tf.mul(tf.sin(o), weight));
  };
  const xs = KEYS.map((key) => inputs[key]);
  const gradients = tf.grads(f)(xs);
  for (const [i, x] of xs.entries()) {
    const direction = toTensor(draw(...x.shape));
    const at = (h: number): number => {
      const moved = xs.map((t, j) => (j === i ? tf.add(t, tf.mul(direction, h)) : t));
      return f(...moved).dataSync()[0];
    };
    const numeric = (at(2e-3) - at(-2e-3)) / 4e-3;
    const exact = tf.sum(tf.mul(gradients[i], direction)).dataSync()[0];
    assert.ok(
      Math.abs(numeric - exact) < 1e-2 * Math.max(1, Math.abs(exact)),
      `${KEYS[i]} ${numeric} ${exact}`,
    );
  }
});

test('one tensor in several places gets the sum of its gradients', () => {
  const { q: x, g, beta } = tensors();
  const total = tf.grad((t) =>
    tf.sum(tf.square(ops.gatedDeltaNet({ q: t, k: t, v: t, g, beta }).o)),
  )(x);
  const parts = tf.grads((q, k, v) => tf.sum(tf.square(ops.gatedDeltaNet({ q, k, v, g, beta }).o)))(
    [x, x.clone(), x.clone()],
  );
  const sum = tf.addN(parts);
  expectNear('sum', { x: toPlain(total) }, { x: toPlain(sum) }, 1e-6);
});

test('the same bits as the function itself', () => {
  const { o } = ops.gatedDeltaNet(tensors());
  assert.equal(toPlain(o).data, gatedDeltaNetSync(problem()).o.data);
});

test('an argument that is absent may be undefined', () => {
  const { o } = ops.gatedDeltaNet({ ...tensors(), initialState: undefined, state: undefined });
  const gradient = tf.grad((q: tf.Tensor) =>
    tf.sum(ops.gatedDeltaNet({ ...tensors(), q, initialState: undefined, state: undefined }).o),
  );
  assert.equal(gradient(tensors().q).shape, o.shape);
});

test('a tensor inside of an option is differentiated', () => {
  // A stand-in for the engine: o = exp(-exp(aLog)) q, with the gradient named as the engine names its own.
  const forward = ({ q }: any, { gate }: any) => {
    const data = q.data.map((x: number) => x * Math.exp(-Math.exp(gate.aLog.data[0])));
    return { o: { data, shape: q.shape } };
  };
  const backward = ({ q, dO }: any, { gate }: any) => {
    const decay = Math.exp(-Math.exp(gate.aLog.data[0]));
    let sum = 0;
    q.data.forEach((x: number, i: number) => {
      sum += -x * dO.data[i] * decay * Math.exp(gate.aLog.data[0]);
    });
    return {
      dq: { data: dO.data.map((x: number) => x * decay), shape: q.shape },
      dALog: { data: Float32Array.of(sum), shape: [1] },
    };
  };
  const op = differentiable('decayed', {}, forward, backward);
  const [dq, dALog] = tf.grads((q, aLog) =>
    tf.sum(op({ q }, { gate: { aLog, lowerBound: -1 } }).o),
  )([tf.tensor([1, 2]), tf.tensor([0.3])]);
  const decay = Math.exp(-Math.exp(0.3));
  assert.ok(Math.abs(dq.dataSync()[1] - decay) < 1e-6);
  assert.ok(Math.abs(dALog.dataSync()[0] + 3 * decay * Math.exp(0.3)) < 1e-5);
});

test('no tensors are left behind, nor what was kept for the backward', () => {
  const inputs = tensors();
  const variable = tf.variable(inputs.q);
  const step = () =>
    tf.tidy(() => {
      const { grads, value } = tf.variableGrads(() => {
        const { o, finalState } = ops.gatedDeltaNet(
          { ...inputs, q: variable },
          { outputFinalState: true },
        );
        const { y } = ops.rmsNorm({ x: o });
        return tf.add(tf.sum(tf.square(y)), tf.sum(finalState!)) as tf.Scalar;
      }, [variable]);
      return [value.dataSync()[0], grads[variable.name].shape] as any;
    });
  step();
  const before = tf.memory();
  // What a forward kept goes with the backward that used it, not at the collector's leisure.
  let disposed = 0;
  const { dispose } = SavedForward.prototype;
  SavedForward.prototype.dispose = function () {
    disposed++;
    dispose.call(this);
  };
  for (let i = 0; i < 20; i++) step();
  SavedForward.prototype.dispose = dispose;
  assert.is(disposed, 20);
  assert.is(tf.memory().numTensors, before.numTensors);
  assert.is(tf.memory().numDataBuffers, before.numDataBuffers);
  assert.is(tf.memory().numBytes, before.numBytes);
  const { o } = ops.gatedDeltaNet(inputs);
  assert.is(tf.memory().numTensors, before.numTensors + 1);
  o.dispose();
  assert.is(tf.memory().numTensors, before.numTensors);
});

test('inputs may be disposed inside of the differentiated function', () => {
  const { q, ...rest } = tensors();
  const gradient = tf.grad((x: tf.Tensor) =>
    tf.tidy(() => {
      const doubled = tf.mul(x, 2);
      const { o } = ops.gatedDeltaNet({ ...rest, q: doubled });
      doubled.dispose();
      return tf.sum(o);
    }),
  )(q);
  assert.ok(gradient.dataSync().some((x) => x !== 0));
});

test('a gradient of a gradient is an error, not a wrong number', () => {
  const { q, ...rest } = tensors();
  const first = tf.grad((x: tf.Tensor) =>
    tf.sum(tf.square(ops.gatedDeltaNet({ ...rest, q: x }).o)),
  );
  throwsWith(
    () => tf.grad((x: tf.Tensor) => tf.sum(tf.add(first(x), tf.square(x))))(q),
    Error,
    /^\[gatedDeltaNet\] gradients of gradients are not available/,
  );
  // Where the second derivative does not pass through the operation, it stands.
  const weight = first(q);
  const second = tf.grad((x: tf.Tensor) => tf.sum(tf.mul(first(q), tf.square(x))))(tf.clone(q));
  const expected = toFloat64(toPlain(tf.mul(tf.mul(weight, q), 2)));
  expectNear('2 x f', { y: toPlain(second) }, { y: expected }, 1e-6);
});

test('decoding into a state, which has no gradients', () => {
  const whole = ops.gatedDeltaNet(tensors());
  const state = createState({ batch: 1, valueHeads: 2, keyDim: 8, valueDim: 8 });
  const step = (t: number) => {
    const at = Object.fromEntries(
      Object.entries(tensors()).map(([key, x]) => {
        return [key, tf.slice(x, [0, t], [1, 1])];
      }),
    ) as ReturnType<typeof tensors>;
    return ops.gatedDeltaNet({ ...at, state });
  };
  const steps = Array.from({ length: 40 }, (_, t) => step(t).o);
  expectNear(
    'steps',
    { o: toPlain(tf.concat(steps, 1)) },
    { o: toFloat64(toPlain(whole.o)) },
    2e-6,
  );
  throwsWith(
    () =>
      tf.grad((q: tf.Tensor) => tf.sum(ops.gatedDeltaNet({ ...tensors(), q, state }).o))(
        tensors().q,
      ),
    Error,
    /^\[gatedDeltaNet\] state: a call that advances a state has no gradients/,
  );
});

test('ids that come from the differentiated input have a gradient of zero', () => {
  const weight = toTensor(normals(22)(4, 3));
  const gradient = tf.grad((w: tf.Tensor) => {
    const ids = tf.argMax(w, 1);
    return tf.sum(ops.embedding({ ids, weight: w }).y);
  })(weight);
  const count = new Float32Array(12);
  for (const row of tf.argMax(weight, 1).dataSync())
    count.fill(count[3 * row] + 1, 3 * row, 3 * row + 3);
  assert.equal(gradient.dataSync(), count);
});

test('kernels have their names in a profile', async () => {
  const { kernelNames } = await tf.profile(() => ops.gatedDeltaNet(tensors()).o);
  assert.equal(kernelNames, ['RankoneGatedDeltaNet']);
});

test('bad input', () => {
  const good = tensors();
  const call = (inputs: object, options?: object) => () =>
    (ops.gatedDeltaNet as any)({ ...good, ...inputs }, options);
  const type = (body: () => unknown, pattern: RegExp) => throwsWith(body, TypeError, pattern);
  const says = (text: string) => new RegExp(`^\\[gatedDeltaNet\\] ${text}`);
  for (const dtype of ['int32', 'bool'] as const)
    type(
      call({ q: tf.cast(good.q, dtype) }),
      says(`q: expected a float32 tensor, got one of ${dtype}`),
    );
  type(call({ q: tf.tensor(['x']) }), says('q: expected a float32 tensor, got one of string'));
  type(call({ q: tf.complex(1, 2) }), says('q: expected a float32 tensor, got one of complex64'));
  type(call({ beta: problem().beta }), says('beta: expected a tf.Tensor, got an object'));
  type(call({ beta: null }), says('beta: expected a tf.Tensor, got null'));
  type(call({ beta: undefined }), says('beta: '));
  type(call({ bta: good.beta }), says('bta: expected one of .* nearest: beta'));
  type(call({}, { scael: 1 }), says('scael: expected one of .* nearest: scale'));
  type(call({}, { scale: tf.scalar(1) }), says('scale: expected a number, got a Tensor'));
  type(call({}, { saveForBackward: 'no' }), says('saveForBackward: expected true or false'));
  type(call({}, { out: {} }), says('out: expected no such option'));
  type(call({}, 3 as any), says('options: expected an object, got 3'));
  type(() => (ops.gatedDeltaNet as any)(), says('inputs: expected an object of tensors'));
  throwsWith(call({ beta: tf.slice(good.g, [0, 1]) }), RangeError, says('beta: expected shape'));
  const gone = good.q.clone();
  gone.dispose();
  throwsWith(call({ q: gone }), Error, says('q: expected a tensor, got one that is disposed'));
  type(
    () => ops.embedding({ ids: tf.tensor([1, 2]), weight: tf.ones([3, 2]) }),
    /^\[embedding\] ids: expected an int32 tensor, got one of float32/,
  );
  const targets = tf.tensor([1, 0], [2], 'int32');
  throwsWith(
    () =>
      tf.grad((logits: tf.Tensor) => tf.sum(ops.crossEntropy({ logits, targets }).losses))(
        tf.ones([2, 3]),
      ),
    Error,
    /^\[crossEntropy\] losses: this output has no gradient/,
  );
  // An error leaves the engine as it was.
  assert.is(tf.engine().isTapeOn(), false);
  assert.is(tf.engine().state.kernelDepth, 0);
});

test.run();

/** Compiled, never run. */
export function types(t: tf.Tensor, wrong: { data: Float32Array; shape: number[] }): void {
  const o: tf.Tensor = ops.gatedDeltaNet({ q: t, k: t, v: t, g: t, beta: t }).o;
  const finalState: tf.Tensor | undefined = ops.gla(
    { q: t, k: t, v: t, g: t, initialState: t },
    { outputFinalState: true, mode: 'chunk', saveForBackward: false },
  ).finalState;
  ops.lightningAttention({ q: t, k: t, v: t }, { layer: 1, layers: 2 });
  ops.mamba2({ x: t, dt: t, A: t, B: t, C: t }, { dtLimit: [0, 1] });
  void [o, finalState];
  // @ts-expect-error layer and layers are required
  ops.lightningAttention({ q: t, k: t, v: t });
  // @ts-expect-error the delta rule needs beta
  ops.gatedDeltaNet({ q: t, k: t, v: t, g: t });
  // @ts-expect-error an additive preset has no beta
  ops.gla({ q: t, k: t, v: t, g: t, beta: t });
  // @ts-expect-error not a tf.Tensor
  ops.swiglu({ gate: wrong, up: t });
  // @ts-expect-error TensorFlow.js makes the results
  ops.swiglu({ gate: t, up: t }, { out: { y: t } });
  // @ts-expect-error nothing to keep
  ops.swiglu({ gate: t, up: t }, { saveForBackward: true });
  // @ts-expect-error the tape keeps it
  ops.gla({ q: t, k: t, v: t, g: t }).saved;
  // @ts-expect-error a typo
  ops.gla({ q: t, k: t, v: t, g: t }, { scael: 1 });
}
