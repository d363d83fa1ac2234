/** All results of a problem, by name and form, and their comparison bit by bit. */

import * as assert from 'uvu/assert';
import { getNumThreads, setNumThreads } from '../../ts/index';
import type { AnyTensor } from './native.ts';
import { native } from './native.ts';

export type Named = Record<string, AnyTensor>;

const FORMS: readonly object[] = [
  { mode: 'recurrent' },
  { mode: 'auto' },
  { mode: 'chunk', chunkSize: 16 },
  { mode: 'chunk', chunkSize: 64 },
  { saveForBackward: true },
];

export interface EverythingOptions {
  /** The op's name; default recurrence. */
  op?: string;
  /** What only the backward takes. */
  backward?: object;
}

/** Outputs of every form and gradients with and without `saved`: `o, {"mode":"chunk"}`, `dq, recomputed`. */
export function everything(
  inputs: Record<string, AnyTensor>,
  options: object = {},
  { op = 'recurrence', backward = {} }: EverythingOptions = {},
): Named {
  const gradient = ['dO', 'dY', 'dFinalState', 'dFinalZ'];
  const own = Object.entries(inputs).filter(([name]) => !gradient.includes(name));
  const all: Named = {};
  const add = (form: string, results: object): void => {
    for (const [name, x] of Object.entries(results)) {
      if (name !== 'saved') all[`${name}, ${form}`] = x;
    }
  };
  const differentiate = (saved?: object): object =>
    native[`${op}BackwardSync`]({ ...inputs, saved }, { ...options, ...backward });
  for (const form of FORMS) {
    const call = { ...options, ...form, outputFinalState: true };
    const results = native[`${op}Sync`](Object.fromEntries(own), call);
    add(JSON.stringify(form), results);
    if (!results.saved) continue;
    add('with saved', differentiate(results.saved));
    results.saved.dispose();
  }
  add('recomputed', differentiate());
  return all;
}

/** The same names, dtypes, shapes and bits. */
export function expectSameBits(label: string, actual: Named, expected: Named): void {
  assert.equal(Object.keys(actual).sort(), Object.keys(expected).sort(), label);
  for (const [name, x] of Object.entries(expected))
    expectSame(`${label}: ${name}`, actual[name], x);
}

/** The same dtype, shape and bits. */
export function expectSame(label: string, actual: AnyTensor, expected: AnyTensor): void {
  assert.is(actual.dtype ?? 'f32', expected.dtype ?? 'f32', label);
  assert.equal([...actual.shape], [...expected.shape], label);
  const [a, b] = [bitsOf(actual), bitsOf(expected)];
  assert.is(a.length, b.length, label);
  const at = a.findIndex((bits, i) => bits !== b[i]);
  if (at >= 0) assert.unreachable(`${label}: differs at ${at}: ${a[at]}, ${b[at]} (bits)`);
}

function bitsOf({ data }: AnyTensor): Uint32Array | Uint16Array {
  if (data instanceof Uint16Array) return data;
  return new Uint32Array(data.buffer, data.byteOffset, data.length);
}

/** Runs `body` with each number of threads; all must give the bits of the first. */
export function sameForThreads(label: string, body: () => Named): void {
  const before = getNumThreads();
  try {
    setNumThreads(1);
    const one = body();
    for (const count of [2, 5]) {
      setNumThreads(count);
      expectSameBits(`${label}, ${count} threads`, body(), one);
    }
  } finally {
    setNumThreads(before);
  }
}
