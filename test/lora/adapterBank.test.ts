// AdapterBank: what is loaded, its ids and its memory, whatever comes and goes while calls run.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { binding } from '../../ts/binding';
import * as rankone from '../../ts/index';
import { rejectsWith, sameBits, throwsWith } from '../ops/helpers';
import { encode } from '../support/half';
import { Random } from '../support/random';

type Any = any;

const random = new Random(7);
const normals = (...shape: number[]): rankone.Tensor => {
  return { data: random.normals(shape.reduce((a, b) => a * b, 1)), shape };
};
const [IN, OUT] = [40, 24];
const adapter = (rank: number, more: Partial<rankone.AdapterSpec> = {}): rankone.AdapterSpec => {
  return { a: normals(rank, IN), b: normals(OUT, rank), ...more };
};
const newBank = () => rankone.createAdapterBank({ inFeatures: IN, outFeatures: OUT });
const x = normals(6, IN);
const EMPTY = { adapters: 0, usedBytes: 0, reservedBytes: 0, pages: 0, largestFreeBytes: 0 };

function outputOf(bank: rankone.AdapterBank, id: number): rankone.Tensor {
  return rankone.loraLinearSync({ x, bank, routing: { kind: 'one', id } }).y;
}

/** What a bank holding only this adapter gives. */
function alone(spec: rankone.AdapterSpec): rankone.Tensor {
  using bank = newBank();
  return outputOf(bank, bank.load(spec));
}

test('adapters come, change and go', () => {
  const bank = newBank();
  assert.equal([bank.inFeatures, bank.outFeatures, bank.size, bank.ids()], [IN, OUT, 0, []]);
  const specs = [adapter(4), adapter(1), adapter(33, { scale: 0.5 })];
  const ids = specs.map((spec) => bank.load(spec));
  assert.equal(ids, [0, 1, 2]);
  ids.forEach((id, i) => {
    sameBits(outputOf(bank, id), alone(specs[i]));
  });
  bank.evict(1);
  assert.equal([bank.ids(), bank.size, bank.has(1), bank.has(2)], [[0, 2], 2, false, true]);
  throwsWith(() => outputOf(bank, 1), RangeError, /^\[loraLinear\] routing\.id: .*got 1/);
  throwsWith(() => bank.evict(1), RangeError, /^\[AdapterBank.evict\] id: .*got 1/);
  throwsWith(() => bank.replace(1, specs[0]), RangeError, /^\[AdapterBank.replace\] id: .*got 1/);
  assert.is(bank.load(specs[1]), 3, 'ids are never used again');
  bank.replace(2, specs[0]);
  sameBits(outputOf(bank, 2), alone(specs[0]));
  assert.equal(bank.ids(), [0, 2, 3]);
  bank.dispose();
  bank.dispose();
  assert.ok(bank.disposed);
});

test('a bank copies what it is given', () => {
  using bank = newBank();
  const spec = adapter(4) as Any;
  const wanted = alone(spec);
  const id = bank.load(spec);
  spec.a.data.fill(9);
  structuredClone(spec.b.data, { transfer: [spec.b.data.buffer] });
  sameBits(outputOf(bank, id), wanted);
});

test('a disposed bank says so', () => {
  const bank = newBank();
  bank.load(adapter(2));
  bank.dispose();
  const methods: [string, () => unknown][] = [
    ['load', () => bank.load(adapter(2))],
    ['replace', () => bank.replace(0, adapter(2))],
    ['evict', () => bank.evict(0)],
    ['has', () => bank.has(0)],
    ['ids', () => bank.ids()],
    ['memory', () => bank.memory()],
  ];
  for (const [name, call] of methods)
    throwsWith(call, Error, new RegExp(`^\\[AdapterBank.${name}\\] bank: it has been disposed`));
  throwsWith(() => outputOf(bank, 0), Error, /^\[loraLinear\] bank: it has been disposed/);
  throwsWith(() => new (rankone.AdapterBank as Any)(), TypeError, /expected createAdapterBank\(\)/);
  for (const other of [Object.create(bank), new Proxy(bank, {}), {}, 3])
    throwsWith(
      () => rankone.loraLinearSync({ x, bank: other, routing: { kind: 'one', id: -1 } } as Any),
      TypeError,
      /bank: expected what createAdapterBank\(\) returned/,
    );
});

