/** featureMap and its gradients against their float64 reference. */

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { featureMapBackwardSync, featureMapSync } from '../../ts/index';
import { featureMap, featureMapBackward, widthOf } from '../reference/featureMap.ts';
import { decode, encode, halfDtypes } from '../support/half.ts';
import { call, expectNear, normals } from '../support/layers.ts';
import fc from '../support/property.ts';
import type { Tensor32 } from '../support/tensor.ts';
import { throwsWith } from './helpers.ts';

const test = suite('featureMap');

const KINDS = ['elu1', 'relu', 'softmax', 'hedgehog', 'hedgehogExp', 'focused', 'taylor2'] as const;
type Kind = (typeof KINDS)[number];

interface Given {
  kind: Kind;
  lead: number[];
  H: number;
  K: number;
  /** 0: the identity */
  D: number;
  learned: 'none' | 'heads' | 'shared';
  power: number;
  seed: number;
}

function drawn({ kind, lead, H, K, D, learned, power, seed }: Given) {
  const draw = normals(seed);
  const inputs: Record<string, Tensor32> = { x: draw(...lead, H, K) };
  const options: { kind: Kind; power?: number; eps?: number } = { kind };
  const scaled = (x: Tensor32): Tensor32 => {
    x.data.forEach((value, i) => {
      x.data[i] = value / Math.sqrt(K);
    });
    return x;
  };
  if (kind.startsWith('hedgehog') && learned !== 'none') {
    const heads = learned === 'heads' ? [H] : [];
    inputs.weight = scaled(draw(...heads, K, D));
    if (power % 2) inputs.bias = draw(...heads, D);
  }
  if (kind === 'focused') {
    if (learned !== 'none') inputs.scale = draw(K);
    if (power !== 3) options.power = power;
    if (power > 4) options.eps = 0.01;
  }
  return { inputs, options, draw };
}

async function check(given: Given): Promise<void> {
  const { inputs, options, draw } = drawn(given);
  const label = JSON.stringify(given);
  const y = featureMap(inputs as any, options);
  // e^z has the absolute error of z.
  const limit = given.kind === 'hedgehogExp' ? 4e-6 : 2e-6;
  expectNear(label, await call('featureMap', inputs, options), { y }, limit);
  const all = { ...inputs, dY: draw(...y.shape) };
  const gradients = { ...featureMapBackward(all as any, options) };
  const actual = await call('featureMapBackward', all, options);
  expectNear(label, actual, gradients, given.K === 1 ? Infinity : 5e-6);
  if (given.K === 1) expectSmall(label, actual, gradients);
}

/** A softmax of one number is constant: what is left of its gradient is rounding. */
function expectSmall(label: string, actual: object, expected: object): void {
  for (const [name, { data }] of Object.entries(actual as Record<string, Tensor32>)) {
    const wanted = (expected as any)[name].data;
    const most = Math.max(1, ...Array.from(wanted as number[], Math.abs));
    data.forEach((value, i) => {
      assert.ok(Math.abs(value - wanted[i]) < 1e-5 * most, `${label}: ${name}, element ${i}`);
    });
  }
}

for (const kind of KINDS) {
  test(`${kind}: shapes`, async () => {
    const cases = [
      { lead: [], H: 1, K: 1, D: 1 },
      { lead: [3], H: 2, K: 5, D: 7 },
      { lead: [2, 9], H: 3, K: 33, D: 16 },
      { lead: [1, 70], H: 2, K: 64, D: 33 },
      { lead: [2, 301], H: 1, K: 16, D: 16 },
      { lead: [2, 0], H: 2, K: 8, D: 4 },
      ...(kind === 'taylor2' ? [] : [{ lead: [3], H: 2, K: 1030, D: 20 }]),
    ];
    for (const [i, shape] of cases.entries())
      for (const learned of ['none', 'heads', 'shared'] as const) {
        if (learned === 'shared' && !kind.startsWith('hedgehog')) continue;
        if (learned === 'heads' && !kind.startsWith('hedgehog') && kind !== 'focused') continue;
        await check({ kind, ...shape, learned, power: 3 + (i % 3), seed: i });
      }
  });
}

