/** Shapes of the arguments of every operation, and of what they are filled with. */
import type { EntryDescription } from '../../ts/binding';
import type { Random } from '../support/random';

export type Fill =
  | 'normal'
  | 'small'
  | 'key'
  | 'gate'
  | 'unit'
  | 'positive'
  | 'negative'
  | 'index'
  | 'starts';

export interface Dims {
  B: number;
  T: number;
  H: number;
  HV: number;
  K: number;
  V: number;
  n: number;
  /** Sequences, B of them unless they are packed. */
  N: number;
  D: number;
  W: number;
  rows: number;
  batch: number[];
}

export type Shapes = Record<string, [shape: number[], fill: Fill]>;

const GATE_RANK: Record<string, number> = {
  simpleGla: 3,
  gla: 4,
  gatedDeltaNet: 3,
  kda: 4,
  gatedDeltaProduct: 3,
};

export function forwardName(entry: EntryDescription): string {
  return entry.name.replace(/Backward$/, '');
}

export const has = (entry: EntryDescription, input: string): boolean =>
  entry.inputs.some(({ name }) => name === input);
export const takes = (entry: EntryDescription, option: string): boolean =>
  entry.options.some(({ name }) => name === option);

export function gridShapes(
  entry: EntryDescription,
  dims: Dims,
  options: Record<string, unknown>,
  random: Random,
): [Shapes, string[]] {
  const family = forwardName(entry);
  const free = ['recurrence', 'segmentSummary', 'segmentGradient'].includes(family);
  const rank = free ? [0, 1, 3, 4][random.integer(4)] : (GATE_RANK[family] ?? 0);
  const delta = free
    ? random.integer(2) === 0
    : entry.inputs.some(({ name, required }) => name === 'beta' && required);
  if (family === 'hgrn2') dims.HV = dims.H;
  if (free) options.update = delta ? 'delta' : 'additive';
  if (delta && takes(entry, 'numHouseholder') && random.integer(2)) {
    dims.n = 1 + random.integer(3);
    options.numHouseholder = dims.n;
  }
  if (takes(entry, 'scale') && random.integer(2)) options.scale = 0.5;
  if (takes(entry, 'layers')) Object.assign(options, { layer: random.integer(4), layers: 4 });
  const gated = (rank === 3 || rank === 4) && has(entry, 'aLog') && random.integer(3) === 0;
  if (takes(entry, 'qkL2norm') && random.integer(3) === 0) options.qkL2norm = true;
  if (delta && takes(entry, 'betaActivation') && random.integer(2))
    options.betaActivation = ['none', 'sigmoid', 'sigmoid2'][random.integer(3)];
  const normalize = !delta && rank === 0 && takes(entry, 'normalize') && random.integer(3) === 0;
  if (normalize) options.normalize = true;
  // Of one sign, what divides the output is not small beside its terms.
  const query: Fill = normalize ? 'positive' : 'normal';
  const { B, T, N, H, HV, K, V, n } = dims;
  const gates: Record<number, number[]> = { 1: [HV], 3: [B, T, HV], 4: [B, T, HV, K] };
  const state = [N, HV, K, V];
  const shapes: Shapes = {
    q: [[B, T, H, K], query],
    k: [[B, T * n, H, K], normalize ? 'positive' : 'key'],
    v: [[B, T * n, HV, V], 'normal'],
    g: [family === 'hgrn2' ? [B, T, H, K] : (gates[rank] ?? []), 'gate'],
    beta: [[B, T * n, HV], 'unit'],
    initialState: [state, 'normal'],
    initialZ: [[N, H, K], 'positive'],
    dO: [[B, T, HV, V], 'normal'],
    dFinalState: [state, 'normal'],
    dFinalZ: [[N, H, K], 'normal'],
    dTransition: [[N, HV, ...(delta ? [K, K] : rank === 4 ? [K] : [])], 'normal'],
    dState: [state, 'normal'],
    dZ: [[N, H, K], 'normal'],
    aLog: [[HV], 'small'],
    dtBias: [rank === 4 ? [HV, K] : [HV], 'small'],
  };
  const skip = [];
  if (rank === 0 && family !== 'hgrn2') skip.push('g');
  if (!delta) skip.push('beta');
  if (!normalize) skip.push('initialZ', 'dFinalZ', 'dZ');
  if (!gated) skip.push('aLog', 'dtBias');
  return [shapes, skip];
}

/** R segments, transitions of rank 3, 4 or 5. */
export function chainShapes({ B, HV, K, V }: Dims, R: number, rank: number): Shapes {
  const all = [R, B, HV, K, V];
  const state = all.slice(1);
  return {
    transitions: [[R, B, HV, K, K].slice(0, rank), 'small'],
    states: [all, 'normal'],
    initialState: [state, 'normal'],
    initialStates: [all, 'normal'],
    dInitialStates: [all, 'normal'],
    dFinalState: [state, 'normal'],
  };
}

