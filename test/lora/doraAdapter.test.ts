/** doraAdapter and doraGradients against DoRA's own formula in float64. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import {
  createAdapterBank,
  doraAdapter,
  doraAdapterSync,
  doraGradients,
  type FloatTensor,
  loraLinearSync,
  packWeightSync,
} from '../../ts/index';
import { rejectsWith, throwsWith } from '../ops/helpers.ts';
import { adaptedWeight, doraNorms } from '../reference/companions.ts';
import { dot } from '../support/gradcheck.ts';
import { decode, encode, halfDtypes } from '../support/half.ts';
import { expectNear, normals } from '../support/layers.ts';
import type { Tensor64, TensorLike } from '../support/tensor.ts';
import { toFloat64, zeros } from '../support/tensor.ts';

const test = suite('doraAdapter');

const [M, OUT, IN, RANK, SCALE] = [5, 9, 12, 3, 0.7];

interface Dora {
  weight: TensorLike;
  a: TensorLike;
  b: TensorLike;
  mid?: TensorLike;
  magnitude: TensorLike;
  outBias?: TensorLike;
}

function problem(seed = 1, mid?: 'matrix' | 'diagonal') {
  const draw = normals(seed);
  return {
    weight: draw(OUT, IN),
    a: draw(RANK, IN),
    b: draw(OUT, RANK),
    magnitude: draw(OUT),
    outBias: draw(OUT),
    ...(mid && { mid: mid === 'matrix' ? draw(RANK, RANK) : draw(RANK) }),
  };
}

/** y = m / |V| (V x + scale c), V = W + scale B M A, the norms as given where they are to count as constants. */
function dora(x: TensorLike, p: Dora, norms = doraNorms(p, { scale: SCALE }).norms): Tensor64 {
  const v = adaptedWeight(p, SCALE);
  const y = zeros([M, OUT]);
  for (let m = 0; m < M; m++)
    for (let i = 0; i < OUT; i++) {
      let sum = SCALE * (p.outBias?.data[i] ?? 0);
      for (let j = 0; j < IN; j++) sum += v.data[i * IN + j] * x.data[m * IN + j];
      y.data[m * OUT + i] = (p.magnitude.data[i] / norms.data[i]) * sum;
    }
  return y;
}

/** What loraLinear computes with an adapter: d (W x) + scale (B' M A x + c'). */
function applied(x: TensorLike, weight: TensorLike, adapter: any): Tensor64 {
  const { a, b, mid, scale, baseScale, outBias } = adapter;
  const none = { data: new Float64Array(weight.data.length), shape: weight.shape };
  const delta = adaptedWeight({ weight: none, a, b, mid }, scale);
  const y = zeros([M, OUT]);
  for (let m = 0; m < M; m++)
    for (let i = 0; i < OUT; i++) {
      let sum = scale * (outBias?.data[i] ?? 0);
      for (let j = 0; j < IN; j++)
        sum +=
          (baseScale.data[i] * weight.data[i * IN + j] + delta.data[i * IN + j]) *
          x.data[m * IN + j];
      y.data[m * OUT + i] = sum;
    }
  return y;
}

for (const mid of [undefined, 'matrix', 'diagonal'] as const) {
  test(`the adapter computes DoRA, mid ${mid}`, async () => {
    const p = problem(1, mid);
    const x = normals(2)(M, IN);
    const { adapter, norms } = await doraAdapter(p, { scale: SCALE });
    assert.is(adapter.a, p.a);
    assert.is(adapter.scale, SCALE);
    assert.is('mid' in adapter, mid !== undefined);
    expectNear('norms', { norms }, { ...doraNorms(p, { scale: SCALE }) }, 1e-7);
    const y = applied(x, p.weight, adapter) as any;
    expectNear('y', { y }, { y: dora(x, p) }, 3e-7);
    assert.equal(doraAdapterSync(p, { scale: SCALE }), { adapter, norms });
  });
}

for (const dtype of halfDtypes) {
  test(`factors and weight in ${dtype}`, () => {
    const p = problem();
    const half = {
      ...p,
      weight: encode(dtype, p.weight) as FloatTensor,
      a: encode(dtype, p.a) as FloatTensor,
      b: encode(dtype, p.b) as FloatTensor,
    };
    const seen = {
      ...p,
      weight: decode(half.weight as any),
      a: decode(half.a as any),
      b: decode(half.b as any),
    };
    const { adapter } = doraAdapterSync(half, { scale: SCALE });
    const x = normals(2)(M, IN);
    const y = applied(x, seen.weight, { ...adapter, a: seen.a }) as any;
    expectNear('y', { y }, { y: dora(x, seen) }, 3e-7);
    assert.is(adapter.b.dtype, 'f32');
  });
}

test('a packed base', async () => {
  const { weight, ...p } = problem();
  const base = packWeightSync(weight, { format: 'nf4' });
  const seen = { ...p, weight: base.toTensor() };
  const result = await doraAdapter({ ...p, base }, { scale: SCALE });
  assert.equal(result, doraAdapterSync(seen, { scale: SCALE }));
  // Loaded into a bank, it is DoRA.
  const bank = createAdapterBank({ inFeatures: IN, outFeatures: OUT });
  const id = bank.load(result.adapter);
  const x = normals(2)(M, IN);
  const { y } = loraLinearSync({ x, base, bank, routing: { kind: 'one', id } });
  expectNear('y', { y }, { y: dora(x, seen) }, 1e-6);
  bank.dispose();
  base.dispose();
});

