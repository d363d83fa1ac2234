// Calls of the fused LoRA product that must fail: what is changed about a good one, the class of the error, its message.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import * as rankone from '../../ts/index';
import { ramp, rejectsWith, sameBits, throwsWith } from '../ops/helpers';

type Any = any;

const [M, IN, OUT] = [6, 10, 7];
const bank = rankone.createAdapterBank({ inFeatures: IN, outFeatures: OUT });
const ids = [2, 5].map((rank) => bank.load({ a: ramp(rank, IN), b: ramp(OUT, rank) }));
const dora = bank.load({ a: ramp(1, IN), b: ramp(OUT, 1), baseScale: ramp(OUT) });
const other = rankone.createAdapterBank({ inFeatures: IN, outFeatures: OUT + 1 });
const square = rankone.createAdapterBank({ inFeatures: IN, outFeatures: IN });
const base = rankone.packWeightSync(ramp(OUT, IN), { format: 'f32' });
const routing = { kind: 'tokens', ids: Int32Array.of(ids[0], ids[1], -1, ids[1], ids[0], -1) };
const good = { x: ramp(M, IN), base, bank, routing, bias: ramp(OUT) };
const topK = {
  kind: 'topK',
  k: 2,
  ids: new Int32Array(2 * M).fill(ids[0]),
  gates: ramp(M, 2),
};
const segments = {
  kind: 'segments',
  indptr: Int32Array.of(0, 2, 6),
  ids: Int32Array.of(ids[0], -1),
};
const half = { data: new Uint16Array(M * IN), shape: [M, IN], dtype: 'bf16' };

