/**
 * Philox4x32-10 (Salmon, Moraes, Dror and Shaw, 2011) in integers of any size: the round's definition and nothing else.
 */

const WORD = 0xffffffffn;
const MULTIPLIERS = [0xd2511f53n, 0xcd9e8d57n];
const WEYL = [0x9e3779b9n, 0xbb67ae85n];

/** The four random words of a counter of four words and a key of two. */
export function philox(counter: readonly number[], key: readonly number[]): number[] {
  let c = counter.map(BigInt);
  const k = key.map(BigInt);
  for (let round = 0; round < 10; round++) {
    const [p, q] = [MULTIPLIERS[0] * c[0], MULTIPLIERS[1] * c[2]];
    c = [(q >> 32n) ^ c[1] ^ k[0], q & WORD, (p >> 32n) ^ c[3] ^ k[1], p & WORD];
    for (const i of [0, 1]) k[i] = (k[i] + WEYL[i]) & WORD;
  }
  return c.map(Number);
}

/** A seed below 2^53 as a key. */
export function keyOf(seed: number): number[] {
  return [seed % 2 ** 32, Math.floor(seed / 2 ** 32)];
}
