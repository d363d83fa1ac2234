import * as assert from 'uvu/assert';
import type { Tensor } from '../../ts/index';

/** Values in (-0.5, 0.5) that depend on the index alone. */
export function ramp(...shape: number[]): Tensor {
  const data = new Float32Array(shape.reduce((a, b) => a * b, 1));
  for (let i = 0; i < data.length; i++) data[i] = ((i * 37 + 11) % 101) / 101 - 0.5;
  return { data, shape };
}

/** A gated delta problem, small enough for any test. */
export function problem(B = 1, T = 5, H = 2, K = 8, V = 4) {
  const g = ramp(B, T, H);
  for (let i = 0; i < g.data.length; i++) g.data[i] = -Math.abs(g.data[i]);
  const beta = ramp(B, T, H);
  for (let i = 0; i < beta.data.length; i++) beta.data[i] = Math.abs(beta.data[i]);
  return { q: ramp(B, T, H, K), k: ramp(B, T, H, K), v: ramp(B, T, H, V), g, beta };
}

/** Where packed sequences of these lengths begin, and where the last one ends. */
export function startsOf(lengths: readonly number[]): number[] {
  const starts = [0];
  for (const length of lengths) starts.push(starts[starts.length - 1] + length);
  return starts;
}

export function sameBits(a: Tensor, b: Tensor): void {
  assert.equal(a.shape, b.shape);
  const bits = (t: Tensor) => Buffer.from(t.data.buffer, t.data.byteOffset, t.data.byteLength);
  assert.is(Buffer.compare(bits(a), bits(b)), 0, 'the same bits');
}

type ErrorClass = new (...args: any[]) => Error;

function check(error: unknown, kind: ErrorClass, pattern: RegExp): void {
  assert.instance(error, kind);
  assert.match((error as Error).message, pattern);
}

/**
 * The error of a call that is aborted as soon as it has been made. On a busy machine a call may be done before this thread
 * gets that far: then it is made again.
 */
export async function endOfAborted(
  start: (signal: AbortSignal) => Promise<unknown>,
  reason?: unknown,
): Promise<any> {
  for (let attempt = 0; attempt < 20; attempt++) {
    const aborter = new AbortController();
    const pending = start(aborter.signal);
    aborter.abort(reason);
    const end = await pending.then(
      () => undefined,
      (error) => error,
    );
    if (end !== undefined) return end;
  }
  throw new Error('every one of twenty calls was done before it was aborted');
}

export function throwsWith(body: () => unknown, kind: ErrorClass, pattern: RegExp): void {
  let thrown: unknown;
  try {
    body();
  } catch (error) {
    thrown = error;
  }
  assert.ok(thrown, `expected an error that matches ${pattern}`);
  check(thrown, kind, pattern);
}

export async function rejectsWith(
  body: () => Promise<unknown>,
  kind: ErrorClass,
  pattern: RegExp,
): Promise<void> {
  const promise = body(); // must not throw here
  const thrown = await promise.then(
    () => undefined,
    (error) => error,
  );
  assert.ok(thrown, `expected a rejection that matches ${pattern}`);
  check(thrown, kind, pattern);
}
