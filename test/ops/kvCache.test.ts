/** attention over a cache: prefill and decode are the rows of one call over everything, in rings and pools, in any dtype. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { KvCache, KvCacheShape } from '../../ts/index';
import * as rankone from '../../ts/index';
import { attention, attentionSync, createKvCache } from '../../ts/index';
import * as reference from '../reference/attention.ts';
import { expectSame, sameForThreads } from '../support/bits.ts';
import { decode, encode } from '../support/half.ts';
import { expectNear, normals } from '../support/layers.ts';
import { join, slice } from '../support/slices.ts';
import type { Tensor32 } from '../support/tensor.ts';
import { endOfAborted, rejectsWith, throwsWith } from './helpers.ts';

const test = suite('KvCache');

const [N, T, H, HKV, K, V] = [2, 150, 4, 2, 20, 12];
const sizes = { batch: N, kvHeads: HKV, keyDim: K, valueDim: V };

function problem(seed = 1) {
  const make = normals(seed);
  return { q: make(N, T, H, K), k: make(N, T, HKV, K), v: make(N, T, HKV, V) };
}
type Problem = ReturnType<typeof problem>;

const part = (p: object, axis: number, from: number, to: number): any =>
  Object.fromEntries(
    Object.entries(p).map(([name, x]) => [name, slice(x as Tensor32, axis, from, to)]),
  );

/** o of all tokens, by calls of so many each. */
function inSteps(p: Problem, cache: KvCache, steps: readonly number[], options: object): Tensor32 {
  const parts: Tensor32[] = [];
  let at = 0;
  for (const count of steps) {
    const { o } = attentionSync({ ...part(p, 1, at, at + count), cache }, options);
    parts.push(o as unknown as Tensor32);
    at += count;
  }
  assert.is(at, T);
  return join(parts, 1);
}

const ONES: readonly number[] = Array.from({ length: T }, () => 1);
const STEPS = [ONES, [100, ...ONES.slice(100)], [0, 3, 90, 1, 1, 5, 50], [149, 1], [T]];
const MASKS: [KvCacheShape, object][] = [
  [{ ...sizes, capacity: T }, {}],
  [
    { ...sizes, capacity: T + 9 },
    { window: [20, 0], sinkTokens: 4 },
  ],
  [{ ...sizes, window: 20 }, { window: [20, 0] }],
  [
    { ...sizes, window: 33, sinkTokens: 5 },
    { window: [30, 0], sinkTokens: 4, softcap: 9 },
  ],
  [
    { ...sizes, window: 1, sinkTokens: 1 },
    { window: [0, 0], sinkTokens: 1 },
  ],
  [
    { ...sizes, window: 2 * T },
    { window: [2 * T, 0], sinkTokens: 0 },
  ],
];

for (const [shape, options] of MASKS)
  test(`${JSON.stringify(shape)} ${JSON.stringify(options)}`, () => {
    const p = problem();
    const { o: expected } = reference.attention(p, options);
    for (const steps of STEPS) {
      const cache = createKvCache(shape);
      let o = p.v;
      sameForThreads(`steps of ${steps[0]}`, () => {
        cache.reset();
        o = inSteps(p, cache, steps, options);
        return { o };
      });
      expectNear(`steps of ${steps[0]}`, { o }, { o: expected }, 2e-6);
      assert.is(cache.length(1), T);
      cache.dispose();
    }
  });

test('caches of every dtype hold what was rounded to it', () => {
  const limits = { f32: 2e-6, bf16: 2.5e-3, f16: 3.5e-4 };
  const options = { window: [40, 0], sinkTokens: 3 } as const;
  for (const given of ['f32', 'bf16', 'f16'] as const)
    for (const dtype of ['f32', 'bf16', 'f16'] as const) {
      const p = problem(2);
      const [seen, kept] = [{ ...p }, { ...p }];
      for (const name of ['q', 'k', 'v'] as const) {
        seen[name] = decode(encode(given, p[name]));
        kept[name] = name === 'q' ? seen.q : decode(encode(dtype, seen[name]));
      }
      const { o: expected } = reference.attention(kept, options);
      const cache = createKvCache({ ...sizes, window: 40, sinkTokens: 3, dtype });
      const parts: Tensor32[] = [];
      for (const [from, to] of [
        [0, 90],
        [90, 91],
        [91, T],
      ]) {
        const tensors = part(seen, 1, from, to);
        for (const name of ['q', 'k', 'v']) tensors[name] = encode(given, tensors[name]);
        parts.push(decode((attentionSync({ ...tensors, cache }, options) as any).o));
      }
      expectNear(`${given} into ${dtype}`, { o: join(parts, 1) }, { o: expected }, limits[given]);
      const { k, v } = cache.toTensors(1);
      assert.is(k.dtype, dtype);
      for (const [tensor, all] of [
        [k, kept.k],
        [v, kept.v],
      ] as const) {
        const row = slice(all, 0, 1, 2);
        const held = join([slice(row, 1, 0, 3), slice(row, 1, T - 40, T)], 1);
        expectSame('held', decode(tensor as any), { ...held, shape: held.shape.slice(1) });
      }
    }
});

