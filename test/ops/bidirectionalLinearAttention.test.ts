/** bidirectionalLinearAttention and its gradients against their float64 reference. */

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import {
  bidirectionalLinearAttentionBackwardSync,
  bidirectionalLinearAttentionSync,
  createState,
  featureMapSync,
  linearAttentionSync,
  type Tensor,
} from '../../ts/index';
import {
  bidirectionalLinearAttention,
  bidirectionalLinearAttentionBackward,
} from '../reference/bidirectionalLinearAttention.ts';
import { decode, encode, halfDtypes } from '../support/half.ts';
import { call, expectNear, normals } from '../support/layers.ts';
import fc from '../support/property.ts';
import type { Tensor32 } from '../support/tensor.ts';
import { throwsWith } from './helpers.ts';

const test = suite('bidirectionalLinearAttention');

const MAPS = [
  'none',
  'elu1',
  'relu',
  'softmax',
  'hedgehog',
  'hedgehogExp',
  'focused',
  'taylor2',
] as const;

interface Given {
  featureMap: (typeof MAPS)[number];
  B: number;
  T: number;
  S: number;
  HKV: number;
  group: number;
  K: number;
  V: number;
  beside: boolean;
  augmented: boolean;
  normalize: boolean;
  packed: boolean;
  learned: 'none' | 'heads' | 'shared';
  seed: number;
}

const SHAPE = { B: 2, T: 9, S: 7, HKV: 2, group: 2, K: 5, V: 6, seed: 1 };
const FORM = { augmented: false, normalize: true, packed: false, learned: 'heads' } as const;

/** Of inputs one sign where the sum of products is to stay away from 0. */
function drawn(given: Given) {
  const { featureMap, T, S, HKV, group, K, V, seed } = given;
  const B = given.packed ? 1 : given.B;
  const H = HKV * group;
  const draw = normals(seed);
  const tamed = (x: Tensor32): Tensor32 => {
    const positive = featureMap === 'none' && given.normalize;
    // An exponential's product with the weight: of moderate size.
    const factor = featureMap === 'hedgehogExp' ? 0.5 : 1;
    x.data.forEach((value, i) => {
      x.data[i] = factor * (positive ? Math.abs(value) + 0.1 : value);
    });
    return x;
  };
  const inputs: Record<string, Tensor32> = {
    q: tamed(draw(B, T, H, K)),
    k: tamed(draw(B, S, HKV, K)),
    v: draw(B, S, HKV, V),
  };
  if (given.beside) {
    inputs.modulate = draw(B, T, H, V);
    if (!given.augmented) {
      inputs.alpha = draw(B, S, HKV);
      inputs.alpha.data.forEach((x, i) => {
        inputs.alpha.data[i] = Math.abs(x) + 0.1;
      });
    }
  }
  if (featureMap.startsWith('hedgehog') && given.learned !== 'none') {
    const D = 1 + ((K + 2) % 7);
    const heads = (n: number): number[] => (given.learned === 'heads' ? [n] : []);
    inputs.qWeight = draw(...heads(H), K, D);
    inputs.kWeight = draw(...heads(HKV), K, D);
    for (const weight of [inputs.qWeight, inputs.kWeight])
      weight.data.forEach((x, i) => {
        weight.data[i] = x / Math.sqrt(K);
      });
  }
  const options: Record<string, unknown> = { featureMap };
  if (!given.normalize) Object.assign(options, { normalize: false, scale: 0.5 });
  if (given.augmented) options.rankAugmented = true;
  if (given.packed) {
    options.cuSeqlens = Int32Array.of(0, T >> 1, T >> 1, T);
    options.cuSeqlensK = BigInt64Array.of(0n, BigInt(S >> 2), BigInt(S >> 1), BigInt(S));
  }
  return { inputs, options, dO: draw(B, T, H, V) };
}

async function check(given: Given, limits = { o: 2e-6, other: 1e-5 }): Promise<void> {
  const { inputs, options, dO } = drawn(given);
  const label = JSON.stringify(given);
  const { o } = bidirectionalLinearAttention(inputs as any, options);
  expectNear(label, await call('bidirectionalLinearAttention', inputs, options), { o }, limits);
  const expected = bidirectionalLinearAttentionBackward({ ...inputs, dO } as any, options);
  const actual = await call('bidirectionalLinearAttentionBackward', { ...inputs, dO }, options);
  expectNear(label, actual, { ...expected }, limits);
}

