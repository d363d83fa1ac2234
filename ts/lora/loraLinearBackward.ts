import { DeviceTensor, partOf } from '../device';
import { asynchronous, named, synchronous } from '../marshal';
import type { GradDType, GradientOption } from '../ops/grid';
import type { LayerInputs } from '../ops/layer';
import type {
  AnyTensor,
  AsyncOptions,
  Beside,
  CallOptions,
  DTypeOf,
  ResultBeside,
  ResultTensor,
  Tensor,
} from '../types';
import type { LoraDtypes, LoraLinearInputs, LoraSharedOptions } from './loraLinear';

/** Inputs of {@link loraLinearBackward}. */
export interface LoraLinearBackwardInputs extends LoraLinearInputs {
  /** Gradient of y, `[...,out]`. */
  dY: Tensor;
  /** What the forward returned with `saveRank`; without it the rank vectors are computed again. */
  t?: Tensor;
}

/** Which gradients are wanted. */
export interface LoraNeed {
  /** Default true. */
  dx?: boolean;
  /** Default true. */
  adapters?: boolean;
  /** Default true where rows have gates. */
  dGates?: boolean;
  /** Default true where there is a bias. */
  dBias?: boolean;
}

/** Options of {@link loraLinearBackward}. */
export interface LoraLinearBackwardOptions<
  G extends GradDType = GradDType,
  Need extends LoraNeed = LoraNeed,
> extends LoraSharedOptions,
    GradientOption<G>,
    CallOptions<'dx'> {
  need?: Need;
}

/**
 * Gradients of one adapter, float32, of the shapes with which it was loaded: zeros beyond `rank`, and zeros for an adapter
 * without rows or left out by `skip`. Index lists have none.
 */
export interface AdapterGradients {
  /** `[r,in]` */
  dA?: ResultTensor;
  /** `[out,r2]` */
  dB?: ResultTensor;
  /** Shape of `mid`. */
  dMid?: ResultTensor;
  /** `[r]` */
  dRankBias?: ResultTensor;
  dScale: number;
  /** `[out]` */
  dBaseScale?: ResultTensor;
  /** `[out]` */
  dOutBias?: ResultTensor;
}

/** Of a call whose x is an `X`: what {@link loraLinearBackward} returns. */
export type LoraLinearBackwardResult<
  X extends AnyTensor = Tensor,
  G extends GradDType = 'f32',
  Need extends LoraNeed = LoraNeed,
> = (Need extends { dx: false }
  ? unknown
  : {
      /** Shape of x; through a quantised base too. */
      dx: ResultBeside<X, G extends 'input' ? DTypeOf<X> : 'f32'>;
    }) &
  (Need extends { adapters: false }
    ? unknown
    : {
        /** By id, ascending, one for every id that the routing names. */
        adapters: Map<number, { [P in keyof AdapterGradients]: Beside<AdapterGradients[P], X> }>;
      }) & {
    /** Shape of gates. */
    dGates?: ResultBeside<X, 'f32'>;
    /** `[out]` */
    dBias?: ResultBeside<X, 'f32'>;
  };

/** What the engine returns: the adapters' gradients one behind the other, by ascending id. On a device all but layout. */
interface Flat {
  /** Int32 `[adapters,8]`: see FIELDS; -1 where the adapter has no such gradient. */
  layout?: { data: ArrayLike<number>; shape: number[] };
  /** `[rows of all dA, in]` */
  dA?: ResultTensor;
  /** `[columns of all dB, out]`, but each an `[out,columns]` */
  dB?: ResultTensor;
  dMid?: ResultTensor;
  dRankBias?: ResultTensor;
  dScale?: ResultTensor;
  dBaseScale?: ResultTensor;
  dOutBias?: ResultTensor;
}

/** Of a row of `layout`; midRows is 0 for a diagonal. */
const FIELDS = 8;

