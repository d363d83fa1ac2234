/**
 * The recurrence grid in float64, token by token, per sequence and value head:
 *   S <- diag(exp(g_t)) S;  n times: S <- S + k u^T, u = v (additive) or beta (v - S^T k) (delta);
 *   o_t = scale S^T q_t, or S^T q_t / (z^T q_t + 1e-10) with the normalizer of normalize.ts.
 * The backward is reverse mode of exactly these steps. It replays a stretch of tokens from a stored
 * state, so that memory is O(sqrt T) states rather than O(T) on long sequences.
 */

import type { Tensor64, TensorLike } from '../support/tensor.ts';
import { expectShape, toFloat64, zeros } from '../support/tensor.ts';
import type { BetaActivation, FusedGate } from './activations.ts';
import {
  betaActivate,
  betaActivateBackward,
  fusedGate,
  fusedGateBackward,
  l2norm,
  l2normBackward,
} from './activations.ts';
import type { Normalizer } from './normalize.ts';
import { divide, normalizer, normalizerBackward } from './normalize.ts';

export interface RecurrenceInputs {
  q: TensorLike; // [B,T,H,K]
  k: TensorLike; // [B,T*n,H,K]
  v: TensorLike; // [B,T*n,HV,V]
  g?: TensorLike; // [HV], [B,T,HV] or [B,T,HV,K]
  beta?: TensorLike; // [B,T*n,HV]
  initialState?: TensorLike; // [N,HV,K,V]
  initialZ?: TensorLike; // [N,H,K], with normalize
}

export interface RecurrenceGradientInputs extends RecurrenceInputs {
  dO: TensorLike; // [B,T,HV,V]
  dFinalState?: TensorLike; // [N,HV,K,V]
  dFinalZ?: TensorLike; // [N,H,K], with normalize
}

export interface RecurrenceOptions {
  /** Default 'delta' when beta is given, else 'additive'. */
  update?: 'additive' | 'delta';
  numHouseholder?: number;
  /** Default K^-0.5. */
  scale?: number;
  /** Boundaries of packed sequences, in tokens. */
  cuSeqlens?: ArrayLike<number>;
  qkL2norm?: boolean;
  gate?: FusedGate;
  betaActivation?: BetaActivation;
  /** Additive without a gate only; `scale` then has no effect. */
  normalize?: boolean;
}

export interface RecurrenceOutputs {
  o: Tensor64;
  finalState: Tensor64;
  /** With normalize, `[N,H,K]`. */
  finalZ?: Tensor64;
}

export interface RecurrenceGradients {
  dq: Tensor64;
  dk: Tensor64;
  dv: Tensor64;
  dg?: Tensor64;
  dbeta?: Tensor64;
  /** Always computed: the gradient of a zero initial state where none was given. */
  dInitialState: Tensor64;
  dALog?: Tensor64;
  dDtBias?: Tensor64;
  /** With normalize, `[N,H,K]`; always computed, as dInitialState is. */
  dInitialZ?: Tensor64;
}

/** Log gates below this reset the state. */
export const RESET = -104;

export function forward(
  inputs: RecurrenceInputs,
  options: RecurrenceOptions = {},
): RecurrenceOutputs {
  const p = bind(activate(inputs, options), options);
  const results = run(p);
  if (!p.normalizer) return results;
  const { finalZ } = p.normalizer;
  return { o: divide(results.o, p.normalizer), finalState: results.finalState, finalZ };
}

function run(p: Bound): RecurrenceOutputs {
  const o = zeros([p.B, p.T, p.HV, p.V]);
  const finalState = initialStateOf(p);
  forEachHead(p, (sequence, h, state) => {
    const S = finalState.data.subarray(state, state + p.K * p.V);
    for (let token = sequence.first; token < sequence.end; token++) {
      decay(p, S, token, h);
      for (let j = 0; j < p.n; j++) write(p, S, token * p.n + j, h);
      read(p, S, token, h, o.data);
    }
  });
  return { o, finalState };
}

