/** A pool of states: stateIndices names the rows that the sequences of a call own. */

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { createState } from '../../ts/index';
import { expectSame, sameForThreads } from '../support/bits.ts';
import type { Problem, ProblemSpec } from '../support/cases.ts';
import { makeProblem } from '../support/cases.ts';
import { cells, inDtype, nameOf, native } from '../support/native.ts';
import fc from '../support/property.ts';
import { Random } from '../support/random.ts';
import { slice, tokensOf } from '../support/slices.ts';
import type { Tensor32 } from '../support/tensor.ts';
import { sizeOf } from '../support/tensor.ts';
import { rejectsWith, throwsWith } from './helpers.ts';

const [SLOTS, HV, K, V] = [7, 2, 11, 37];
const dimensions = { batch: SLOTS, valueHeads: HV, keyDim: K, valueDim: V };

function normal(seed: number, ...shape: number[]): Tensor32 {
  return { data: new Random(seed).normals(sizeOf(shape)), shape };
}

const contents = normal(1, SLOTS, HV, K, V);

function makePool(): any {
  const pool = createState(dimensions);
  pool.copyFrom(contents);
  return pool;
}

/** Row `slot` of what a pool holds. */
function row(pool: { toTensor(): any }, slot: number): Tensor32 {
  return slice(pool.toTensor(), 0, slot, slot + 1);
}

/** The same sequence on a state of its own, started from the pool's row. */
function alone(name: string, inputs: object, slot: number, options: object) {
  const state = createState({ ...dimensions, batch: 1 });
  state.copyFrom(slice(contents, 0, slot, slot + 1));
  const { o, y } = native[`${name}Sync`]({ ...inputs, state }, options);
  const final = state.toTensor();
  state.dispose();
  return { o: o ?? y, final };
}

/** A pool after a call: rows of the call are as if alone, the others are as they were. */
function expectPool(
  label: string,
  pool: { toTensor(): any },
  o: Tensor32,
  slots: readonly number[],
  each: (index: number) => { o: any; final: any },
): void {
  slots.forEach((slot, i) => {
    const expected = each(i);
    expectSame(`${label}: o of ${i}`, slice(o, 0, i, i + 1), expected.o);
    expectSame(`${label}: slot ${slot}`, row(pool, slot), expected.final);
  });
  for (let slot = 0; slot < SLOTS; slot++) {
    if (slots.includes(slot)) continue;
    const before = slice(contents, 0, slot, slot + 1);
    expectSame(`${label}: untouched slot ${slot}`, row(pool, slot), before);
  }
}

function batchRow(problem: object, b: number): object {
  const rows = Object.entries(problem).map(([name, x]: [string, Tensor32]) => {
    return [name, x.shape.length === 1 ? x : slice(x, 0, b, b + 1)];
  });
  return Object.fromEntries(rows);
}

const pools = suite('stateIndices: a pool = separate states');

const shape = { H: 1, HV, K, V, seed: 61 };

function tokens(spec: ProblemSpec): Omit<Problem, 'dO'> {
  const { dO: _dO, ...inputs } = makeProblem(spec);
  return inputs;
}

for (const cell of cells) {
  pools(nameOf(cell), () => {
    for (const T of [1, 2, 40]) {
      for (const mode of ['recurrent', 'chunk', 'auto']) {
        const inputs = tokens({ ...shape, ...cell, B: 3, T });
        const slots = [5, 0, 3];
        const pool = makePool();
        const options = { mode, numHouseholder: cell.n };
        const call = { ...options, stateIndices: Int32Array.from(slots) };
        const { o } = native.recurrenceSync({ ...inputs, state: pool }, call);
        expectPool(`${mode}, T = ${T}`, pool, o, slots, (i) => {
          return alone('recurrence', batchRow(inputs, i), slots[i], options);
        });
        pool.dispose();
      }
    }
  });
}

