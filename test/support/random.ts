/**
 * Seeded random numbers: xoshiro128** (Blackman and Vigna, 2018), its state filled by splitmix32.
 * The same seed gives the same values on every platform.
 */

export class Random {
  private readonly state = new Uint32Array(4);
  private spare = Number.NaN;

  constructor(seed: number) {
    let x = seed | 0;
    for (let i = 0; i < 4; i++) {
      x = (x + 0x9e3779b9) | 0;
      let z = x;
      z = Math.imul(z ^ (z >>> 16), 0x21f0aaad);
      z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
      this.state[i] = z ^ (z >>> 15);
    }
  }

  /** An integer in [0, 2^32). */
  nextUint32(): number {
    const s = this.state;
    const result = Math.imul(rotateLeft(Math.imul(s[1], 5), 7), 9) >>> 0;
    const shifted = s[1] << 9;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= shifted;
    s[3] = rotateLeft(s[3], 11);
    return result;
  }

  /** Uniform in [low, high). */
  uniform(low = 0, high = 1): number {
    return low + (high - low) * (this.nextUint32() / 2 ** 32);
  }

  /** An integer in [0, bound). */
  integer(bound: number): number {
    return Math.floor(this.uniform() * bound);
  }

  /** Standard normal, by the polar method. */
  normal(): number {
    if (!Number.isNaN(this.spare)) {
      const value = this.spare;
      this.spare = Number.NaN;
      return value;
    }
    for (;;) {
      const x = this.uniform(-1, 1);
      const y = this.uniform(-1, 1);
      const r = x * x + y * y;
      if (r === 0 || r >= 1) continue;
      const factor = Math.sqrt((-2 * Math.log(r)) / r);
      this.spare = y * factor;
      return x * factor;
    }
  }

  fill(length: number, draw: () => number): Float32Array {
    const data = new Float32Array(length);
    for (let i = 0; i < length; i++) data[i] = draw();
    return data;
  }

  normals(length: number, deviation = 1): Float32Array {
    return this.fill(length, () => deviation * this.normal());
  }

  uniforms(length: number, low = 0, high = 1): Float32Array {
    return this.fill(length, () => this.uniform(low, high));
  }
}

function rotateLeft(x: number, bits: number): number {
  return (x << bits) | (x >>> (32 - bits));
}