const bad: [string, Any, Any, Any, RegExp][] = [
  ['no x', { x: undefined }, {}, TypeError, /x: expected a tensor .*undefined/],
  ['an x of nothing', { x: null }, {}, TypeError, /x: .*null/],
  [
    'a scalar',
    { x: { data: new Float32Array(1), shape: [] } },
    {},
    RangeError,
    /x: expected shape \[\.\.\.,in\], got \[\]/,
  ],
  ['another in', { x: ramp(M, IN + 1) }, {}, RangeError, /x: .*in = 10 as in base, got \[6,11\]/],
  [
    'an x of integers',
    { x: { data: new Int32Array(M * IN), shape: [M, IN] } },
    {},
    TypeError,
    /x: expected dtype/,
  ],
  ['an unknown input', { bais: ramp(OUT) }, {}, TypeError, /bais: .*nearest: /],
  ['an unknown option', {}, { saveranks: true }, TypeError, /saveranks: .*nearest: saveRank/],
  [
    'a bias of in',
    { bias: ramp(IN) },
    {},
    RangeError,
    /bias: expected shape \[out\] = \[7\], got \[10\]/,
  ],
  [
    'a bias of another dtype',
    { bias: { data: new Uint16Array(OUT), shape: [OUT], dtype: 'f16' } },
    {},
    TypeError,
    /bias: expected dtype f32/,
  ],
  [
    'a bf16 bias of an f16 x',
    {
      x: { ...half, dtype: 'f16' },
      bias: { data: new Uint16Array(OUT), shape: [OUT], dtype: 'bf16' },
    },
    {},
    TypeError,
    /bias: expected dtype f16 .*or f32/,
  ],
  [
    'a base that is a tensor',
    { base: ramp(OUT, IN) },
    {},
    TypeError,
    /base: expected what packWeight\(\) returned, 'identity' or null/,
  ],
  ['a base by another name', { base: 'identty' }, {}, TypeError, /base: .*'identty'/],
  [
    'an identity that is not square',
    { base: 'identity' },
    {},
    RangeError,
    /base: .*in = 10 and out = 7/,
  ],
  [
    'neither base nor bank',
    { base: null, bank: undefined, routing: undefined, bias: undefined },
    {},
    TypeError,
    /base: expected/,
  ],
  [
    'a bank of other sizes',
    { bank: other },
    {},
    RangeError,
    /bank: expected \[out,in\] = \[7,10\] as in base, got \[8,10\]/,
  ],
  [
    'a bank that is none',
    { bank: new Map() },
    {},
    TypeError,
    /bank: expected what createAdapterBank\(\)/,
  ],
  ['a bank without routing', { routing: undefined }, {}, TypeError, /routing: expected/],
  ['routing without a bank', { bank: undefined }, {}, TypeError, /bank: expected one/],
  [
    'routing of another kind',
    { routing: { ...routing, kind: 'token' } },
    {},
    RangeError,
    /routing\.kind: expected one of 'one', 'segments', 'tokens', 'topK', got 'token'/,
  ],
  ['routing of no kind', { routing: { ids: routing.ids } }, {}, TypeError, /routing\.kind: /],
  ['routing of nothing', { routing: {} }, {}, TypeError, /routing\.kind: /],
  ['routing that is a string', { routing: 'one' }, {}, TypeError, /routing: expected an object/],
  ['a typo in routing', { routing: { kind: 'one', ID: 0 } }, {}, TypeError, /ID: .*nearest: id/],
  [
    'one without id',
    { routing: { kind: 'one' } },
    {},
    TypeError,
    /routing\.id: expected an integer, got undefined/,
  ],
  [
    'an id nobody has',
    { routing: { kind: 'one', id: 99 } },
    {},
    RangeError,
    /routing\.id: .*got 99/,
  ],
  [
    'half an id',
    { routing: { kind: 'one', id: 0.5 } },
    {},
    RangeError,
    /routing\.id: expected an integer, got 0\.5/,
  ],
  ['an id below -1', { routing: { kind: 'one', id: -2 } }, {}, RangeError, /routing\.id: .*got -2/],
  [
    'an id of 2^32',
    { routing: { kind: 'one', id: 2 ** 32 } },
    {},
    RangeError,
    /routing\.id: .*got 4294967296/,
  ],
  [
    'an id that is text',
    { routing: { kind: 'one', id: '0' } },
    {},
    TypeError,
    /routing\.id: expected an integer/,
  ],
  [
    'ids beside one',
    { routing: { kind: 'one', id: ids[0], ids: routing.ids } },
    {},
    TypeError,
    /routing\.ids: expected none with kind 'one'/,
  ],
  [
    'tokens without ids',
    { routing: { kind: 'tokens' } },
    {},
    TypeError,
    /routing\.ids: expected an Int32Array/,
  ],
  [
    'ids too few',
    { routing: { kind: 'tokens', ids: Int32Array.of(0) } },
    {},
    RangeError,
    /routing\.ids: expected \[M\] = 6 numbers, got 1/,
  ],
  [
    'wide ids',
    { routing: { kind: 'tokens', ids: new BigInt64Array(M) } },
    {},
    TypeError,
    /routing\.ids: expected an Int32Array/,
  ],
  [
    'ids in an array',
    { routing: { kind: 'tokens', ids: [0, 0, 0, 0, 0, 0] } },
    {},
    TypeError,
    /routing\.ids: expected an Int32Array, got an array/,
  ],
  [
    'ids nobody has',
    { routing: { kind: 'tokens', ids: Int32Array.of(0, 0, 0, 7, 0, 0) } },
    {},
    RangeError,
    /routing\.ids: .*got 7 at 3/,
  ],
  [
    'offsets beside tokens',
    { routing: { ...segments, kind: 'tokens' } },
    {},
    TypeError,
    /routing\.indptr: expected none/,
  ],
  [
    'segments without offsets',
    { routing: { ...segments, indptr: undefined } },
    {},
    TypeError,
    /routing\.indptr: /,
  ],
  [
    'offsets too many',
    { routing: { ...segments, indptr: Int32Array.of(0, 2, 4, 6) } },
    {},
    RangeError,
    /routing\.indptr: expected one more than ids = 3 numbers, got 4/,
  ],
  [
    'offsets that descend',
    { routing: { kind: 'segments', ids: new Int32Array(3), indptr: Int32Array.of(0, 4, 2, 6) } },
    {},
    RangeError,
    /routing\.indptr: .*got 2 at 2/,
  ],
  [
    'offsets that begin late',
    { routing: { ...segments, indptr: Int32Array.of(1, 2, 6) } },
    {},
    RangeError,
    /routing\.indptr: .*got 1 at 0/,
  ],
  [
    'offsets that end early',
    { routing: { ...segments, indptr: Int32Array.of(0, 2, 5) } },
    {},
    RangeError,
    /routing\.indptr: .*end at M = 6, got 5/,
  ],
  [
    'offsets beyond the rows',
    { routing: { ...segments, indptr: Int32Array.of(0, 2, 7) } },
    {},
    RangeError,
    /routing\.indptr: .*got 7 at 2/,
  ],
  [
    'wide offsets beyond all',
    { routing: { ...segments, indptr: BigInt64Array.of(0n, 2n ** 62n, 6n) } },
    {},
    RangeError,
    /routing\.indptr: .*at 1/,
  ],
  [
    'no segments for some rows',
    { routing: { ...segments, ids: new Int32Array(0), indptr: Int32Array.of(0) } },
    {},
    RangeError,
    /routing\.indptr: .*end at M = 6, got 0/,
  ],
  [
    'topK without k',
    { routing: { ...topK, k: undefined } },
    {},
    TypeError,
    /routing\.k: expected an integer/,
  ],
  ['topK of none', { routing: { ...topK, k: 0 } }, {}, RangeError, /routing\.k: /],
  ['topK of 2^53', { routing: { ...topK, k: 2 ** 53 - 1 } }, {}, RangeError, /routing\.k: /],
  [
    'topK without gates',
    { routing: { ...topK, gates: undefined } },
    {},
    TypeError,
    /routing\.gates: expected a tensor/,
  ],
  [
    'gates of another shape',
    { routing: { ...topK, gates: ramp(2, M) } },
    {},
    RangeError,
    /routing\.gates: expected shape \[M,k\] = \[6,2\], got \[2,6\]/,
  ],
  [
    'ids for another k',
    { routing: { ...topK, ids: routing.ids } },
    {},
    RangeError,
    /routing\.ids: expected \[M\*k\] = 12 numbers, got 6/,
  ],
  [
    'baseScale for rows with two',
    { routing: { ...topK, ids: new Int32Array(2 * M).fill(dora) } },
    {},
    RangeError,
    /routing\.ids: .*baseScale.*k = 2.*adapter 2/,
  ],
  [
    'gates beside tokens',
    { routing: { ...routing, gates: ramp(M, 1) } },
    {},
    TypeError,
    /routing\.gates: expected none/,
  ],
  [
    'a precision nobody has',
    {},
    { compute: 'f16' },
    RangeError,
    /compute: expected one of 'f32', 'bf16'/,
  ],
  [
    'dropout of nothing',
    {},
    { dropout: {} },
    TypeError,
    /dropout\.p: expected a number, got undefined/,
  ],
  [
    'dropout without seed',
    {},
    { dropout: { p: 0.5 } },
    TypeError,
    /dropout\.seed: expected an integer, got undefined/,
  ],
  [
    'dropout without p',
    {},
    { dropout: { seed: 1 } },
    TypeError,
    /dropout\.p: expected a number, got undefined/,
  ],
  [
    'dropout of all',
    {},
    { dropout: { p: 1, seed: 1 } },
    RangeError,
    /dropout\.p: .*less than 1, got 1/,
  ],
  ['dropout of less than none', {}, { dropout: { p: -0.1, seed: 1 } }, RangeError, /dropout\.p: /],
  ['dropout of NaN', {}, { dropout: { p: NaN, seed: 1 } }, RangeError, /dropout\.p: /],
  [
    'dropout that is a number',
    {},
    { dropout: 0.5 },
    TypeError,
    /dropout: expected an object \{p, seed\}/,
  ],
  ['a typo in dropout', {}, { dropout: { p: 0.5, sead: 1 } }, TypeError, /nearest: seed/],
  ['half a seed', {}, { dropout: { p: 0.5, seed: 1.5 } }, RangeError, /dropout\.seed: /],
  ['a seed below zero', {}, { dropout: { p: 0.5, seed: -1 } }, RangeError, /dropout\.seed: /],
  [
    'a seed of 2^53',
    {},
    { skip: { p: 0.5, seed: 2 ** 53 } },
    RangeError,
    /skip\.seed: .*2\^53 - 1/,
  ],
  [
    'a seed that is text',
    {},
    { skip: { p: 0.5, seed: '1' } },
    TypeError,
    /skip\.seed: expected a number/,
  ],
  ['skip of all', {}, { skip: { p: 1, seed: 1 } }, RangeError, /skip\.p: /],
  ['saveRank of 1', {}, { saveRank: 1 }, TypeError, /saveRank: expected true or false/],
  [
    'out of another shape',
    {},
    { out: { y: ramp(M, IN) } },
    RangeError,
    /out\.y: expected shape \[6,7\], got \[6,10\]/,
  ],
  [
    'out of another dtype',
    {},
    { out: { y: { data: new Uint16Array(M * OUT), shape: [M, OUT], dtype: 'bf16' } } },
    TypeError,
    /out\.y: expected dtype f32/,
  ],
  [
    'out of t without t',
    {},
    { out: { t: ramp(M, 1, 5) } },
    RangeError,
    /out\.t: this call does not produce it/,
  ],
];

