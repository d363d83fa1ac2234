/**
 * A legal call of any function that the addon describes, drawn from a seed: shapes and values by the names of its
 * inputs. What the description holds beyond these tables (inputs or options of a later version) is left out here and is
 * tried by the fuzzer's mutations.
 */
import { description, type EntryDescription } from '../../ts/binding';
import { encode, type HalfDtype } from '../support/half';
import { Random } from '../support/random';
import { sizeOf } from '../support/tensor';

export interface Value {
  data: Float32Array | Int32Array | Uint16Array | BigInt64Array;
  shape: number[];
  dtype?: string;
}

export interface BaseCall {
  inputs: Record<string, Value>;
  /** Numbers and the like, bare index arrays, and groups: objects of tensors and numbers. */
  options: Record<string, unknown>;
  /** Dimensions of the state that the call would take in place of initialState. */
  state?: { shape: [number, number, number, number]; keyHeads: number };
}

type Fill =
  | 'normal'
  | 'small'
  | 'key'
  | 'gate'
  | 'unit'
  | 'positive'
  | 'negative'
  | 'index'
  | 'starts';

interface Dims {
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

type Shapes = Record<string, [shape: number[], fill: Fill]>;

const GATE_RANK: Record<string, number> = {
  simpleGla: 3,
  gla: 4,
  gatedDeltaNet: 3,
  kda: 4,
  gatedDeltaProduct: 3,
};

/** All but those that work on weights and adapters of the engine's: test/lora/ has those. */
export const plainEntries = description.entries.filter(
  ({ takesBank, wrapped }) => !takesBank && !wrapped,
);

export function forwardName(entry: EntryDescription): string {
  return entry.name.replace(/Backward$/, '');
}

const has = (entry: EntryDescription, input: string): boolean =>
  entry.inputs.some(({ name }) => name === input);
const takes = (entry: EntryDescription, option: string): boolean =>
  entry.options.some(({ name }) => name === option);

/** What goes with a half-width q and may be float32 itself. */
function eitherDtype(family: string, name: string): boolean {
  if (['g', 'beta', 'dt', 'eta'].includes(name)) return true;
  if (family.startsWith('rwkv')) return name === 'w' || name === 'u';
  return family === 'attention' && name === 'gate';
}

/** Draws the call. The same entry and seed give the same call. */
export function baseCall(entry: EntryDescription, seed: number): BaseCall {
  const random = new Random(seed);
  const maybe = (): boolean => random.integer(2) === 0;
  const upTo = (most: number): number => 1 + random.integer(most);
  const H = upTo(3);
  const dims: Dims = {
    B: random.integer(12) === 0 ? 0 : upTo(2),
    T: random.integer(12) === 0 ? 0 : upTo(random.integer(4) === 0 ? 70 : 12),
    H,
    HV: H * upTo(2),
    K: upTo(20),
    V: upTo(20),
    n: 1,
    N: 0,
    D: upTo(20),
    W: upTo(4),
    rows: upTo(9),
    batch: Array.from({ length: random.integer(3) }, () => upTo(3)),
  };
  const options: Record<string, unknown> = {};
  const family = forwardName(entry);
  if (has(entry, 'cuSeqlens') && random.integer(3) === 0) {
    dims.B = 1;
    options.cuSeqlens = boundaries(random, dims.T);
  }
  dims.N = options.cuSeqlens ? (options.cuSeqlens as Int32Array).length - 1 : dims.B;
  let shapes: Shapes;
  let skip: string[] = [];
  switch (family) {
    case 'matmul':
      if (maybe()) options.transposeA = maybe();
      if (maybe()) options.transposeB = maybe();
      if (takes(entry, 'withBias') && maybe()) options.withBias = maybe();
      shapes = matmulShapes(dims, options, random);
      break;
    case 'embedding':
      if (takes(entry, 'numEmbeddings')) options.numEmbeddings = dims.rows;
      shapes = {
        ids: [dims.batch, 'index'],
        weight: [[dims.rows, dims.D], 'normal'],
        dY: [[...dims.batch, dims.D], 'normal'],
      };
      break;
    case 'crossEntropy':
      if (maybe()) options.ignoreIndex = random.integer(4) - 1;
      shapes = {
        logits: [[...dims.batch, dims.rows], 'normal'],
        targets: [dims.batch, 'index'],
        dLoss: [[], 'normal'],
      };
      break;
    case 'shortConv':
      if (maybe()) options.activation = maybe() ? 'silu' : 'none';
      shapes = convolutionShapes(dims);
      break;
    case 'rope':
    case 'ropeInPlace':
      if (maybe()) options.interleaved = maybe();
      if (maybe()) options.scale = 0.5;
      options.rotaryDim = 2 * upTo(dims.W);
      shapes = ropeShapes(dims, options.rotaryDim as number);
      // Positions are given, or follow from the options.
      skip = options.cuSeqlens ? ['positions'] : [];
      if (maybe()) {
        skip = ['positions'];
        options.offset = random.integer(100) - 50;
      }
      if (maybe()) {
        skip.push('inverseFrequencies');
        options.theta = 500;
      }
      break;
    case 'attention':
      shapes = attentionShapes(dims, options, random);
      skip = ['o', 'lse']; // results of a forward, or nothing
      if (takes(entry, 'outputLse') && maybe()) options.outputLse = maybe();
      break;
    case 'ligerAttention':
      shapes = ligerShapes(dims, options, random);
      skip = maybe() ? ['windowQ', 'windowK'] : [];
      break;
    case 'momRoute':
    case 'momGather':
    case 'momCombine':
      shapes = momShapes(family, dims, options, random);
      break;
    case 'windowLinearAttention':
      shapes = windowLinearShapes(dims, options, random);
      // A state and its sum of keys come together.
      skip = [
        ...(maybe() ? ['initialState', 'initialZ'] : []),
        ...(maybe() ? ['dFinalState', 'dFinalZ'] : []),
        ...(maybe() && !options.affine ? ['windowFactors'] : []),
      ];
      break;
    case 'localLinearAttention':
      shapes = localLinearShapes(dims, options, random);
      skip = ['solution']; // of a forward, or nothing
      if (takes(entry, 'outputSolution') && maybe()) options.outputSolution = maybe();
      if (maybe()) options.outputResidual = maybe();
      break;
    case 'rmsNorm':
    case 'rmsNormGated':
    case 'l2norm':
    case 'swiglu':
      if (takes(entry, 'activation') && maybe()) options.activation = maybe() ? 'sigmoid' : 'silu';
      if (takes(entry, 'normBeforeGate') && maybe()) options.normBeforeGate = maybe();
      if (takes(entry, 'eps') && maybe()) options.eps = 1e-3;
      shapes = rowShapes([...dims.batch, dims.D]);
      break;
    case 'bidirectionalLinearAttention':
      [shapes, skip] = bidirectionalShapes(dims, options, random);
      break;
    case 'featureMap':
      [shapes, skip] = featureShapes(dims, options, random);
      break;
    case 'adamW':
      Object.assign(options, { step: upTo(5), lr: 0.01 });
      if (maybe()) options.weightDecay = 0.1;
      shapes = Object.fromEntries(
        ['param', 'grad', 'm', 'v'].map((name) => [
          name,
          [[...dims.batch, dims.D], name === 'v' ? 'positive' : 'normal'],
        ]),
      ) as Shapes;
      break;
    case 'mamba2':
      if (maybe()) options.dtSoftplus = maybe();
      if (maybe()) options.dtLimit = [0, 1];
      shapes = mamba2Shapes(dims);
      break;
    case 'dplr':
    case 'rwkv7':
    case 'rwkv6':
      dims.HV = dims.H;
      if (maybe()) options.scale = 0.5;
      shapes = gatedScanShapes(dims);
      break;
    case 'hgrn':
      [dims.HV, dims.K, dims.V] = [dims.D, 1, 1];
      shapes = hgrnShapes(dims);
      break;
    case 'tttLinear':
      if (maybe()) options.miniBatch = upTo(20);
      shapes = tttShapes(dims, maybe());
      break;
    case 's4d':
      if (maybe()) options.discretisation = maybe() ? 'zoh' : 'bilinear';
      [dims.HV, dims.K, dims.V] = [dims.D, dims.W, 2];
      shapes = s4dShapes(dims);
      break;
    case 'composeStates':
      shapes = chainShapes(dims, upTo(4) + (maybe() ? 0 : 1), [3, 4, 5][random.integer(3)]);
      break;
    case 'doraNorms':
      if (maybe()) options.scale = 0.5;
      shapes = doraShapes(dims);
      break;
    case 'scatterAdd':
    case 'spmm':
    case 'sddmm':
      if (maybe()) options.scale = 0.5;
      if (takes(entry, 'outFeatures')) options.outFeatures = dims.rows;
      shapes = sparseShapes(dims);
      skip = [maybe() ? 'rows' : 'indptr'];
      break;
    case 'kroneckerLinear':
      if (maybe()) options.scale = 0.5;
      shapes = kroneckerShapes(dims, maybe());
      break;
    case 'basisCombination':
      if (maybe()) options.headAxis = maybe() ? 'rows' : 'columns';
      if (maybe()) {
        Object.assign(options, { rows: dims.rows, columns: dims.D, seed: random.integer(99) });
        skip = ['bases'];
      }
      shapes = {
        coefficients: [[dims.W], 'normal'],
        bases: [[dims.W, dims.rows, dims.D], 'normal'],
        dSum: [[dims.rows, dims.D], 'normal'],
      };
      break;
    case 'randLora':
      if (maybe()) options.scale = 0.5;
      shapes = randLoraShapes(dims, maybe());
      break;
    case 'rowSketch':
    case 'rowSketchGradient':
      if (takes(entry, 'size')) options.size = dims.W;
      if (maybe()) options.seed = random.integer(99);
      shapes = {
        x: [[...dims.batch, dims.D], 'normal'],
        dY: [[...dims.batch, dims.K], 'normal'],
        sketch: [[dims.W, dims.D], 'normal'],
      };
      break;
    default:
      [shapes, skip] = gridShapes(entry, dims, options, random);
  }
  if (takes(entry, 'mode') && takes(entry, 'chunkSize') && maybe())
    options.mode = ['auto', 'recurrent', 'chunk'][random.integer(3)];
  if (takes(entry, 'chunkSize') && maybe()) options.chunkSize = 16 << random.integer(3);
  if (takes(entry, 'outputTransition') && maybe()) options.outputTransition = maybe();
  if (takes(entry, 'outputFinalState') && maybe()) options.outputFinalState = maybe();
  if (takes(entry, 'saveForBackward') && maybe()) options.saveForBackward = maybe();
  const half: HalfDtype | undefined = ([undefined, undefined, 'bf16', 'f16'] as const)[
    random.integer(4)
  ];
  const value = (name: string, dtypes: string[]): Value => {
    const drawn = draw(random, shapes[name][0], shapes[name][1], dims.rows, dims.K);
    const narrow = half && dtypes.includes(half) && (!eitherDtype(family, name) || maybe());
    return narrow ? encode(half, drawn as { data: Float32Array; shape: number[] }) : drawn;
  };
  const inputs: Record<string, Value> = {};
  const gate: Record<string, unknown> = {};
  for (const { name, required, dtypes, group } of entry.inputs) {
    if (required && !shapes[name])
      throw new Error(`${entry.name}: test/fuzz/problems.ts has no shape for ${name}`);
    if (!shapes[name] || skip.includes(name) || (!required && maybe())) continue;
    if (group === undefined) inputs[name] = value(name, dtypes);
    else if (group === 'gate') gate[name] = value(name, dtypes);
  }
  const pairs = ['initialState', 'initialZ', 'dFinalState', 'dFinalZ', 'windowFactors'];
  const either =
    {
      doraNorms: ['weight'],
      featureMap: ['weight'],
      bidirectionalLinearAttention: ['qWeight', 'kWeight'],
      windowLinearAttention: pairs,
      ligerAttention: ['windowQ', 'windowK'],
    }[family as string] ?? ([] as string[]);
  // A coin does not say whether there is a beta, a g, what a fused gate needs, or what stands for one another.
  for (const { name, dtypes } of entry.inputs)
    if (
      [...either, 'beta', 'g', 'rows', 'indptr', 'bases'].includes(name) &&
      shapes[name] &&
      !skip.includes(name)
    )
      inputs[name] ??= value(name, dtypes);
  if (shapes.aLog && !skip.includes('aLog')) {
    gate.aLog ??= value('aLog', ['f32']);
    if (maybe()) gate.lowerBound = -1 - random.integer(4);
    options.gate = gate;
  }
  const base: BaseCall = { inputs, options };
  if (entry.name === 'shortConv') {
    if (dims.W > 1) base.state = { shape: [dims.N, dims.D, 1, dims.W - 1], keyHeads: 0 };
  } else if (entry.takesState && !entry.takesCache)
    base.state = {
      shape: [dims.N, dims.HV, dims.K, dims.V],
      keyHeads: options.normalize ? dims.H : 0,
    };
  return base;
}

/** Offsets of packed sequences, some of them empty. */
function boundaries(random: Random, T: number): Int32Array | BigInt64Array {
  const inner = Array.from({ length: random.integer(4) }, () => random.integer(T + 1));
  const all = [0, ...inner.sort((a, b) => a - b), T];
  return random.integer(2) ? Int32Array.from(all) : BigInt64Array.from(all, BigInt);
}

function gridShapes(
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
function chainShapes({ B, HV, K, V }: Dims, R: number, rank: number): Shapes {
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
function gatedScanShapes({ B, T, N, H, K, V }: Dims): Shapes {
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

function hgrnShapes({ B, T, N, D }: Dims): Shapes {
  return {
    x: [[B, T, D], 'normal'],
    g: [[B, T, D], 'gate'],
    initialState: [[N, D], 'normal'],
    dO: [[B, T, D], 'normal'],
    dFinalState: [[N, D], 'normal'],
  };
}

function s4dShapes({ B, T, N, D, W }: Dims): Shapes {
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

function attentionShapes(dims: Dims, options: Record<string, unknown>, random: Random): Shapes {
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

function ligerShapes(dims: Dims, options: Record<string, unknown>, random: Random): Shapes {
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

function momShapes(
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

function windowLinearShapes(dims: Dims, options: Record<string, unknown>, random: Random): Shapes {
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

function localLinearShapes(dims: Dims, options: Record<string, unknown>, random: Random): Shapes {
  const { sinks, gate, dLse, o, lse, ...shapes } = attentionShapes(dims, options, random);
  delete options.softcap;
  const [B, T, H] = shapes.q[0];
  return { ...shapes, lambda: [random.integer(2) ? [H] : [B, T, H], 'positive'] };
}

function tttShapes({ B, T, N, H, D }: Dims, own: boolean): Shapes {
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

function mamba2Shapes({ B, T, N, H, HV, K, V }: Dims): Shapes {
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

function matmulShapes(dims: Dims, options: Record<string, unknown>, random: Random): Shapes {
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

function convolutionShapes({ B, T, N, D, W }: Dims): Shapes {
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

function ropeShapes({ B, T, H, HV, D, batch }: Dims, rotaryDim: number): Shapes {
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

function bidirectionalShapes(
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

function featureShapes(
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

function doraShapes({ rows, D, W }: Dims): Shapes {
  return {
    weight: [[rows, D], 'normal'],
    a: [[W, D], 'normal'],
    b: [[rows, W], 'normal'],
    mid: [[W], 'normal'],
  };
}

/** S is square: its indices have one bound. */
function sparseShapes({ batch, rows, K }: Dims): Shapes {
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

function kroneckerShapes({ batch, rows, D, W, H, B }: Dims, several: boolean): Shapes {
  const terms = several ? [B] : [];
  return {
    x: [[...batch, W * H], 'normal'],
    a: [[...terms, rows, W], 'normal'],
    b: [[...terms, D, H], 'normal'],
    addend: [[...batch, rows * D], 'normal'],
    dY: [[...batch, rows * D], 'normal'],
  };
}

function randLoraShapes({ rows, D, W, H }: Dims, shared: boolean): Shapes {
  return {
    a: [shared ? [W, D] : [H, W, D], 'normal'],
    b: [[H, rows, W], 'normal'],
    lambda: [[H, W], 'normal'],
    gamma: [[H, D], 'normal'],
    dDelta: [[rows, D], 'normal'],
  };
}

function rowShapes(shape: number[]): Shapes {
  const rows: Shapes = { weight: [shape.slice(-1), 'normal'] };
  for (const name of ['x', 'gate', 'up', 'dY']) rows[name] = [shape, 'normal'];
  return rows;
}

function draw(random: Random, shape: number[], fill: Fill, rows: number, K: number): Value {
  const length = sizeOf(shape);
  if (fill === 'index')
    return { data: Int32Array.from({ length }, () => random.integer(rows)), shape: [...shape] };
  if (fill === 'starts') {
    const inner = Array.from({ length: length - 2 }, () => random.integer(K + 1));
    return { data: Int32Array.from([0, ...inner.sort((a, b) => a - b), K]), shape: [...shape] };
  }
  const next: Record<Exclude<Fill, 'index' | 'starts'>, () => number> = {
    normal: () => random.normal(),
    small: () => random.normal() / 8,
    key: () => random.normal() / Math.sqrt(K), // about unit length: the delta rule contracts
    gate: () => -Math.abs(random.normal()) / 8,
    unit: () => random.uniform(),
    positive: () => random.uniform(0.1, 1),
    negative: () => -random.uniform(0.1, 1),
  };
  return { data: random.fill(length, next[fill]), shape: [...shape] };
}
