import { allBatches } from './batches.ts';
import { Carry } from './carry.ts';
import type { SequenceModel } from './model.ts';

/** Mean bits to code a byte of the text, read in windows of `length` that each start from nothing. */
export function bitsPerByte(
  model: SequenceModel,
  bytes: Uint8Array,
  size: number,
  length: number,
): number {
  let sum = 0;
  for (const batch of allBatches(bytes, size, length)) {
    for (const loss of model.losses(batch)) sum += loss; // a place that does not count is 0
  }
  return sum / Math.LN2 / (bytes.length - 1);
}

export function tokensOf(bytes: Uint8Array): { data: Int32Array; shape: number[] } {
  return { data: Int32Array.from(bytes), shape: [1, bytes.length] };
}

/**
 * Reads a text in one forward, and again as a start of `prefill` tokens and then token by token with a carried state;
 * returns the largest difference between their logits, relative to the largest logit.
 */
export function decodeError(model: SequenceModel, bytes: Uint8Array, prefill: number): number {
  const whole = model.forward(tokensOf(bytes)).data.slice();
  const carry = new Carry(1, bytes.length);
  let largest = 0;
  let difference = 0;
  let at = 0;
  for (let from = 0; from < bytes.length; ) {
    const to = from === 0 ? prefill : from + 1;
    for (const logit of model.forward(tokensOf(bytes.subarray(from, to)), carry).data) {
      largest = Math.max(largest, Math.abs(whole[at]));
      difference = Math.max(difference, Math.abs(logit - whole[at]));
      at += 1;
    }
    from = to;
  }
  carry.dispose();
  return difference / largest;
}