for (const [name, change, options, kind, pattern] of bad)
  test(`loraLinear refuses ${name}`, async () => {
    const text = new RegExp(`^\\[loraLinear\\] .*${pattern.source}`);
    throwsWith(() => rankone.loraLinearSync({ ...good, ...change }, options), kind, text);
    await rejectsWith(() => rankone.loraLinear({ ...good, ...change }, options), kind, text);
  });

const dY = ramp(M, OUT);
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

const merges: [string, Any[], Any, RegExp][] = [
  ['no base', [null, bank, ids[0]], TypeError, /base: expected a packed weight/],
  ['an identity', ['identity', square, 0], TypeError, /base: expected a packed weight/],
  ['no bank', [base, undefined, ids[0]], TypeError, /bank: expected one/],
  ['a bank of other sizes', [base, other, 0], RangeError, /bank: expected \[out,in\] = \[7,10\]/],
  ['no id', [base, bank], TypeError, /id: expected an integer, got undefined/],
  ['another id', [base, bank, 77], RangeError, /id: .*got 77/],
  ['none', [base, bank, -1], RangeError, /id: .*got -1/],
  ['another format', [base, bank, ids[0], { format: 'i4' }], RangeError, /format: /],
  ['an unknown option', [base, bank, ids[0], { out: {} }], TypeError, /out: /],
  ['options of another kind', [base, bank, ids[0], 3], TypeError, /options: /],
];
for (const [part, spec] of Object.entries({
  act: { act: 'relu' },
  rankBias: { rankBias: ramp(1) },
  outBias: { outBias: ramp(OUT) },
}) as [string, Any][]) {
  const id = bank.load({ a: ramp(1, IN), b: ramp(OUT, 1), ...spec });
  merges.push([
    `an adapter with ${part}`,
    [base, bank, id],
    RangeError,
    new RegExp(`id: .*${part}`),
  ]);
}

