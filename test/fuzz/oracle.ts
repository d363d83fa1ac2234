/** What a call should have returned, in float64, or undefined where no reference knows its arguments. */
import type { EntryDescription } from '../../ts/binding';
import { normals } from '../../ts/linalg/philox';
import * as companions from '../reference/companions';
import { gatedScans } from '../reference/gatedScan';
import { hgrn, hgrnBackward } from '../reference/hgrn';
import * as layers from '../reference/layers';
import { ligerAttention, ligerAttentionBackward } from '../reference/ligerAttention';
import {
  localLinearAttention,
  localLinearAttentionBackward,
} from '../reference/localLinearAttention';
import * as mom from '../reference/mom';
import * as presets from '../reference/presets';
import * as recurrence from '../reference/recurrence';
import { s4d, s4dBackward } from '../reference/s4d';
import * as segments from '../reference/segments';
import { tttLinear, tttLinearBackward } from '../reference/tttLinear';
import {
  windowLinearAttention,
  windowLinearAttentionBackward,
} from '../reference/windowLinearAttention';
import { sizeOf, type TensorLike } from '../support/tensor';
import { forwardName } from './shapes';

type Tensors = Record<string, TensorLike | undefined>;

/** Options that change how a result is computed and not what it is. */
const NEUTRAL = new Set([
  'mode',
  'chunkSize',
  'compute',
  'device',
  'outputFinalState',
  'outputTransition',
  'saveForBackward',
  'gradDtype',
  'withBias',
  'outputLse',
]);

/** Options that the references read by the same name. */
const KNOWN = new Set([
  'update',
  'numHouseholder',
  'scale',
  'layer',
  'layers',
  'cuSeqlens',
  'cuSeqlensK',
  'causal',
  'window',
  'gateNormalizer',
  'mix',
  'topK',
  'renormalize',
  'sinkTokens',
  'terraced',
  'affine',
  'softcap',
  'qkL2norm',
  'gate',
  'betaActivation',
  'normalize',
  'dtSoftplus',
  'dtLimit',
  'discretisation',
  'miniBatch',
  'transposeA',
  'transposeB',
  'activation',
  'normBeforeGate',
  'rotaryDim',
  'featureMap',
  'rankAugmented',
  'interleaved',
  'kind',
  'power',
  'theta',
  'offset',
  'eps',
  'ignoreIndex',
  'numEmbeddings',
  'lr',
  'beta1',
  'beta2',
  'weightDecay',
  'step',
  'outFeatures',
  'headAxis',
  'rows',
  'columns',
  'seed',
  'stream',
  'deviation',
  'size',
]);