/** What is wrong with an adapter, on its own or in what it is loaded into. */
const bad: [string, Any, Any, RegExp][] = [
  ['nothing', undefined, TypeError, /inputs: expected an object/],
  ['no a', { a: undefined }, TypeError, /a: expected a tensor/],
  ['no b', { b: undefined }, TypeError, /b: expected a tensor/],
  ['a typo', { scael: 1 }, TypeError, /scael: .*nearest: scale/],
  [
    'a transposed a',
    { a: normals(IN, 3) },
    RangeError,
    /a: .*in = 40, got \[40,3\]: it is transposed/,
  ],
  [
    'a transposed b',
    { b: normals(3, OUT) },
    RangeError,
    /b: .*out = 24, got \[3,24\]: it is transposed/,
  ],
  ['another in', { a: normals(3, 41) }, RangeError, /a: .*in = 40, got \[3,41\]/],
  ['another out', { b: normals(25, 3) }, RangeError, /b: .*out = 24, got \[25,3\]/],
  ['no ranks', { a: normals(0, IN), b: normals(OUT, 0) }, RangeError, /a: .*ranks, got \[0,40\]/],
  ['a vector', { a: normals(IN) }, RangeError, /a: expected shape \[r,in\], got \[40\]/],
  ['two ranks', { b: normals(OUT, 4) }, RangeError, /b: expected 3 ranks as in a, got \[24,4\]/],
  [
    'doubles',
    { a: { data: new Float64Array(3 * IN), shape: [3, IN] } },
    TypeError,
    /a: .*Float64Array/,
  ],
  ['wide indices', { a: new BigInt64Array(3) }, TypeError, /a: /],
  ['bytes', { a: new Uint8Array(3) }, TypeError, /a: /],
  [
    'an index too large',
    { a: Int32Array.of(1, 40, 2) },
    RangeError,
    /a: expected indices from 0 to 39, got 40 at 1/,
  ],
  [
    'a negative index',
    { b: Int32Array.of(1, 2, -1) },
    RangeError,
    /b: expected indices from 0 to 23, got -1 at 2/,
  ],
  ['no indices', { a: new Int32Array(0) }, RangeError, /a: expected from 1 to/],
  ['indices too few', { a: Int32Array.of(1) }, RangeError, /b: expected 1 ranks as in a/],
  ['a scale of NaN', { scale: NaN }, RangeError, /scale: /],
  ['a scale of text', { scale: '1' }, TypeError, /scale: expected a number/],
  ['a scale too large', { scale: 1e300 }, RangeError, /scale: /],
  [
    'a mid of other ranks',
    { mid: normals(3, 4) },
    RangeError,
    /mid: expected shape \[r2,r\] = \[3,3\], got \[3,4\]/,
  ],
  ['a mid of rank 3', { mid: normals(3, 3, 1) }, RangeError, /mid: /],
  ['a short diagonal', { mid: normals(2) }, RangeError, /mid: .*\[3\], got \[2\]/],
  [
    'a rank bias too long',
    { rankBias: normals(4) },
    RangeError,
    /rankBias: expected shape \[r\] = \[3\], got \[4\]/,
  ],
  ['a base scale of in', { baseScale: normals(IN) }, RangeError, /baseScale: .*\[24\], got \[40\]/],
  ['an output bias of in', { outBias: normals(IN) }, RangeError, /outBias: .*\[24\], got \[40\]/],
  [
    'an activation nobody knows',
    { act: 'tanh' },
    RangeError,
    /act: expected 'none', 'relu', 'gelu', 'silu' or \{topK\}, got 'tanh'/,
  ],
  ['an activation of a number', { act: 3 }, TypeError, /act: /],
  ['topK without k', { act: {} }, TypeError, /act\.topK: expected an integer/],
  ['a typo in topK', { act: { topk: 1 } }, TypeError, /nearest: topK/],
  [
    'topK of none',
    { act: { topK: 0 } },
    RangeError,
    /act\.topK: expected an integer from 1 to 3, got 0/,
  ],
  ['topK of too many', { act: { topK: 4 } }, RangeError, /act\.topK: .*got 4/],
  [
    'topK beyond the rank',
    { rank: 2, act: { topK: 3 } },
    RangeError,
    /act\.topK: .*from 1 to 2, got 3/,
  ],
  ['half a rank', { rank: 1.5 }, RangeError, /rank: /],
  ['no rank', { rank: 0 }, RangeError, /rank: expected an integer from 1 to 3, got 0/],
  ['a rank too large', { rank: 4 }, RangeError, /rank: .*got 4/],
];

