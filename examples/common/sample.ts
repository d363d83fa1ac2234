import { Carry } from './carry.ts';
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
  for (const [token] of generateRows(model, [prompt], count, temperature, [random])) yield token;
}

/** {@link generate} for the rows of a batch, whose prompts are of one length: yields a token of each row at a time. */
export function* generateRows(
  model: SequenceModel,
  prompts: readonly Uint8Array[],
  count: number,
  temperature: number,
  randoms: readonly Random[],
): Generator<number[]> {
  const batch = prompts.length;
  const carry = new Carry(batch, prompts[0].length + count);
  try {
    const { vocabulary } = model.config;
    const tokens = prompts[0].length;
    const start = { data: Int32Array.from(Buffer.concat(prompts)), shape: [batch, tokens] };
    const ids = { data: new Int32Array(batch), shape: [batch, 1] };
    let logits = model.forward(start, carry);
    for (let i = 0; i < count; i++) {
      const width = logits.data.length / batch;
      const next = randoms.map((random, row) => {
        const end = (row + 1) * width;
        return draw(logits.data.subarray(end - vocabulary, end), temperature, random);
      });
      yield next;
      ids.data.set(next);
      logits = model.forward(ids, carry);
    }
  } finally {
    carry.dispose();
  }
}