for (const operation of ['mergeAdapter', 'unmergeAdapter'])
  for (const [name, args, kind, pattern] of merges)
    test(`${operation} refuses ${name}`, async () => {
      const text = new RegExp(`^\\[${operation}\\] .*${pattern.source}`);
      throwsWith(() => (rankone as Any)[`${operation}Sync`](...args), kind, text);
      await rejectsWith(() => (rankone as Any)[operation](...args), kind, text);
    });

test('options that are no plain object count as well', () => {
  const id = bank.load({ a: ramp(1, IN), b: ramp(OUT, 1) });
  class Options {
    get format() {
      return 'int8' as const;
    }
  }
  for (const merge of [rankone.mergeAdapterSync, rankone.unmergeAdapterSync]) {
    using merged = merge(base, bank, id, new Options());
    assert.is(merged.format, 'int8');
  }
  bank.evict(id);
});

test('what divides by a zero is not taken out again', () => {
  const baseScale = ramp(OUT);
  baseScale.data[3] = 0;
  const id = bank.load({ a: ramp(1, IN), b: ramp(OUT, 1), baseScale });
  rankone.mergeAdapterSync(base, bank, id).dispose();
  throwsWith(() => rankone.unmergeAdapterSync(base, bank, id), RangeError, /zero in baseScale/);
});