const held = newBank();
const heldId = held.load(adapter(3));
const heldOutput = outputOf(held, heldId);
const heldMemory = held.memory();

for (const [name, change, kind, pattern] of bad)
  test(`${name} is refused, and the bank stays as it was`, () => {
    const spec = change && { ...adapter(3), ...change };
    const text = (method: string) => new RegExp(`^\\[AdapterBank.${method}\\] .*${pattern.source}`);
    throwsWith(() => held.load(spec), kind, text('load'));
    throwsWith(() => held.replace(heldId, spec), kind, text('replace'));
    assert.equal(held.ids(), [heldId]);
    assert.equal(held.memory(), heldMemory);
    sameBits(outputOf(held, heldId), heldOutput);
  });

test('ids of any kind', () => {
  using bank = newBank();
  bank.load(adapter(1));
  for (const id of [-1, 1, 0.5, NaN, Infinity, 2 ** 32, -(2 ** 31), 2 ** 53]) {
    assert.not.ok(bank.has(id));
    throwsWith(() => bank.evict(id), RangeError, /^\[AdapterBank.evict\] id: /);
    throwsWith(() => bank.replace(id, adapter(1)), RangeError, /^\[AdapterBank.replace\] id: /);
  }
  for (const id of [undefined, null, '0', 0n, {}])
    for (const method of ['evict', 'has', 'replace'] as const)
      throwsWith(() => (bank as Any)[method](id, adapter(1)), TypeError, /id: expected a number/);
  assert.equal(bank.ids(), [0]);
});

test('sizes of a bank', () => {
  for (const [shape, kind, pattern] of [
    [undefined, TypeError, /inputs: /],
    [{ inFeatures: 3 }, TypeError, /outFeatures: /],
    [{ inFeatures: '3', outFeatures: 3 }, TypeError, /inFeatures: /],
    [{ inFeatures: 3, outFeatures: 0 }, RangeError, /outFeatures: .*got 0/],
    [{ inFeatures: 2.5, outFeatures: 3 }, RangeError, /inFeatures: .*got 2\.5/],
    [{ inFeatures: 2 ** 31, outFeatures: 3 }, RangeError, /inFeatures: /],
    [{ inFeatures: 3, outFeatures: 3, rank: 3 }, TypeError, /rank: /],
  ] as [Any, Any, RegExp][])
    throwsWith(() => rankone.createAdapterBank(shape), kind, pattern);
});

test('every part in every dtype', () => {
  const rank = 5;
  const full: Record<string, rankone.Tensor> = {
    a: normals(rank, IN),
    b: normals(OUT, rank),
    mid: normals(rank, rank),
    rankBias: normals(rank),
    baseScale: normals(OUT),
    outBias: normals(OUT),
  };
  for (const dtype of ['bf16', 'f16'] as const) {
    const half: Any = {};
    const rounded: Any = {};
    for (const [name, tensor] of Object.entries(full)) {
      half[name] = encode(dtype, tensor);
      // What the half-width numbers stand for, as float32.
      const values = new Float32Array(tensor.data.length);
      using one = rankone.packWeightSync(
        { ...half[name], shape: [1, values.length] },
        { format: 'f32' },
      );
      values.set(one.toTensor().data);
      rounded[name] = { data: values, shape: tensor.shape };
    }
    const [mine, wanted] = [alone({ ...half, act: 'silu' }), alone({ ...rounded, act: 'silu' })];
    const size = Math.hypot(...wanted.data);
    const error = Math.hypot(...mine.data.map((v, i) => v - wanted.data[i])) / size;
    assert.ok(error < 1e-6, `${dtype}: ${error}`);
  }
});

/** Memory of a bank that holds only this adapter. */
function sizeOf(spec: rankone.AdapterSpec): number {
  using bank = newBank();
  bank.load(spec);
  return bank.memory().usedBytes;
}

