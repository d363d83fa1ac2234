/** The scans beyond the grid against their float64 references, in every form of a call. */
import path from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { expectSame } from '../support/bits.ts';
import { expectWithin } from '../support/compare.ts';
import type { FloatDtype } from '../support/half.ts';
import { decode, encode, halfDtypes, unwritten } from '../support/half.ts';
import { call } from '../support/layers.ts';
import type { AnyTensor } from '../support/native.ts';
import { native, sensitivity } from '../support/native.ts';
import fc from '../support/property.ts';
import { Random } from '../support/random.ts';
import { readSafetensors } from '../support/safetensors.ts';
import type { Scan, ScanProblem, ScanShape } from '../support/scans.ts';
import { drawScan, scanDtype, scanRow, scans } from '../support/scans.ts';
import { join, slice } from '../support/slices.ts';
import type { Tensor32, TensorLike } from '../support/tensor.ts';
import { rejectsWith, throwsWith } from './helpers.ts';

type Named = Record<string, AnyTensor>;
type References = Record<string, TensorLike | undefined>;

const test = suite('scans');

interface CheckOptions {
  dtype?: FloatDtype;
  halfGates?: boolean;
  options?: { cuSeqlens?: Int32Array; scale?: number };
  /** Results may cancel, so that their condition decides what can be asked of them. */
  cancels?: boolean;
  /** One number of threads and the caller's alone. */
  plainly?: boolean;
}

function encoded(scan: Scan, tensors: object, { dtype = 'f32', halfGates = false }: CheckOptions) {
  const all = Object.entries(tensors) as [string, Tensor32][];
  return Object.fromEntries(
    all.map(([name, x]) => [name, encode(scanDtype(scan, name, dtype, halfGates), x)]),
  ) as Named;
}
const decoded = (tensors: Named) =>
  Object.fromEntries(Object.entries(tensors).map(([name, x]) => [name, decode(x)]));

/** Forward and backward of one problem against the reference, in results of their own and in memory of the caller's. */
async function check(
  label: string,
  scan: Scan,
  { inputs, gradients }: ScanProblem,
  checks: CheckOptions = {},
): Promise<void> {
  const { dtype = 'f32', options = {}, plainly, cancels } = checks;
  const given = encoded(scan, inputs, checks);
  const all = { ...given, ...encoded(scan, gradients, checks) };
  const seen = decoded(all);
  const T = gradients.dO.shape[1];
  const run = async (name: string, tensors: Named, call_: object) =>
    (plainly ? native[`${name}Sync`](tensors, call_) : await call(name, tensors, call_)) as Named;
  let noise: References | undefined;
  const both = (tensors: object) =>
    ({ ...scan.forward(tensors, options), ...scan.backward(tensors, options) }) as any;
  const hold = (actual: Named, expected: References): void => {
    for (const [name, x] of Object.entries(expected)) {
      if (!x || (name === 'dInitialState' && !inputs.initialState)) continue;
      const where = `${scan.name} ${label}: ${name}`;
      assert.equal(actual[name]?.shape, [...x.shape], where);
      assert.is(actual[name].dtype ?? 'f32', name === 'o' ? dtype : 'f32', where);
      const row = scanRow(scan, name, T, name === 'o' ? dtype : 'f32');
      const starts = row.layout.token === undefined ? {} : { cuSeqlens: options.cuSeqlens };
      const { data } = decode(actual[name]);
      try {
        expectWithin(where, data, x.data, x.shape, row, starts);
      } catch (error) {
        if (!cancels) throw error;
        noise ??= sensitivity(seen, both);
        const allowed = { ...starts, noise: noise[name]!.data };
        expectWithin(where, data, x.data, x.shape, row, allowed);
      }
    }
  };
  const asked = { ...options, outputFinalState: true };
  const forward = await run(scan.name, given, asked);
  hold(forward, scan.forward(seen, options));
  const backward = await run(`${scan.name}Backward`, all, options);
  hold(backward, scan.backward(seen, options));
  intoMemory(scan.name, given, asked, forward);
  intoMemory(`${scan.name}Backward`, all, options, backward);
  if (dtype !== 'f32') rounded(scan, all, options, backward);
}

function intoMemory(name: string, inputs: Named, options: object, expected: Named): void {
  const out: Named = {};
  for (const [key, { shape, dtype }] of Object.entries(expected)) {
    out[key] = unwritten((dtype ?? 'f32') as FloatDtype, [...shape]);
  }
  native[`${name}Sync`](inputs, { ...options, out });
  for (const [key, x] of Object.entries(expected)) expectSame(`${name}: out.${key}`, out[key], x);
}

