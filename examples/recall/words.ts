import type { Batch } from '../common/model.ts';
import type { Random } from '../common/random.ts';

/** Token 0 stands between queries; keys and values share the others half and half. */
export interface Vocabulary {
  size: number;
  keys: number;
  values: number;
}

export function vocabulary(size: number): Vocabulary {
  const keys = Math.floor((size - 1) / 2);
  return { size, keys, values: size - 1 - keys };
}

/** `count` different numbers below `bound`, in random order: the start of a shuffle. */
export function draw(count: number, bound: number, random: Random): Int32Array {
  const all = Int32Array.from({ length: bound }, (_, i) => i);
  for (let i = 0; i < count; i++) {
    const j = i + random.integer(bound - i);
    [all[i], all[j]] = [all[j], all[i]];
  }
  return all.subarray(0, count);
}

/** Four tokens per pair: the pairs themselves, and as many places again for the queries to stand in. */
export const lengthOf = (pairs: number) => 4 * pairs;

/**
 * Multi-query associative recall (Arora et al. 2023): `pairs` different keys, each followed by its value, and then every key
 * once more at a random place, where the answer is the value that it had. Only the queries are targets.
 */
export function recallBatch(
  { keys, values }: Vocabulary,
  size: number,
  pairs: number,
  random: Random,
): Batch {
  const length = lengthOf(pairs);
  const shape = [size, length];
  const inputs = new Int32Array(size * length);
  const targets = new Int32Array(size * length).fill(-100);
  for (let row = 0; row < size; row++) {
    const from = row * length;
    const chosen = draw(pairs, keys, random);
    const places = draw(pairs, 2 * pairs, random);
    for (let i = 0; i < pairs; i++) {
      const key = 1 + chosen[i];
      const value = 1 + keys + random.integer(values);
      inputs[from + 2 * i] = key;
      inputs[from + 2 * i + 1] = value;
      const query = from + 2 * pairs + places[i];
      inputs[query] = key;
      targets[query] = value;
    }
  }
  return { inputs: { data: inputs, shape }, targets: { data: targets, shape } };
}
