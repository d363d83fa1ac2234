/**
 * Segments of a sequence in float64. A segment's transition is the dense product of its tokens' K x K factors, one matrix
 * product a step, whatever the cell; the backward is reverse mode of exactly these products.
 */
import type { Tensor64, TensorLike } from '../support/tensor.ts';
import { toFloat64, zeros } from '../support/tensor.ts';
import {
  betaActivate,
  betaActivateBackward,
  fusedGate,
  fusedGateBackward,
  l2norm,
  l2normBackward,
} from './activations.ts';
import type { RecurrenceOptions } from './recurrence.ts';
import { backward, RESET } from './recurrence.ts';

export interface SummaryInputs {
  k: TensorLike;
  v: TensorLike;
  q?: TensorLike;
  g?: TensorLike;
  beta?: TensorLike;
}

export type SegmentOptions = Omit<RecurrenceOptions, 'scale'>;

export interface Summary {
  transition: Tensor64;
  state: Tensor64;
  z?: Tensor64;
}

export interface SummaryGradients {
  dTransition?: TensorLike;
  dState?: TensorLike;
  dZ?: TensorLike;
}

interface Bound {
  B: number;
  T: number;
  H: number;
  HV: number;
  K: number;
  V: number;
  n: number;
  delta: boolean;
  k: Tensor64;
  v: Tensor64;
  g?: Tensor64;
  beta?: Tensor64;
  bounds: [first: number, end: number][];
}

/** Row-major. */
type Matrix = Float64Array;

function bind({ k, v, g, beta }: SummaryInputs, options: SegmentOptions): Bound {
  const n = options.numHouseholder ?? 1;
  const [B, rows, H, K] = k.shape;
  const [, , HV, V] = v.shape;
  const T = rows / n;
  const starts = options.cuSeqlens && Array.from(options.cuSeqlens, Number);
  const bounds = starts
    ? starts.slice(1).map((end, i): [number, number] => [starts[i], end])
    : Array.from({ length: B }, (_, b): [number, number] => [b * T, (b + 1) * T]);
  const kind = options.betaActivation ?? 'none';
  return {
    ...{ B, T, H, HV, K, V, n, bounds },
    delta: beta !== undefined,
    k: options.qkL2norm ? l2norm(k) : toFloat64(k),
    v: toFloat64(v),
    ...(g && { g: options.gate ? fusedGate(g, options.gate) : toFloat64(g) }),
    ...(beta && { beta: betaActivate(beta, kind) }),
  };
}

function product(a: Matrix, b: Matrix, rows: number, inner: number, columns: number): Matrix {
  const c = new Float64Array(rows * columns);
  for (let i = 0; i < rows; i++)
    for (let x = 0; x < inner; x++)
      for (let j = 0; j < columns; j++) c[i * columns + j] += a[i * inner + x] * b[x * columns + j];
  return c;
}

function transposed(a: Matrix, rows: number, columns: number): Matrix {
  const t = new Float64Array(a.length);
  for (let i = 0; i < rows; i++)
    for (let j = 0; j < columns; j++) t[j * rows + i] = a[i * columns + j];
  return t;
}

function identity(K: number): Matrix {
  const eye = new Float64Array(K * K);
  for (let i = 0; i < K; i++) eye[i * (K + 1)] = 1;
  return eye;
}

function gateAt(p: Bound, token: number, hv: number, i: number): number {
  if (!p.g) return -1;
  if (p.g.shape.length === 1) return hv;
  return p.g.shape.length === 3 ? token * p.HV + hv : (token * p.HV + hv) * p.K + i;
}

function keyOf(p: Bound, step: number, hv: number): Float64Array {
  const at = (step * p.H + Math.floor(hv / (p.HV / p.H))) * p.K;
  return p.k.data.subarray(at, at + p.K);
}

function valueRowOf(p: Bound, step: number, hv: number): Float64Array {
  const at = (step * p.HV + hv) * p.V;
  return p.v.data.subarray(at, at + p.V);
}

