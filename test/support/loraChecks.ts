/** Results of the fused LoRA product against the reference, and against each other. */
import * as assert from 'uvu/assert';
import { getNumThreads, setNumThreads } from '../../ts/index';
import type { LoraLinearInputs, LoraLinearOptions } from '../reference/loraLinear.ts';
import { loraLinear, loraLinearBackward } from '../reference/loraLinear.ts';
import type { Named } from './bits.ts';
import { expectSameBits } from './bits.ts';
import { contract, expectWithin } from './compare.ts';
import type { FloatDtype } from './half.ts';
import { decode, encode } from './half.ts';
import type { LoraCase, MadeCase } from './lora.ts';
import { describeCase, makeCase } from './lora.ts';
import type { AnyTensor } from './native.ts';
import { native, sensitivity } from './native.ts';
import type { Tensor64, TensorLike } from './tensor.ts';
import { sizeOf } from './tensor.ts';

/** The contract's limit for sums of so many terms, of y in a dtype or of a gradient in float32. */
export function limitOf(terms: number, dtype: FloatDtype = 'f32', bf16 = false): number {
  if (bf16) return contract['bf16 compute'].o[0][1];
  if (dtype !== 'f32') return contract[dtype].o[0][1];
  return contract.f32.o.find(([most]) => terms <= 4 * most)![1];
}

/** Limits of gradients, which are float32; the second one is that of sums of products of two results. */
export const gradientLimits = (bf16 = false): [number, number] => {
  const { state, gate } = contract[bf16 ? 'bf16 compute' : 'f32'];
  return [state, gate];
};

/** The whole tensor within the limit, each row within ten times as much, and wide rows by themselves too. */
export function expectTensor(
  label: string,
  actual: AnyTensor,
  expected: TensorLike,
  limit: number,
  noise?: () => ArrayLike<number>,
): void {
  assert.equal([...actual.shape], [...expected.shape], `${label}: shape`);
  const rows = expected.shape.length > 1 ? expected.shape[0] : 1;
  if (rows === 0) return;
  const shape = [rows, sizeOf(expected.shape) / rows];
  const { data } = decode(actual);
  const row = { limit, layout: { kept: [], token: 0 } };
  try {
    expectWithin(label, data, expected.data, shape, row);
  } catch (error) {
    if (!noise) throw error;
    expectWithin(label, data, expected.data, shape, row, { noise: noise() });
  }
}

/** Of an output: wide rows are within the limit each by itself, or within twice the limit of products in bf16. */
export function expectOutput(
  label: string,
  actual: AnyTensor,
  expected: TensorLike,
  limit: number,
  noise?: () => ArrayLike<number>,
): void {
  expectTensor(label, actual, expected, limit, noise);
  const width = expected.shape[expected.shape.length - 1];
  if (width < 32 || expected.data.length === 0) return;
  const shape = [expected.data.length / width, width];
  const row = { limit: limit > 5e-3 ? 2 * limit : limit, layout: { kept: [0] } };
  expectWithin(label, decode(actual).data, expected.data, shape, row);
}

export interface CaseOptions extends LoraLinearOptions {
  compute?: 'f32' | 'bf16';
}

/** The forward of a case, t with it, and the backward. Drawn ones may cancel: see the noise of `expectWithin`. */
export function checkCase(
  spec: LoraCase,
  options: CaseOptions = {},
  { cancels = false } = {},
): void {
  const made = makeCase(spec);
  try {
    checkForward(spec, made, options, cancels);
    checkBackward(spec, made, options, cancels);
  } finally {
    made.dispose();
  }
}

export function checkForward(
  spec: LoraCase,
  made: MadeCase,
  options: CaseOptions = {},
  cancels = false,
): void {
  const label = describeCase(spec);
  const { dtype = 'f32' } = spec;
  const { compute, ...chances } = options;
  const expected = loraLinear(made.reference, chances);
  const saveRank = made.ids.length > 0;
  const { y, t } = native.loraLinearSync(made.inputs, {
    ...options,
    ...(saveRank && { saveRank }),
  });
  assert.is(y.dtype ?? 'f32', dtype, label);
  const limit = limitOf(spec.in, dtype, compute === 'bf16');
  const moved = cancels ? noiseOf({ ...made.reference, dY: made.dYSeen }, chances) : undefined;
  expectOutput(`${label}: y`, y, expected.y, limit, moved && (() => moved().y.data));
  assert.is(t !== undefined, saveRank, `${label}: t`);
  if (t) checkRanks(label, t, expected, made, compute === 'bf16', moved && (() => moved().t.data));
}