for (const featureMap of MAPS)
  test(featureMap, async () => {
    await check({ featureMap, ...SHAPE, ...FORM, beside: true });
    await check({
      featureMap,
      ...SHAPE,
      ...FORM,
      beside: true,
      augmented: true,
      normalize: false,
      learned: 'shared',
    });
    await check({
      featureMap,
      ...SHAPE,
      ...FORM,
      beside: false,
      normalize: false,
      learned: 'none',
    });
    await check({ featureMap, ...SHAPE, ...FORM, beside: true, packed: true, T: 12, S: 21 });
    await check({ featureMap, ...SHAPE, ...FORM, beside: false, packed: true, augmented: true });
  });

test('many tokens', async () => {
  const wide = { ...SHAPE, HKV: 1, group: 1, B: 1, K: 17, V: 3 };
  await check({ featureMap: 'elu1', ...wide, T: 1100, S: 600, ...FORM, beside: true });
  await check({
    featureMap: 'relu',
    ...wide,
    T: 530,
    S: 1300,
    ...FORM,
    beside: true,
    augmented: true,
  });
  await check({ featureMap: 'hedgehog', ...wide, T: 600, S: 1030, ...FORM, beside: false });
});

test('any shape', async () => {
  const given = fc.record({
    featureMap: fc.constantFrom(...MAPS),
    B: fc.integer({ min: 1, max: 3 }),
    T: fc.integer({ min: 1, max: 80 }),
    S: fc.integer({ min: 8, max: 80 }),
    HKV: fc.integer({ min: 1, max: 3 }),
    group: fc.integer({ min: 1, max: 3 }),
    K: fc.integer({ min: 2, max: 20 }),
    V: fc.integer({ min: 1, max: 40 }),
    beside: fc.boolean(),
    augmented: fc.boolean(),
    normalize: fc.boolean(),
    packed: fc.boolean(),
    learned: fc.constantFrom('none' as const, 'heads' as const, 'shared' as const),
    seed: fc.integer({ min: 0, max: 1000 }),
  });
  // Terms of gradients may cancel.
  await fc.assert(
    fc.asyncProperty(given, (x) => check(x, { o: 4e-6, other: 3e-5 })),
    { seed: 8410, numRuns: 30, endOnFailure: true },
  );
});

test('nothing to see, and nobody to see it', async () => {
  const { inputs, dO } = drawn({ featureMap: 'elu1', ...SHAPE, ...FORM, S: 0, beside: true });
  for (const rankAugmented of [false, true]) {
    const { alpha: _, ...rest } = inputs;
    const given = rankAugmented ? rest : inputs;
    const options = { featureMap: 'elu1', eps: 0, rankAugmented } as const;
    const { o } = await call('bidirectionalLinearAttention', given, options);
    assert.ok(o.data.every((x) => x === 0));
    const { dq } = await call('bidirectionalLinearAttentionBackward', { ...given, dO }, options);
    assert.ok(dq.data.every((x) => x === 0));
  }
  const alone = drawn({
    featureMap: 'elu1',
    ...SHAPE,
    ...FORM,
    T: 0,
    beside: false,
    augmented: true,
  });
  const { dk, dv } = await call(
    'bidirectionalLinearAttentionBackward',
    { ...alone.inputs, dO: alone.dO },
    alone.options,
  );
  assert.ok([...dk.data, ...dv.data].every((x) => x === 0));
});

