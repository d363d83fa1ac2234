/**
 * S4D in float64, token by token. Per channel and mode, A = -e^logAReal + i AImag and dt = e^logDt,
 *   s_t = Abar s_{t-1} + Bbar x_t;  y_t = 2 Re(sum of C s_t) + D x_t.
 * Gradients go through the discretisation by the quotient rule on complex numbers.
 */
import type { Tensor64, TensorLike } from '../support/tensor.ts';
import { expectShape, toFloat64, zeros } from '../support/tensor.ts';
import { sequencesOf } from './gatedScan.ts';

export interface S4dInputs {
  x: TensorLike; // [B,T,D]
  logDt: TensorLike; // [D]
  logAReal: TensorLike; // [D,N]
  AImag: TensorLike; // [D,N]
  C: TensorLike; // [D,N,2]
  D?: TensorLike; // [D]
  initialState?: TensorLike; // [sequences,D,N,2]
}

export interface S4dOptions {
  discretisation?: 'zoh' | 'bilinear';
  cuSeqlens?: ArrayLike<number>;
  /** Not the result but how it is computed. */
  mode?: string;
}

type Complex = readonly [re: number, im: number];
const add = (a: Complex, b: Complex): Complex => [a[0] + b[0], a[1] + b[1]];
const times = (a: Complex, b: Complex): Complex => [
  a[0] * b[0] - a[1] * b[1],
  a[0] * b[1] + a[1] * b[0],
];
const over = (a: Complex, b: Complex): Complex => {
  const n = b[0] * b[0] + b[1] * b[1];
  return [(a[0] * b[0] + a[1] * b[1]) / n, (a[1] * b[0] - a[0] * b[1]) / n];
};
const real = (x: number): Complex => [x, 0];
const conj = (a: Complex): Complex => [a[0], -a[1]];

/** (e^z - 1) / z by its series, which halves and squares: e^2z - 1 = (e^z - 1)(e^z - 1 + 2). */
function expm1Over(z: Complex): Complex {
  if (!Number.isFinite(z[0] + z[1])) return [NaN, NaN];
  if (Math.hypot(z[0], z[1]) > 0.5) {
    const half: Complex = [z[0] / 2, z[1] / 2];
    const e = times(expm1Over(half), half);
    return times(expm1Over(half), [1 + e[0] / 2, e[1] / 2]);
  }
  let term: Complex = [1, 0];
  let sum: Complex = [1, 0];
  for (let n = 2; n < 30; n++) {
    term = over(times(term, z), real(n));
    sum = add(sum, term);
  }
  return sum;
}

/** Derivative of (e^z - 1) / z. */
function expm1OverSlope(z: Complex): Complex {
  if (Math.hypot(z[0], z[1]) > 0.5) {
    const size = Math.exp(z[0]);
    const e: Complex = [size * Math.cos(z[1]), size * Math.sin(z[1])];
    return over(add(e, times(real(-1), expm1Over(z))), z);
  }
  let term: Complex = [0.5, 0];
  let sum = term;
  for (let n = 2; n < 30; n++) {
    // n z^(n-1) / (n+1)! from the one before
    term = over(times(term, times(real(n), z)), real((n - 1) * (n + 1)));
    sum = add(sum, term);
  }
  return sum;
}

interface Mode {
  a: Complex;
  dt: number;
  abar: Complex;
  bbar: Complex;
}

function discrete(p: S4dInputs, d: number, n: number, { discretisation }: S4dOptions): Mode {
  const at = d * p.logAReal.shape[1] + n;
  const dt = Math.exp(p.logDt.data[d]);
  const a: Complex = [-Math.exp(p.logAReal.data[at]), p.AImag.data[at]];
  const z = times(real(dt), a);
  if (discretisation === 'bilinear') {
    const below: Complex = [1 - z[0] / 2, -z[1] / 2];
    const above: Complex = [1 + z[0] / 2, z[1] / 2];
    return { a, dt, abar: over(above, below), bbar: over(real(dt), below) };
  }
  const size = Math.exp(z[0]);
  const abar: Complex = [size * Math.cos(z[1]), size * Math.sin(z[1])];
  return { a, dt, abar, bbar: times(real(dt), expm1Over(z)) };
}

function walk(
  inputs: S4dInputs,
  options: S4dOptions,
  visit: (at: {
    d: number;
    n: number;
    state: number;
    mode: Mode;
    c: Complex;
    first: number;
    /** The state before the first token and after each. */
    states: Complex[];
  }) => void,
): void {
  const { x, logAReal, C, initialState } = inputs;
  const [B, T, D] = x.shape;
  const N = logAReal.shape[1];
  sequencesOf(B, T, options.cuSeqlens).forEach(({ first, end }, sequence) => {
    for (let d = 0; d < D; d++) {
      for (let n = 0; n < N; n++) {
        const mode = discrete(inputs, d, n, options);
        const state = ((sequence * D + d) * N + n) * 2;
        const start: Complex = initialState
          ? [initialState.data[state], initialState.data[state + 1]]
          : [0, 0];
        const states = [start];
        for (let t = first; t < end; t++) {
          const write = times(mode.bbar, real(x.data[t * D + d]));
          states.push(add(times(mode.abar, states[t - first]), write));
        }
        const at = (d * N + n) * 2;
        visit({ d, n, state, mode, c: [C.data[at], C.data[at + 1]], first, states });
      }
    }
  });
}