pools('drawn slots', () => {
  const draw = fc.record({
    cell: fc.constantFrom(...cells),
    slots: fc.shuffledSubarray([0, 1, 2, 3, 4, 5, 6], { minLength: 1 }),
    T: fc.integer({ min: 1, max: 30 }),
  });
  const property = fc.property(draw, ({ cell, slots, T }) => {
    const inputs = tokens({ ...shape, ...cell, B: slots.length, T });
    const pool = makePool();
    const options = { numHouseholder: cell.n };
    const call = { ...options, stateIndices: Int32Array.from(slots) };
    const { o } = native.recurrenceSync({ ...inputs, state: pool }, call);
    expectPool(`slots ${slots}`, pool, o, slots, (i) => {
      return alone('recurrence', batchRow(inputs, i), slots[i], options);
    });
    pool.dispose();
  });
  fc.assert(property, { seed: 5000, numRuns: 60 });
});

pools('half dtypes and activations', () => {
  const inputs = tokens({ ...shape, B: 2, T: 9, gate: 'token', update: 'delta' });
  const { given } = inDtype(inputs, { dtype: 'bf16', halfGates: true });
  const gate = { aLog: normal(2, HV), dtBias: normal(3, HV) };
  const options = { gate, qkL2norm: true, betaActivation: 'sigmoid' };
  const pool = makePool();
  const stateIndices = Int32Array.of(6, 1);
  const { o } = native.recurrenceSync({ ...given, state: pool }, { ...options, stateIndices });
  for (const i of [0, 1]) {
    const own = inDtype(batchRow(inputs, i) as Problem, { dtype: 'bf16', halfGates: true }).given;
    const expected = alone('recurrence', own, stateIndices[i], options);
    const half = { ...o, data: o.data.subarray(i * 9 * HV * V, (i + 1) * 9 * HV * V) };
    expectSame(`o of ${i}`, { ...half, shape: [1, 9, HV, V] }, expected.o);
    expectSame(`slot ${stateIndices[i]}`, row(pool, stateIndices[i]), expected.final);
  }
});

pools('packed sequences, one of them empty', () => {
  const bounds = [0, 6, 6, 20, 21];
  const slots = [4, 6, 1, 2];
  for (const cell of cells.filter(({ n }) => n < 3)) {
    const inputs = tokens({ ...shape, ...cell, B: 1, T: 21 });
    const options = { numHouseholder: cell.n };
    const packed = { cuSeqlens: Int32Array.from(bounds), stateIndices: Int32Array.from(slots) };
    const pool = makePool();
    const { o } = native.recurrenceSync({ ...inputs, state: pool }, { ...options, ...packed });
    slots.forEach((slot, i) => {
      const [from, to] = [bounds[i], bounds[i + 1]];
      const expected = alone('recurrence', tokensOf(inputs, from, to, cell.n), slot, options);
      expectSame(`${nameOf(cell)}: o of ${i}`, slice(o, 1, from, to), expected.o);
      expectSame(`${nameOf(cell)}: slot ${slot}`, row(pool, slot), expected.final);
    });
    for (const slot of [0, 3, 5]) {
      expectSame(`untouched ${slot}`, row(pool, slot), slice(contents, 0, slot, slot + 1));
    }
    pool.dispose();
  }
});

pools('hgrn2', () => {
  const heads = { ...shape, H: HV, gate: 'channel', update: 'additive', gateScale: 1 } as const;
  const { k: _k, ...inputs } = tokens({ ...heads, B: 2, T: 8 });
  const slots = [3, 0];
  const pool = makePool();
  const call = { stateIndices: Int32Array.from(slots) };
  const { o } = native.hgrn2Sync({ ...inputs, state: pool }, call);
  expectPool('hgrn2', pool, o, slots, (i) => alone('hgrn2', batchRow(inputs, i), slots[i], {}));
});

pools('mamba2', () => {
  const inputs = {
    x: normal(11, 2, 8, HV, V),
    dt: normal(12, 2, 8, HV),
    A: { data: Float32Array.of(-1, -0.3), shape: [HV] },
    B: normal(13, 2, 8, 1, K),
    C: normal(14, 2, 8, 1, K),
    D: normal(15, HV),
  };
  const options = { dtSoftplus: true };
  const slots = [6, 2];
  const pool = makePool();
  const call = { ...options, stateIndices: Int32Array.from(slots) };
  const { y } = native.mamba2Sync({ ...inputs, state: pool }, call);
  expectPool('mamba2', pool, y, slots, (i) => {
    return alone('mamba2', batchRow(inputs, i), slots[i], options);
  });
});

