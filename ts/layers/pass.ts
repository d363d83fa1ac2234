// One call of a layer: its arguments, read once, and the steps that layers share.
import { rangeError, show, typeError, unknownKey } from '../errors';
import { arrayKind, arrayLength } from '../header';
import { checkKeys } from '../linalg/arguments';
import type {
  AnyTensor,
  AsyncOptions,
  FloatDType,
  FloatTensor,
  IndexArray,
  Tensor,
} from '../types';
import { type Carried, LayerCache } from './cache';
import { reshape } from './elementwise';
import type { Steps } from './run';
import { type Read, readFloats, Weights } from './weights';

/** What every layer takes beside its weights. B batch, T tokens, D width of the model. */
export interface LayerInputs<W, X extends FloatTensor = FloatTensor> {
  /** `[B,T,D]` */
  x: X;
  /** Tensors by the names of the published checkpoint; see the layer. Unknown names are an error. */
  weights: W;
  /** What an earlier call left, for prompts in pieces and for decode; advanced by this call. */
  cache?: LayerCache;
}

/** Options of every layer. */
export interface LayerOptions {
  /**
   * Packed sequences: `[N+1]` offsets in tokens from 0 to T, non-decreasing, and B is 1. A cache then holds N sequences.
   */
  cuSeqlens?: IndexArray;
  /** As of `recurrence`; default `'auto'`. */
  mode?: 'auto' | 'recurrent' | 'chunk';
  /** Precision of the recurrence, as of `recurrence`; default `'f32'`. */
  compute?: 'f32' | 'bf16';
}

/** What a layer returns. */
export interface LayerResult<X extends FloatTensor = FloatTensor> {
  /** `[B,T,D]`, in the dtype of x */
  y: X;
}

/** A layer on the engine's threads. x is copied at the call; weights must stay as they are until it ends. */
export type AsyncLayerFunction<W, Options> = <X extends FloatTensor = Tensor>(
  inputs: LayerInputs<W, X>,
  options: Options & AsyncOptions,
) => Promise<LayerResult<X>>;

/** A layer on the caller's thread and memory, with the pool's help. */
export type SyncLayerFunction<W, Options> = <X extends FloatTensor = Tensor>(
  inputs: LayerInputs<W, X>,
  options: Options,
) => LayerResult<X>;

const INPUTS = ['x', 'weights', 'cache'];
const FORM_OPTIONS = ['mode', 'compute'];

function readOffsets(operation: string, value: unknown, batch: number, tokens: number): number[] {
  const kind = arrayKind(value);
  if (kind !== 'Int32Array' && kind !== 'BigInt64Array')
    throw typeError(
      operation,
      `cuSeqlens: expected an Int32Array or a BigInt64Array, got ${show(value)}`,
    );
  const offsets = Array.from({ length: arrayLength(value) }, (_, i) => Number((value as any)[i]));
  const rising = offsets.every((offset, i) => offset >= (offsets[i - 1] ?? 0));
  if (offsets.length < 2 || offsets[0] !== 0 || offsets.at(-1) !== tokens || !rising)
    throw rangeError(
      operation,
      `cuSeqlens: expected offsets from 0 to ${tokens}, not descending, got [${offsets.slice(0, 8)}]`,
    );
  if (batch !== 1)
    throw rangeError(operation, `cuSeqlens: expected x of batch 1 beside it, got ${batch}`);
  return offsets;
}

/** A call that has been checked as far as a layer need not know. */
export class Pass {
  readonly operation: string;
  readonly x: Read;
  readonly batch: number;
  readonly tokens: number;
  readonly width: number;
  readonly sequences: number;
  readonly weights: Weights;
  /** Inputs that only some layers have. */
  readonly more: Readonly<Record<string, unknown>>;
  /** What a layer returns beside y. */
  readonly results: Record<string, unknown> = {};
  readonly #cache: LayerCache | undefined;
  readonly #carried: Carried | undefined;
  readonly #lengths: readonly number[];
  readonly #run: object;
  readonly #cuSeqlens: Int32Array | undefined;