test('special values of f16', () => {
  const values = [0, -0, 6e-8, -6.1e-5, 65504, Number.POSITIVE_INFINITY, Number.NaN, 1];
  const b = encode('f16', { data: values, shape: [8, 1] });
  const weight = { data: new Float32Array(8).fill(1), shape: [8, 1] };
  const a = { data: Float32Array.of(0), shape: [1, 1] };
  const magnitude = { data: new Float32Array(8).fill(1), shape: [8] };
  const finite = { ...b, data: b.data.map((x, i) => (i === 5 || i === 6 ? 0 : x)) };
  const { adapter } = doraAdapterSync({ weight, a, b: finite as FloatTensor, magnitude });
  assert.equal([...adapter.b.data], [...decode(finite as any).data]);
  const result = doraGradients({
    dB: weight,
    dBaseScale: { data: new Float32Array(8), shape: [8] },
    b: b as FloatTensor,
    magnitude,
    norms: magnitude,
  });
  assert.equal(
    [...result.dMagnitude.data],
    [...decode(b as any).data].map((x) => x + 0),
  );
});

test('gradients of DoRA, the norms constant', () => {
  const p = problem(3);
  const x = normals(4)(M, IN);
  const cotangent = normals(5)(M, OUT);
  const { adapter, norms } = doraAdapterSync(p, { scale: SCALE });
  // Of what the adapter computes, by differences in float64, which its linear parts have exactly.
  const wide: any = Object.fromEntries(
    Object.entries(adapter).map(([name, t]) => [
      name,
      typeof t === 'object' ? toFloat64(t as any) : t,
    ]),
  );
  const gradientOf = (tensor: Tensor64, loss: () => number) => {
    const gradient = { data: new Float32Array(tensor.data.length), shape: tensor.shape };
    tensor.data.forEach((value, i) => {
      tensor.data[i] = value + 0.5;
      const above = loss();
      tensor.data[i] = value - 0.5;
      gradient.data[i] = above - loss();
      tensor.data[i] = value;
    });
    return gradient;
  };
  const ofAdapter = () => dot(applied(x, p.weight, wide), cotangent);
  const result = doraGradients({
    dB: gradientOf(wide.b, ofAdapter),
    dBaseScale: gradientOf(wide.baseScale, ofAdapter),
    dOutBias: gradientOf(wide.outBias, ofAdapter),
    b: p.b,
    magnitude: p.magnitude,
    outBias: p.outBias,
    norms,
  });
  const own: any = {
    ...p,
    b: toFloat64(p.b),
    magnitude: toFloat64(p.magnitude),
    outBias: toFloat64(p.outBias),
  };
  const fixed = doraNorms(p, { scale: SCALE }).norms;
  const ofDora = () => dot(dora(x, own, fixed), cotangent);
  expectNear(
    'gradients',
    { ...result } as any,
    {
      dB: gradientOf(own.b, ofDora),
      dMagnitude: gradientOf(own.magnitude, ofDora),
      dOutBias: gradientOf(own.outBias, ofDora),
    },
    1e-6,
  );
});

test('bad input', async () => {
  const p = problem();
  const fails = (changed: object, options: any, kind: any, pattern: RegExp): void =>
    throwsWith(() => doraAdapterSync({ ...p, ...changed } as any, options), kind, pattern);
  fails({ magnitude: undefined }, {}, TypeError, /^\[doraAdapter\] magnitude: expected a tensor/);
  fails(
    { magnitude: normals(1)(OUT + 1) },
    {},
    RangeError,
    /magnitude: expected shape \[out\] = \[9\], got \[10\]/,
  );
  fails({ outBias: normals(1)(OUT, 1) }, {}, RangeError, /outBias: expected shape/);
  fails({ b: null }, {}, TypeError, /b: expected a tensor/);
  fails({ magnitud: p.magnitude }, {}, TypeError, /magnitud: .*nearest: magnitude/);
  fails({}, { scale: Number.NaN }, RangeError, /scale: /);
  fails({}, { scale: '1' }, TypeError, /scale: /);
  fails({ a: normals(1)(RANK, IN + 1) }, {}, RangeError, /^\[doraAdapter\] a: expected shape/);
  const weight = { data: p.weight.data.slice().fill(0, IN, 2 * IN), shape: p.weight.shape };
  const b = { data: p.b.data.slice().fill(0, RANK, 2 * RANK), shape: p.b.shape };
  fails({ weight, b }, {}, RangeError, /weight: row 1 of W \+ scale b mid a is zero/);
  // read once: the second answer would be an array of 2^53 elements
  let asked = 0;
  const get = (sizes: number[], key: string) =>
    key === 'length' && asked++ > 0 ? 2 ** 53 : sizes[key as any];
  const shape = new Proxy([OUT, RANK], { get } as ProxyHandler<number[]>);
  const twice = doraAdapterSync({ ...p, b: { data: p.b.data, shape } } as any, { scale: SCALE });
  assert.equal(twice, doraAdapterSync(p, { scale: SCALE }));
  await rejectsWith(
    () => doraAdapter({ ...p, magnitude: p.weight } as any),
    RangeError,
    /^\[doraAdapter\] magnitude/,
  );
  const gradients = {
    dB: p.b,
    dBaseScale: p.magnitude,
    b: p.b,
    magnitude: p.magnitude,
    norms: p.magnitude,
  };
  throwsWith(
    () => doraGradients({ ...gradients, b: normals(1)(OUT, 2) }),
    RangeError,
    /^\[doraGradients\] b: expected shape \[out,rank\]/,
  );
  throwsWith(
    () => doraGradients({ ...gradients, outBias: p.outBias }),
    TypeError,
    /^\[doraGradients\] dOutBias: expected a tensor/,
  );
});

test.run();
