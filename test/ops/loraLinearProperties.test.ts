/** What must hold of the fused LoRA product whatever the reference says, on drawn problems. */

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { expectSame } from '../support/bits.ts';
import { expectWithin } from '../support/compare.ts';
import { decode, halfDtypes } from '../support/half.ts';
import type { AdapterSketch, LoraCase, MadeCase } from '../support/lora.ts';
import { makeAdapter, makeCase, routingKinds, weightFormats } from '../support/lora.ts';
import { checkCase, expectTensor } from '../support/loraChecks.ts';
import type { AnyTensor } from '../support/native.ts';
import { native } from '../support/native.ts';
import fc from '../support/property.ts';
import { Random } from '../support/random.ts';

const RUNS = 60;
const test = suite('loraLinear: properties');

const sketch: fc.Arbitrary<AdapterSketch> = fc
  .record({
    rank: fc.integer({ min: 1, max: 40 }),
    width: fc.integer({ min: 1, max: 40 }),
    mid: fc.constantFrom(undefined, undefined, 'matrix' as const, 'diagonal' as const),
    act: fc.constantFrom(undefined, undefined, 'relu' as const, 'gelu' as const, 'silu' as const, {
      topK: 2,
    }),
    rankBias: fc.boolean(),
    outBias: fc.boolean(),
    aList: fc.boolean(),
    bList: fc.boolean(),
    share: fc.double({ min: 0, max: 1, noNaN: true }),
    scale: fc.constantFrom(undefined, 0.5, -3),
    dtype: fc.constantFrom('f32' as const, ...halfDtypes),
  })
  .map(({ share, act, ...rest }) => {
    const used = 1 + Math.floor(share * (rest.rank - 1));
    const k = typeof act === 'object' ? { topK: Math.min(act.topK, used) } : act;
    return { ...rest, act: k, ...(share < 0.5 && { used }) };
  });

const problem: fc.Arbitrary<LoraCase> = fc.record({
  rows: fc.integer({ min: 0, max: 70 }),
  in: fc.integer({ min: 1, max: 150 }),
  out: fc.integer({ min: 1, max: 150 }),
  dtype: fc.constantFrom('f32' as const, ...halfDtypes),
  base: fc.constantFrom(...weightFormats, null),
  adapters: fc.array(sketch, { minLength: 1, maxLength: 4 }),
  routing: fc.constantFrom(...routingKinds),
  bias: fc.boolean(),
  seed: fc.nat(10_000),
});

/** Runs with a seed of its own for each property. */
function holds(seed: number, body: (spec: LoraCase, made: MadeCase) => void): void {
  fc.assert(
    fc.property(problem, (spec) => {
      const made = makeCase(spec);
      try {
        body(spec, made);
      } finally {
        made.dispose();
      }
    }),
    { seed, numRuns: RUNS, endOnFailure: false },
  );
}

test('drawn problems agree with the reference', () => {
  fc.assert(
    fc.property(problem, (spec) => checkCase(spec, {}, { cancels: true })),
    { seed: 11, numRuns: RUNS },
  );
});

test('drawn problems agree with the reference, with dropout and skip', () => {
  const p = fc.double({ min: 0, max: 0.9, noNaN: true });
  const chance = fc.record({ p, seed: fc.nat(2 ** 31) });
  fc.assert(
    fc.property(problem, chance, chance, (spec, dropout, skip) => {
      checkCase(spec, { dropout, skip }, { cancels: true });
    }),
    { seed: 12, numRuns: RUNS },
  );
});

const forwardOf = (inputs: object): AnyTensor => native.loraLinearSync(inputs).y;

/** The values of x alone, of a base alone, ... */
function difference(a: AnyTensor, b: AnyTensor): Float64Array {
  const [x, y] = [decode(a).data, decode(b).data];
  return Float64Array.from(x, (value, i) => value - y[i]);
}

test('an adapter of zeros is the base, whatever else it has', () => {
  holds(13, (spec, made) => {
    if (spec.base === null) return;
    const { x, base, bias } = made.inputs;
    const random = new Random(spec.seed!);
    const wanted = { ...spec.adapters![0], outBias: false, bList: false, baseScale: false };
    const [given] = makeAdapter(wanted, spec.in, spec.out, random);
    const { b } = given as { b: AnyTensor };
    const zero = { ...b, data: new (b.data.constructor as any)(b.data.length) };
    const id = (made.inputs.bank as any).load({ ...given, b: zero });
    const routing = { kind: 'one', id };
    const y = forwardOf({ ...made.inputs, routing });
    const alone = forwardOf({ x, base, ...(bias && { bias }) });
    // Zero has two signs.
    assert.ok(difference(y, alone).every((d) => d === 0));
    expectSame('id -1', forwardOf({ ...made.inputs, routing: { kind: 'one', id: -1 } }), alone);
  });
});

