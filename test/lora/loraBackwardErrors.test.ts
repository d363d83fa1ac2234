// Backwards of the fused LoRA product: those that must fail, and what comes of those that may leave something out.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import * as rankone from '../../ts/index';
import { ramp, rejectsWith, throwsWith } from '../ops/helpers';
import { type Any, bank, base, dY, good, IN, ids, M, OUT, topK } from './good';

const gated = { routing: topK };
const badBackward: [string, Any, Any, Any, RegExp][] = [
  ['no dY', { dY: undefined }, {}, TypeError, /dY: expected a tensor/],
  [
    'a dY of x',
    { dY: ramp(M, IN) },
    {},
    RangeError,
    /dY: expected shape \[\.\.\.,out\] = \[6,7\], got \[6,10\]/,
  ],
  [
    'a dY of another dtype',
    { dY: { data: new Uint16Array(M * OUT), shape: [M, OUT], dtype: 'bf16' } },
    {},
    TypeError,
    /dY: expected dtype f32/,
  ],
  [
    'a t of fewer rows',
    { t: ramp(M - 1, 1, 5) },
    {},
    RangeError,
    /t: expected shape \[M,k,ranks\] = \[6,1,5\] of the forward, got \[5,1,5\]/,
  ],
  ['a t of fewer ranks', { t: ramp(M, 1, 4) }, {}, RangeError, /t: .*got \[6,1,4\]/],
  ['a t for another k', { t: ramp(M, 2, 5) }, {}, RangeError, /t: /],
  ['another id', { routing: { kind: 'one', id: 99 } }, {}, RangeError, /routing\.id: /],
  [
    'dGates without gates',
    {},
    { need: { dGates: true } },
    RangeError,
    /need\.dGates: expected false without gates, got true/,
  ],
  [
    'dBias without a bias',
    { bias: undefined },
    { need: { dBias: true } },
    RangeError,
    /need\.dBias: expected false without a bias/,
  ],
  ['a need of nothing', {}, { need: {} }, TypeError, /need\.dx: /],
  ['a typo in need', {}, { need: { dX: true } }, TypeError, /nearest: dx/],
  ['a need of 1', {}, { need: { dx: 1 } }, TypeError, /need\.dx: expected true or false/],
  [
    "out that is no tensor of the caller's",
    {},
    { out: { dA: ramp(2, IN) } },
    TypeError,
    /dA: expected one of dx/,
  ],
  [
    'out of a gradient that is not needed',
    {},
    { need: { dx: false }, out: { dx: ramp(M, IN) } },
    RangeError,
    /out\.dx: this call does not produce it/,
  ],
  ['saveRank', {}, { saveRank: true }, TypeError, /saveRank: /],
  ['a state', { state: {} }, {}, TypeError, /state: /],
];

for (const [name, change, options, kind, pattern] of badBackward)
  test(`loraLinearBackward refuses ${name}`, async () => {
    const text = new RegExp(`^\\[loraLinearBackward\\] .*${pattern.source}`);
    const inputs = { ...good, dY, ...change };
    throwsWith(() => rankone.loraLinearBackwardSync(inputs, options), kind, text);
    await rejectsWith(() => rankone.loraLinearBackward(inputs, options), kind, text);
  });

test('what is needed is what comes', () => {
  const inputs = { ...good, ...gated, dY } as Any;
  const keys = (need: rankone.LoraNeed) =>
    Object.keys(rankone.loraLinearBackwardSync(inputs, { need })).sort();
  assert.equal(Object.keys(rankone.loraLinearBackwardSync(inputs)).sort(), [
    'adapters',
    'dBias',
    'dGates',
    'dx',
  ]);
  assert.equal(keys({ dx: false }), ['adapters', 'dBias', 'dGates']);
  assert.equal(keys({ adapters: false, dBias: false }), ['dGates', 'dx']);
  assert.equal(keys({ dx: false, adapters: false, dGates: false, dBias: false }), []);
  const plain = rankone.loraLinearBackwardSync({ x: good.x, base, dY });
  assert.equal(Object.keys(plain).sort(), ['adapters', 'dx']);
  assert.is(plain.adapters.size, 0);
});

test('gradients of every part have the shapes in which it was loaded', () => {
  const id = bank.load({
    a: ramp(6, IN),
    b: ramp(OUT, 4),
    mid: ramp(4, 6),
    rankBias: ramp(6),
    baseScale: ramp(OUT),
    outBias: ramp(OUT),
    rank: 3,
  });
  const lists = bank.load({ a: Int32Array.of(1, 1), b: Int32Array.of(0, 6), mid: ramp(2) });
  const tokens = { kind: 'tokens' as const, ids: Int32Array.of(lists, id, id, ids[0], lists, -1) };
  const { adapters } = rankone.loraLinearBackwardSync({ ...good, dY, routing: tokens } as Any);
  assert.equal([...adapters.keys()], [ids[0], id, lists]);
  const shapes = (of: number) =>
    Object.fromEntries(
      Object.entries(adapters.get(of)!).map(([k, v]) => [k, typeof v === 'number' ? 0 : v.shape]),
    );
  assert.equal(shapes(id), {
    dA: [6, IN],
    dB: [OUT, 4],
    dMid: [4, 6],
    dRankBias: [6],
    dScale: 0,
    dBaseScale: [OUT],
    dOutBias: [OUT],
  });
  assert.equal(shapes(lists), { dMid: [2], dScale: 0 });
  const { dA, dMid, dRankBias } = adapters.get(id)!;
  assert.ok(dA!.data.subarray(3 * IN).every((v) => v === 0));
  assert.ok(dMid!.data.every((v, i) => i % 6 < 3 || v === 0));
  assert.ok(dRankBias!.data.subarray(3).every((v) => v === 0));
});

test.run();