/** Gradients in their arguments' dtypes are those in float32, rounded once. */
function rounded(scan: Scan, inputs: Named, options: object, full: Named): void {
  const call_ = { ...options, gradDtype: 'input' };
  const results = native[`${scan.name}BackwardSync`](inputs, call_);
  for (const [name, x] of Object.entries(full)) {
    const argument = name === 'dInitialState' ? 'initialState' : name.slice(1);
    const dtype = (inputs[argument].dtype ?? 'f32') as FloatDtype;
    expectSame(`${scan.name}: ${name} in ${dtype}`, results[name], encode(dtype, x));
  }
}

const odd = fc.oneof(fc.integer({ min: 1, max: 40 }), fc.constantFrom(16, 33, 64, 65, 130));
const shapes = fc.record({
  B: fc.integer({ min: 1, max: 2 }),
  T: fc.oneof(fc.integer({ min: 1, max: 12 }), fc.constantFrom(16, 17, 33, 65)),
  H: fc.integer({ min: 1, max: 3 }),
  K: odd,
  V: odd,
  seed: fc.integer({ min: 1, max: 1 << 30 }),
  gateScale: fc.constantFrom(1 / 64, 1 / 4, 8),
  states: fc.boolean(),
});

for (const scan of scans) {
  const plain: ScanShape = { B: 2, T: 21, H: 2, K: 20, V: 37 };

  test(`${scan.name}: drawn shapes`, async () => {
    await fc.assert(
      fc.asyncProperty(shapes, async ({ seed, gateScale, states, ...shape }) => {
        const problem = drawScan(scan, shape, new Random(seed), { gateScale, states });
        await check(JSON.stringify(shape), scan, problem, { plainly: true, cancels: true });
      }),
      { numRuns: 12, seed: 5 },
    );
  });

  test(`${scan.name}: any number of threads, asynchronous`, async () => {
    for (const shape of [plain, { B: 1, T: 70, H: 1, K: 17, V: 100 }]) {
      await check(JSON.stringify(shape), scan, drawScan(scan, shape, new Random(6)));
    }
  });

  for (const dtype of halfDtypes) {
    test(`${scan.name}: ${dtype}`, async () => {
      for (const halfGates of [false, true]) {
        const problem = drawScan(scan, plain, new Random(7));
        await check(dtype, scan, problem, { dtype, halfGates, plainly: true });
      }
    });
  }

  test(`${scan.name}: packed sequences, each with the bits that it has alone`, async () => {
    const cuSeqlens = Int32Array.of(0, 9, 9, 10, 40);
    const shape = { ...plain, B: 1, T: 40 };
    const problem = drawScan(scan, shape, new Random(8), { N: 4 });
    await check('packed', scan, problem, { options: { cuSeqlens } });
    const results = bothWays(scan, problem, { cuSeqlens });
    for (let n = 0; n < 4; n++) {
      const [first, end] = [cuSeqlens[n], cuSeqlens[n + 1]];
      const part = (x: Tensor32, name: string) =>
        scan.fixed.includes(name)
          ? x
          : /State$/.test(name)
            ? slice(x, 0, n, n + 1)
            : slice(x, 1, first, end);
      const alone = bothWays(scan, mapProblem(problem, part));
      for (const [name, x] of Object.entries(alone)) {
        if (scan.fixed.includes(name.slice(1))) continue;
        expectSame(`${scan.name} ${n}: ${name}`, part(results[name] as Tensor32, name), x);
      }
    }
  });

  test(`${scan.name}: split anywhere, in a state or not, the same bits`, () => {
    const { inputs } = drawScan(scan, plain, new Random(9));
    const { initialState, ...rest } = inputs;
    const whole = native[`${scan.name}Sync`](inputs, { outputFinalState: true });
    const state: any = native.createState({ batch: plain.B, ...scan.held(plain) });
    state.copyFrom({ data: initialState.data, shape: state.shape });
    const outputs: Tensor32[] = [];
    let carried: Tensor32 = initialState;
    for (const [first, end] of [
      [0, 1],
      [1, 2],
      [2, 19],
      [19, 21],
    ]) {
      const part = Object.fromEntries(
        Object.entries(rest).map(([name, x]) => [
          name,
          scan.fixed.includes(name) ? x : slice(x, 1, first, end),
        ]),
      );
      const { o } = native[`${scan.name}Sync`]({ ...part, state });
      outputs.push(o);
      const given = { ...part, initialState: carried };
      const { o: again, finalState } = native[`${scan.name}Sync`](given, {
        outputFinalState: true,
      });
      expectSame('with a state or without', again, o);
      carried = finalState;
    }
    expectSame('o', join(outputs, 1), whole.o);
    expectSame('finalState', carried, whole.finalState);
    assert.equal(state.toTensor().data, whole.finalState.data);
    state.dispose();
  });

  test(`${scan.name}: token by token through whole columns, the caller's states left alone`, async () => {
    const shape = { B: 2, T: 3, H: 2, K: 20, V: 128 };
    const problem = drawScan(scan, shape, new Random(14));
    const { initialState, ...rest } = problem.inputs;
    const gate = rest[scan.either[0]].data;
    for (let i = 0; i < gate.length; i += 5) gate[i] = scan.name === 'rwkv7' ? 4 : -300;
    await check('whole columns', scan, problem, { plainly: true });
    const whole = native[`${scan.name}Sync`](problem.inputs, { outputFinalState: true });
    const before = initialState.data.slice();
    const outputs: Tensor32[] = [];
    let carried: Tensor32 = initialState;
    for (let t = 0; t < shape.T; t++) {
      const part = Object.fromEntries(
        Object.entries(rest).map(([name, x]) => [
          name,
          scan.fixed.includes(name) ? x : slice(x, 1, t, t + 1),
        ]),
      );
      const given = { ...part, initialState: carried };
      const { o, finalState } = native[`${scan.name}Sync`](given, { outputFinalState: true });
      outputs.push(o);
      if (t === 0) assert.equal(initialState.data, before);
      carried = finalState;
    }
    expectSame('o', join(outputs, 1), whole.o);
    expectSame('finalState', carried, whole.finalState);
  });

  test(`${scan.name}: rows of a pool`, () => {
    const { inputs } = drawScan(scan, plain, new Random(10));
    const { initialState, ...rest } = inputs;
    const { o, finalState } = native[`${scan.name}Sync`](inputs, { outputFinalState: true });
    const size = initialState.data.length / plain.B;
    const pool: any = native.createState({ batch: 5, ...scan.held(plain) });
    const filled = new Float32Array(5 * size).fill(3);
    const stateIndices = Int32Array.of(4, 1);
    stateIndices.forEach((row, n) => {
      filled.set(initialState.data.subarray(n * size, (n + 1) * size), row * size);
    });
    pool.copyFrom({ data: filled, shape: pool.shape });
    expectSame('o', native[`${scan.name}Sync`]({ ...rest, state: pool }, { stateIndices }).o, o);
    stateIndices.forEach((row, n) => {
      filled.set(finalState.data.subarray(n * size, (n + 1) * size), row * size);
    });
    assert.equal(pool.toTensor().data, filled);
    for (const [indices, message] of [
      [Int32Array.of(0, 0), /stateIndices: expected every slot once, got 0 twice/],
      [Int32Array.of(0, 5), /stateIndices: expected slots from 0 to 4, got 5 at 1/],
    ] as const) {
      const wrong = () =>
        native[`${scan.name}Sync`]({ ...rest, state: pool }, { stateIndices: indices });
      throwsWith(wrong, RangeError, message);
    }
    assert.equal(pool.toTensor().data, filled, 'nothing has been written');
    pool.dispose();
  });

  test(`${scan.name}: nothing to do`, async () => {
    for (const shape of [
      { ...plain, T: 0 },
      { ...plain, B: 0 },
    ]) {
      const problem = drawScan(scan, shape, new Random(11));
      const { finalState } = native[`${scan.name}Sync`](problem.inputs, {
        outputFinalState: true,
      });
      assert.equal(finalState.data, problem.inputs.initialState.data);
      const results = bothWays(scan, problem);
      assert.equal(results.dInitialState.data, problem.gradients.dFinalState.data);
    }
  });

  test(`${scan.name}: bad input`, async () => {
    const { inputs, gradients } = drawScan(scan, plain, new Random(12));
    const name = scan.name;
    const [lead] = Object.keys(inputs);
    const gate = scan.either[0];
    const expected = new RegExp(`^\\[${name}\\] `);
    const run = (edit: object, options = {}) =>
      native[`${name}Sync`]({ ...inputs, ...edit }, options);
    throwsWith(() => run({ [gate]: undefined }), TypeError, new RegExp(`${gate}: expected`));
    throwsWith(() => run({ other: inputs[gate] }), TypeError, expected);
    throwsWith(() => run({}, { mode: 'auto' }), TypeError, expected);
    const short = slice(inputs[gate], 1, 0, 3);
    throwsWith(() => run({ [gate]: short }), RangeError, new RegExp(`${gate}: expected`));
    const flat = { data: inputs[lead].data, shape: [inputs[lead].data.length] };
    throwsWith(() => run({ [lead]: flat }), RangeError, new RegExp(`${lead}: expected shape`));
    const half = encode('f16', inputs[gate]);
    throwsWith(() => run({ [gate]: half }), TypeError, new RegExp(`${gate}: expected dtype`));
    const state: any = native.createState({ batch: 3, ...scan.held(plain) });
    throwsWith(() => run({ state }), TypeError, /initialState: expected none beside state/);
    throwsWith(() => run({ initialState: undefined, state }), RangeError, /state: expected shape/);
    state.dispose();
    const bare = { initialState: undefined };
    throwsWith(() => run({ ...bare, state }), Error, /disposed/);
    throwsWith(() => run({}, { stateIndices: Int32Array.of(0, 1) }), TypeError, /stateIndices/);
    const cuSeqlens = Int32Array.of(0, 21);
    throwsWith(() => run({}, { cuSeqlens }), RangeError, /cuSeqlens: expected B = 1/);
    const backward = { ...inputs, ...gradients, dO: inputs[lead] };
    if (gradients.dO.shape.join() !== inputs[lead].shape.join()) {
      const wrong = () => native[`${name}BackwardSync`](backward);
      throwsWith(wrong, RangeError, /dO: expected shape/);
    }
    await rejectsWith(() => native[name]({ ...inputs, [gate]: short }), RangeError, expected);
    const aborter = new AbortController();
    aborter.abort(new Error('enough'));
    await rejectsWith(() => native[name](inputs, { signal: aborter.signal }), Error, /enough/);
  });

  if (scan.name !== 'rwkv7') {
    test(`${scan.name}: gates that reset, and what is not finite`, async () => {
      const problem = drawScan(scan, plain, new Random(13));
      const { g, initialState } = problem.inputs;
      const size = g.data.length / plain.B;
      const row = size / plain.T;
      for (let i = 0; i < row; i++) g.data[3 * row + i] = i % 2 ? -Infinity : -300;
      g.data[7 * row + 1] = -103.9;
      g.data[5] = 0.25;
      await check('resets', scan, problem, { plainly: true });
      // What the first sequence held before it was reset does not live on; the second one never meets it.
      const clean = native[`${scan.name}Sync`](problem.inputs, { outputFinalState: true });
      const dirty = { ...initialState, data: initialState.data.slice() };
      dirty.data[0] = Infinity;
      dirty.data[1] = NaN;
      const given = { ...problem.inputs, initialState: dirty };
      const after = native[`${scan.name}Sync`](given, { outputFinalState: true });
      const half = (x: AnyTensor): Tensor32 => slice(x as Tensor32, 0, 1, 2);
      expectSame('the other sequence', half(after.o), half(clean.o));
      // Here a has read it before it was reset.
      if (scan.name !== 'dplr') expectSame('finalState', after.finalState, clean.finalState);
    });
  }
}