test('any shape', async () => {
  const given = fc.record({
    kind: fc.constantFrom(...KINDS),
    lead: fc.array(fc.integer({ min: 1, max: 9 }), { maxLength: 3 }),
    H: fc.integer({ min: 1, max: 4 }),
    K: fc.integer({ min: 2, max: 40 }),
    D: fc.integer({ min: 2, max: 40 }),
    learned: fc.constantFrom('none' as const, 'heads' as const, 'shared' as const),
    power: fc.integer({ min: 1, max: 8 }),
    seed: fc.integer({ min: 0, max: 1000 }),
  });
  await fc.assert(fc.asyncProperty(given, check), { seed: 8400, numRuns: 40, endOnFailure: true });
});

for (const dtype of halfDtypes) {
  test(`in ${dtype}`, async () => {
    const roundings = { bf16: 2.5e-3, f16: 3.5e-4 }[dtype];
    for (const kind of KINDS)
      for (const ofParameters of ['f32', dtype] as const) {
        const { inputs, options, draw } = drawn({
          ...{ kind, lead: [2, 35], H: 2, K: 21, D: 18, learned: 'heads', power: 3, seed: 5 },
        });
        const given = Object.fromEntries(
          Object.entries(inputs).map(([name, x]) => [
            name,
            encode(name === 'x' ? dtype : ofParameters, x),
          ]),
        );
        const seen: any = Object.fromEntries(
          Object.entries(given).map(([name, x]) => [name, decode(x as any)]),
        );
        const results: any = await call('featureMap', given, options);
        assert.is(results.y.dtype, dtype);
        const y = featureMap(seen, options);
        expectNear(`${kind}, ${dtype}`, { y: decode(results.y) as any }, { y }, roundings);
        const dY = encode(dtype, draw(...y.shape));
        const all = { ...given, dY };
        const expected = { ...featureMapBackward({ ...seen, dY: decode(dY) }, options) };
        const full = await call('featureMapBackward', all, options);
        expectNear(`${kind}, ${dtype}: gradients`, full, expected, 5e-6);
        const narrow = featureMapBackwardSync(all as any, {
          ...options,
          gradDtype: 'input',
        }) as any;
        for (const [name, x] of Object.entries(full)) {
          const own = (given as any)[name === 'dx' ? 'x' : name[1].toLowerCase() + name.slice(2)];
          const rounded = encode(own.dtype ?? 'f32', x as Tensor32);
          assert.equal(Array.from(narrow[name].data), Array.from(rounded.data), `${kind}: ${name}`);
        }
      }
  });
}

test('far from zero', () => {
  const x = { data: Float32Array.of(200, -200, 1e30, -1e30, 3e-39, 0), shape: [2, 3] };
  const finite = (label: string, data: ArrayLike<number>): void =>
    assert.ok(Array.from(data).every(Number.isFinite), `${label}: ${Array.from(data)}`);
  for (const kind of ['elu1', 'relu', 'softmax', 'hedgehog', 'focused'] as const) {
    const { y } = featureMapSync({ x }, { kind });
    finite(kind, y.data);
    const dY = { data: new Float32Array(y.data.length).fill(1), shape: y.shape };
    finite(`${kind}: dx`, featureMapBackwardSync({ x, dY }, { kind }).dx.data);
  }
  const huge = { data: Float32Array.of(3e30, 4e30, 3e-30, 4e-30), shape: [2, 2] };
  const options = { kind: 'focused', power: 64, eps: 0 } as const;
  const y = featureMap({ x: huge }, { ...options, power: 8 });
  expectNear('focused', featureMapSync({ x: huge }, { ...options, power: 8 }), { y }, 2e-6);
  finite('power 64', featureMapSync({ x: huge }, options).y.data);
});