test('five thousand adapters of mixed ranks come and go, and every page is accounted for', () => {
  const bank = newBank();
  const ranks = [1, 2, 4, 7, 8, 16, 32, 33, 64, 100, 256];
  const specs = ranks.map((rank) => adapter(rank));
  const sizes = specs.map(sizeOf);
  const wanted = specs.map(alone);
  const loaded = new Map<number, number>(); // id -> which
  const used = () => [...loaded.values()].reduce((sum, which) => sum + sizes[which], 0);
  let last = -1;
  const check = () => {
    const memory = bank.memory();
    assert.is(memory.adapters, loaded.size);
    assert.is(memory.usedBytes, used());
    assert.is(memory.reservedBytes, memory.pages * memory.pageBytes);
    assert.ok(memory.usedBytes <= memory.reservedBytes);
    assert.ok(memory.largestFreeBytes <= memory.reservedBytes - memory.usedBytes);
    assert.is(bank.size, loaded.size);
  };
  const grow = () => {
    const which = random.integer(specs.length);
    const id = bank.load(specs[which]);
    assert.ok(id > last, 'ids rise');
    last = id;
    loaded.set(id, which);
  };
  for (let i = 0; i < 2000; i++) grow();
  check();
  const peak = bank.memory().reservedBytes;
  for (let i = 0; i < 3000; i++) {
    const ids = [...loaded.keys()];
    const id = ids[random.integer(ids.length)];
    const turn = random.integer(5);
    if (turn === 0) {
      const which = random.integer(specs.length);
      bank.replace(id, specs[which]);
      loaded.set(id, which);
    } else if (turn < 3) {
      bank.evict(id);
      loaded.delete(id);
    } else {
      grow();
    }
    if (i % 500 === 0) check();
  }
  for (let i = 0; i < 1000; i++) grow();
  check();
  // Freed runs are used again: this many adapters, were they never freed, would take twice the memory.
  const { reservedBytes, usedBytes } = bank.memory();
  assert.ok(
    reservedBytes < usedBytes * 1.25 + 4 * 2 ** 20,
    `${reservedBytes} for ${usedBytes}, ${peak}`,
  );
  for (const [id, which] of [...loaded].filter((_, i) => i % 40 === 0))
    sameBits(outputOf(bank, id), wanted[which]);
  assert.equal(
    bank.ids(),
    [...loaded.keys()].sort((a, b) => a - b),
  );
  for (const id of [...loaded.keys()].sort(() => random.integer(2) - 0.5)) bank.evict(id);
  const { pageBytes, ...rest } = bank.memory();
  assert.equal(rest, EMPTY);
  assert.ok(pageBytes > 0);
  bank.dispose();
});

test('neighbours that are freed become one run again', () => {
  const bank = rankone.createAdapterBank({ inFeatures: 1024, outFeatures: 1024 });
  const small = { a: normals(1, 1024), b: normals(1024, 1) };
  const ids: number[] = [];
  while (bank.memory().pages <= 512) ids.push(bank.load(small));
  bank.evict(ids.pop()!); // of a second slab, which goes
  assert.is(bank.memory().pages, 512);
  const [first, ...others] = ids;
  for (const id of others.filter((_, i) => i % 2)) bank.evict(id);
  const holes = bank.memory().largestFreeBytes;
  for (const id of others.filter((_, i) => i % 2 === 0)) bank.evict(id);
  const { usedBytes, reservedBytes, largestFreeBytes } = bank.memory();
  assert.is(largestFreeBytes, reservedBytes - usedBytes);
  assert.ok(largestFreeBytes > 4 * holes, `${holes}, then ${largestFreeBytes}`);
  bank.evict(first);
  assert.is(bank.memory().reservedBytes, 0);
});

test('an adapter larger than a slab', () => {
  const bank = rankone.createAdapterBank({ inFeatures: 4096, outFeatures: 4096 });
  const id = bank.load({ a: normals(160, 4096), b: normals(4096, 160) });
  const { usedBytes, reservedBytes } = bank.memory();
  assert.ok(usedBytes >= 2 * 160 * 4096 * 4, `${usedBytes}`);
  assert.is(reservedBytes % (2 << 20), 0);
  assert.ok(reservedBytes - usedBytes < 2 << 20);
  bank.evict(id);
  assert.is(bank.memory().reservedBytes, 0);
});