test('twice the scale is twice the gates, bit for bit, and twice what is added', () => {
  holds(14, (spec, made) => {
    if (spec.routing !== 'topK') return;
    const { bank, routing } = made.inputs;
    const before = forwardOf(made.inputs);
    const gates = { ...routing.gates, data: routing.gates.data.map((g: number) => 2 * g) };
    const doubledGates = forwardOf({ ...made.inputs, routing: { ...routing, gates } });
    const random = new Random(spec.seed!);
    const [given] = makeAdapter(spec.adapters![0], spec.in, spec.out, random);
    const { scale = 1 } = given as { scale?: number };
    const ids = new Int32Array(routing.ids.length);
    const one = bank.load(given);
    const two = bank.load({ ...given, scale: 2 * scale });
    const call = (id: number, g: AnyTensor) =>
      forwardOf({ ...made.inputs, routing: { ...routing, ids: ids.fill(id), gates: g } });
    expectSame('scale and gates', call(two, routing.gates), call(one, gates));
    // y(2 g) - y(g) = y(g) - y(0).
    const none = { ...gates, data: gates.data.map(() => 0) };
    const zero = forwardOf({ ...made.inputs, routing: { ...routing, gates: none } });
    const size = Math.hypot(...decode(doubledGates).data, ...decode(zero).data) + 1e-30;
    const [up, down] = [difference(doubledGates, before), difference(before, zero)];
    const off = Math.hypot(...up.map((value, i) => value - down[i])) / size;
    const limit = { f32: 2e-6, bf16: 1e-2, f16: 1.5e-3 }[spec.dtype!];
    assert.ok(off <= limit, `not linear in the gates: ${off}`);
  });
});

test('the order of the slots of a row does not matter but for rounding', () => {
  holds(15, (spec, made) => {
    if (spec.routing !== 'topK') return;
    const { routing } = made.inputs;
    const swap = <T extends Int32Array | Float32Array>(x: T): T => x.map((_, i) => x[i ^ 1]) as T;
    const swapped = {
      ...routing,
      ids: swap(routing.ids),
      gates: { ...routing.gates, data: swap(routing.gates.data) },
    };
    const limit = { f32: 2e-6, bf16: 5e-3, f16: 1e-3 }[spec.dtype!];
    const y = forwardOf({ ...made.inputs, routing: swapped });
    expectTensor('swapped', y, decode(forwardOf(made.inputs)), limit);
  });
});

test('rows in another order give the rows in that order, bit for bit', () => {
  holds(16, (spec, made) => {
    if (spec.routing !== 'tokens' || spec.rows === 0) return;
    const { x, routing } = made.inputs;
    const order = Array.from({ length: spec.rows }, (_, i) => (i * 37 + 11) % spec.rows);
    const take = (t: AnyTensor): AnyTensor => {
      const width = t.shape[1];
      const data = t.data.slice();
      order.forEach((from, to) => {
        data.set(t.data.subarray(from * width, (from + 1) * width) as any, to * width);
      });
      return { ...t, data };
    };
    const ids = Int32Array.from(order, (row) => routing.ids[row]);
    const moved = forwardOf({ ...made.inputs, x: take(x), routing: { ...routing, ids } });
    expectSame('rows', moved, take(forwardOf(made.inputs)));
  });
});

test('merged into its base, an adapter does the same; unmerged, nothing', () => {
  holds(17, (spec, made) => {
    if (!made.inputs.base || spec.rows === 0) return;
    const random = new Random(spec.seed!);
    const wanted = { ...spec.adapters![0], act: undefined, rankBias: false, outBias: false };
    const sketch = { ...wanted, baseScale: spec.seed! % 2 === 0 };
    const [given] = makeAdapter(sketch, spec.in, spec.out, random);
    const { bank, base, x, bias } = made.inputs;
    const id = bank.load(given);
    const fused = forwardOf({ ...made.inputs, routing: { kind: 'one', id } });
    const merged: any = (native.mergeAdapterSync as any)(base, bank, id, { format: 'f32' });
    const limit = { f32: 5e-6, bf16: 5e-3, f16: 1e-3 }[spec.dtype!];
    const y = forwardOf({ x, base: merged, ...(bias && { bias }) });
    expectTensor('merged', y, decode(fused), limit);
    const own: any = (native.mergeAdapterSync as any)(base, bank, id);
    assert.is(own.format, spec.base, 'the format stays');
    const once: any = (native.packWeightSync as any)(merged.toTensor(), { format: spec.base });
    assert.equal(own.toTensor(), once.toTensor(), 'rounded once, from what the f32 one holds');
    const back: any = (native.unmergeAdapterSync as any)(merged, bank, id, { format: 'f32' });
    const [was, is] = [base.toTensor(), back.toTensor()];
    // What d nearly cancels comes back with the rounding of what was added to it.
    if (!sketch.baseScale) {
      const size = Math.hypot(...was.data, ...merged.toTensor().data) / Math.hypot(...was.data);
      const row = { limit: 1e-6 * size, layout: { kept: [] } };
      expectWithin('unmerged', is.data, was.data, was.shape, row);
    }
    for (const weight of [merged, own, once, back]) weight.dispose();
  });
});

test('what cannot be merged is an error that says so', () => {
  const made = makeCase({ rows: 1, in: 9, out: 8, adapters: [{ rank: 3 }] });
  const { bank, base } = made.inputs;
  for (const piece of [{ act: 'relu' as const }, { rankBias: true }, { outBias: true }]) {
    const [given] = makeAdapter({ rank: 3, ...piece }, 9, 8, new Random(1));
    const id = bank.load(given);
    const [name] = Object.keys(piece);
    for (const merge of ['mergeAdapter', 'unmergeAdapter'])
      assert.throws(
        () => (native[`${merge}Sync`] as any)(base, bank, id),
        new RegExp(`^\\[${merge}\\] .*${name}`),
      );
  }
  made.dispose();
});

test.run();
