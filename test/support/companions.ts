/** Calls of the ops around the LoRA product, in any dtypes, against their references on the values that they see. */
import * as assert from 'uvu/assert';
import { expectSame } from './bits.ts';
import { contract } from './compare.ts';
import type { FloatDtype } from './half.ts';
import { decode, encode, unwritten } from './half.ts';
import { call, expectNear, type Results } from './layers.ts';
import type { AnyTensor } from './native.ts';
import { native } from './native.ts';
import type { Tensor32, TensorLike } from './tensor.ts';

export interface Held {
  /** undefined: left out */
  inputs: Record<string, Tensor32 | undefined>;
  /** Of inputs by name, `other` for the rest; default f32. */
  dtypes?: Record<string, FloatDtype>;
  /** Inputs that are no floats. */
  others?: object;
  options?: object;
  /** On the inputs as the engine sees them. */
  reference: (seen: any) => object;
  /** dtypes of results that are not float32. */
  results?: Record<string, FloatDtype>;
  /** Relative error of float32 results, by name or `other`; default 2e-6. */
  limits?: Record<string, number>;
}

/** One result's limit: of a few numbers all roundings may be at their worst. */
function limitOf(dtype: FloatDtype, size: number, given: number): number {
  if (dtype === 'f32') return given;
  const worst = dtype === 'bf16' ? 2 ** -8 : 2 ** -11;
  return size < 16 ? worst : contract[dtype].o[0][1];
}

/** One, two and five threads, asynchronous and into the caller's memory: the same bits, near the reference. */
export async function hold(op: string, label: string, given: Held): Promise<Results> {
  const { dtypes = {}, others = {}, options = {}, limits = {} } = given;
  const tensors: Record<string, AnyTensor> = {};
  for (const [name, x] of Object.entries(given.inputs))
    if (x) tensors[name] = encode(dtypes[name] ?? dtypes.other ?? 'f32', x);
  const seen = Object.fromEntries(Object.entries(tensors).map(([name, x]) => [name, decode(x)]));
  const results = await call(op, { ...tensors, ...others }, options);
  const own: Record<string, number> = {};
  const decoded: Results = {};
  const out: Record<string, AnyTensor> = {};
  for (const [name, x] of Object.entries(results as unknown as Record<string, AnyTensor>)) {
    const dtype = given.results?.[name] ?? 'f32';
    assert.is(x.dtype, dtype, `${op}, ${label}: dtype of ${name}`);
    own[name] = limitOf(dtype, x.data.length, limits[name] ?? limits.other ?? 2e-6);
    decoded[name] = decode(x) as never;
    out[name] = unwritten(dtype, x.shape);
  }
  expectNear(
    `${op}, ${label}`,
    decoded,
    given.reference({ ...seen, ...others }) as Record<string, TensorLike>,
    own,
  );
  native[`${op}Sync`]({ ...tensors, ...others }, { ...options, out });
  for (const [name, x] of Object.entries(results))
    expectSame(`${op}: out.${name}`, out[name], x as AnyTensor);
  return decoded;
}

/** Rows [0, rows) of a tensor [M,...]. */
export function firstRows(x: Tensor32, rows: number): Tensor32 {
  const width = x.data.length / x.shape[0];
  return { data: x.data.slice(0, rows * width), shape: [rows, ...x.shape.slice(1)] };
}

/** Row `at` of a tensor [M,...], as [1,...]. */
export function rowOf(x: Tensor32, at: number): Tensor32 {
  const width = x.data.length / x.shape[0];
  return { data: x.data.slice(at * width, (at + 1) * width), shape: [1, ...x.shape.slice(1)] };
}