/** diag(exp(g)) X; a reset clears. */
function decayed(p: Bound, X: Matrix, columns: number, token: number, hv: number): Matrix {
  if (!p.g) return X;
  const Y = X.slice();
  for (let i = 0; i < p.K; i++) {
    const g = p.g.data[gateAt(p, token, hv, i)];
    const row = Y.subarray(i * columns, (i + 1) * columns);
    if (g < RESET) row.fill(0);
    else for (let j = 0; j < columns; j++) row[j] *= Math.exp(g);
  }
  return Y;
}

/** I - beta k k^T, or the identity. */
function factor(p: Bound, step: number, hv: number): Matrix {
  const A = identity(p.K);
  if (!p.beta) return A;
  const [k, beta] = [keyOf(p, step, hv), p.beta.data[step * p.HV + hv]];
  for (let i = 0; i < p.K; i++) for (let j = 0; j < p.K; j++) A[i * p.K + j] -= beta * k[i] * k[j];
  return A;
}

interface Step {
  M: Matrix;
  N: Matrix;
  token: number;
  step: number;
}

/** M and N after a head's segment; `seen` is called with what every step starts from, decayed already. */
function scan(p: Bound, [first, end]: [number, number], hv: number, seen?: (step: Step) => void) {
  let [M, N]: Matrix[] = [identity(p.K), new Float64Array(p.K * p.V)];
  for (let token = first; token < end; token++) {
    [M, N] = [decayed(p, M, p.K, token, hv), decayed(p, N, p.V, token, hv)];
    for (let step = token * p.n; step < (token + 1) * p.n; step++) {
      seen?.({ M, N, token, step });
      const [A, k, v] = [factor(p, step, hv), keyOf(p, step, hv), valueRowOf(p, step, hv)];
      const by = p.beta ? p.beta.data[step * p.HV + hv] : 1;
      M = product(A, M, p.K, p.K, p.K);
      N = product(A, N, p.K, p.K, p.V);
      for (let i = 0; i < p.K; i++)
        for (let j = 0; j < p.V; j++) N[i * p.V + j] += by * k[i] * v[j];
    }
  }
  return { M, N };
}

function transitionShape(p: Bound): number[] {
  const heads = [p.bounds.length, p.HV];
  if (p.delta) return [...heads, p.K, p.K];
  return p.g?.shape.length === 4 ? [...heads, p.K] : heads;
}

/** Where the entries of a transition stand in the dense matrix. */
function entries(p: Bound): number[] {
  const [, , ...inner] = transitionShape(p);
  const size = inner.reduce((a, b) => a * b, 1);
  return Array.from({ length: size }, (_, i) => (p.delta ? i : i * (p.K + 1)));
}

function sumsOfKeys(p: Bound): Tensor64 {
  const z = zeros([p.bounds.length, p.H, p.K]);
  p.bounds.forEach(([first, end], segment) => {
    for (let row = first * p.H * p.K; row < end * p.H * p.K; row++)
      z.data[segment * p.H * p.K + (row % (p.H * p.K))] += p.k.data[row];
  });
  return z;
}

export function segmentSummary(inputs: SummaryInputs, options: SegmentOptions = {}): Summary {
  const p = bind(inputs, options);
  const transition = zeros(transitionShape(p));
  const state = zeros([p.bounds.length, p.HV, p.K, p.V]);
  const at = entries(p);
  p.bounds.forEach((bounds, segment) => {
    for (let hv = 0; hv < p.HV; hv++) {
      const { M, N } = scan(p, bounds, hv);
      const head = segment * p.HV + hv;
      for (const [i, entry] of at.entries()) transition.data[head * at.length + i] = M[entry];
      state.data.set(N, head * p.K * p.V);
    }
  });
  return { transition, state, ...(options.normalize && { z: sumsOfKeys(p) }) };
}

