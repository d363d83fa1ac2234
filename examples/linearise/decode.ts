import { Carry } from '../common/carry.ts';
import { tokensOf } from '../common/evaluate.ts';
import type { SequenceModel } from '../common/model.ts';

/** A prompt is read in pieces of this many bytes. */
const PIECE = 1024;

export interface DecodePoint {
  /** Tokens read before. */
  context: number;
  tokensPerSecond: number;
  /** What one sequence's caches and states take. */
  bytes: number;
}

/** Speed of single tokens after a prompt of each length, by the median step, and the memory that the model carries. */
export function decodeCurve(
  model: SequenceModel,
  text: Uint8Array,
  contexts: readonly number[],
  decoded: number,
): DecodePoint[] {
  return contexts.map((context) => {
    const carry = new Carry(1, context + decoded);
    try {
      for (let from = 0; from < context; from += PIECE)
        model.forward(tokensOf(piece(text, from, Math.min(context, from + PIECE))), carry);
      const times = Array.from({ length: decoded }, (_, i) => {
        const ids = tokensOf(piece(text, context + i, context + i + 1));
        const start = performance.now();
        model.forward(ids, carry);
        return performance.now() - start;
      });
      times.sort((a, b) => a - b);
      return { context, tokensPerSecond: 1000 / times[decoded >> 1], bytes: carry.bytes };
    } finally {
      carry.dispose();
    }
  });
}

/** The text again from its start where it ends. */
function piece(text: Uint8Array, from: number, to: number): Uint8Array {
  return Uint8Array.from({ length: to - from }, (_, i) => text[(from + i) % text.length]);
}