export function expected(
  entry: EntryDescription,
  inputs: Tensors,
  given: Record<string, unknown>,
): Tensors | undefined {
  const options: any = {};
  for (const [name, value] of Object.entries(given)) {
    if (value === undefined || NEUTRAL.has(name)) continue;
    if (!KNOWN.has(name)) return undefined;
    options[name] = value;
  }
  const family = forwardName(entry);
  const backward = entry.name !== family;
  const i = inputs as any;
  // A quotient of two sums, each of which must fit into float32.
  if (options.normalize && i.q && largest(i.q) > 1e15) return undefined;
  // A unit vector of one number is constant, and so is a quotient whose terms have one factor: their gradients are what
  // rounding leaves of terms that cancel.
  const keys = i.k ?? i.q;
  if (backward && (options.qkL2norm || options.normalize) && keys.shape[3] === 1) return undefined;
  if (backward && options.normalize && keys.shape[1] === 1) return undefined;
  if (backward && family === 'rwkv7' && i.kappa.shape[3] === 1) return undefined;
  switch (family) {
    case 'matmul':
      return backward ? matmulBackward(i, options, given) : { y: layers.matmul(i, options) };
    case 'embedding':
      return embedding(i, options, backward);
    case 'crossEntropy':
      return crossEntropy(i, options, backward);
    case 'attention': {
      // Weights of scores beyond what float32 resolves; and a backward of results that are not its forward's.
      const K = i.q.shape[3];
      const reach = (options.scale ?? 1 / Math.sqrt(K)) * K * largest(i.q) * largest(i.k);
      if (!(Math.abs(reach) < 1000) || i.o || (i.sinks && largest(i.sinks) > 1000))
        return undefined;
      return { ...(backward ? layers.attentionBackward : layers.attention)(i, options) };
    }
    case 'ligerAttention': {
      // The softmax of one channel is constant.
      const { q, k, v, windowQ = q, windowK = k } = i;
      if (!tame(q, k, v, windowQ, windowK) || (backward && q.shape[3] === 1)) return undefined;
      const scales = [
        options.scale ?? 0,
        1 / (options.gateNormalizer ?? 16),
        ...(options.mix ?? []),
      ];
      if (scales.some((x: number) => Math.abs(x) > 100)) return undefined;
      return { ...(backward ? ligerAttentionBackward : ligerAttention)(i, options) };
    }
    case 'momRoute':
    case 'momGather':
    case 'momCombine':
      return { ...(mom as Record<string, any>)[entry.name](i, options) };
    case 'windowLinearAttention': {
      // A normaliser of terms of one sign, and scores that float32 resolves.
      const { q, k, v, phiQ, phiK, initialZ, windowFactors } = i;
      const parts = [phiQ, phiK, ...(initialZ ? [initialZ] : [])];
      if (!tame(q, k, v, ...parts, ...(windowFactors ? [windowFactors] : []))) return undefined;
      if (parts.some(({ data }) => Array.from(data as number[]).some((x) => x < 0)))
        return undefined;
      const reach = (options.scale ?? 1 / Math.sqrt(q.shape[3])) * q.shape[3] * 400;
      if (!(Math.abs(reach) < 1e4)) return undefined;
      return { ...(backward ? windowLinearAttentionBackward : windowLinearAttention)(i, options) };
    }
    case 'localLinearAttention': {
      // The matrix's largest value over its least one is what float32 loses bits by.
      const reach = i.q.shape[3] * largest(i.k) * Math.max(largest(i.q), largest(i.k));
      if (!(Math.abs(options.scale ?? 1) * reach < 1000) || i.solution) return undefined;
      if (!i.lambda.data.every((x: number) => x > 0.01 * reach && x < 1e6)) return undefined;
      if (!backward) return { ...localLinearAttention(i, options) };
      // Queries that see one key each have dLambda = 0, of terms that are not.
      const grads = localLinearAttentionBackward(i, options);
      return largest(grads.dLambda) < 1e-5 ? undefined : { ...grads };
    }
    case 'shortConv':
      return shortConv(i, options, backward);
    case 'rope':
      return { ...(backward ? layers.ropeBackward : layers.rope)(i, options) };
    case 'ropeInPlace': {
      const turned = (x: any) => x && layers.rope({ ...i, x }, options).y;
      return { q: turned(i.q), k: turned(i.k) };
    }
    case 'l2norm':
      if (!backward) return { y: layers.l2norm(i, options) };
      // A unit vector of one number is constant.
      return i.x.shape[i.x.shape.length - 1] === 1 ? undefined : layers.l2normBackward(i, options);
    case 'rmsNorm':
      if (backward) return { ...layers.rmsNormBackward(i, options) };
      return { y: layers.rmsNorm(i, options) };
    case 'rmsNormGated':
      // What is gated first leaves float32's range where the reference, in float64, does not.
      if (largest(i.x) * largest(i.gate) > 1e38) return undefined;
      if (backward) return { ...layers.rmsNormGatedBackward(i, options) };
      return { y: layers.rmsNormGated(i, options) };
    case 'swiglu': {
      const pair = { a: i.gate, b: i.up };
      if (!backward) return { y: layers.swiglu(pair) };
      const { da, db } = layers.swigluBackward({ ...pair, dY: i.dY });
      return { dGate: da, dUp: db };
    }
    case 'bidirectionalLinearAttention': {
      const { q, k, v, alpha = q, modulate = q, qWeight = q, kWeight = k } = i;
      if (!tame(q, k, v, alpha, modulate, qWeight, kWeight)) return undefined;
      // Where all weights are a sum's only ones, or of any sign, terms cancel.
      if (alpha.data.some((x: number) => x < 0.01) && i.alpha) return undefined;
      if (options.normalize !== false && (options.featureMap ?? 'none') === 'none')
        return undefined;
      const call = backward
        ? layers.bidirectionalLinearAttentionBackward
        : layers.bidirectionalLinearAttention;
      if (backward && (options.normalize !== false || options.rankAugmented)) return undefined;
      return { ...call(i, options) };
    }
    case 'featureMap':
      // Projections that cancel; and a softmax of one number, which is constant.
      if ((i.weight || i.scale) && !tame(i.x, i.weight ?? i.x, i.bias ?? i.x, i.scale ?? i.x))
        return undefined;
      if (backward && (i.weight ?? i.x).shape.slice(-1)[0] === 1) return undefined;
      if (backward) return { ...layers.featureMapBackward(i, options) };
      return { y: layers.featureMap(i, options) };
    case 'adamW':
      return { ...layers.adamW(i, options) };
    case 'doraNorms':
    case 'scatterAdd':
    case 'sddmm':
    case 'basisCombination':
    case 'spmm':
    case 'kroneckerLinear':
    case 'randLora':
      return { ...companionOf(entry.name)(withBases(family, i, options), options) };
    case 'rowSketch':
      return { ...companions.rowSketch(i.x, sketchMatrix(i.x, options.size, options)) };
    case 'rowSketchGradient': {
      const s = sketchMatrix(i.dY, i.sketch.shape[0], options);
      return { ...companions.rowSketchGradient(i.dY, i.sketch, s) };
    }
    case 'dplr':
    case 'rwkv7':
    case 'rwkv6':
      return { ...gatedScans[family][backward ? 'backward' : 'forward'](i, options) };
    case 'hgrn':
      return hgrnOf(i, options, backward);
    case 'tttLinear':
      // The norm of few numbers, or of equal ones, hardly has a gradient.
      if (i.q.shape[3] < 8 || !tame(i.q, i.k, i.v, i.W, i.b, i.eta, i.lnWeight, i.lnBias))
        return undefined;
      return { ...(backward ? tttLinearBackward : tttLinear)(i, options) };
    case 's4d':
      if (!tame(i.logDt, i.logAReal, i.AImag, i.C)) return undefined;
      return { ...(backward ? s4dBackward : s4d)(i, options) };
    case 'segmentSummary':
      return {
        ...(backward ? segments.segmentSummaryBackward : segments.segmentSummary)(i, options),
      };
    case 'segmentGradient':
      return { ...segments.segmentGradient(i, options) };
    case 'composeStates':
      return { ...(backward ? segments.composeStatesBackward : segments.composeStates)(i) };
    case 'mamba2':
      if (!backward) return { ...presets.mamba2(i, options) };
      return { ...presets.mamba2Backward(i, options) };
    case 'recurrence':
      return { ...(backward ? recurrence.backward : recurrence.forward)(i, options) };
    default: {
      const preset = (presets as any)[family];
      if (!preset) return undefined;
      return { ...(backward ? preset.backward : preset.forward)(i, options) };
    }
  }
}