test('focused: a row of nothing', () => {
  const x = { data: Float32Array.of(-1, -2, -3, 4), shape: [2, 2] };
  const options = { kind: 'focused', eps: 0 } as const;
  assert.equal(Array.from(featureMapSync({ x }, options).y.data), [0, 0, 0, 4]);
  const dY = { data: Float32Array.of(1, 1, 1, 1), shape: [2, 2] };
  assert.equal(Array.from(featureMapBackwardSync({ x, dY }, options).dx.data), [0, 0, 0, 1]);
});

test('NaN stays in its row', () => {
  for (const kind of KINDS) {
    const x = normals(1)(4, 50);
    x.data[60] = Number.NaN;
    const { y } = featureMapSync({ x }, { kind });
    const width = widthOf({ x }, { kind });
    const rows = [0, 1, 2, 3].map((r) => y.data.subarray(r * width, (r + 1) * width));
    rows.forEach((row, r) => {
      assert.is(row.some(Number.isNaN), r === 1, `${kind}: row ${r}`);
    });
    const dY = normals(2)(...y.shape);
    const { dx } = featureMapBackwardSync({ x, dY }, { kind });
    dx.data.forEach((value, i) => {
      if (i < 50 || i >= 100) assert.ok(Number.isFinite(value), `${kind}: dx ${i}`);
    });
    assert.ok(Number.isNaN(dx.data[60]), `${kind}: dx of NaN`);
  }
});

test('bad input', () => {
  const draw = normals(2);
  const x = draw(2, 3, 4);
  const bad = (inputs: object, options: object, error: any, pattern: RegExp): void =>
    throwsWith(() => featureMapSync({ x, ...inputs } as any, options as any), error, pattern);
  bad({}, {}, TypeError, /^\[featureMap\] kind: expected the name of a map, got undefined/);
  bad({}, { kind: 'elu' }, RangeError, /^\[featureMap\] kind: expected/);
  bad({ weight: draw(3, 4, 2) }, { kind: 'relu' }, TypeError, /weight: expected none but with/);
  bad({ bias: draw(3, 4) }, { kind: 'hedgehog' }, TypeError, /bias: expected none without weight/);
  bad({ scale: draw(4) }, { kind: 'elu1' }, TypeError, /scale: expected none but with/);
  bad({}, { kind: 'elu1', power: 2 }, TypeError, /power: expected none but with/);
  bad({}, { kind: 'focused', power: 0 }, RangeError, /power: expected an integer from 1 to 64/);
  bad({}, { kind: 'focused', power: 2.5 }, RangeError, /power: expected an integer/);
  bad({}, { kind: 'focused', eps: -1 }, RangeError, /eps: expected a finite number >= 0/);
  bad({ scale: draw(3) }, { kind: 'focused' }, RangeError, /scale: expected shape \[K\] = \[4\]/);
  const hedgehog = { kind: 'hedgehog' };
  bad(
    { weight: draw(2, 4, 2) },
    hedgehog,
    RangeError,
    /weight: expected shape \[H,K,D\] = \[3,4,2\]/,
  );
  bad({ weight: draw(3, 2) }, hedgehog, RangeError, /weight: expected shape \[K,D\] = \[4,2\]/);
  bad({ weight: draw(4) }, hedgehog, RangeError, /weight: expected shape \[H,K,D\] or \[K,D\]/);
  bad({ weight: draw(3, 4, 0) }, hedgehog, RangeError, /weight: expected D >= 1/);
  bad(
    { weight: draw(3, 4, 2), bias: draw(2) },
    hedgehog,
    RangeError,
    /bias: expected shape \[H,D\]/,
  );
  bad({ x: draw(2, 0) }, hedgehog, RangeError, /x: expected shape \[\.\.\.,K\] with K >= 1/);
  bad({ x: draw(0, 5000) }, { kind: 'taylor2' }, RangeError, /x: expected K up to 4096/);
  throwsWith(
    () => featureMapBackwardSync({ x, dY: x }, { kind: 'hedgehog' }),
    RangeError,
    /^\[featureMapBackward\] dY: expected the shape of y = \[2,3,8\], got \[2,3,4\]/,
  );
});

test.run();
