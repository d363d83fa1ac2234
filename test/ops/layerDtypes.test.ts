/** bf16 and f16 in the layer ops: outputs in the inputs' dtype, gradients in float32. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import * as reference from '../reference/layers.ts';
import { expectSame } from '../support/bits.ts';
import { contract } from '../support/compare.ts';
import type { FloatDtype, HalfDtype } from '../support/half.ts';
import { decode, encode, fromBits, halfDtypes, unwritten } from '../support/half.ts';
import type { Results } from '../support/layers.ts';
import { call, expectNear, indices, normals } from '../support/layers.ts';
import type { AnyTensor } from '../support/native.ts';
import { native } from '../support/native.ts';
import type { Tensor32, TensorLike } from '../support/tensor.ts';
import { throwsWith } from './helpers.ts';

type Expected = Record<string, TensorLike | undefined>;

interface Case {
  op: string;
  /** In the half dtype; the first one is what the others follow. */
  inputs: Record<string, Tensor32>;
  /** Half or float32. */
  parameters?: Record<string, Tensor32 | undefined>;
  /** Indices and the like, as they are. */
  others?: object;
  options?: object;
  expected: (seen: any) => Expected;
  /** Outputs in float32 whatever the inputs are. */
  full?: readonly string[];
  /** Limits of those, and of gradients. */
  limit?: number | Record<string, number>;
}

/** A call against its reference on the values that it sees. */
async function check(dtype: HalfDtype, ofParameters: FloatDtype, given: Case): Promise<void> {
  const { op, inputs, parameters = {}, others = {}, options = {}, expected } = given;
  const { full = [], limit = 2e-6 } = given;
  const parts = Object.entries(parameters).filter(([, x]) => x) as [string, Tensor32][];
  const tensors: Record<string, AnyTensor> = Object.fromEntries([
    ...Object.entries(inputs).map(([name, x]) => [name, encode(dtype, x)]),
    ...parts.map(([name, x]) => [name, encode(ofParameters, x)]),
  ]);
  const seen = Object.fromEntries(Object.entries(tensors).map(([name, x]) => [name, decode(x)]));
  const results = await call(op, { ...tensors, ...others }, options);
  const backward = op.endsWith('Backward');
  const limits: Record<string, number> =
    typeof limit === 'number' ? { other: limit } : { ...limit };
  for (const [name, x] of Object.entries(results as unknown as Record<string, AnyTensor>)) {
    const isFull = backward || full.includes(name);
    assert.is(x.dtype, isFull ? 'f32' : dtype, `${op}: dtype of ${name}`);
    if (!isFull) limits[name] = limitOf(dtype, x.data.length);
  }
  const wanted = expected({ ...seen, ...others });
  expectNear(`${op}, ${dtype}`, decodeAll(results), wanted, limits);
  checkOut(op, { ...tensors, ...others }, options, results);
  if (backward) checkRounded(op, { ...tensors, ...others }, options, results);
}

/** The contract's row is an average over roundings; of a few, all may be at their worst. */
function limitOf(dtype: HalfDtype, elements: number): number {
  const worst = dtype === 'bf16' ? 2 ** -8 : 2 ** -11;
  return elements < 16 ? worst : contract[dtype].o[0][1];
}

function decodeAll(results: Results): Results {
  const all = Object.entries(results).map(([name, x]) => [name, decode(x as AnyTensor)]);
  return Object.fromEntries(all);
}

/** The same bits in memory of the caller's. */
function checkOut(op: string, inputs: object, options: object, results: Results): void {
  const out = Object.fromEntries(
    Object.entries(results).map(([name, { shape, dtype }]) => [
      name,
      unwritten((dtype as FloatDtype | undefined) ?? 'f32', shape),
    ]),
  );
  const written = native[`${op}Sync`](inputs, { ...options, out });
  for (const [name, x] of Object.entries(results)) {
    assert.is(written[name], out[name], `${op}: out.${name}`);
    expectSame(`${op}: out.${name}`, out[name], x as AnyTensor);
  }
}