/** A decode state is [N,D,1,W-1]. */
function shortConv(i: any, options: any, backward: boolean): Tensors {
  if (backward) return { ...layers.shortConvBackward(i, options) };
  const held = i.initialState?.shape.length === 4 ? i.initialState : undefined;
  if (!held) return { ...layers.shortConv(i, options) };
  const [N, , , past] = held.shape;
  const initialState = { data: held.data, shape: [N, i.x.shape[2], past] };
  const { y, finalState } = layers.shortConv({ ...i, initialState }, options);
  return { y, finalState: { data: finalState.data, shape: held.shape } };
}

/** A state is [N,D,1,1], which a tensor of it is not. */
function hgrnOf({ initialState: start, ...rest }: any, options: any, backward: boolean): Tensors {
  const initialState = start && { ...start, shape: start.shape.slice(0, 2) };
  const given = { ...rest, initialState };
  if (backward) return { ...hgrnBackward(given, options) };
  const { o, finalState } = hgrn(given, options);
  return { o, finalState: { ...finalState, shape: start?.shape ?? finalState.shape } };
}

/** Values that neither overflow on their way nor lose what is beside them. */
function tame(...tensors: TensorLike[]): boolean {
  return tensors.every(({ data }) => Array.from(data).every((x) => Math.abs(x) <= 20));
}

