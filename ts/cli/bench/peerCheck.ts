// A peer's answer to a small problem against the float64 reference: what is wrong there is not timed.
import type { Case } from '../benchCase';
import { smallShape } from '../benchCase';
import { makeProblem, STARTS, without } from '../check';
import { valuesOf } from '../dtype';
import type { References, Tensors } from '../operation';
import type { Peer } from '../peers/peer';
import { factorType } from '../peers/problem';

/** How far off, relative to the norm of the whole result: what another order of sums in that arithmetic explains. */
export const PEER_LIMITS = { f32: 1e-4, f16: 2e-3, bf16: 1.5e-2 } as const;

/** The inputs of a case as a peer gets them, in float32. */
export function inputsForPeer({ op, pass, shape, dtype }: Case): Tensors {
  const tokens = pass === 'decode' ? { ...shape, T: 1 } : shape;
  const { inputs: all, gradients } = makeProblem(op, tokens, dtype);
  const inputs = without(all, op.unbenched ?? []);
  if (!op.recurrent) return pass === 'backward' ? { ...inputs, ...gradients } : inputs;
  if (pass === 'decode') return inputs;
  const rest = without(inputs, STARTS);
  if (!pass.startsWith('backward')) return rest;
  return { ...rest, ...without(gradients, ['dFinalState', 'dFinalZ']) };
}

/** ||x - reference|| / ||reference||; infinite for what is not finite or not of its shape. */
export function relativeError(
  x: { data: ArrayLike<number>; shape: readonly number[] },
  reference: { data: ArrayLike<number>; shape: readonly number[] },
): number {
  if (x.shape.join() !== reference.shape.join()) return Infinity;
  let [error, norm] = [0, 0];
  for (let i = 0; i < reference.data.length; i++) {
    error += (x.data[i] - reference.data[i]) ** 2;
    norm += reference.data[i] ** 2;
  }
  const relative = Math.sqrt(error) / (Math.sqrt(norm) || 1);
  return Number.isNaN(relative) ? Infinity : relative;
}

/** The worst relative error of the results that the peer gives. @throws Error for one that is beyond the limit */
export function expectRight(one: Case, results: References, expected: References): number {
  const { op, pass, dtype } = one;
  const limit = PEER_LIMITS[factorType(one)];
  const [main] = Object.keys(expected);
  const given = Object.entries(results).filter(([name, x]) => x && expected[name]);
  if (!results[main]) throw new Error(`gave no ${main} for ${op.name} ${pass}`);
  let worst = 0;
  for (const [name, x] of given) {
    const error = relativeError(valuesOf(x!), expected[name]!);
    if (!(error <= limit)) {
      throw new Error(
        `wrong answer for ${op.name} ${pass} ${dtype}: ${name} is off by ${error.toExponential(1)}, allowed ${limit}`,
      );
    }
    worst = Math.max(worst, error);
  }
  return worst;
}

/** Runs the small problem of a case on a peer. @throws Error for a wrong answer, and whatever the peer throws */
export async function checkPeer(peer: Peer, one: Case, threads: number): Promise<number> {
  const small = { ...one, shape: smallShape(one), turns: undefined };
  const inputs = inputsForPeer(small);
  const expected = small.pass.startsWith('backward')
    ? one.op.backward!(inputs)
    : one.op.forward(inputs);
  const opened = await peer.open(small, inputs, threads);
  try {
    return expectRight(one, await opened.results(), expected);
  } finally {
    await opened.close();
  }
}