export function backward(
  inputs: RecurrenceGradientInputs,
  options: RecurrenceOptions = {},
): RecurrenceGradients {
  const p = bind(activate(inputs, options), options);
  expectShape('dO', inputs.dO, [p.B, p.T, p.HV, p.V]);
  const stateShape = [p.sequences.length, p.HV, p.K, p.V];
  if (inputs.dFinalState) expectShape('dFinalState', inputs.dFinalState, stateShape);
  const grads: RecurrenceGradients = {
    dq: zeros(p.q.shape),
    dk: zeros(p.k.shape),
    dv: zeros(p.v.shape),
    // Starts as the gradient of the final state and is carried back to the initial one in place.
    dInitialState: inputs.dFinalState ? toFloat64(inputs.dFinalState) : zeros(stateShape),
  };
  if (p.g) grads.dg = zeros(p.g.shape);
  if (p.beta) grads.dbeta = zeros(p.beta.shape);
  // o = u / d: with d held, the gradient of u is that of o, divided.
  const dOut = p.normalizer ? divide(toFloat64(inputs.dO), p.normalizer) : toFloat64(inputs.dO);
  const dO = dOut.data;
  const starts = initialStateOf(p);
  forEachHead(p, (sequence, h, state) => {
    const size = p.K * p.V;
    const start = starts.data.subarray(state, state + size);
    const dS = grads.dInitialState.data.subarray(state, state + size);
    backwardHead(p, sequence, h, start, dS, dO, grads);
  });
  if (p.normalizer) {
    const o = divide(run(p).o, p.normalizer);
    grads.dInitialZ = normalizerBackward(p, p.normalizer, { ...inputs, o }, grads);
  }
  return deactivate(inputs, options, grads);
}

interface Sequence {
  /** Token indices count through the whole batch: row b starts at b * T. */
  first: number;
  end: number;
}

interface Bound {
  B: number;
  T: number;
  H: number;
  HV: number;
  K: number;
  V: number;
  n: number;
  scale: number;
  q: Tensor64;
  k: Tensor64;
  v: Tensor64;
  g?: Tensor64;
  beta?: Tensor64;
  initialState?: Tensor64;
  sequences: Sequence[];
  normalizer?: Normalizer;
}

function bind(inputs: RecurrenceInputs, options: RecurrenceOptions): Bound {
  const [B, T, H, K] = inputs.q.shape;
  const [, , HV, V] = inputs.v.shape;
  const n = options.numHouseholder ?? 1;
  const update = options.update ?? (inputs.beta ? 'delta' : 'additive');
  if ((update === 'delta') !== (inputs.beta !== undefined)) {
    throw new TypeError(`beta: ${update} update ${inputs.beta ? 'takes none' : 'needs it'}`);
  }
  if (update === 'additive' && n > 1) throw new RangeError('numHouseholder > 1 needs delta');
  if (HV % H !== 0) throw new RangeError(`HV = ${HV} is no multiple of H = ${H}`);
  expectShape('k', inputs.k, [B, T * n, H, K]);
  expectShape('v', inputs.v, [B, T * n, HV, V]);
  if (inputs.beta) expectShape('beta', inputs.beta, [B, T * n, HV]);
  if (inputs.g) {
    const shapes: Record<number, number[]> = { 1: [HV], 3: [B, T, HV], 4: [B, T, HV, K] };
    const shape = shapes[inputs.g.shape.length];
    if (!shape) throw new RangeError(`g: rank ${inputs.g.shape.length}`);
    expectShape('g', inputs.g, shape);
  }
  const sequences = sequencesOf(B, T, options.cuSeqlens);
  const bound: Bound = {
    B,
    T,
    H,
    HV,
    K,
    V,
    n,
    sequences,
    scale: options.scale ?? K ** -0.5,
    q: toFloat64(inputs.q),
    k: toFloat64(inputs.k),
    v: toFloat64(inputs.v),
  };
  if (inputs.g) bound.g = toFloat64(inputs.g);
  if (inputs.beta) bound.beta = toFloat64(inputs.beta);
  if (inputs.initialState) {
    expectShape('initialState', inputs.initialState, [sequences.length, HV, K, V]);
    bound.initialState = toFloat64(inputs.initialState);
  }
  if (options.normalize) {
    if (inputs.g || inputs.beta) throw new TypeError('normalize: additive without a gate only');
    bound.normalizer = normalizer(bound, inputs.initialZ);
    bound.scale = 1;
  }
  return bound;
}

function sequencesOf(B: number, T: number, cuSeqlens?: ArrayLike<number>): Sequence[] {
  if (!cuSeqlens) {
    return Array.from({ length: B }, (_, b) => ({ first: b * T, end: (b + 1) * T }));
  }
  const bounds = Array.from(cuSeqlens, Number);
  if (B !== 1 || bounds[0] !== 0 || bounds[bounds.length - 1] !== T) {
    throw new RangeError(`cuSeqlens [${bounds}] with B = ${B}, T = ${T}`);
  }
  return bounds.slice(1).map((end, i) => ({ first: bounds[i], end }));
}

function initialStateOf(p: Bound): Tensor64 {
  if (p.initialState) return toFloat64(p.initialState);
  return zeros([p.sequences.length, p.HV, p.K, p.V]);
}

function forEachHead(
  p: Bound,
  visit: (sequence: Sequence, head: number, stateOffset: number) => void,
): void {
  p.sequences.forEach((sequence, index) => {
    for (let h = 0; h < p.HV; h++) visit(sequence, h, (index * p.HV + h) * p.K * p.V);
  });
}

