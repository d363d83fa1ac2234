import type { Batch } from './model.ts';
import type { Random } from './random.ts';

/** A target that crossEntropy does not count. */
const IGNORED = -100;

function emptyBatch(size: number, length: number): Batch {
  const shape = [size, length];
  return {
    inputs: { data: new Int32Array(size * length), shape },
    targets: { data: new Int32Array(size * length).fill(IGNORED), shape },
  };
}

function fillRow({ inputs, targets }: Batch, row: number, bytes: Uint8Array, from: number): void {
  const length = inputs.shape[1];
  const count = Math.min(length, bytes.length - 1 - from); // negative past the end: an empty row
  for (let t = 0; t < count; t++) {
    inputs.data[row * length + t] = bytes[from + t];
    targets.data[row * length + t] = bytes[from + t + 1];
  }
}

/** Windows from random places of the text. */
export function randomBatch(
  bytes: Uint8Array,
  size: number,
  length: number,
  random: Random,
): Batch {
  const batch = emptyBatch(size, length);
  const places = Math.max(1, bytes.length - length);
  for (let row = 0; row < size; row++) fillRow(batch, row, bytes, random.integer(places));
  return batch;
}

/** The whole text in windows one after the other: every byte but the first is a target once. */
export function* allBatches(bytes: Uint8Array, size: number, length: number): Generator<Batch> {
  for (let from = 0; from < bytes.length - 1; from += size * length) {
    const batch = emptyBatch(size, length);
    for (let row = 0; row < size; row++) fillRow(batch, row, bytes, from + row * length);
    yield batch;
  }
}
