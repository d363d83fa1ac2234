/**
 * Byte n-grams with Witten-Bell smoothing, the baseline of counting:
 *
 *     P(b | c) = (count(c b) + kinds(c) P(b | c')) / (count(c) + kinds(c))
 *
 * c' is the context c without its oldest byte, kinds(c) how many different bytes have followed c. Below the empty
 * context every byte is equally likely. Stronger than adding one to each count.
 */
export class NgramModel {
  private readonly order: number;
  /** For each length of context: packed context and byte -> count. */
  private readonly counts: Map<number, number>[] = [];
  private readonly totals: Map<number, number>[] = [];
  private readonly kinds: Map<number, number>[] = [];

  /** @param order bytes that a probability looks at: 1 for single bytes, 2 for pairs, up to 4 */
  constructor(bytes: Uint8Array, order: number) {
    this.order = order;
    for (let length = 0; length < order; length++) {
      const counts = new Map<number, number>();
      const totals = new Map<number, number>();
      const kinds = new Map<number, number>();
      for (let at = length; at < bytes.length; at++) {
        const context = pack(bytes, at, length);
        const key = context * 256 + bytes[at];
        const count = counts.get(key) ?? 0;
        counts.set(key, count + 1);
        totals.set(context, (totals.get(context) ?? 0) + 1);
        if (count === 0) kinds.set(context, (kinds.get(context) ?? 0) + 1);
      }
      this.counts.push(counts);
      this.totals.push(totals);
      this.kinds.push(kinds);
    }
  }

  private probability(bytes: Uint8Array, at: number): number {
    let p = 1 / 256;
    for (let length = 0; length < this.order && length <= at; length++) {
      const context = pack(bytes, at, length);
      const total = this.totals[length].get(context);
      if (total === undefined) break;
      const kinds = this.kinds[length].get(context) ?? 0;
      const count = this.counts[length].get(context * 256 + bytes[at]) ?? 0;
      p = (count + kinds * p) / (total + kinds);
    }
    return p;
  }

  /** Mean bits to code each byte but the first, the ones that the model is judged by. */
  bitsPerByte(bytes: Uint8Array): number {
    let bits = 0;
    for (let at = 1; at < bytes.length; at++) bits -= Math.log2(this.probability(bytes, at));
    return bits / (bytes.length - 1);
  }
}

/** The `length` bytes before `at` as one number. */
function pack(bytes: Uint8Array, at: number, length: number): number {
  let packed = 0;
  for (let i = at - length; i < at; i++) packed = packed * 256 + bytes[i];
  return packed;
}