/** Offset of the q row of a token, or of the k row of a step, that value head h reads. */
function keyRow(p: Bound, row: number, h: number): number {
  return (row * p.H + Math.floor(h / (p.HV / p.H))) * p.K;
}

function valueRow(p: Bound, row: number, h: number): number {
  return (row * p.HV + h) * p.V;
}

/** Index into g of the log gate of row i of the state; -1 without a gate. */
function gateIndex(p: Bound, token: number, h: number, i: number): number {
  if (!p.g) return -1;
  switch (p.g.shape.length) {
    case 1:
      return h;
    case 3:
      return token * p.HV + h;
    default:
      return (token * p.HV + h) * p.K + i;
  }
}

function decay(p: Bound, S: Float64Array, token: number, h: number): void {
  if (!p.g) return;
  for (let i = 0; i < p.K; i++) scaleRow(p, S, i, p.g.data[gateIndex(p, token, h, i)]);
}

function scaleRow(p: Bound, S: Float64Array, i: number, logGate: number): void {
  const row = S.subarray(i * p.V, (i + 1) * p.V);
  // Filled, not multiplied: a reset clears NaN and Infinity too, and leaves +0.
  if (logGate < RESET) row.fill(0);
  else scaleBy(row, Math.exp(logGate));
}

function scaleBy(row: Float64Array, factor: number): void {
  for (let c = 0; c < row.length; c++) row[c] *= factor;
}

/** r = v - S^T k of a step, the part of v that the state does not hold yet. */
function residual(p: Bound, S: Float64Array, step: number, h: number): Float64Array {
  const v = valueRow(p, step, h);
  const r = p.v.data.slice(v, v + p.V);
  addTransposed(p, r, 0, S, p.k.data, keyRow(p, step, h), -1);
  return r;
}

/** The row that a step writes along its key: v, or beta r. */
function writtenRow(p: Bound, S: Float64Array, step: number, h: number): Float64Array {
  const v = valueRow(p, step, h);
  if (!p.beta) return p.v.data.slice(v, v + p.V);
  const u = residual(p, S, step, h);
  scaleBy(u, p.beta.data[step * p.HV + h]);
  return u;
}

/** S += factor x y^T, with x a row of K numbers at `offset`. */
function addOuter(
  { K, V }: Bound,
  S: Float64Array,
  x: Float64Array,
  offset: number,
  y: Float64Array,
  factor: number,
): void {
  for (let i = 0, at = 0; i < K; i++) {
    const xi = factor * x[offset + i];
    for (let c = 0; c < V; c++, at++) S[at] += xi * y[c];
  }
}

/** out[outOffset ..] += factor S^T x, with x a row of K numbers at `offset`. */
function addTransposed(
  { K, V }: Bound,
  out: Float64Array,
  outOffset: number,
  S: Float64Array,
  x: Float64Array,
  offset: number,
  factor: number,
): void {
  for (let i = 0, at = 0; i < K; i++) {
    const xi = factor * x[offset + i];
    for (let c = 0; c < V; c++, at++) out[outOffset + c] += xi * S[at];
  }
}

function write(p: Bound, S: Float64Array, step: number, h: number): void {
  addOuter(p, S, p.k.data, keyRow(p, step, h), writtenRow(p, S, step, h), 1);
}

function read(p: Bound, S: Float64Array, token: number, h: number, o: Float64Array): void {
  const query = keyRow(p, token, h);
  addTransposed(p, o, valueRow(p, token, h), S, p.q.data, query, p.scale);
}

function backwardHead(
  p: Bound,
  sequence: Sequence,
  h: number,
  start: Float64Array,
  dS: Float64Array,
  dO: Float64Array,
  grads: RecurrenceGradients,
): void {
  const stretch = Math.max(1, Math.ceil(Math.sqrt(sequence.end - sequence.first)));
  const S = start.slice();
  const checkpoints: Float64Array[] = [];
  for (let token = sequence.first; token < sequence.end; token++) {
    if ((token - sequence.first) % stretch === 0) checkpoints.push(S.slice());
    decay(p, S, token, h);
    for (let j = 0; j < p.n; j++) write(p, S, token * p.n + j, h);
  }
  for (let c = checkpoints.length - 1; c >= 0; c--) {
    const first = sequence.first + c * stretch;
    const end = Math.min(first + stretch, sequence.end);
    const states = replay(p, checkpoints[c], first, end, h);
    for (let token = end - 1; token >= first; token--) {
      backwardToken(p, states[token - first], token, h, dS, dO, grads);
    }
  }
}