/** With gradDtype 'input' gradients are those in float32, rounded once to their arguments' dtypes. */
function checkRounded(op: string, inputs: any, options: object, full: Results): void {
  const rounded = native[`${op}Sync`](inputs, { ...options, gradDtype: 'input' });
  for (const [name, x] of Object.entries(full)) {
    const argument = inputs[name[1].toLowerCase() + name.slice(2)] as AnyTensor | undefined;
    if (!argument) continue;
    const expected = encode((argument.dtype as FloatDtype | undefined) ?? 'f32', x);
    expectSame(`${op}, gradDtype 'input': ${name}`, rounded[name], expected);
  }
}

const GATED_FORMS = [
  {},
  { activation: 'sigmoid', normBeforeGate: true },
  { activation: 'silu', normBeforeGate: false },
  { activation: 'sigmoid', normBeforeGate: false },
] as const;

const test = suite('layers in half dtypes');

for (const dtype of halfDtypes) {
  for (const ofParameters of ['f32', dtype] as const) {
    const label = ofParameters === 'f32' ? `${dtype}, parameters in f32` : dtype;

    test(`rmsNorm and rmsNormGated, ${label}`, async () => {
      for (const shape of [
        [3, 5],
        [2, 7, 33],
        [65, 100],
        [2, 4097],
        [0, 8],
      ]) {
        const draw = normals(shape.length + shape[0]);
        const [x, gate, dY] = [draw(...shape), draw(...shape), draw(...shape)];
        for (const weight of [undefined, draw(shape[shape.length - 1])]) {
          const parameters = { weight };
          const run = (op: string, inputs: Case['inputs'], expected: Case['expected']) =>
            check(dtype, ofParameters, { op, inputs, parameters, expected });
          await run('rmsNorm', { x }, (seen) => ({ y: reference.rmsNorm(seen) }));
          await run('rmsNormBackward', { x, dY }, (seen) => ({
            ...reference.rmsNormBackward(seen),
          }));
          for (const options of GATED_FORMS) {
            await check(dtype, ofParameters, {
              op: 'rmsNormGated',
              inputs: { x, gate },
              parameters,
              options,
              expected: (seen) => ({ y: reference.rmsNormGated(seen, options) }),
            });
            await check(dtype, ofParameters, {
              op: 'rmsNormGatedBackward',
              inputs: { x, gate, dY },
              parameters,
              options,
              expected: (seen) => ({ ...reference.rmsNormGatedBackward(seen, options) }),
            });
          }
          if (weight || ofParameters !== 'f32') continue;
          await run('l2norm', { x }, (seen) => ({ y: reference.l2norm(seen) }));
          await run('l2normBackward', { x, dY }, (seen) => reference.l2normBackward(seen));
        }
      }
    });

    test(`shortConv, ${label}`, async () => {
      for (const [B, T, D, W] of [
        [1, 1, 1, 1],
        [2, 1, 37, 4],
        [2, 65, 70, 3],
        [1, 130, 33, 4],
        [2, 0, 6, 4],
      ]) {
        const draw = normals(B + 3 * T + 5 * D + 7 * W);
        const [x, dY] = [draw(B, T, D), draw(B, T, D)];
        const parameters = { weight: draw(D, W), bias: draw(D) };
        for (const activation of ['none', 'silu'] as const) {
          const cuSeqlens = B === 1 ? { cuSeqlens: Int32Array.of(0, T - 1, T - 1, T) } : {};
          const options = { activation, ...cuSeqlens };
          await check(dtype, ofParameters, {
            op: 'shortConv',
            inputs: { x },
            parameters,
            options,
            expected: (seen) => ({ y: reference.shortConv(seen, options).y }),
          });
          await check(dtype, ofParameters, {
            op: 'shortConvBackward',
            inputs: { x, dY },
            parameters,
            options,
            expected: (seen) => {
              const { dInitialState: _zeros, ...rest } = reference.shortConvBackward(seen, options);
              return { ...rest };
            },
            limit: { other: 1e-6, dWeight: 3e-6, dBias: 1e-5 },
          });
        }
      }
    });

    test(`matmul, ${label}`, async () => {
      for (const [batch, M, N, K] of [
        [1, 1, 1, 1],
        [1, 7, 33, 20],
        [1, 2, 70, 900],
        [3, 40, 17, 65],
        [1, 300, 130, 50],
        [1, 3, 0, 4],
      ]) {
        const draw = normals(M + N + K);
        const lead = batch === 1 ? [] : [batch];
        for (const transposes of [{}, { transposeA: true }, { transposeB: true }] as const) {
          const { transposeA, transposeB } = transposes as Record<string, boolean>;
          const a = draw(...lead, ...(transposeA ? [K, M] : [M, K]));
          const b = draw(...lead, ...(transposeB ? [N, K] : [K, N]));
          const dY = draw(...lead, M, N);
          await check(dtype, ofParameters, {
            op: 'matmul',
            inputs: { a, b },
            parameters: { bias: draw(N) },
            options: transposes,
            expected: (seen) => ({ y: reference.matmul(seen, transposes) }),
          });
          await check(dtype, ofParameters, {
            op: 'matmulBackward',
            inputs: { a, b, dY },
            options: transposes,
            expected: ({ a, b, dY }) => ({
              ...reference.matmulBackward({ a, b, dOut: dY }, transposes),
            }),
          });
        }
      }
    });
  }

  test(`rope, ${dtype}`, async () => {
    for (const [B, T, H, D] of [
      [1, 3, 2, 6],
      [2, 17, 3, 70],
      [2, 0, 1, 8],
    ]) {
      const draw = normals(B + T + D);
      const [x, dY] = [draw(B, T, H, D), draw(B, T, H, D)];
      for (const options of [{}, { interleaved: true, rotaryDim: 4, offset: 9, scale: 1.5 }]) {
        const run = (op: string, inputs: Case['inputs'], expected: Case['expected']) =>
          check(dtype, dtype, { op, inputs, options, expected });
        await run('rope', { x }, (seen) => ({ ...reference.rope(seen, options) }));
        await run('ropeBackward', { dY }, (seen) => ({ ...reference.ropeBackward(seen, options) }));
      }
    }
  });

  test(`swiglu, ${dtype}`, async () => {
    for (const shape of [[], [33], [7, 5, 3], [40, 1000], [0, 4]]) {
      const draw = normals(3);
      const inputs = { gate: draw(...shape), up: draw(...shape) };
      await check(dtype, dtype, {
        op: 'swiglu',
        inputs,
        expected: ({ gate, up }) => ({ y: reference.swiglu({ a: gate, b: up }) }),
      });
      await check(dtype, dtype, {
        op: 'swigluBackward',
        inputs: { ...inputs, dY: draw(...shape) },
        expected: ({ gate, up, dY }) => {
          const { da, db } = reference.swigluBackward({ a: gate, b: up, dY });
          return { dGate: da, dUp: db };
        },
      });
    }
  });

  test(`embedding, ${dtype}`, async () => {
    for (const { ids: shape, V, D } of [
      { ids: [], V: 3, D: 4 },
      { ids: [2, 3, 50], V: 50, D: 33 },
      { ids: [3000], V: 3, D: 30 },
      { ids: [0], V: 5, D: 4 },
    ]) {
      const draw = normals(V + D);
      const ids = indices(V, V, ...shape);
      const weight = encode(dtype, draw(V, D));
      const { y } = (await call('embedding', { ids, weight })) as unknown as Record<
        string,
        AnyTensor
      >;
      // Rows are copied, to the bit.
      const expected = reference.embedding({ weight: decode(weight), indices: ids });
      expectSame('y', y, encode(dtype, expected));
      const dY = encode(dtype, draw(...shape, D));
      const results = await call('embeddingBackward', { ids, dY }, { numEmbeddings: V });
      assert.is(results.dWeight.dtype, 'f32');
      const dOut = decode(dY);
      const gradients = reference.embeddingBackward({ weight: decode(weight), indices: ids, dOut });
      expectNear('dWeight', results, { ...gradients }, 1e-6);
      const rounded = { numEmbeddings: V, gradDtype: 'input' };
      const { dWeight } = native.embeddingBackwardSync({ ids, dY }, rounded);
      expectSame("gradDtype 'input'", dWeight, encode(dtype, results.dWeight));
    }
  });

  test(`crossEntropy, ${dtype}`, async () => {
    for (const [N, V] of [
      [1, 2],
      [17, 100],
      [5, 1025],
      [3, 50257],
      [0, 7],
    ]) {
      const logits = normals(N + V)(N, V);
      for (let i = 0; i < logits.data.length; i++) logits.data[i] *= 4;
      const targets = indices(V, V, N);
      if (N > 2) targets.data[1] = -100;
      const given = { inputs: { logits }, others: { targets }, full: ['loss', 'losses'] };
      await check(dtype, dtype, {
        ...given,
        op: 'crossEntropy',
        expected: (seen) => {
          const { loss, losses } = reference.crossEntropy(seen);
          return { loss: { data: [loss], shape: [] }, losses };
        },
      });
      await check(dtype, dtype, {
        ...given,
        op: 'crossEntropyBackward',
        expected: (seen) => ({ ...reference.crossEntropyBackward(seen) }),
      });
    }
  });

  test(`shortConv carries its state, ${dtype}`, () => {
    const [B, T, D, W] = [2, 30, 24, 4];
    const draw = normals(7);
    const weight = draw(D, W);
    const x = encode(dtype, draw(B, T, D));
    const { data } = x as { data: Uint16Array };
    const options = { activation: 'silu', outputFinalState: true };
    const whole = native.shortConvSync({ x, weight }, options);
    let initialState: AnyTensor | undefined;
    for (let t = 0; t < T; t++) {
      const step = new Uint16Array(B * D);
      for (let b = 0; b < B; b++) {
        step.set(data.subarray((b * T + t) * D, (b * T + t + 1) * D), b * D);
      }
      const token = { data: step, shape: [B, 1, D], dtype };
      const { y, finalState } = native.shortConvSync({ x: token, weight, initialState }, options);
      for (let b = 0; b < B; b++) {
        const expected = whole.y.data.slice((b * T + t) * D, (b * T + t + 1) * D);
        assert.equal(y.data.slice(b * D, (b + 1) * D), expected, `token ${t}`);
      }
      initialState = finalState;
    }
    expectSame('finalState', initialState!, whole.finalState);
    // The last inputs themselves.
    const last = decode(whole.finalState).data;
    assert.is(last[W - 2], fromBits(dtype, data[(T - 1) * D]));
  });

  test(`NaN, infinities and overflow, ${dtype}`, () => {
    const row = (...values: number[]): AnyTensor => {
      return encode(dtype, { data: values, shape: [values.length] });
    };
    const values = ({ y }: { y: AnyTensor }): number[] => [...decode(y).data];
    const largest = dtype === 'f16' ? 65504 : (2 - 2 ** -7) * 2 ** 127;
    const gate = row(NaN, Infinity, 100, 1, largest);
    const up = row(1, 1, Infinity, NaN, largest);
    const expected = [NaN, Infinity, Infinity, NaN, Infinity];
    assert.equal(values(native.swigluSync({ gate, up })), expected);
    const a = { ...row(largest, largest, 1, 0), shape: [2, 2] };
    const ones = { ...row(1, 1, 1, -1), shape: [2, 2] };
    assert.equal(values(native.matmulSync({ a, b: ones })), [Infinity, 0, 1, 1]);
  });

  test(`dtypes that do not fit, ${dtype}`, () => {
    const draw = normals(8);
    const other = dtype === 'bf16' ? 'f16' : 'bf16';
    const half = (...shape: number[]): AnyTensor => encode(dtype, draw(...shape));
    const wrong = (...shape: number[]): AnyTensor => encode(other, draw(...shape));
    const refuse = (op: string, inputs: object, argument: string, got: string): void =>
      throwsWith(
        () => native[`${op}Sync`](inputs),
        TypeError,
        new RegExp(`^\\[${op}\\] ${argument}: expected dtype ${dtype}.*got ${got}`),
      );
    refuse('rmsNorm', { x: half(2, 3), weight: wrong(3) }, 'weight', other);
    refuse('rmsNormGated', { x: half(2, 3), gate: draw(2, 3) }, 'gate', 'f32');
    refuse('rmsNormBackward', { x: half(2, 3), dY: draw(2, 3) }, 'dY', 'f32');
    refuse('swiglu', { gate: half(3), up: draw(3) }, 'up', 'f32');
    refuse('shortConv', { x: half(1, 2, 3), weight: wrong(3, 4) }, 'weight', other);
    refuse('matmul', { a: half(2, 3), b: draw(3, 4) }, 'b', 'f32');
    refuse('matmul', { a: half(2, 3), b: half(3, 4), bias: wrong(4) }, 'bias', other);
    const param = half(3);
    throwsWith(
      () => native.adamWSync({ param, grad: param, m: draw(3), v: draw(3) }, { step: 1, lr: 1 }),
      TypeError,
      /^\[adamW\] param: expected dtype f32, got/,
    );
  });
}

test.run();