pools('z of a normalizer', () => {
  const inputs = tokens({
    ...shape,
    B: 2,
    T: 5,
    gate: 'none',
    update: 'additive',
    normalize: true,
  });
  const sums = normal(21, SLOTS, 1, K);
  sums.data.set(sums.data.map(Math.abs));
  const pool: any = createState({ ...dimensions, keyHeads: 1 } as any);
  pool.copyFrom(contents, sums);
  const slots = [5, 2];
  const call = { normalize: true, stateIndices: Int32Array.from(slots) };
  const { o } = native.recurrenceSync({ ...inputs, state: pool }, call);
  slots.forEach((slot, i) => {
    const own = {
      ...batchRow(inputs, i),
      initialState: slice(contents, 0, slot, slot + 1),
      initialZ: slice(sums, 0, slot, slot + 1),
    };
    const expected = native.recurrenceSync(own, { normalize: true, outputFinalState: true });
    expectSame(`o of ${i}`, slice(o, 0, i, i + 1), expected.o);
    expectSame(`slot ${slot}`, row(pool, slot), expected.finalState);
    expectSame(`z of ${slot}`, slice(pool.zToTensor(), 0, slot, slot + 1), expected.finalZ);
  });
  for (const slot of [0, 1, 3, 4, 6]) {
    expectSame(
      `z of ${slot}`,
      slice(pool.zToTensor(), 0, slot, slot + 1),
      slice(sums, 0, slot, slot + 1),
    );
  }
});

pools('decoding, the slots of each step others', () => {
  const pool = makePool();
  const single = [0, 1, 2, 3, 4, 5, 6].map((slot) => {
    const state = createState({ ...dimensions, batch: 1 });
    state.copyFrom(slice(contents, 0, slot, slot + 1));
    return state;
  });
  const random = new Random(71);
  for (let step = 0; step < 30; step++) {
    const slots = [0, 1, 2, 3, 4, 5, 6].filter(() => random.uniform() < 0.5);
    if (slots.length === 0) continue;
    const spec = { ...shape, seed: 100 + step, gate: 'token', update: 'delta' } as const;
    const inputs = tokens({ ...spec, B: slots.length, T: 1 });
    const call = { stateIndices: Int32Array.from(slots) };
    native.gatedDeltaNetSync({ ...inputs, state: pool }, call);
    slots.forEach((slot, i) => {
      native.gatedDeltaNetSync({ ...batchRow(inputs, i), state: single[slot] });
    });
  }
  for (const [slot, state] of single.entries())
    expectSame(`slot ${slot}`, row(pool, slot), state.toTensor());
});

pools('any number of threads', () => {
  const inputs = tokens({ ...shape, B: 3, T: 20, gate: 'channel', update: 'delta' });
  sameForThreads('pool', () => {
    const pool = makePool();
    const call = { stateIndices: Int32Array.of(6, 2, 4) };
    const { o } = native.recurrenceSync({ ...inputs, state: pool }, call);
    return { o, state: pool.toTensor() };
  });
});

pools('asynchronous, and the indices changed after the call', async () => {
  const inputs = tokens({ ...shape, B: 3, T: 20, gate: 'token', update: 'delta' });
  const [pool, expected] = [makePool(), makePool()];
  const stateIndices = Int32Array.of(6, 2, 4);
  const { o } = native.recurrenceSync({ ...inputs, state: expected }, { stateIndices });
  const pending = native.recurrence({ ...inputs, state: pool }, { stateIndices });
  stateIndices.fill(1);
  expectSame('o', (await pending).o, o);
  expectSame('pool', pool.toTensor(), expected.toTensor());
});

pools.run();

const errors = suite('stateIndices: bad calls');

const inputs = tokens({ ...shape, B: 3, T: 5, gate: 'token', update: 'delta' });