/** Per token the n + 1 states: after the decay, then after each write. */
function replay(
  p: Bound,
  from: Float64Array,
  first: number,
  end: number,
  h: number,
): Float64Array[][] {
  const S = from.slice();
  const states: Float64Array[][] = [];
  for (let token = first; token < end; token++) {
    decay(p, S, token, h);
    const ofToken = [S.slice()];
    for (let j = 0; j < p.n; j++) {
      write(p, S, token * p.n + j, h);
      ofToken.push(S.slice());
    }
    states.push(ofToken);
  }
  return states;
}

function backwardToken(
  p: Bound,
  states: Float64Array[],
  token: number,
  h: number,
  dS: Float64Array,
  dO: Float64Array,
  grads: RecurrenceGradients,
): void {
  const out = valueRow(p, token, h);
  const dOut = dO.subarray(out, out + p.V);
  const query = keyRow(p, token, h);
  addProduct(p, grads.dq.data, query, states[p.n], dOut, p.scale);
  addOuter(p, dS, p.q.data, query, dOut, p.scale);
  for (let j = p.n - 1; j >= 0; j--) backwardStep(p, states[j], token * p.n + j, h, dS, grads);
  if (!p.g || !grads.dg) return;
  for (let i = 0; i < p.K; i++) {
    const index = gateIndex(p, token, h, i);
    const logGate = p.g.data[index];
    // d/dg of exp(g) S is the decayed state itself; a reset has no gradient.
    if (!(logGate < RESET)) {
      let sum = 0;
      for (let c = i * p.V; c < (i + 1) * p.V; c++) sum += states[0][c] * dS[c];
      grads.dg.data[index] += sum;
    }
    scaleRow(p, dS, i, logGate);
  }
}

/** Reverse of S' = S + k u^T with u = v, or u = beta r and r = v - S^T k. */
function backwardStep(
  p: Bound,
  S: Float64Array,
  step: number,
  h: number,
  dS: Float64Array,
  grads: RecurrenceGradients,
): void {
  const key = keyRow(p, step, h);
  const value = valueRow(p, step, h);
  const du = new Float64Array(p.V);
  addTransposed(p, du, 0, dS, p.k.data, key, 1);
  if (!p.beta || !grads.dbeta) {
    addProduct(p, grads.dk.data, key, dS, p.v.data.subarray(value, value + p.V), 1);
    grads.dv.data.set(du, value);
    return;
  }
  const at = step * p.HV + h;
  const beta = p.beta.data[at];
  const r = residual(p, S, step, h);
  addProduct(p, grads.dk.data, key, dS, r, beta);
  for (let c = 0; c < p.V; c++) grads.dbeta.data[at] += du[c] * r[c];
  const dr = du;
  scaleBy(dr, beta);
  grads.dv.data.set(dr, value);
  addProduct(p, grads.dk.data, key, S, dr, -1);
  addOuter(p, dS, p.k.data, key, dr, -1);
}

/** out[offset ..] += factor S y. */
function addProduct(
  { K, V }: Bound,
  out: Float64Array,
  offset: number,
  S: Float64Array,
  y: Float64Array,
  factor: number,
): void {
  for (let i = 0, at = 0; i < K; i++) {
    let sum = 0;
    for (let c = 0; c < V; c++, at++) sum += S[at] * y[c];
    out[offset + i] += factor * sum;
  }
}

function activate(inputs: RecurrenceInputs, options: RecurrenceOptions): RecurrenceInputs {
  const { q, k, v, g, beta, initialState, initialZ } = inputs;
  const active: RecurrenceInputs = { q, k, v };
  if (options.qkL2norm) Object.assign(active, { q: l2norm(q), k: l2norm(k) });
  if (options.gate && !g) throw new TypeError('gate needs g');
  if (g) active.g = options.gate ? fusedGate(g, options.gate) : g;
  if (beta) active.beta = betaActivate(beta, options.betaActivation ?? 'none');
  if (initialState) active.initialState = initialState;
  if (initialZ) active.initialZ = initialZ;
  return active;
}

function deactivate(
  inputs: RecurrenceInputs,
  options: RecurrenceOptions,
  grads: RecurrenceGradients,
): RecurrenceGradients {
  const result = { ...grads };
  if (options.qkL2norm) {
    result.dq = l2normBackward(inputs.q, grads.dq);
    result.dk = l2normBackward(inputs.k, grads.dk);
  }
  if (options.gate && inputs.g && grads.dg) {
    Object.assign(result, fusedGateBackward(inputs.g, options.gate, grads.dg));
  }
  if (inputs.beta && grads.dbeta) {
    const kind = options.betaActivation ?? 'none';
    result.dbeta = betaActivateBackward(inputs.beta, kind, grads.dbeta);
  }
  return result;
}