function checkRanks(
  label: string,
  t: AnyTensor,
  expected: ReturnType<typeof loraLinear>,
  { slots, perRow }: MadeCase,
  bf16: boolean,
  noise?: () => ArrayLike<number>,
): void {
  const [rows, k, ranks] = t.shape;
  assert.equal([rows, k], [slots.length / perRow, perRow], `${label}: shape of t`);
  const [actual, wanted]: number[][] = [[], []];
  expected.t.forEach((own, slot) => {
    for (let i = 0; i < own.length; i++) {
      actual.push(t.data[slot * ranks + i]);
      wanted.push(own[i]);
    }
  });
  if (wanted.length === 0) return;
  const shape = [wanted.length];
  const [own, theirs] = [
    { data: Float32Array.from(actual), shape },
    { data: wanted, shape },
  ];
  expectTensor(`${label}: t`, own, theirs, bf16 ? 6e-3 : 2e-6, noise);
}

/** Euclidean length. Math.hypot(...x) overflows the stack of some systems. */
function lengthOf(x: ArrayLike<number>): number {
  let squares = 0;
  for (let i = 0; i < x.length; i++) squares += x[i] ** 2;
  return Math.sqrt(squares);
}

export function checkBackward(
  spec: LoraCase,
  made: MadeCase,
  options: CaseOptions = {},
  cancels = false,
): void {
  const label = describeCase(spec);
  const { compute, ...chances } = options;
  const bf16 = compute === 'bf16';
  const need = {
    dx: true,
    ...(made.ids.length && { adapters: true }),
    ...(spec.bias && { dBias: true }),
    ...(spec.routing === 'topK' && made.ids.length && { dGates: true }),
  };
  const references = { ...made.reference, dY: made.dYSeen };
  const expected = loraLinearBackward(references, chances);
  const moved = cancels ? noiseOf(references, chances) : undefined;
  const noise = (name: string) => moved && ((): ArrayLike<number> => moved()[name].data);
  const inputs = { ...made.inputs, dY: made.dY };
  const got = native.loraLinearBackwardSync(inputs, { ...options, need });
  const [limit, loose] = gradientLimits(bf16);
  assert.is(got.dx.dtype ?? 'f32', 'f32', label);
  expectOutput(`${label}: dx`, got.dx, expected.dx, limit, noise('dx'));
  for (const name of ['dBias', 'dGates'] as const) {
    assert.is(got[name] !== undefined, expected[name] !== undefined, `${label}: ${name}`);
    if (!got[name]) continue;
    const most = name === 'dBias' ? 1e-5 : loose;
    expectTensor(`${label}: ${name}`, got[name], expected[name]!, most, noise(name));
  }
  const ids = [...expected.adapters.keys()].sort((a, b) => a - b);
  assert.equal([...(got.adapters?.keys() ?? [])].sort(), ids.sort(), `${label}: ids`);
  for (const id of ids) {
    const [actual, wanted] = [got.adapters.get(id), expected.adapters.get(id)!];
    const names = Object.keys(wanted).sort();
    assert.equal(Object.keys(actual).sort(), names, `${label}: gradients of ${id}`);
    for (const name of names as (keyof typeof wanted)[]) {
      const where = `${label}: ${name} of ${id}`;
      if (name === 'dScale') {
        assert.type(actual.dScale, 'number', where);
        // Without an outBias it is <dB, B> / scale, and may cancel.
        const { b, scale = 1 } = made.reference.adapters!.get(id)!;
        const terms =
          wanted.dB && !(b instanceof Int32Array)
            ? (lengthOf(wanted.dB.data) * lengthOf(b.data)) / Math.abs(scale)
            : 0;
        const size = Math.max(Math.abs(wanted.dScale), 0.1 * terms);
        const off = Math.abs(actual.dScale - wanted.dScale);
        const forgiven = moved && off > loose * size ? 16 * moved()[`dScale of ${id}`].data[0] : 0;
        assert.ok(
          off <= loose * size + forgiven,
          `${where}: ${actual.dScale}, reference ${wanted.dScale}`,
        );
      } else {
        const most = name === 'dBaseScale' ? loose : limit;
        expectTensor(where, actual[name], wanted[name]!, most, noise(`${name} of ${id}`));
      }
    }
  }
  if (spec.dtype === undefined || spec.dtype === 'f32') return;
  const rounded = native.loraLinearBackwardSync(inputs, { ...options, need, gradDtype: 'input' });
  const once = encode(spec.dtype, got.dx);
  assert.is(rounded.dx.dtype, spec.dtype, label);
  assert.equal(rounded.dx.data, once.data, `${label}: dx is rounded once`);
}