function addHead(
  p: Bound,
  bounds: [number, number],
  hv: number,
  dEnd: { dM: Matrix; dN: Matrix },
  to: { dk: Tensor64; dv: Tensor64; dg?: Tensor64; dbeta?: Tensor64 },
): void {
  const { K, V } = p;
  const steps: Step[] = [];
  scan(p, bounds, hv, (step) => steps.push(step));
  let { dM, dN } = dEnd;
  for (const { M, N, token, step } of steps.reverse()) {
    const [A, k, v] = [factor(p, step, hv), keyOf(p, step, hv), valueRowOf(p, step, hv)];
    const [dk, dv] = [
      keyOf({ ...p, k: to.dk }, step, hv),
      valueRowOf({ ...p, v: to.dv }, step, hv),
    ];
    const beta = p.beta ? p.beta.data[step * p.HV + hv] : 1;
    let dbeta = 0;
    for (let i = 0; i < K; i++)
      for (let j = 0; j < V; j++) {
        dk[i] += beta * dN[i * V + j] * v[j];
        dv[j] += beta * dN[i * V + j] * k[i];
        dbeta += k[i] * dN[i * V + j] * v[j];
      }
    if (p.beta && to.dbeta) {
      const dA = product(dN, transposed(N, K, V), K, V, K);
      product(dM, transposed(M, K, K), K, K, K).forEach((x, i) => {
        dA[i] += x;
      });
      for (let i = 0; i < K; i++)
        for (let j = 0; j < K; j++) {
          dbeta -= k[i] * dA[i * K + j] * k[j];
          dk[i] -= beta * (dA[i * K + j] + dA[j * K + i]) * k[j];
        }
      to.dbeta.data[step * p.HV + hv] += dbeta;
      [dM, dN] = [
        product(transposed(A, K, K), dM, K, K, K),
        product(transposed(A, K, K), dN, K, K, V),
      ];
    }
    if (step % p.n !== 0 || !p.g || !to.dg) continue;
    for (let i = 0; i < K; i++) {
      const index = gateAt(p, token, hv, i);
      if (p.g.data[index] < RESET) continue;
      for (let j = 0; j < K; j++) to.dg.data[index] += M[i * K + j] * dM[i * K + j];
      for (let j = 0; j < V; j++) to.dg.data[index] += N[i * V + j] * dN[i * V + j];
    }
    [dM, dN] = [decayed(p, dM, K, token, hv), decayed(p, dN, V, token, hv)];
  }
}

export function segmentSummaryBackward(
  { dTransition, dState, dZ, ...inputs }: SummaryInputs & SummaryGradients,
  options: SegmentOptions = {},
) {
  const p = bind(inputs, options);
  const like = (x?: TensorLike) => x && zeros([...x.shape]);
  const to = { dk: zeros(p.k.shape), dv: zeros(p.v.shape), dg: like(p.g), dbeta: like(p.beta) };
  const at = entries(p);
  p.bounds.forEach((bounds, segment) => {
    for (let hv = 0; hv < p.HV; hv++) {
      const head = segment * p.HV + hv;
      const [dM, dN] = [new Float64Array(p.K * p.K), new Float64Array(p.K * p.V)];
      for (const [i, entry] of at.entries())
        if (dTransition) dM[entry] = dTransition.data[head * at.length + i];
      for (let i = 0; i < dN.length; i++) if (dState) dN[i] = dState.data[head * dN.length + i];
      addHead(p, bounds, hv, { dM, dN }, to);
    }
    const [first, end] = bounds;
    const width = p.H * p.K;
    for (let row = first * width; row < end * width; row++)
      if (dZ) to.dk.data[row] += dZ.data[segment * width + (row % width)];
  });
  const { gate, betaActivation = 'none' } = options;
  return {
    dk: options.qkL2norm ? l2normBackward(inputs.k, to.dk) : to.dk,
    dv: to.dv,
    ...(to.dg && (gate ? fusedGateBackward(inputs.g!, gate, to.dg) : { dg: to.dg })),
    ...(to.dbeta && { dbeta: betaActivateBackward(inputs.beta!, betaActivation, to.dbeta) }),
  };
}