const bad: [string, unknown, any, RegExp][] = [
  ['twice the same', Int32Array.of(2, 5, 2), RangeError, /stateIndices: .*2/],
  ['too large', Int32Array.of(0, 7, 1), RangeError, /stateIndices: .*7/],
  ['much too large', Int32Array.of(0, 2 ** 31 - 1, 1), RangeError, /stateIndices: /],
  ['negative', Int32Array.of(0, -1, 1), RangeError, /stateIndices: .*-1/],
  ['too few', Int32Array.of(0, 1), RangeError, /stateIndices: /],
  ['too many', Int32Array.of(0, 1, 2, 3), RangeError, /stateIndices: /],
  ['none', new Int32Array(0), RangeError, /stateIndices: /],
  ['an array', [0, 1, 2], TypeError, /stateIndices: .*Int32Array.*got an array/],
  ['64 bits', BigInt64Array.of(0n, 1n, 2n), TypeError, /stateIndices: .*BigInt64Array/],
  ['floats', Float32Array.of(0, 1, 2), TypeError, /stateIndices: .*Float32Array/],
  ['null', null, TypeError, /stateIndices: /],
  ['a tensor', { data: Int32Array.of(0, 1, 2), shape: [3] }, TypeError, /stateIndices: /],
];

for (const [name, stateIndices, kind, pattern] of bad) {
  errors(name, async () => {
    const pool = makePool();
    const call = { ...inputs, state: pool };
    const named = new RegExp(`^\\[recurrence\\] ${pattern.source}`);
    throwsWith(() => native.recurrenceSync(call, { stateIndices }), kind, named);
    await rejectsWith(() => native.recurrence(call, { stateIndices }), kind, named);
    expectSame('pool', pool.toTensor(), contents);
    // Neither busy nor poisoned.
    native.recurrenceSync(call, { stateIndices: Int32Array.of(0, 1, 2) });
    pool.dispose();
  });
}

errors('detached', () => {
  const stateIndices = Int32Array.of(0, 1, 2);
  structuredClone(stateIndices, { transfer: [stateIndices.buffer as ArrayBuffer] });
  const pool = makePool();
  throwsWith(
    () => native.recurrenceSync({ ...inputs, state: pool }, { stateIndices }),
    RangeError,
    /stateIndices: /,
  );
  expectSame('pool', pool.toTensor(), contents);
});

errors('without a state', () => {
  const stateIndices = Int32Array.of(0, 1, 2);
  const pattern = /^\[recurrence\] stateIndices: .*state/;
  throwsWith(() => native.recurrenceSync(inputs, { stateIndices }), TypeError, pattern);
  const initialState = normal(5, 3, HV, K, V);
  throwsWith(
    () => native.recurrenceSync({ ...inputs, initialState }, { stateIndices }),
    TypeError,
    pattern,
  );
});

errors('in a backward', () => {
  const dO = normal(6, 3, 5, HV, V);
  throwsWith(
    () =>
      native.recurrenceBackwardSync({ ...inputs, dO }, { stateIndices: Int32Array.of(0, 1, 2) }),
    TypeError,
    /^\[recurrenceBackward\] stateIndices: /,
  );
});

errors('a pool smaller than the call, or of another shape', () => {
  const stateIndices = Int32Array.of(0, 1, 2);
  for (const change of [{ batch: 2 }, { keyDim: K + 1 }, { valueHeads: 1 }]) {
    const pool = createState({ ...dimensions, ...change });
    throwsWith(
      () => native.recurrenceSync({ ...inputs, state: pool }, { stateIndices }),
      RangeError,
      /^\[recurrence\] (state|stateIndices): /,
    );
    assert.ok(pool.toTensor().data.every((x) => x === 0));
  }
});

errors('a pool without indices is too large', () => {
  const pattern = /^\[recurrence\] state: expected shape .*\[3,2,11,37\], got \[7,2,11,37\]/;
  throwsWith(() => native.recurrenceSync({ ...inputs, state: makePool() }), RangeError, pattern);
});

errors('an error in another argument leaves the pool as it was', () => {
  const pool = makePool();
  const call = { ...inputs, beta: normal(7, 1), state: pool };
  const options = { stateIndices: Int32Array.of(0, 1, 2) };
  throwsWith(() => native.recurrenceSync(call, options), RangeError, /beta: /);
  expectSame('pool', pool.toTensor(), contents);
});

errors.run();