type Differentiated = LoraLinearInputs & { dY: TensorLike };

/** By how much results move when x, dY and the base are off by a rounding of float32; computed when asked for. */
function noiseOf(
  given: Differentiated,
  chances: LoraLinearOptions,
): () => Record<string, Tensor64> {
  let moved: Record<string, Tensor64> | undefined;
  const { x, dY, base } = given;
  const shaken = { x, dY, ...(base && base !== 'identity' && { base }) };
  return () => {
    moved ??= sensitivity(shaken, (inputs) => {
      const { y, t } = loraLinear({ ...given, ...inputs }, chances);
      const { adapters, ...rest } = loraLinearBackward({ ...given, ...inputs }, chances);
      const all = Float64Array.from(t.flatMap((own) => [...own]));
      const flat: Record<string, Tensor64 | undefined> = {
        y,
        t: { data: all, shape: [all.length] },
        ...rest,
      };
      for (const [id, gradients] of adapters)
        for (const [name, value] of Object.entries(gradients))
          flat[`${name} of ${id}`] =
            typeof value === 'number' ? { data: Float64Array.of(value), shape: [1] } : value;
      return flat;
    }) as Record<string, Tensor64>;
    return moved;
  };
}

/** Every tensor of both directions, by name. */
export function everything(
  { inputs, dY, ids }: MadeCase,
  options: object = {},
  { t, need }: { t?: AnyTensor; need?: object } = {},
): Named {
  const saved = ids.length > 0;
  const forward = native.loraLinearSync(inputs, { ...options, ...(saved && { saveRank: true }) });
  const all: Named = { y: forward.y, ...(saved && { t: forward.t }) };
  const given = { ...inputs, dY, ...(t && { t }) };
  return { ...all, ...flatGradients(native.loraLinearBackwardSync(given, { ...options, need })) };
}

/** dx, and of every adapter `dA of 3`. */
export function flatGradients(results: any): Named {
  const { adapters, ...rest } = results;
  const all: Named = {};
  for (const [name, x] of Object.entries(rest)) if (x) all[name] = x as AnyTensor;
  for (const [id, gradients] of adapters ?? [])
    for (const [name, x] of Object.entries(gradients))
      all[`${name} of ${id}`] =
        typeof x === 'number' ? { data: Float32Array.of(x), shape: [1] } : (x as AnyTensor);
  return all;
}

/** 1, 2 and 5 threads, a second run and the asynchronous forms have the same bits. */
export async function sameEverywhere(
  label: string,
  made: MadeCase,
  options: object = {},
): Promise<void> {
  const before = getNumThreads();
  try {
    setNumThreads(1);
    const first = everything(made, options);
    expectSameBits(`${label}, again`, everything(made, options), first);
    for (const threads of [2, 5]) {
      setNumThreads(threads);
      expectSameBits(`${label}, ${threads} threads`, everything(made, options), first);
    }
    const { inputs, dY } = made;
    const saving = made.ids.length > 0 ? { saveRank: true } : {};
    const [forward, backward] = await Promise.all([
      native.loraLinear(inputs, { ...options, ...saving }),
      native.loraLinearBackward({ ...inputs, dY }, options),
    ]);
    const both = { ...forward, ...flatGradients(backward) };
    expectSameBits(`${label}, asynchronous`, both, first);
  } finally {
    setNumThreads(before);
  }
}