function adaptersOf(
  flat: Flat,
  scales: Float32Array | undefined,
): Map<number, AdapterGradients> | undefined {
  const { layout } = flat;
  if (!layout) return undefined;
  const onDevice = flat.dScale instanceof DeviceTensor;
  const inFeatures = flat.dA?.shape[1] ?? 0;
  const outFeatures = flat.dB?.shape[1] ?? flat.dBaseScale?.shape[1] ?? flat.dOutBias?.shape[1];
  const taken = new Map<ResultTensor, number>();
  const next = (from: ResultTensor | undefined, shape: number[]): ResultTensor => {
    const at = taken.get(from!) ?? 0;
    const end = at + shape.reduce((n, d) => n * d, 1);
    taken.set(from!, end);
    if (onDevice) return partOf(from as unknown as DeviceTensor, at, shape) as any;
    const { data } = from!;
    return { data: end - at === data.length ? data : data.slice(at, end), shape, dtype: 'f32' };
  };
  const adapters = new Map<number, AdapterGradients>();
  for (let i = 0; i < layout.shape[0]; i++) {
    const [id, aRows, bColumns, midRows, midColumns, rankBias, baseScale, outBias] = Array.from(
      { length: FIELDS },
      (_, field) => layout.data[i * FIELDS + field],
    );
    const gradients: AdapterGradients = { dScale: scales![i] };
    if (aRows >= 0) gradients.dA = next(flat.dA, [aRows, inFeatures]);
    if (bColumns >= 0) gradients.dB = next(flat.dB, [outFeatures!, bColumns]);
    if (midRows >= 0)
      gradients.dMid = next(flat.dMid, midRows === 0 ? [midColumns] : [midRows, midColumns]);
    if (rankBias >= 0) gradients.dRankBias = next(flat.dRankBias, [rankBias]);
    if (baseScale >= 0) gradients.dBaseScale = next(flat.dBaseScale, [outFeatures!]);
    if (outBias >= 0) gradients.dOutBias = next(flat.dOutBias, [outFeatures!]);
    adapters.set(id, gradients);
  }
  return adapters;
}

/** What the caller gets. scales: dScale's numbers, on the CPU. */
function gather(flat: any, scales: Float32Array | undefined): any {
  const result: any = {};
  if (flat.dx) result.dx = flat.dx;
  const adapters = adaptersOf(flat, scales);
  if (adapters) result.adapters = adapters;
  if (flat.dGates) result.dGates = flat.dGates;
  if (flat.dBias) result.dBias = flat.dBias;
  return result;
}

/** What is on a device is waited for. */
const scalesOf = (dScale: any): Float32Array | undefined =>
  dScale instanceof DeviceTensor ? (dScale.toHostSync().data as Float32Array) : dScale?.data;

type Inputs<X extends AnyTensor> = LayerInputs<LoraLinearBackwardInputs, LoraDtypes, X>;

const backward = asynchronous('loraLinearBackward');
const backwardSync = synchronous('loraLinearBackward');

/**
 * Gradients of {@link loraLinear} from dY: of x, of every float piece of every adapter that the routing names, of gates and
 * bias. Through a quantised base dx is that of its dequantised values; the base itself has no gradient. `compute`, `dropout`
 * and `skip` must be those of the forward. Sums over rows are added in an order fixed by the sizes.
 *
 * @throws (rejects) as {@link loraLinear}
 */
export const loraLinearBackward: <
  X extends AnyTensor = Tensor,
  G extends GradDType = 'f32',
  const Need extends LoraNeed = LoraNeed,
>(
  inputs: Inputs<X>,
  options?: LoraLinearBackwardOptions<G, Need> & AsyncOptions,
) => Promise<LoraLinearBackwardResult<X, G, Need>> = named(
  'loraLinearBackward',
  async (inputs, options) => {
    const flat = await backward(inputs, options);
    const { dScale } = flat;
    const scales = dScale instanceof DeviceTensor ? (await dScale.toHost()).data : dScale?.data;
    return gather(flat, scales as Float32Array | undefined);
  },
);

/**
 * {@link loraLinearBackward} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const loraLinearBackwardSync: <
  X extends AnyTensor = Tensor,
  G extends GradDType = 'f32',
  const Need extends LoraNeed = LoraNeed,
>(
  inputs: Inputs<X>,
  options?: LoraLinearBackwardOptions<G, Need>,
) => LoraLinearBackwardResult<X, G, Need> = named('loraLinearBackwardSync', (inputs, options) => {
  const flat = backwardSync(inputs, options);
  return gather(flat, scalesOf(flat.dScale)) as any;
});