test('a pool: slots in any order, packed prompts, the others untouched', () => {
  const p = problem(3);
  const cache = createKvCache({ ...sizes, batch: 5, capacity: T });
  const stateIndices = Int32Array.of(3, 1);
  const [lengths, starts] = [
    [37, 90],
    [0, 37, 127],
  ];
  const packed: any = {};
  for (const name of ['q', 'k', 'v'] as const)
    packed[name] = join(
      lengths.map((count, n) => slice(slice(p[name], 0, n, n + 1), 1, 0, count)),
      1,
    );
  const cuSeqlens = Int32Array.from(starts);
  const { o } = attentionSync({ ...packed, cache }, { cuSeqlens, stateIndices });
  assert.equal(
    [0, 1, 2, 3, 4].map((slot) => cache.length(slot)),
    [0, 90, 0, 37, 0],
  );
  const next: any = {};
  for (const name of ['q', 'k', 'v'] as const)
    next[name] = join(
      lengths.map((count, n) => slice(slice(p[name], 0, n, n + 1), 1, count, count + 1)),
      0,
    );
  const step = attentionSync({ ...next, cache }, { stateIndices }).o;
  lengths.forEach((count, n) => {
    const own = part(part(p, 0, n, n + 1), 1, 0, count + 1);
    const { o: expected } = reference.attention(own);
    const found = [slice(o as any, 1, starts[n], starts[n + 1]), slice(step as any, 0, n, n + 1)];
    expectNear(`sequence ${n}`, { o: join(found, 1) }, { o: expected }, 2e-6);
    // Alone, in a cache of its own, it has the same bits.
    const single = createKvCache({ ...sizes, batch: 1, capacity: T });
    attentionSync({ ...part(own, 1, 0, count), cache: single });
    const alone = attentionSync({ ...part(own, 1, count, count + 1), cache: single }).o;
    expectSame(`sequence ${n}, alone`, found[1], alone as any);
    single.dispose();
  });
  cache.reset(3);
  assert.is(cache.length(3), 0);
  assert.is(cache.length(1), 91);
  cache.dispose();
});

test('truncate takes back a draft', () => {
  const p = problem(4);
  const options = { window: [40, 0] } as const;
  for (const shape of [
    { ...sizes, capacity: 90 },
    { ...sizes, window: 90 },
  ]) {
    const cache = createKvCache(shape);
    attentionSync({ ...part(p, 1, 0, 80), cache }, options);
    const first = attentionSync({ ...part(p, 1, 80, 81), cache }, options).o;
    attentionSync({ ...part(p, 1, 81, 85), cache }, options);
    for (let slot = 0; slot < N; slot++) cache.truncate(slot, 80);
    expectSame(
      'again',
      attentionSync({ ...part(p, 1, 80, 81), cache }, options).o as any,
      first as any,
    );
    throwsWith(
      () => cache.truncate(0, 82),
      RangeError,
      /^\[KvCache.truncate\] length: expected at most 81/,
    );
    cache.dispose();
  }
  const ring = createKvCache({ ...sizes, window: 40 });
  attentionSync({ ...part(p, 1, 0, 41), cache: ring }, options);
  throwsWith(
    () => ring.truncate(0, 40),
    RangeError,
    /length: expected 41, as tokens before the last 40/,
  );
});