/** Of dplr, rwkv7 and rwkv6, whose names do not clash. */
export function gatedScanShapes({ B, T, N, H, K, V }: Dims): Shapes {
  const keys = [B, T, H, K];
  const state = [N, H, K, V];
  return {
    q: [keys, 'normal'],
    r: [keys, 'normal'],
    k: [keys, 'normal'],
    v: [[B, T, H, V], 'normal'],
    g: [keys, 'gate'],
    w: [keys, 'normal'],
    a: [keys, 'small'],
    b: [keys, 'small'],
    kappa: [keys, 'key'],
    u: [[H, K], 'normal'],
    initialState: [state, 'normal'],
    dO: [[B, T, H, V], 'normal'],
    dFinalState: [state, 'normal'],
  };
}

export function hgrnShapes({ B, T, N, D }: Dims): Shapes {
  return {
    x: [[B, T, D], 'normal'],
    g: [[B, T, D], 'gate'],
    initialState: [[N, D], 'normal'],
    dO: [[B, T, D], 'normal'],
    dFinalState: [[N, D], 'normal'],
  };
}

export function s4dShapes({ B, T, N, D, W }: Dims): Shapes {
  const state = [N, D, W, 2];
  return {
    x: [[B, T, D], 'normal'],
    logDt: [[D], 'negative'],
    logAReal: [[D, W], 'small'],
    AImag: [[D, W], 'normal'],
    C: [[D, W, 2], 'normal'],
    D: [[D], 'normal'],
    initialState: [state, 'normal'],
    dY: [[B, T, D], 'normal'],
    dFinalState: [state, 'normal'],
  };
}

export function attentionShapes(
  dims: Dims,
  options: Record<string, unknown>,
  random: Random,
): Shapes {
  const { B, T, H: HKV, HV: H, K, V } = dims;
  const S = options.cuSeqlens ? T : Math.max(0, T + random.integer(20) - 5);
  if (random.integer(2)) options.causal = random.integer(2) === 0;
  if (random.integer(2)) options.window = [random.integer(9), random.integer(9)];
  if (random.integer(3) === 0) options.sinkTokens = random.integer(4);
  if (random.integer(3) === 0) options.softcap = 1 + random.integer(9);
  if (random.integer(3) === 0) options.scale = 0.5;
  return {
    q: [[B, T, H, K], 'normal'],
    k: [[B, S, HKV, K], 'normal'],
    v: [[B, S, HKV, V], 'normal'],
    sinks: [[H], 'normal'],
    gate: [[B, T, H, V], 'normal'],
    dO: [[B, T, H, V], 'normal'],
    dLse: [[B, T, H], 'normal'],
    o: [[B, T, H, V], 'normal'],
    lse: [[B, T, H], 'normal'],
  };
}

export function ligerShapes(dims: Dims, options: Record<string, unknown>, random: Random): Shapes {
  const { B, T, N, H: HKV, HV: H, K, V } = dims;
  if (random.integer(4)) options.window = 1 + random.integer(9);
  if (random.integer(2)) options.gateNormalizer = 1 + random.integer(20);
  if (random.integer(2)) options.mix = [random.integer(3), 0.5];
  if (random.integer(3) === 0) options.scale = 0.5;
  return {
    q: [[B, T, H, K], 'normal'],
    k: [[B, T, HKV, K], 'normal'],
    v: [[B, T, HKV, V], 'normal'],
    windowQ: [[B, T, H, K], 'normal'],
    windowK: [[B, T, HKV, K], 'normal'],
    initialState: [[N, H, K, V], 'normal'],
    dO: [[B, T, H, V], 'normal'],
    dFinalState: [[N, H, K, V], 'normal'],
  };
}

export function momShapes(
  family: string,
  dims: Dims,
  options: Record<string, unknown>,
  random: Random,
): Shapes {
  const { B, T, K, V, D: M } = dims;
  const k = 1 + random.integer(Math.min(M, 4));
  if (family === 'momRoute') {
    options.topK = k;
    if (random.integer(2)) options.renormalize = random.integer(2) === 0;
  }
  const entries = B * T * k;
  dims.rows = Math.max(1, entries);
  return {
    logits: [[B, T, M], 'normal'],
    dWeights: [[B, T, k], 'normal'],
    x: [[B, T, K, V], 'normal'],
    dY: [family === 'momGather' ? [1, entries, K, V] : [B, T, K, V], 'normal'],
    o: [[1, entries, K, V], 'normal'],
    shared: [[B, T, K, V], 'normal'],
    weights: [[B, T, k], 'unit'],
    order: [[entries], 'index'],
    slots: [[B, T, k], 'index'],
  };
}