function companionOf(name: string): (inputs: any, options: any) => object {
  return (companions as unknown as Record<string, any>)[name];
}

function withBases(family: string, i: any, options: any): any {
  if (family !== 'basisCombination' || i.bases) return i;
  const { rows, columns, seed = 0, stream = 0, deviation = 1 } = options;
  const count = i.coefficients.shape[i.coefficients.shape.length - 1];
  const data = Array.from({ length: count }, (_, at) => [
    ...normals(rows * columns, { seed, stream: stream + at, deviation }),
  ]).flat();
  return { ...i, bases: { data, shape: [count, rows, columns] } };
}

function sketchMatrix({ shape }: TensorLike, size: number, { seed = 0, stream = 0 }: any) {
  const rows = sizeOf(shape.slice(0, -1));
  const data = normals(rows * size, { seed, stream, deviation: 1 / Math.sqrt(size) });
  return { data, shape: [rows, size] };
}

function largest({ data }: TensorLike): number {
  let most = 0;
  for (let i = 0; i < data.length; i++) most = Math.max(most, Math.abs(data[i]));
  return most;
}

function matmulBackward(i: any, options: any, { withBias }: Record<string, unknown>): Tensors {
  const N = i.dY.shape[i.dY.shape.length - 1];
  const bias = withBias ? { data: new Float64Array(N), shape: [N] } : undefined;
  return { ...layers.matmulBackward({ a: i.a, b: i.b, bias, dOut: i.dY } as any, options) };
}

function embedding(i: any, { numEmbeddings }: any, backward: boolean): Tensors {
  if (!backward) return { y: layers.embedding({ weight: i.weight, indices: i.ids }) };
  const D = i.dY.shape[i.dY.shape.length - 1];
  const weight = { data: [], shape: [numEmbeddings, D] };
  return { ...layers.embeddingBackward({ weight, indices: i.ids, dOut: i.dY }) };
}

/** The reference knows rows only. */
function crossEntropy(i: any, options: any, backward: boolean): Tensors {
  const { shape, data } = i.logits;
  const rows = shape.slice(0, -1);
  const count = rows.reduce((a: number, b: number) => a * b, 1);
  const flat = {
    logits: { data, shape: [count, shape[shape.length - 1]] },
    targets: { data: i.targets.data, shape: [count] },
  };
  if (backward) {
    const dLoss = i.dLoss?.data[0];
    const { dLogits } = layers.crossEntropyBackward({ ...flat, dLoss }, options);
    return { dLogits: { data: dLogits.data, shape } };
  }
  const { loss, losses } = layers.crossEntropy(flat, options);
  return { loss: { data: [loss], shape: [] }, losses: { data: losses.data, shape: rows } };
}

/**
 * Holds results against the reference: within `limit` of the norm. The contract's bounds have tests of their own; here a
 * wrong, stale or partly read array is what is looked for, on problems of any condition. Nothing is said about results
 * where one is above `most`, near the end of what its type can hold.
 */
export function difference(
  actual: Record<string, any>,
  reference: Tensors,
  [limit, most]: [number, number],
): string | undefined {
  const moderate = Object.values(reference).every((ref) => {
    for (let i = 0; ref && i < ref.data.length; i++)
      if (!(Math.abs(ref.data[i]) < most)) return false;
    return true;
  });
  if (!moderate) return undefined;
  for (const [name, tensor] of Object.entries(actual)) {
    const ref = reference[name];
    if (!ref) return `${name}: the reference has none`;
    if (tensor.shape.join() !== ref.shape.join())
      return `${name}: shape [${tensor.shape}], reference [${ref.shape}]`;
    let error = 0;
    let norm = 0;
    for (let i = 0; i < ref.data.length; i++) {
      error += (tensor.values[i] - ref.data[i]) ** 2;
      norm += ref.data[i] ** 2;
    }
    if (!(error <= limit ** 2 * norm + 1e-12 * ref.data.length))
      return `${name}: off by ${Math.sqrt(error)} of ${Math.sqrt(norm)}`;
  }
  return undefined;
}
