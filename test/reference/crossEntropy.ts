/**
 * Softmax cross-entropy in float64: losses[r] = logsumexp(logits[r,:]) - logits[r, targets[r]],
 * loss = mean over rows whose target is not ignoreIndex. Ignored rows have loss and gradient 0, and
 * a batch with nothing but ignored rows has loss 0 rather than 0/0.
 */

import type { Tensor64, TensorLike } from '../support/tensor.ts';
import { expectShape, zeros } from '../support/tensor.ts';

export interface CrossEntropyInputs {
  logits: TensorLike; // [N,V]
  targets: TensorLike; // [N], integers
}

export interface CrossEntropyOptions {
  /** Default -100. */
  ignoreIndex?: number;
}

export function crossEntropy(
  inputs: CrossEntropyInputs,
  options: CrossEntropyOptions = {},
): { loss: number; losses: Tensor64 } {
  const { logits } = inputs;
  const [N, V] = logits.shape;
  const losses = zeros([N]);
  let sum = 0;
  const count = forEachCounted(inputs, options, (row, target) => {
    losses.data[row] = logSumExp(logits, row) - logits.data[row * V + target];
    sum += losses.data[row];
  });
  return { loss: count > 0 ? sum / count : 0, losses };
}

/** `dLoss` is the gradient of the mean loss, default 1. */
export function crossEntropyBackward(
  inputs: CrossEntropyInputs & { dLoss?: number },
  options: CrossEntropyOptions = {},
): { dLogits: Tensor64 } {
  const { logits, dLoss = 1 } = inputs;
  const V = logits.shape[1];
  const dLogits = zeros(logits.shape);
  const count = forEachCounted(inputs, options, (row, target) => {
    const shift = logSumExp(logits, row);
    for (let i = row * V; i < (row + 1) * V; i++) {
      dLogits.data[i] = Math.exp(logits.data[i] - shift);
    }
    dLogits.data[row * V + target] -= 1;
  });
  for (let i = 0; i < dLogits.data.length && count > 0; i++) dLogits.data[i] *= dLoss / count;
  return { dLogits };
}

function forEachCounted(
  { logits, targets }: CrossEntropyInputs,
  { ignoreIndex = -100 }: CrossEntropyOptions,
  visit: (row: number, target: number) => void,
): number {
  const [N, V] = logits.shape;
  expectShape('targets', targets, [N]);
  let count = 0;
  for (let row = 0; row < N; row++) {
    const target = targets.data[row];
    if (target === ignoreIndex) continue;
    if (!(target >= 0 && target < V)) throw new RangeError(`target ${target} outside [0, ${V})`);
    visit(row, target);
    count++;
  }
  return count;
}

function logSumExp(logits: TensorLike, row: number): number {
  const V = logits.shape[1];
  let top = -Infinity;
  for (let i = row * V; i < (row + 1) * V; i++) top = Math.max(top, logits.data[i]);
  let sum = 0;
  for (let i = row * V; i < (row + 1) * V; i++) sum += Math.exp(logits.data[i] - top);
  return top + Math.log(sum);
}