export function windowLinearShapes(
  dims: Dims,
  options: Record<string, unknown>,
  random: Random,
): Shapes {
  const { B, T, N, H: HKV, HV: H, K, V, D: F } = dims;
  const HF = random.integer(2) ? H : HKV;
  if (random.integer(4)) options.window = 1 + random.integer(9);
  if (random.integer(2)) options.terraced = random.integer(2) === 0;
  if (random.integer(3) === 0) options.affine = random.integer(2) === 0;
  if (random.integer(3) === 0) options.scale = 0.5;
  return {
    q: [[B, T, H, K], 'normal'],
    k: [[B, T, HKV, K], 'normal'],
    v: [[B, T, HKV, V], 'normal'],
    phiQ: [[B, T, H, F], 'positive'],
    phiK: [[B, T, HF, F], 'positive'],
    windowFactors: [[H], 'normal'],
    initialState: [[N, HF, F, V], 'normal'],
    initialZ: [[N, HF, F], 'positive'],
    dO: [[B, T, H, V], 'normal'],
    dFinalState: [[N, HF, F, V], 'normal'],
    dFinalZ: [[N, HF, F], 'normal'],
  };
}

export function localLinearShapes(
  dims: Dims,
  options: Record<string, unknown>,
  random: Random,
): Shapes {
  const { sinks, gate, dLse, o, lse, ...shapes } = attentionShapes(dims, options, random);
  delete options.softcap;
  const [B, T, H] = shapes.q[0];
  return { ...shapes, lambda: [random.integer(2) ? [H] : [B, T, H], 'positive'] };
}

export function tttShapes({ B, T, N, H, D }: Dims, own: boolean): Shapes {
  const rows = [B, T, H, D];
  const each = own ? [N] : [];
  return {
    q: [rows, 'normal'],
    k: [rows, 'normal'],
    v: [rows, 'normal'],
    eta: [[B, T, H], 'small'],
    lnWeight: [[H, D], 'normal'],
    lnBias: [[H, D], 'normal'],
    W: [[...each, H, D, D], 'small'],
    b: [[...each, H, D], 'small'],
    dO: [rows, 'normal'],
    dFinalW: [[N, H, D, D], 'normal'],
    dFinalB: [[N, H, D], 'normal'],
  };
}

export function mamba2Shapes({ B, T, N, H, HV, K, V }: Dims): Shapes {
  const state = [N, HV, K, V];
  return {
    x: [[B, T, HV, V], 'normal'],
    dt: [[B, T, HV], 'unit'],
    A: [[HV], 'negative'],
    B: [[B, T, H, K], 'normal'],
    C: [[B, T, H, K], 'normal'],
    D: [[HV], 'normal'],
    dtBias: [[HV], 'small'],
    initialState: [state, 'normal'],
    dY: [[B, T, HV, V], 'normal'],
    dFinalState: [state, 'normal'],
  };
}

export function matmulShapes(dims: Dims, options: Record<string, unknown>, random: Random): Shapes {
  const { batch, D: M, V: N, K } = dims;
  const flip = (shape: number[], flag: unknown) => (flag ? shape.reverse() : shape);
  const shared = batch.length > 0 ? random.integer(3) : 2;
  return {
    a: [[...(shared === 0 ? [] : batch), ...flip([M, K], options.transposeA)], 'normal'],
    b: [[...(shared === 1 ? [] : batch), ...flip([K, N], options.transposeB)], 'normal'],
    bias: [[N], 'normal'],
    dY: [[...batch, M, N], 'normal'],
  };
}

export function convolutionShapes({ B, T, N, D, W }: Dims): Shapes {
  const state = [N, D, W - 1];
  return {
    x: [[B, T, D], 'normal'],
    weight: [[D, W], 'normal'],
    bias: [[D], 'normal'],
    initialState: [state, 'normal'],
    dY: [[B, T, D], 'normal'],
    dFinalState: [state, 'normal'],
  };
}

export function ropeShapes({ B, T, H, HV, D, batch }: Dims, rotaryDim: number): Shapes {
  const shape = [B, T, H, rotaryDim + D];
  return {
    x: [shape, 'normal'],
    dY: [shape, 'normal'],
    q: [shape, 'normal'],
    k: [[B, T, HV, rotaryDim + D], 'normal'],
    positions: [batch.length ? [T] : [B, T], 'index'],
    inverseFrequencies: [[rotaryDim / 2], 'normal'],
  };
}

