/** h_t = e^{g_t} h_{t-1} + x_t per channel, in float64. Gates below -104 forget all. */
import type { Tensor64, TensorLike } from '../support/tensor.ts';
import { expectShape, toFloat64, zeros } from '../support/tensor.ts';
import { sequencesOf } from './gatedScan.ts';

export interface HgrnInputs {
  x: TensorLike; // [B,T,D]
  g: TensorLike; // [B,T,D]
  initialState?: TensorLike; // [N,D]
}

export interface HgrnOptions {
  cuSeqlens?: ArrayLike<number>;
}

const decayOf = (g: number): number => (g < -104 ? 0 : Math.exp(g));

export function hgrn({ x, g, initialState }: HgrnInputs, { cuSeqlens }: HgrnOptions = {}) {
  const [B, T, D] = x.shape;
  expectShape('g', g, [B, T, D]);
  const sequences = sequencesOf(B, T, cuSeqlens);
  const o = zeros(x.shape);
  const finalState = initialState ? toFloat64(initialState) : zeros([sequences.length, D]);
  expectShape('initialState', finalState, [sequences.length, D]);
  sequences.forEach(({ first, end }, n) => {
    for (let t = first; t < end; t++) {
      for (let d = 0; d < D; d++) {
        const decay = decayOf(g.data[t * D + d]);
        const h = finalState.data[n * D + d];
        finalState.data[n * D + d] = (decay === 0 ? 0 : decay * h) + x.data[t * D + d];
        o.data[t * D + d] = finalState.data[n * D + d];
      }
    }
  });
  return { o, finalState };
}

export function hgrnBackward(
  inputs: HgrnInputs & { dO: TensorLike; dFinalState?: TensorLike },
  options: HgrnOptions = {},
): { dx: Tensor64; dg: Tensor64; dInitialState: Tensor64 } {
  const { x, g, initialState, dO, dFinalState } = inputs;
  const [B, T, D] = x.shape;
  const sequences = sequencesOf(B, T, options.cuSeqlens);
  const { o } = hgrn(inputs, options);
  const [dx, dg] = [zeros(x.shape), zeros(x.shape)];
  const dInitialState = dFinalState ? toFloat64(dFinalState) : zeros([sequences.length, D]);
  sequences.forEach(({ first, end }, n) => {
    for (let t = end - 1; t >= first; t--) {
      for (let d = 0; d < D; d++) {
        const at = t * D + d;
        const decay = decayOf(g.data[at]);
        const before = t > first ? o.data[at - D] : (initialState?.data[n * D + d] ?? 0);
        const dh = dInitialState.data[n * D + d] + dO.data[at];
        dx.data[at] = dh;
        dg.data[at] = decay === 0 ? 0 : dh * decay * before;
        dInitialState.data[n * D + d] = decay === 0 ? 0 : dh * decay;
      }
    }
  });
  return { dx, dg, dInitialState };
}
