/**
 * Philox4x32-10, a counter-based generator: Salmon, Moraes, Dror and Shaw, Parallel Random Numbers: As Easy as 1, 2, 3, 2011.
 * Ten rounds turn a counter of four 32-bit words and a key of two into four words; any element can be drawn alone.
 */

const ROUNDS = 10;
const MULTIPLIER_0 = 0xd2511f53;
const MULTIPLIER_1 = 0xcd9e8d57;
const WEYL_0 = 0x9e3779b9;
const WEYL_1 = 0xbb67ae85;

/** The high word of the 64-bit product of two unsigned words. Every sum here is below 2^32. */
function multiplyHigh(a: number, b: number): number {
  const aLow = a & 0xffff;
  const aHigh = a >>> 16;
  const bLow = b & 0xffff;
  const bHigh = b >>> 16;
  const low = aLow * bLow;
  const middle = aHigh * bLow + (low >>> 16);
  const carried = aLow * bHigh + (middle & 0xffff);
  return (aHigh * bHigh + (middle >>> 16) + (carried >>> 16)) >>> 0;
}

/** Overwrites the four words of `counter` with random ones. @internal */
export function philox4x32(counter: Uint32Array, key0: number, key1: number): void {
  let [c0, c1, c2, c3] = counter;
  for (let round = 0; round < ROUNDS; round++) {
    const high0 = multiplyHigh(MULTIPLIER_0, c0);
    const high1 = multiplyHigh(MULTIPLIER_1, c2);
    const low0 = Math.imul(MULTIPLIER_0, c0) >>> 0;
    const low1 = Math.imul(MULTIPLIER_1, c2) >>> 0;
    c0 = (high1 ^ c1 ^ key0) >>> 0;
    c1 = low1;
    c2 = (high0 ^ c3 ^ key1) >>> 0;
    c3 = low0;
    key0 = (key0 + WEYL_0) >>> 0;
    key1 = (key1 + WEYL_1) >>> 0;
  }
  counter[0] = c0;
  counter[1] = c1;
  counter[2] = c2;
  counter[3] = c3;
}

/** Words `4 i` to `4 i + 3` of a stream, for i from 0: the counter is (i, 0, stream, 0), the key the seed's two words. */
function eachBlock(
  length: number,
  seed: number,
  stream: number,
  visit: (words: Uint32Array, at: number) => void,
): void {
  const words = new Uint32Array(4);
  const key1 = Math.floor(seed / 2 ** 32) >>> 0;
  for (let at = 0, i = 0; at < length; at += 4, i++) {
    words[0] = i;
    words[1] = 0;
    words[2] = stream;
    words[3] = 0;
    philox4x32(words, seed >>> 0, key1);
    visit(words, at);
  }
}

/**
 * Normal values by Box and Muller's transform, two of a pair of words. Streams of one seed are independent.
 * @internal
 */
export function normals(
  length: number,
  { seed, stream = 0, deviation = 1 }: { seed: number; stream?: number; deviation?: number },
): Float32Array {
  const values = new Float32Array(length);
  eachBlock(length, seed, stream, (words, at) => {
    for (let pair = 0; pair < 2; pair++) {
      // Half a step off zero, whose logarithm there is none of.
      const radius = Math.sqrt(-2 * Math.log((words[2 * pair] + 0.5) / 2 ** 32)) * deviation;
      const angle = (2 * Math.PI * words[2 * pair + 1]) / 2 ** 32;
      values[at + 2 * pair] = radius * Math.cos(angle); // beyond the end: dropped
      values[at + 2 * pair + 1] = radius * Math.sin(angle);
    }
  });
  return values;
}

/** Uniform values in [-bound, bound). @internal */
export function uniforms(
  length: number,
  { seed, stream = 0, bound = 1 }: { seed: number; stream?: number; bound?: number },
): Float32Array {
  const values = new Float32Array(length);
  eachBlock(length, seed, stream, (words, at) => {
    for (let i = 0; i < 4; i++) values[at + i] = bound * (words[i] / 2 ** 31 - 1);
  });
  return values;
}