/** All results of a problem. */
function bothWays(scan: Scan, { inputs, gradients }: ScanProblem, options: object = {}): Named {
  return {
    ...native[`${scan.name}Sync`](inputs, { ...options, outputFinalState: true }),
    ...native[`${scan.name}BackwardSync`]({ ...inputs, ...gradients }, options),
  };
}

function mapProblem(
  { inputs, gradients }: ScanProblem,
  f: (x: Tensor32, name: string) => Tensor32,
): ScanProblem {
  const each = (tensors: Record<string, Tensor32>) =>
    Object.fromEntries(Object.entries(tensors).map(([name, x]) => [name, f(x, name)]));
  return { inputs: each(inputs), gradients: each(gradients) };
}

const STORED: Record<string, string> = { h0: 'initialState', do: 'dO', dht: 'dFinalState' };
const EXPECTED: Record<string, string> = { ht: 'finalState', dh0: 'dInitialState' };

for (const file of [
  'dplr_B1_T70_H1_K64_V32',
  'dplr_B2_T37_H3_K16_V24',
  'hgrn_B1_T70_D64',
  'hgrn_B2_T37_D16',
]) {
  test(`golden: ${file}`, async () => {
    const folder = path.join(__dirname, '../fixtures/golden/scans');
    const { tensors, metadata } = readSafetensors(path.join(folder, `${file}.safetensors`));
    const given: Record<string, Tensor32> = {};
    const expected: References = {};
    for (const [name, { data, shape }] of tensors) {
      if (data instanceof Float32Array) given[STORED[name] ?? name] = { data, shape };
      else expected[EXPECTED[name] ?? name] = { data: data as Float64Array, shape };
    }
    const scan = scans.find(({ name }) => name === metadata.op)!;
    const { dO, dFinalState, ...inputs } = given;
    const all = bothWays(scan, { inputs, gradients: { dO, dFinalState } });
    assert.equal(Object.keys(expected).sort(), Object.keys(all).sort());
    for (const [name, x] of Object.entries(expected)) {
      const row = scanRow(scan, name, dO.shape[1]);
      expectWithin(name, all[name].data, x!.data, x!.shape, row);
      const own = { ...scan.forward(inputs), ...scan.backward(given) }[name]!;
      const exact = { ...row, limit: 1e-13 };
      expectWithin(`reference: ${name}`, own.data, x!.data, x!.shape, exact);
    }
  });
}

test.run();
