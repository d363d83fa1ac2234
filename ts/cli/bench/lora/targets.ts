// What the fused LoRA product is meant to reach, each beside what was measured.
import type { Case } from '../../benchCase';
import type { Targets } from '../schema';
import { isDecode } from './assets';

/** What they are for: the widths of a layer of a language model. */
const WIDTH = 4096;
const WIDE = 64;
const PREFILL_ROWS = 512;
const DECODE_ROWS = 8;

/** Targets of a case; those of a kind that has none are absent. */
export function targetsOf(one: Case): Targets {
  const { op, pass, shape } = one;
  const { format, perRow } = op.lora!;
  const { M, N, K, r, E } = shape;
  if (Math.min(N, K) < WIDTH) return {};
  const narrow = r < WIDE;
  const known = r <= WIDE;
  const targets: Targets = {};
  const decode = isDecode(one) && M <= DECODE_ROWS;
  if (E === 1 && perRow === 1 && known) {
    if (pass === 'forward-backward') targets.overBase = narrow ? 1.03 : 1.07;
    if (pass === 'forward' && M >= PREFILL_ROWS) targets.overBase = narrow ? 1.02 : 1.045;
    if (decode && (format === 'f32' || format === 'bf16')) targets.overBase = narrow ? 1.03 : 1.06;
    if (decode && format === 'nf4' && narrow) targets.overBase = 1.06;
  }
  if (E > 1 && perRow === 1 && pass === 'forward' && M >= PREFILL_ROWS) targets.overOne = 1.03;
  if (decode && M === 1) {
    if (format === 'f32' || format === 'bf16') targets.shareOfBandwidth = 0.9;
    if (format === 'nf4') targets.shareOfBandwidth = 0.75;
  }
  if (E === 0 && pass === 'forward' && M >= PREFILL_ROWS) {
    if (op.arithmetic === undefined && format === 'f32') {
      targets.shareOfPeak = 0.92;
      targets.peers = { openblas: 1.05 };
    }
    if (op.arithmetic === 'int8') targets.shareOfPeak = 0.85;
    if (op.arithmetic === 'bf16' && (format === 'bf16' || format === 'nf4'))
      targets.shareOfPeak = 0.9;
  }
  return targets;
}