test('nothing is written before all has been checked', () => {
  const y = { data: new Float32Array(M * OUT).fill(7), shape: [M, OUT] };
  const last = { kind: 'tokens' as const, ids: Int32Array.of(-1, -1, -1, -1, -1, 99) };
  throwsWith(
    () => rankone.loraLinearSync({ ...good, routing: last }, { out: { y } }),
    RangeError,
    /routing\.ids: .*got 99 at 5/,
  );
  assert.ok(y.data.every((v) => v === 7));
});

test('detached, shared and overlapping memory', async () => {
  const wanted = rankone.loraLinearSync(good as Any).y;
  const detached = ramp(M, IN);
  structuredClone(detached.data, { transfer: [detached.data.buffer as ArrayBuffer] });
  throwsWith(
    () => rankone.loraLinearSync({ ...good, x: detached } as Any),
    RangeError,
    /x: expected data of length 60 .*detached/,
  );
  const gone = Int32Array.from(routing.ids);
  structuredClone(gone, { transfer: [gone.buffer] });
  throwsWith(
    () => rankone.loraLinearSync({ ...good, routing: { kind: 'tokens', ids: gone } }),
    RangeError,
    /routing\.ids: expected \[M\] = 6 numbers, got 0/,
  );
  const shared = new Float32Array(new SharedArrayBuffer(M * IN * 4));
  shared.set(good.x.data);
  sameBits(
    rankone.loraLinearSync({ ...good, x: { data: shared, shape: [M, IN] } } as Any).y,
    wanted,
  );
  const memory = new Float32Array(M * IN + M * OUT);
  const x = { data: memory.subarray(0, M * IN), shape: [M, IN] };
  const y = { data: memory.subarray(M * IN - 1, M * IN - 1 + M * OUT), shape: [M, OUT] };
  throwsWith(
    () => rankone.loraLinearSync({ ...good, x } as Any, { out: { y } }),
    RangeError,
    /out\.y: expected memory of its own/,
  );
  // What an asynchronous call was given may change or go at once.
  const mine = { x: ramp(M, IN), ids: Int32Array.from(routing.ids), bias: ramp(OUT) };
  const pending = rankone.loraLinear({
    ...good,
    x: mine.x,
    bias: mine.bias,
    routing: { kind: 'tokens', ids: mine.ids },
  } as Any);
  mine.x.data.fill(NaN);
  mine.ids.fill(99);
  structuredClone(mine.bias.data, { transfer: [mine.bias.data.buffer as ArrayBuffer] });
  sameBits((await pending).y, wanted);
});

test('empty batches', async () => {
  for (const shape of [
    [0, IN],
    [2, 0, IN],
  ]) {
    const x = { data: new Float32Array(0), shape };
    const none = { kind: 'tokens' as const, ids: new Int32Array(0) };
    const { y, t } = await rankone.loraLinear({ x, base, bank, routing: none }, { saveRank: true });
    assert.equal(y.shape, [...shape.slice(0, -1), OUT]);
    assert.equal(t!.shape, [0, 1, 0]);
    const one = { kind: 'one' as const, id: ids[1] };
    const grad = rankone.loraLinearBackwardSync({
      x,
      dY: y,
      base,
      bank,
      routing: one,
      bias: ramp(OUT),
    });
    assert.equal(grad.dx.shape, shape);
    assert.ok(grad.dBias!.data.every((v) => v === 0));
    const { dA, dB, dScale } = grad.adapters.get(ids[1])!;
    assert.equal([dA!.shape, dB!.shape, dScale], [[5, IN], [OUT, 5], 0]);
    assert.ok([...dA!.data, ...dB!.data].every((v) => v === 0));
  }
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
