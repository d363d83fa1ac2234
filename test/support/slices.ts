/** Parts of problems: stretches of tokens, single batch rows. */
import type { Problem } from './cases.ts';
import type { Tensor32 } from './tensor.ts';
import { sizeOf } from './tensor.ts';

/** Indices [from, to) of an axis, as a tensor of its own. */
export function slice({ data, shape }: Tensor32, axis: number, from: number, to: number): Tensor32 {
  const [outer, inner] = [sizeOf(shape.slice(0, axis)), sizeOf(shape.slice(axis + 1))];
  const part = new Float32Array(outer * (to - from) * inner);
  for (let i = 0; i < outer; i++) {
    const start = (i * shape[axis] + from) * inner;
    part.set(data.subarray(start, start + (to - from) * inner), i * (to - from) * inner);
  }
  return { data: part, shape: shape.map((extent, i) => (i === axis ? to - from : extent)) };
}

/** Tensors joined along an axis. */
export function join(parts: readonly Tensor32[], axis: number): Tensor32 {
  const shape = [...parts[0].shape];
  shape[axis] = parts.reduce((sum, part) => sum + part.shape[axis], 0);
  const data = new Float32Array(sizeOf(shape));
  const [outer, inner] = [sizeOf(shape.slice(0, axis)), sizeOf(shape.slice(axis + 1))];
  let at = 0;
  for (let i = 0; i < outer; i++) {
    for (const part of parts) {
      const run = part.shape[axis] * inner;
      data.set(part.data.subarray(i * run, (i + 1) * run), at);
      at += run;
    }
  }
  return { data, shape };
}

/** The forward inputs of tokens [from, to), without initial state. n is the steps per token. */
export function tokensOf(
  { q, k, v, g, beta }: Pick<Problem, 'q' | 'k' | 'v' | 'g' | 'beta'>,
  from: number,
  to: number,
  n = 1,
) {
  return {
    q: slice(q, 1, from, to),
    k: slice(k, 1, from * n, to * n),
    v: slice(v, 1, from * n, to * n),
    // A gate per head has no token axis.
    ...(g && { g: g.shape.length === 1 ? g : slice(g, 1, from, to) }),
    ...(beta && { beta: slice(beta, 1, from * n, to * n) }),
  };
}

/** One batch row of a problem, gradients included. */
export function batchRowOf(problem: Problem, b: number): Problem {
  const rows = Object.entries(problem).map(([name, x]: [string, Tensor32]) => {
    return [name, x.shape.length === 1 ? x : slice(x, 0, b, b + 1)];
  });
  return Object.fromEntries(rows) as Problem;
}

/** One sequence of a packed problem as a problem of its own. n is the steps per token. */
export function sequenceOf(
  problem: Problem,
  bounds: readonly number[],
  index: number,
  n = 1,
): Problem {
  const [from, to] = [bounds[index], bounds[index + 1]];
  const parts: Problem = {
    ...tokensOf(problem, from, to, n),
    dO: slice(problem.dO, 1, from, to),
  };
  for (const name of ['initialState', 'initialZ', 'dFinalState', 'dFinalZ'] as const) {
    const states = problem[name];
    if (states) parts[name] = slice(states, 0, index, index + 1);
  }
  return parts;
}