test('asynchronous calls: one at a time, and an abort leaves it as it was', async () => {
  const make = normals(5);
  const long = { q: make(1, 900, 4, 32), k: make(1, 900, 4, 32), v: make(1, 900, 4, 32) };
  const cache = createKvCache({ batch: 1, kvHeads: 4, keyDim: 32, valueDim: 32, capacity: 1000 });
  const pending = attention({ ...long, cache });
  throwsWith(() => attentionSync({ ...long, cache }), Error, /cache: it is busy in another call/);
  throwsWith(() => cache.length(0), Error, /^\[KvCache.length\] cache: it is busy/);
  throwsWith(() => cache.dispose(), Error, /cache: it is busy in a call/);
  const { o } = await pending;
  assert.is(cache.length(0), 900);
  cache.reset();
  expectSame('synchronous', attentionSync({ ...long, cache }).o as any, o as any);
  cache.reset();
  const reason = new Error('enough');
  const end = await endOfAborted(async (signal) => {
    cache.reset();
    await attention({ ...long, cache }, { signal });
  }, reason);
  assert.is(end, reason);
  assert.is(cache.length(0), 0);
  cache.dispose();
  cache.dispose();
  assert.ok(cache.disposed);
  throwsWith(() => attentionSync({ ...long, cache }), Error, /cache: it has been disposed/);
  throwsWith(() => cache.length(0), Error, /cache: it has been disposed/);
});

test('bad input', async () => {
  const p = problem(6);
  const make =
    (change: object): (() => KvCache) =>
    () =>
      createKvCache({ ...sizes, ...change } as KvCacheShape);
  throwsWith(
    make({}),
    TypeError,
    /^\[createKvCache\] capacity: expected either it or window, got none/,
  );
  throwsWith(make({ capacity: 4, window: 4 }), TypeError, /got both/);
  throwsWith(make({ capacity: 0 }), RangeError, /capacity: expected an integer from 1/);
  throwsWith(make({ capacity: '4' }), TypeError, /capacity: expected an integer, got '4'/);
  throwsWith(
    make({ capacity: 4, sinkTokens: 1 }),
    TypeError,
    /sinkTokens: expected none without window/,
  );
  throwsWith(
    make({ capacity: 4, keyDim: 65537 }),
    RangeError,
    /keyDim: expected an integer from 1 to 65536/,
  );
  throwsWith(make({ capacity: 4, dtype: 'i32' }), TypeError, /dtype: expected 'f32'/);
  throwsWith(make({ capacity: 4, windows: 3 }), TypeError, /windows: .*nearest: window/);
  throwsWith(make({ batch: 2 ** 31 - 1, capacity: 2 ** 31 - 1 }), RangeError, /out of memory/);

  const linear = createKvCache({ ...sizes, capacity: 100 });
  const ring = createKvCache({ ...sizes, window: 30, sinkTokens: 2 });
  const fails = (cache: KvCache, options: object, kind: any, pattern: RegExp, given = p): void =>
    throwsWith(() => attentionSync({ ...given, cache }, options), kind, pattern);
  fails(
    linear,
    {},
    RangeError,
    /^\[attention\] cache: expected room for 150 tokens more in slot 0, which has 0 of 100/,
  );
  fails(
    ring,
    {},
    RangeError,
    /window: expected \[left, right\] with left up to 30, what the cache keeps, got none/,
  );
  fails(ring, { window: [31, 0] }, RangeError, /window: .* got more/);
  fails(ring, { window: [30, 0], sinkTokens: 3 }, RangeError, /sinkTokens: expected up to 2/);
  fails(
    ring,
    { window: [30, 0], causal: false },
    RangeError,
    /causal: expected true beside a cache/,
  );
  fails(
    linear,
    { stateIndices: Int32Array.of(1, 1) },
    RangeError,
    /stateIndices: expected every slot once/,
  );
  fails(
    linear,
    { stateIndices: Int32Array.of(0, 2) },
    RangeError,
    /stateIndices: expected slots from 0 to 1/,
  );
  const one = part(p, 0, 0, 1);
  fails(linear, {}, RangeError, /cache: expected batch = 1/, one);
  const shorter = { ...p, k: slice(p.k, 1, 0, 9), v: slice(p.v, 1, 0, 9) };
  fails(linear, {}, RangeError, /k: expected S = T = 150 beside a cache/, shorter);
  throwsWith(
    () => linear.length(2),
    RangeError,
    /^\[KvCache.length\] slot: expected an integer from 0 to 1/,
  );
  throwsWith(() => linear.length('0' as any), TypeError, /slot: expected a number/);
  throwsWith(() => linear.reset(0.5), RangeError, /slot: expected an integer/);
  await rejectsWith(() => attention({ ...p, cache: linear }), RangeError, /cache: expected room/);
  assert.is(linear.length(0), 0);
  throwsWith(
    () => new (rankone.KvCache as any)(),
    TypeError,
    /constructor: expected createKvCache\(\)/,
  );
});

test.run();