  constructor(
    operation: string,
    inputs: LayerInputs<unknown>,
    options: LayerOptions,
    copy: boolean,
    { weights, inputs: more = [] }: Pick<LayerDefinition<LayerOptions>, 'weights' | 'inputs'>,
  ) {
    checkKeys(operation, 'an input', inputs, [...INPUTS, ...more]);
    this.more = Object.fromEntries(more.map((name) => [name, (inputs as any)[name]]));
    this.operation = operation;
    const x = readFloats(operation, 'x', inputs.x);
    if (x.shape.length !== 3)
      throw rangeError(operation, `x: expected shape [B,T,D], got [${x.shape}]`);
    const data = copy ? (x.data as Float32Array).slice() : x.data;
    this.x = { ...x, data };
    [this.batch, this.tokens, this.width] = x.shape;
    this.weights = new Weights(operation, inputs.weights, weights);
    const { cuSeqlens, mode, compute } = options;
    const offsets =
      cuSeqlens === undefined
        ? undefined
        : readOffsets(operation, cuSeqlens, this.batch, this.tokens);
    this.#cuSeqlens = offsets && Int32Array.from(offsets);
    this.#lengths = offsets
      ? offsets.slice(1).map((end, i) => end - offsets[i])
      : Array(this.batch).fill(this.tokens);
    this.sequences = this.#lengths.length;
    this.#run = {
      ...(mode !== undefined && { mode }),
      ...(compute !== undefined && { compute }),
      ...(this.#cuSeqlens && { cuSeqlens: this.#cuSeqlens }),
    };
    const { cache } = inputs;
    if (cache !== undefined && !(cache instanceof LayerCache))
      throw typeError(operation, `cache: expected one of createLayerCache(), got ${show(cache)}`);
    this.#cache = cache;
    this.#carried = cache?.begin(operation, this.sequences);
  }

  get dtype(): FloatDType {
    return this.x.dtype;
  }

  /** Ends the call: the cache is free again, and advanced where it succeeded. */
  end(success: boolean): void {
    const carried = this.#carried;
    if (carried)
      carried.lengths = carried.lengths.map((length, sequence) => length + this.#lengths[sequence]);
    this.#cache?.end(success ? carried : undefined);
  }

  /** Position of every token in its sequence, earlier calls counted: `[B T]`. */
  positions(): Int32Array {
    const positions = new Int32Array(this.batch * this.tokens);
    let at = 0;
    this.#lengths.forEach((length, sequence) => {
      const offset = this.#carried?.lengths[sequence] ?? 0;
      for (let t = 0; t < length; t++) positions[at++] = offset + t;
    });
    return positions;
  }

  /** x W^T, plus the bias of that name where the checkpoint has one: `[B,T,out]`. */
  *project(
    name: string,
    x: FloatTensor = this.x as FloatTensor,
    biasName?: string,
  ): Steps<FloatTensor> {
    const { out, ...weight } = this.weights.linear(name, x.shape[x.shape.length - 1]) as any;
    const dtype = x.dtype ?? 'f32';
    const bias =
      biasName !== undefined && this.weights.has(biasName)
        ? this.weights.beside(biasName, [out], dtype)
        : undefined;
    if (weight.base) return (yield { name: 'loraLinear', inputs: { x, ...weight, bias } }).y;
    if (weight.dtype !== dtype)
      throw typeError(
        this.operation,
        `${name}: expected the dtype of x, ${dtype}, or a packed weight, got ${weight.dtype}`,
      );
    const options = { transposeB: true };
    return (yield { name: 'matmul', inputs: { a: x, b: weight, bias }, options }).y;
  }

  /** Rows of a projection's matrix of `width` columns; throws where it does not have these. */
  rows(name: string, width: number = this.width): number {
    return this.weights.linear(name, width).out;
  }

  /** Throws where a projection does not have these rows. */
  expectRows(name: string, rows: number, width: number = this.width): void {
    const given = this.rows(name, width);
    if (given !== rows)
      throw rangeError(
        this.operation,
        `${name}: expected shape [${rows},${width}], got [${given},${width}]`,
      );
  }

  /** {@link rows}, which must be a multiple of `heads`: the width of one. */
  perHead(name: string, heads: number, width: number = this.width): number {
    const rows = this.rows(name, width);
    if (rows % heads !== 0 || rows === 0)
      throw rangeError(
        this.operation,
        `${name}: expected a multiple of ${heads} rows, one part a head, got ${rows}`,
      );
    return rows / heads;
  }

  /** The causal convolution of weight `name`.weight, `[C,W]` or `[C,1,W]`, over x `[B,T,C]`, with its bias where there is one. */
  *conv(name: string, x: FloatTensor, activation: 'none' | 'silu'): Steps<FloatTensor> {
    const channels = x.shape[x.shape.length - 1];
    const dtype = x.dtype ?? 'f32';
    const weight = this.weights.beside(`${name}.weight`, [channels, -1], dtype);
    const bias = this.weights.has(`${name}.bias`)
      ? this.weights.beside(`${name}.bias`, [channels], dtype)
      : undefined;
    const initialState = this.#carried?.inputs.get(name);
    const outputFinalState = this.#carried !== undefined;
    const held = [this.sequences, channels, weight.shape[1] - 1];
    if (initialState?.shape.some((size, i) => size !== held[i]))
      throw rangeError(
        this.operation,
        `cache: expected one with inputs [N,C,W-1] = [${held}] of ${name}, got one with [${initialState.shape}]`,
      );
    const { y, finalState } = yield {
      name: 'shortConv',
      inputs: { x, weight, bias, initialState },
      options: {
        activation,
        outputFinalState,
        ...(this.#cuSeqlens && { cuSeqlens: this.#cuSeqlens }),
      },
    };
    if (outputFinalState) this.#carried!.inputs.set(name, finalState);
    return y;
  }

  /** silu(x), as a convolution of one tap. */
  *silu(x: FloatTensor): Steps<FloatTensor> {
    const channels = x.shape[x.shape.length - 1];
    const weight = { data: new Float32Array(channels).fill(1), shape: [channels, 1] };
    return (yield { name: 'shortConv', inputs: { x, weight }, options: { activation: 'silu' } }).y;
  }

  /** The last token of each sequence before this call and the tokens of this one but the last, `[B,T,C]`: x shifted by one. */
  shift(name: string, x: Tensor): Tensor {
    const channels = x.shape[2];
    const shifted = new Float32Array(x.data.length);
    const carried = this.#carried?.inputs;
    const before = carried?.get(name)?.data;
    const last = new Float32Array(this.sequences * channels);
    let at = 0;
    this.#lengths.forEach((length, sequence) => {
      const row = sequence * channels;
      const held = before?.subarray(row, row + channels);
      if (length === 0) {
        if (held) last.set(held, row);
        return;
      }
      const begin = at * channels;
      const end = begin + length * channels;
      if (held) shifted.set(held, begin);
      shifted.set(x.data.subarray(begin, end - channels), begin + channels);
      last.set(x.data.subarray(end - channels, end), row);
      at += length;
    });
    carried?.set(name, { data: last, shape: [this.sequences, channels], dtype: 'f32' });
    return { data: shifted, shape: x.shape, dtype: 'f32' };
  }

  /** A recurrence with this call's state, sequences and options; its output, named `o` or `y`. */
  *recur(
    name: string,
    state: readonly [heads: number, keyDim: number, valueDim: number],
    inputs: object,
    options: object = {},
  ): Steps<FloatTensor> {
    const held = this.#cache?.stateOf(this.operation, [this.sequences, ...state]);
    const call = {
      name,
      inputs: { ...inputs, state: held },
      options: { ...this.#run, ...options },
    };
    const { o, y } = yield call;
    return o ?? y;
  }

  /**
   * The norm of each head's output, o `[B,T,HV,V]`, times its gate where there is one, in the order `form` says; then as
   * `[B,T,HV V]`.
   */
  *norm(
    name: string,
    o: FloatTensor,
    gate: FloatTensor | undefined,
    options: object,
  ): Steps<FloatTensor> {
    const width = o.shape[o.shape.length - 1];
    const weight = this.weights.has(name)
      ? this.weights.beside(name, [width], o.dtype ?? 'f32')
      : undefined;
    const inputs = gate ? { x: o, gate: reshape(gate, o.shape), weight } : { x: o, weight };
    const { y } = yield { name: gate ? 'rmsNormGated' : 'rmsNorm', inputs, options };
    return reshape(y, [this.batch, this.tokens, o.shape.slice(2).reduce((a, b) => a * b)]);
  }
}