function skip(from: TensorLike, D: TensorLike | undefined): Tensor64 {
  const out = toFloat64(from);
  const width = from.shape[2];
  for (let i = 0; i < out.data.length; i++) out.data[i] *= D ? D.data[i % width] : 0;
  return out;
}

function stateShape({ x, logAReal }: S4dInputs, { cuSeqlens }: S4dOptions): number[] {
  const [B, , D] = x.shape;
  return [cuSeqlens ? cuSeqlens.length - 1 : B, D, logAReal.shape[1], 2];
}

export function s4d(inputs: S4dInputs, options: S4dOptions = {}) {
  const { x, logDt, logAReal, AImag, C } = inputs;
  const [, , D] = x.shape;
  expectShape('logDt', logDt, [D]);
  expectShape('AImag', AImag, logAReal.shape);
  expectShape('C', C, [...logAReal.shape, 2]);
  const y = skip(x, inputs.D);
  const finalState = zeros(stateShape(inputs, options));
  walk(inputs, options, ({ d, state, c, first, states }) => {
    finalState.data.set(states[states.length - 1], state);
    for (let t = 1; t < states.length; t++) {
      y.data[(first + t - 1) * D + d] += 2 * times(c, states[t])[0];
    }
  });
  return { y, finalState };
}

export function s4dBackward(
  inputs: S4dInputs & { dY: TensorLike; dFinalState?: TensorLike },
  options: S4dOptions = {},
): Record<string, Tensor64> {
  const { x, logDt, logAReal, dY, dFinalState } = inputs;
  const [, , D] = x.shape;
  const N = logAReal.shape[1];
  const shape = stateShape(inputs, options);
  const grads = {
    dx: skip(dY, inputs.D),
    dLogDt: zeros(logDt.shape),
    dLogAReal: zeros(logAReal.shape),
    dAImag: zeros(logAReal.shape),
    dC: zeros([...logAReal.shape, 2]),
    dInitialState: dFinalState ? toFloat64(dFinalState) : zeros(shape),
  };
  walk(inputs, options, ({ d, n, state, mode, c, first, states }) => {
    const { a, dt, abar, bbar } = mode;
    const { data } = grads.dInitialState;
    // Gradients of complex numbers: that of the real part, and of the imaginary one.
    let dS: Complex = [data[state], data[state + 1]];
    let dAbar: Complex = [0, 0];
    let dBbar: Complex = [0, 0];
    let dC: Complex = [0, 0];
    for (let t = states.length - 1; t > 0; t--) {
      const at = (first + t - 1) * D + d;
      const out = real(2 * dY.data[at]);
      dC = add(dC, times(conj(states[t]), out));
      dS = add(dS, times(conj(c), out));
      dAbar = add(dAbar, times(conj(states[t - 1]), dS));
      dBbar = add(dBbar, times(real(x.data[at]), dS));
      grads.dx.data[at] += times(conj(bbar), dS)[0];
      dS = times(conj(abar), dS);
    }
    data.set(dS, state);
    // Derivatives of Abar and Bbar by A and by dt.
    let slopes: { a: [Complex, Complex]; dt: [Complex, Complex] };
    if (options.discretisation === 'bilinear') {
      const below: Complex = [1 - (dt * a[0]) / 2, (-dt * a[1]) / 2];
      const square = times(below, below);
      slopes = {
        a: [over(real(dt), square), over(real((dt * dt) / 2), square)],
        dt: [over(a, square), over(real(1), square)],
      };
    } else {
      const byA = times(real(dt * dt), expm1OverSlope(times(real(dt), a)));
      slopes = { a: [times(real(dt), abar), byA], dt: [times(a, abar), abar] };
    }
    const through = ([first_, second]: [Complex, Complex]): Complex =>
      add(times(conj(first_), dAbar), times(conj(second), dBbar));
    const at = d * N + n;
    const dA = through(slopes.a);
    grads.dLogAReal.data[at] += dA[0] * a[0];
    grads.dAImag.data[at] += dA[1];
    grads.dLogDt.data[d] += through(slopes.dt)[0] * dt;
    grads.dC.data[at * 2] += dC[0];
    grads.dC.data[at * 2 + 1] += dC[1];
  });
  if (!inputs.D) return grads;
  const dD = zeros([D]);
  for (let i = 0; i < dY.data.length; i++) dD.data[i % D] += dY.data[i] * x.data[i];
  return { ...grads, dD };
}
