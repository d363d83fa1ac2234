// What the layers of the delta rule have in common: heads, convolved queries, keys and values, the gate's activation.
import { rangeError } from '../errors';
import { readInteger } from '../linalg/arguments';
import type { FloatTensor, Tensor } from '../types';
import { reshape } from './elementwise';
import type { Pass } from './pass';
import type { Steps } from './run';

/** Heads of a layer. */
export interface HeadOptions {
  /** Query and key heads. */
  heads: number;
  /** Value heads, a multiple of `heads`; default `heads`. */
  valueHeads?: number;
}

export function readHeads(pass: Pass, options: HeadOptions): { heads: number; valueHeads: number } {
  const heads = readInteger(pass.operation, 'heads', options.heads, undefined, 1);
  const valueHeads = readInteger(pass.operation, 'valueHeads', options.valueHeads, heads, 1);
  if (valueHeads % heads !== 0)
    throw rangeError(
      pass.operation,
      `valueHeads: expected a multiple of heads (${heads}), got ${valueHeads}`,
    );
  return { heads, valueHeads };
}

/** x projected, then convolved with silu where the checkpoint has a convolution, else silu alone (or not even that). */
export function* projected(
  pass: Pass,
  name: string,
  shape: readonly number[],
  activation: 'silu' | 'none' = 'silu',
  bare: 'silu' | 'none' = activation,
): Steps<FloatTensor> {
  const x = yield* pass.project(`${name}_proj.weight`);
  const conv = `${name}_conv1d`;
  if (pass.weights.has(`${conv}.weight`))
    return reshape(yield* pass.conv(conv, x, activation), shape);
  return reshape(bare === 'silu' ? yield* pass.silu(x) : x, shape);
}

/** Names of the weights of {@link projected}. */
export const projectionNames = (name: string): string[] => [
  `${name}_proj.weight`,
  `${name}_conv1d.weight`,
  `${name}_conv1d.bias`,
];

/** -exp(A_log) softplus(g + dt_bias), as the recurrence activates it inside. */
export function gateOf(pass: Pass, heads: number, bias: readonly number[]): object {
  const aLog: Tensor = pass.weights.floats('A_log', [-1]);
  if (aLog.data.length !== heads)
    throw rangeError(
      pass.operation,
      `A_log: expected one number a value head, ${heads}, got ${aLog.data.length}`,
    );
  const dtBias = pass.weights.floats('dt_bias', [heads * bias.slice(1).reduce((a, b) => a * b, 1)]);
  return { aLog, dtBias: reshape(dtBias, bias) };
}