test('a sequence has the same bits alone and among others', () => {
  const draw = normals(9);
  const [q, k, v] = [draw(1, 1700, 2, 20), draw(1, 1700, 1, 20), draw(1, 1700, 1, 9)];
  const dO = draw(1, 1700, 2, 9);
  const part = (x: Tensor32, begin: number, end: number): Tensor32 => {
    const [, , heads, width] = x.shape;
    const data = x.data.slice(begin * heads * width, end * heads * width);
    return { data, shape: [1, end - begin, heads, width] };
  };
  for (const rankAugmented of [false, true]) {
    const options = { featureMap: 'elu1', rankAugmented } as const;
    const packed = { ...options, cuSeqlens: Int32Array.of(0, 40, 1640, 1700) };
    const whole: any = bidirectionalLinearAttentionBackwardSync({ q, k, v, dO }, packed);
    const { o } = bidirectionalLinearAttentionSync({ q, k, v }, packed);
    for (const [begin, end] of [
      [0, 40],
      [40, 1640],
      [1640, 1700],
    ]) {
      const own = { q: part(q, begin, end), k: part(k, begin, end), v: part(v, begin, end) };
      assert.equal(bidirectionalLinearAttentionSync(own, options).o, {
        ...part(o as any, begin, end),
        dtype: 'f32',
      });
      const alone: any = bidirectionalLinearAttentionBackwardSync(
        { ...own, dO: part(dO, begin, end) },
        options,
      );
      for (const name of ['dq', 'dk', 'dv'])
        assert.equal(alone[name].data, part(whole[name], begin, end).data, name);
    }
  }
});

test('what is fused is featureMap', () => {
  const draw = normals(3);
  const [q, k, v] = [draw(2, 50, 3, 12), draw(2, 40, 3, 12), draw(2, 40, 3, 7)];
  for (const kind of ['elu1', 'relu', 'softmax', 'hedgehog', 'focused', 'taylor2'] as const) {
    const mapped = {
      q: featureMapSync({ x: q }, { kind }).y,
      k: featureMapSync({ x: k }, { kind }).y,
      v,
    };
    const apart = bidirectionalLinearAttentionSync(mapped);
    const { o } = bidirectionalLinearAttentionSync({ q, k, v }, { featureMap: kind });
    assert.equal(o, apart.o, kind);
  }
});

test('the last token of causal attention, features made a chunk at a time, sees as much', () => {
  const draw = normals(6);
  const [T, H, K, V, kind] = [70, 2, 6, 5, 'taylor2' as const];
  const [q, k, v] = [draw(1, T, H, K), draw(1, T, H, K), draw(1, T, H, V)];
  const state = createState({ batch: 1, valueHeads: H, keyDim: 28, valueDim: V, keyHeads: H });
  let last: Tensor = v;
  for (let at = 0; at < T; at += 16) {
    const part = ({ data, shape: [, , , width] }: Tensor32): Tensor32 => {
      const own = data.subarray(at * H * width, (at + 16) * H * width);
      return { data: own, shape: [1, own.length / (H * width), H, width] };
    };
    const map = (x: Tensor32): Tensor => featureMapSync({ x: part(x) }, { kind }).y;
    const tokens = { q: map(q), k: map(k), v: part(v), state };
    last = linearAttentionSync(tokens, { normalize: true }).o;
  }
  state.dispose();
  const { o } = bidirectionalLinearAttentionSync({ q, k, v }, { featureMap: kind, eps: 0 });
  last.data.slice(-H * V).forEach((x, i) => {
    const wanted = o.data[o.data.length - H * V + i];
    assert.ok(Math.abs(x - wanted) < 1e-5, `${x}, not ${wanted}`);
  });
});

for (const dtype of halfDtypes)
  test(`in ${dtype}`, async () => {
    const rounding = { bf16: 2.5e-3, f16: 3.5e-4 }[dtype];
    for (const augmented of [false, true]) {
      const form = { ...SHAPE, ...FORM, augmented, T: 40, S: 30 };
      const { inputs, options, dO } = drawn({ featureMap: 'hedgehog', ...form, beside: true });
      const wide = ['alpha', 'qWeight'];
      const given = Object.fromEntries(
        Object.entries({ ...inputs, dO }).map(([name, x]) => [
          name,
          encode(wide.includes(name) ? 'f32' : dtype, x),
        ]),
      );
      const seen: any = Object.fromEntries(
        Object.entries(given).map(([name, x]) => [name, decode(x as any)]),
      );
      const { dO: _, ...forward } = given;
      const results: any = await call('bidirectionalLinearAttention', forward, options);
      assert.is(results.o.dtype, dtype);
      const { o } = bidirectionalLinearAttention(seen, options);
      expectNear(dtype, { o: decode(results.o) as any }, { o }, rounding);
      const expected = bidirectionalLinearAttentionBackward(seen, options);
      const full = await call('bidirectionalLinearAttentionBackward', given, options);
      expectNear(`${dtype}: gradients`, full, { ...expected }, 2e-5);
      const narrow: any = bidirectionalLinearAttentionBackwardSync(
        given as any,
        {
          ...options,
          gradDtype: 'input',
        } as any,
      );
      for (const [name, x] of Object.entries(full)) {
        const argument = name.length === 2 ? name[1] : name[1].toLowerCase() + name.slice(2);
        const rounded = encode((given as any)[argument].dtype ?? 'f32', x as Tensor32);
        assert.equal(Array.from(narrow[name].data), Array.from(rounded.data), name);
      }
    }
  });

