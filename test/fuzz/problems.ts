/**
 * A legal call of any function that the addon describes, drawn from a seed: shapes and values by the names of its
 * inputs. What the description holds beyond these tables (inputs or options of a later version) is left out here and is
 * tried by the fuzzer's mutations.
 */
import { description, type EntryDescription } from '../../ts/binding';
import { encode, type HalfDtype } from '../support/half';
import { Random } from '../support/random';
import { sizeOf } from '../support/tensor';
import {
  attentionShapes,
  bidirectionalShapes,
  chainShapes,
  convolutionShapes,
  type Dims,
  doraShapes,
  type Fill,
  featureShapes,
  forwardName,
  gatedScanShapes,
  gridShapes,
  has,
  hgrnShapes,
  kroneckerShapes,
  ligerShapes,
  localLinearShapes,
  mamba2Shapes,
  matmulShapes,
  momShapes,
  randLoraShapes,
  ropeShapes,
  rowShapes,
  type Shapes,
  s4dShapes,
  sparseShapes,
  takes,
  tttShapes,
  windowLinearShapes,
} from './shapes';

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

/** All but those that work on weights and adapters of the engine's: test/lora/ has those. */
export const plainEntries = description.entries.filter(
  ({ takesBank, wrapped }) => !takesBank && !wrapped,
);

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
      throw new Error(`${entry.name}: test/fuzz/shapes.ts has no shape for ${name}`);
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
