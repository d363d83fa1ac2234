/** y = a b^T, from a language model's sizes to 512 x 4096 x 4096. 2MNK flops. */
import { matmul } from '../../test/reference/layers.ts';
import { Random } from '../../test/support/random.ts';
import { matmulSync } from '../../ts/index';
import type { Case } from '../case.ts';

const SIZES = [
  [1, 1024, 1024],
  [1024, 128, 128],
  [1024, 512, 512],
  [2048, 1024, 256],
  [512, 4096, 4096],
] as const;

export function matmulCases(): Case[] {
  const random = new Random(1);
  const matrix = (rows: number, columns: number) => ({
    data: random.normals(rows * columns),
    shape: [rows, columns],
  });
  return SIZES.map(([M, N, K]) => {
    const a = matrix(M, K);
    const b = matrix(N, K);
    const out = { y: { data: new Float32Array(M * N), shape: [M, N] } };
    return {
      name: `matmul   ${M} x ${N} x ${K}`,
      flops: 2 * M * N * K,
      units: 1,
      check: () => {
        const few = { a: matrix(5, K), b };
        const y = matmulSync(few, { transposeB: true }).y.data;
        const reference = matmul(few, { transposeB: true }).data;
        const worst = y.reduce((w, x, i) => Math.max(w, Math.abs(x - reference[i])), 0);
        if (!(worst < 1e-5 * K)) throw new Error(`matmul ${M} x ${N} x ${K}: off by ${worst}`);
      },
      run: () => matmulSync({ a, b }, { transposeB: true, out }),
    };
  });
}