export function bidirectionalShapes(
  dims: Dims,
  options: Record<string, unknown>,
  random: Random,
): [Shapes, string[]] {
  const { B, T, H: HKV, HV: H, K, V, D } = dims;
  const S = options.cuSeqlens ? T : Math.max(0, T + random.integer(20) - 5);
  const kinds = ['none', 'elu1', 'relu', 'softmax', 'hedgehog', 'focused', 'taylor2'];
  const kind = kinds[random.integer(kinds.length)];
  options.featureMap = kind;
  if (kind === 'none' || random.integer(3) === 0) options.normalize = false;
  else if (random.integer(2)) options.eps = 0.01;
  if (random.integer(2)) options.scale = 0.5;
  if (random.integer(3) === 0) options.rankAugmented = true;
  const shared = random.integer(2) === 0;
  const weight = (heads: number): number[] => (shared ? [K, D] : [heads, K, D]);
  const shapes: Shapes = {
    q: [[B, T, H, K], 'normal'],
    k: [[B, S, HKV, K], 'normal'],
    v: [[B, S, HKV, V], 'normal'],
    alpha: [[B, S, HKV], 'positive'],
    modulate: [[B, T, H, V], 'normal'],
    qWeight: [weight(H), 'small'],
    kWeight: [weight(HKV), 'small'],
    dO: [[B, T, H, V], 'normal'],
  };
  const learned = kind === 'hedgehog' && random.integer(2) === 0;
  const skip = [
    ...(learned ? [] : ['qWeight', 'kWeight']),
    ...(options.rankAugmented ? ['alpha'] : []),
  ];
  return [shapes, skip];
}

export function featureShapes(
  dims: Dims,
  options: Record<string, unknown>,
  random: Random,
): [Shapes, string[]] {
  const { batch, H, K, D } = dims;
  const kinds = ['elu1', 'relu', 'softmax', 'hedgehog', 'hedgehogExp', 'focused', 'taylor2'];
  const kind = kinds[random.integer(kinds.length)];
  options.kind = kind;
  const projected = kind.startsWith('hedgehog');
  const learned = projected && random.integer(3) > 0;
  if (kind === 'focused' && random.integer(2)) options.power = 1 + random.integer(5);
  const heads = random.integer(2) ? [H] : [];
  const width = projected
    ? 2 * (learned ? D : K)
    : kind === 'taylor2'
      ? 1 + K + (K * (K + 1)) / 2
      : K;
  const shapes: Shapes = {
    x: [[...batch, H, K], 'normal'],
    weight: [[...heads, K, D], 'small'],
    bias: [[...heads, D], 'small'],
    scale: [[K], 'small'],
    dY: [[...batch, H, width], 'normal'],
  };
  const skip = [...(learned ? [] : ['weight', 'bias']), ...(kind === 'focused' ? [] : ['scale'])];
  return [shapes, skip];
}

export function doraShapes({ rows, D, W }: Dims): Shapes {
  return {
    weight: [[rows, D], 'normal'],
    a: [[W, D], 'normal'],
    b: [[rows, W], 'normal'],
    mid: [[W], 'normal'],
  };
}

/** S is square: its indices have one bound. */
export function sparseShapes({ batch, rows, K }: Dims): Shapes {
  const lines: Shapes[string] = [[...batch, rows], 'normal'];
  return {
    w: [[rows, rows], 'normal'],
    values: [[K], 'normal'],
    rows: [[K], 'index'],
    indptr: [[rows + 1], 'starts'],
    columns: [[K], 'index'],
    ...{ x: lines, a: lines, b: lines, addend: lines, dY: lines },
  };
}

export function kroneckerShapes({ batch, rows, D, W, H, B }: Dims, several: boolean): Shapes {
  const terms = several ? [B] : [];
  return {
    x: [[...batch, W * H], 'normal'],
    a: [[...terms, rows, W], 'normal'],
    b: [[...terms, D, H], 'normal'],
    addend: [[...batch, rows * D], 'normal'],
    dY: [[...batch, rows * D], 'normal'],
  };
}

export function randLoraShapes({ rows, D, W, H }: Dims, shared: boolean): Shapes {
  return {
    a: [shared ? [W, D] : [H, W, D], 'normal'],
    b: [[H, rows, W], 'normal'],
    lambda: [[H, W], 'normal'],
    gamma: [[H, D], 'normal'],
    dDelta: [[rows, D], 'normal'],
  };
}

export function rowShapes(shape: number[]): Shapes {
  const rows: Shapes = { weight: [shape.slice(-1), 'normal'] };
  for (const name of ['x', 'gate', 'up', 'dY']) rows[name] = [shape, 'normal'];
  return rows;
}