test('NaN stays in its sequence and group', () => {
  const draw = normals(4);
  const [q, k, v] = [draw(2, 20, 4, 5), draw(2, 20, 2, 5), draw(2, 20, 2, 3)];
  k.data[7] = Number.NaN; // token 0, head 1 of batch 0
  const { o } = bidirectionalLinearAttentionSync({ q, k, v }, { featureMap: 'elu1' });
  o.data.forEach((x, i) => {
    const [b, h] = [Math.floor(i / (20 * 4 * 3)), Math.floor(i / 3) % 4];
    assert.is(Number.isNaN(x), b === 0 && h >= 2, `element ${i}`);
  });
});

test('bad input', () => {
  const draw = normals(2);
  const base = { q: draw(2, 3, 4, 5), k: draw(2, 6, 2, 5), v: draw(2, 6, 2, 7) };
  const bad = (inputs: object, options: object, error: any, pattern: RegExp): void =>
    throwsWith(
      () => bidirectionalLinearAttentionSync({ ...base, ...inputs } as any, options as any),
      error,
      pattern,
    );
  bad(
    { k: draw(2, 6, 3, 5), v: draw(2, 6, 3, 7) },
    {},
    RangeError,
    /k: expected HKV to be a divisor of H = 4/,
  );
  bad({ v: draw(2, 5, 2, 7) }, {}, RangeError, /v: expected shape \[B,S,HKV,V\] = \[2,6,2,7\]/);
  bad({ alpha: draw(2, 6, 4) }, {}, RangeError, /alpha: expected shape \[B,S,HKV\] = \[2,6,2\]/);
  bad({ modulate: draw(2, 3, 4, 5) }, {}, RangeError, /modulate: expected shape \[B,T,H,V\]/);
  bad({}, { featureMap: 'cosine' }, RangeError, /featureMap: expected/);
  bad({}, { power: 2 }, TypeError, /power: expected none but with featureMap 'focused'/);
  bad({}, { eps: 1, normalize: false }, TypeError, /eps: expected none without normalize/);
  bad({}, { eps: -1 }, RangeError, /eps: expected/);
  bad({}, { scale: Number.NaN }, RangeError, /scale: expected/);
  bad({ alpha: draw(2, 6, 2) }, { rankAugmented: true }, TypeError, /alpha: expected none beside/);
  const hedgehog = { featureMap: 'hedgehog' };
  const [qWeight, kWeight] = [draw(4, 5, 3), draw(2, 5, 3)];
  bad({ qWeight, kWeight }, {}, TypeError, /qWeight: expected none but with featureMap/);
  bad({ qWeight }, hedgehog, TypeError, /kWeight: expected one beside qWeight, got none/);
  bad({ qWeight, kWeight: qWeight }, hedgehog, RangeError, /kWeight: expected shape \[HKV,K,D\]/);
  bad(
    { qWeight, kWeight: draw(5, 3) },
    hedgehog,
    RangeError,
    /kWeight: expected shape \[HKV,K,D\]/,
  );
  bad({}, { cuSeqlensK: Int32Array.of(0, 6) }, TypeError, /cuSeqlensK: expected cuSeqlens beside/);
  bad({}, { cuSeqlens: Int32Array.of(0, 3) }, RangeError, /cuSeqlens: expected B = 1/);
  bad({ q: draw(2, 3, 0, 5) }, {}, RangeError, /q: expected at least one head/);
  throwsWith(
    () => bidirectionalLinearAttentionBackwardSync({ ...base, dO: base.q }),
    RangeError,
    /^\[bidirectionalLinearAttentionBackward\] dO: expected shape \[B,T,H,V\] = \[2,3,4,7\]/,
  );
});

test.run();