test('calls keep what they use: evicted, replaced and disposed of while they run', async () => {
  const [inFeatures, outFeatures, rows] = [512, 512, 256];
  const base = rankone.packWeightSync(normals(outFeatures, inFeatures), { format: 'f32' });
  const bank = rankone.createAdapterBank({ inFeatures, outFeatures });
  const specs = [8, 16, 64].map((rank) => {
    return { a: normals(rank, inFeatures), b: normals(outFeatures, rank) };
  });
  const ids = specs.map((spec) => bank.load(spec));
  const inputs = { x: normals(rows, inFeatures), base, bank };
  const calls = Array.from({ length: 24 }, (_, i) => {
    return { kind: 'one' as const, id: ids[i % 3] };
  });
  const wanted = calls
    .slice(0, 3)
    .map((routing) => rankone.loraLinearSync({ ...inputs, routing }).y);
  const dY = normals(rows, outFeatures);
  const gradient = rankone.loraLinearBackwardSync({ ...inputs, dY, routing: calls[1] });
  const running = calls.map((routing) => rankone.loraLinear({ ...inputs, routing }));
  const backward = rankone.loraLinearBackward({ ...inputs, dY, routing: calls[1] });
  const full = bank.memory();
  bank.replace(ids[0], { a: normals(1, inFeatures), b: normals(outFeatures, 1) });
  bank.evict(ids[1]);
  // Either those calls are done, or their adapters are still there.
  assert.ok(bank.memory().usedBytes <= full.usedBytes + sizeOfOne());
  bank.dispose();
  base.dispose();
  const results = await Promise.all(running);
  results.forEach(({ y }, i) => {
    sameBits(y, wanted[i % 3]);
  });
  const { dx, adapters } = await backward;
  sameBits(dx, gradient.dx);
  sameBits(adapters.get(ids[1])!.dA!, gradient.adapters.get(ids[1])!.dA!);
  await rejectsWith(
    () => rankone.loraLinear({ ...inputs, routing: calls[0] }),
    Error,
    /^\[loraLinear\] base: it has been disposed/,
  );
});

function sizeOfOne(): number {
  using bank = rankone.createAdapterBank({ inFeatures: 512, outFeatures: 512 });
  bank.load({ a: normals(1, 512), b: normals(512, 1) });
  return bank.memory().usedBytes;
}

test('memory of evicted adapters is free when the calls that used them have ended', async () => {
  const bank = newBank();
  for (let round = 0; round < 20; round++) {
    const ids = [1, 8, 40].map((rank) => bank.load(adapter(rank)));
    const calls = ids.map((id) => rankone.loraLinear({ x, bank, routing: { kind: 'one', id } }));
    for (const id of ids) bank.evict(id);
    assert.is(bank.size, 0);
    await Promise.all(calls);
    assert.is(bank.memory().usedBytes, 0);
    assert.is(bank.memory().reservedBytes, 0);
  }
});

test('a getter that evicts or disposes in the middle of a call', () => {
  const bank = newBank();
  const id = bank.load(adapter(4));
  const nosy = (act: () => void) => ({
    get x() {
      act();
      return x;
    },
    bank,
    routing: { kind: 'one' as const, id },
  });
  throwsWith(() => rankone.loraLinearSync(nosy(() => bank.evict(id))), RangeError, /routing\.id: /);
  throwsWith(() => rankone.loraLinearSync(nosy(() => bank.dispose())), Error, /disposed/);
});

test('the collector learns of what banks and weights hold', async () => {
  const specs = [32, 64, 128].map((rank) => ({ a: normals(rank, 4096), b: normals(4096, rank) }));
  const weight = normals(512, 1024); // arrays of the caller's are told of too
  const before = binding.externalMemory();
  const told = () => binding.externalMemory() - before;
  const slack = 2 ** 18;
  const bank = rankone.createAdapterBank({ inFeatures: 4096, outFeatures: 4096 });
  const ids = specs.map((spec) => bank.load(spec));
  assert.ok(Math.abs(told() - bank.memory().reservedBytes) < slack, `${told()}`);
  bank.evict(ids[1]);
  assert.ok(Math.abs(told() - bank.memory().reservedBytes) < slack, `${told()}`);
  bank.dispose();
  assert.ok(Math.abs(told()) < slack, `${told()}`);
  const packed = [
    rankone.packWeightSync(weight, { format: 'f32' }),
    await rankone.packWeight(weight, { format: 'q8' }),
  ];
  const bytes = packed.reduce((sum, p) => sum + p.bytes, 0);
  assert.ok(Math.abs(told() - bytes) < slack, `${told()} for ${bytes}`);
  for (const p of packed) p.dispose();
  assert.ok(Math.abs(told()) < slack, `${told()}`);
});

test.run();
