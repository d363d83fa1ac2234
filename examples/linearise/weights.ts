import { matmulSync, type Tensor } from 'rankone';
import { Buffers } from '../common/tensor.ts';

/** Weights below this are as good as none; without it one query without a likeness would be all of the gradient. */
const LEAST = 1e-9;

/**
 * Hedgehog's loss: the cross-entropy of a linear attention's weights under those of softmax attention,
 *
 *     L = -sum_j a_ij log(w_ij / sum_j w_ij),   a_i = softmax(scale q_i K^T),   w_ij = phi(q_i) . phi(k_j),   j <= i
 *
 * as a mean over queries and heads, in nats. It makes the T x T weights, which a model's own forward never does.
 */
export class WeightMatch {
  private readonly buffers = new Buffers();

  /**
   * @param q,k `[B,T,H,D]` of the softmax attention
   * @param mapped their features, `[B,T,H,F]`
   * @returns the loss, what of it is the entropy of a itself, and the gradients of the features
   */
  loss(
    q: Tensor,
    k: Tensor,
    mapped: { q: Tensor; k: Tensor },
  ): { loss: number; entropy: number; dq: Tensor; dk: Tensor } {
    const [batch, tokens, heads, D] = q.shape;
    const square = (name: string) => this.buffers.get(name, batch, heads, tokens, tokens);
    const [a, w] = [square('a'), square('w')];
    const [fq, fk] = [this.byHead('fq', mapped.q), this.byHead('fk', mapped.k)];
    const scores = { a: this.byHead('q', q), b: this.byHead('k', k) };
    matmulSync(scores, { transposeB: true, out: { y: a } });
    matmulSync({ a: fq, b: fk }, { transposeB: true, out: { y: w } });
    const rows = batch * heads * tokens;
    let [loss, entropy] = [0, 0];
    for (let row = 0; row < rows; row++) {
      const [rowLoss, rowEntropy] = matchRow(
        a.data.subarray(row * tokens, (row + 1) * tokens),
        w.data.subarray(row * tokens, (row + 1) * tokens),
        (row % tokens) + 1,
        D ** -0.5,
        1 / rows,
      );
      loss += rowLoss / rows;
      entropy += rowEntropy / rows;
    }
    // w now holds its own gradient.
    const dfq = this.buffers.get('dfq', ...fq.shape);
    const dfk = this.buffers.get('dfk', ...fk.shape);
    matmulSync({ a: w, b: fk }, { out: { y: dfq } });
    matmulSync({ a: w, b: fq }, { transposeA: true, out: { y: dfk } });
    return { loss, entropy, dq: this.byToken('dq', dfq), dk: this.byToken('dk', dfk) };
  }

  private byHead(name: string, x: Tensor): Tensor {
    const [batch, tokens, heads, width] = x.shape;
    return swapMiddle(x, this.buffers.get(`${name} by head`, batch, heads, tokens, width));
  }

  private byToken(name: string, x: Tensor): Tensor {
    const [batch, heads, tokens, width] = x.shape;
    return swapMiddle(x, this.buffers.get(`${name} by token`, batch, tokens, heads, width));
  }
}

/** `[B,M,N,D]` as `[B,N,M,D]`. */
function swapMiddle(x: Tensor, y: Tensor): Tensor {
  const [batch, M, N, D] = x.shape;
  for (let b = 0; b < batch; b++)
    for (let m = 0; m < M; m++)
      for (let n = 0; n < N; n++) {
        const from = ((b * M + m) * N + n) * D;
        y.data.set(x.data.subarray(from, from + D), ((b * N + n) * M + m) * D);
      }
  return y;
}

/** Loss and entropy of one query that sees `seen` keys; puts the gradient of the loss, times `factor`, in the place of w. */
function matchRow(
  scores: Float32Array,
  w: Float32Array,
  seen: number,
  scale: number,
  factor: number,
): [loss: number, entropy: number] {
  let top = Number.NEGATIVE_INFINITY;
  for (let j = 0; j < seen; j++) top = Math.max(top, scores[j]);
  let [total, sum] = [0, 0];
  for (let j = 0; j < seen; j++) {
    scores[j] = scale * (scores[j] - top);
    total += Math.exp(scores[j]);
    sum += w[j] + LEAST;
  }
  const [logTotal, logSum] = [Math.log(total), Math.log(sum)];
  let [loss, entropy] = [0, 0];
  for (let j = 0; j < seen; j++) {
    const logA = scores[j] - logTotal;
    const a = Math.exp(logA);
    const weight = w[j] + LEAST;
    loss -= a * (Math.log(weight) - logSum);
    entropy -= a * logA;
    w[j] = factor * (1 / sum - a / weight);
  }
  w.fill(0, seen);
  return [loss, entropy];
}