/** What a layer is made of. */
export interface LayerDefinition<Options extends LayerOptions> {
  /** Its recurrence has neither modes nor another precision. */
  readonly onlyForm?: true;
  /** Names of inputs beside x, weights and cache. */
  readonly inputs?: readonly string[];
  /** Every name of a weight, those that may be absent too. */
  readonly weights: readonly string[];
  readonly options: readonly Exclude<keyof Options & string, keyof LayerOptions>[];
  /** Checks and computes; y. */
  readonly body: (pass: Pass, options: Options) => Steps<AnyTensor>;
}

/** Every step of a call, and its cache given back whatever happens. */
export function* steps<Options extends LayerOptions>(
  { body }: LayerDefinition<Options>,
  pass: Pass,
  options: Options,
): Steps<LayerResult<any>> {
  let y: AnyTensor | undefined;
  try {
    y = yield* body(pass, options);
    return { y, ...pass.results };
  } finally {
    pass.end(y !== undefined);
  }
}

/** Reads a call's options once. */
export function readOptions<Options extends LayerOptions>(
  operation: string,
  { options: names, onlyForm }: LayerDefinition<Options>,
  options: unknown,
  more: readonly string[],
): Options & AsyncOptions {
  if (options === undefined) return {} as Options;
  const legal = [...names, 'cuSeqlens', ...(onlyForm ? [] : FORM_OPTIONS), ...more];
  if (typeof options !== 'object' || options === null || Array.isArray(options))
    throw typeError(operation, `options: expected an object, got ${show(options)}`);
  for (const key of Object.keys(options))
    if (!legal.includes(key)) throw unknownKey(operation, 'an option', key, legal);
  return { ...options } as Options & AsyncOptions;
}