/** The recurrence's backward without a gradient of the final state: values do not enter into it. */
export function segmentGradient(
  inputs: Omit<SummaryInputs, 'v'> & { q: TensorLike; dO: TensorLike },
  options: RecurrenceOptions = {},
): { dInitialState: Tensor64 } {
  const n = options.numHouseholder ?? 1;
  const [B, T, HV, V] = inputs.dO.shape;
  const { dInitialState } = backward({ ...inputs, v: zeros([B, T * n, HV, V]) }, options);
  return { dInitialState };
}

/** M of segment r and head as a dense K x K matrix. */
function dense({ data, shape }: TensorLike, r: number, head: number, K: number): Matrix {
  const heads = shape[1] * shape[2];
  const size = shape.slice(3).reduce((a, b) => a * b, 1);
  const entry = (i: number) => data[(r * heads + head) * size + i];
  const M = identity(K);
  if (shape.length === 5) return M.map((_, i) => entry(i));
  for (let i = 0; i < K; i++) M[i * (K + 1)] = entry(shape.length === 4 ? i : 0);
  return M;
}

interface ComposeInputs {
  transitions: TensorLike;
  states: TensorLike;
  initialState?: TensorLike;
}

export function composeStates({ transitions, states, initialState }: ComposeInputs) {
  const [R, N, HV, K, V] = states.shape;
  const initialStates = zeros([R, N, HV, K, V]);
  const finalState = initialState ? toFloat64(initialState) : zeros([N, HV, K, V]);
  const size = K * V;
  for (let head = 0; head < N * HV; head++) {
    let S: Matrix = finalState.data.slice(head * size, (head + 1) * size);
    for (let r = 0; r < R; r++) {
      const at = (r * N * HV + head) * size;
      initialStates.data.set(S, at);
      const first = r === 0 && !initialState;
      S = first ? new Float64Array(size) : product(dense(transitions, r, head, K), S, K, K, V);
      for (let i = 0; i < size; i++) S[i] += states.data[at + i];
    }
    finalState.data.set(S, head * size);
  }
  return { initialStates, finalState };
}

interface ComposeGradients {
  transitions: TensorLike;
  dInitialStates: TensorLike;
  initialState?: TensorLike;
  initialStates?: TensorLike;
  dFinalState?: TensorLike;
}

export function composeStatesBackward(inputs: ComposeGradients) {
  const { transitions, dInitialStates, initialState, initialStates, dFinalState } = inputs;
  const [R, N, HV, K, V] = dInitialStates.shape;
  const size = K * V;
  const dStates = zeros([R, N, HV, K, V]);
  const dTransitions = zeros([...transitions.shape]);
  const dInitialState = zeros([N, HV, K, V]);
  const width = dTransitions.data.length / Math.max(1, R * N * HV);
  for (let head = 0; head < N * HV; head++) {
    let D: Matrix = new Float64Array(size);
    for (let i = 0; i < size && dFinalState; i++) D[i] = dFinalState.data[head * size + i];
    for (let r = R - 1; r >= 0; r--) {
      const at = (r * N * HV + head) * size;
      dStates.data.set(D, at);
      const S = Float64Array.from({ length: size }, (_, i) =>
        initialStates && (r > 0 || initialState) ? initialStates.data[at + i] : 0,
      );
      const dM = product(D, transposed(S, K, V), K, V, K);
      for (let i = 0; i < K * K; i++) {
        const to = (r * N * HV + head) * width;
        const diagonal = i % (K + 1) === 0;
        if (transitions.shape.length === 5) dTransitions.data[to + i] = dM[i];
        else if (diagonal) dTransitions.data[to + (width > 1 ? i / (K + 1) : 0)] += dM[i];
      }
      const last = r === R - 1 && !dFinalState;
      const M = dense(transitions, r, head, K);
      D = last ? new Float64Array(size) : product(transposed(M, K, K), D, K, K, V);
      for (let i = 0; i < size; i++) D[i] += dInitialStates.data[at + i];
    }
    dInitialState.data.set(D, head * size);
  }
  return {
    dStates,
    ...(initialStates && { dTransitions }),
    ...(initialState && { dInitialState }),
  };
}
