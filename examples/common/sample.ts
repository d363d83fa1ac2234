import { Carry } from './carry.ts';
import { tokensOf } from './evaluate.ts';
import type { SequenceModel } from './model.ts';
import type { Random } from './random.ts';

/** Draws an index from softmax(logits / temperature). */
export function draw(logits: Float32Array, temperature: number, random: Random): number {
  let top = Number.NEGATIVE_INFINITY;
  for (const x of logits) top = Math.max(top, x);
  let total = 0;
  const weights = Float64Array.from(logits, (x) => {
    const weight = Math.exp((x - top) / temperature);
    total += weight;
    return weight;
  });
  let left = random.uniform(0, total);
  for (let i = 0; i < weights.length; i++) {
    left -= weights[i];
    if (left < 0) return i;
  }
  return weights.length - 1;
}

/** Reads the prompt at once, then writes `count` tokens, each from the carried state alone. */
export function* generate(
  model: SequenceModel,
  prompt: Uint8Array,
  count: number,
  temperature: number,
  random: Random,
): Generator<number> {
  const carry = new Carry(1);
  try {
    const { vocabulary } = model.config;
    const ids = { data: new Int32Array(1), shape: [1, 1] };
    let logits = model.forward(tokensOf(prompt), carry).data.subarray(-vocabulary);
    for (let i = 0; i < count; i++) {
      const token = draw(logits, temperature, random);
      yield token;
      ids.data[0] = token;
      logits = model.forward(ids, carry).data;
    }
  } finally {
    carry.dispose();
  }
}
