/// <reference lib="esnext.disposable" preserve="true" />
import { binding, type Handle } from './binding';
import { disposeSymbol } from './dispose';
import { rangeError, show, typeError, unknownKey } from './errors';
import { handles } from './handles';
import type { FloatDType, FloatTensor, HalfDType } from './types';

/** Dimensions of a {@link KvCache}: with a capacity, or with a window. */
export type KvCacheShape = KvCacheSizes & (KvCacheOfAll | KvCacheOfWindow);

/** What every {@link KvCache} has. */
export interface KvCacheSizes {
  /** Slots, each for one sequence. */
  batch: number;
  /** HKV: heads of keys and values. */
  kvHeads: number;
  /** K: width of a key, 1 to 65536; `attention` takes 1024 at most. */
  keyDim: number;
  /** V: width of a value, the same. */
  valueDim: number;
  /** What keys and values are stored as; default `'f32'`. */
  dtype?: FloatDType;
}

/** A {@link KvCache} that keeps every token. */
export interface KvCacheOfAll {
  /** Tokens that a slot has room for. */
  capacity: number;
  window?: undefined;
  sinkTokens?: undefined;
}

/** A {@link KvCache} that keeps the last tokens. */
export interface KvCacheOfWindow {
  capacity?: undefined;
  /** The last tokens of a slot that stay, in a ring: as many as the `left` of a call's `window` reaches back. */
  window: number;
  /** The first tokens of a slot that stay besides; default 0. */
  sinkTokens?: number;
}

/** What {@link KvCache.toTensors} returns, in order of position. */
export interface KvCacheContents {
  /** `[held,HKV,K]` */
  k: FloatTensor;
  /** `[held,HKV,V]` */
  v: FloatTensor;
}

/** What only this file can give to the constructor. */
const OWN = Symbol('own');
const SIZES = ['batch', 'kvHeads', 'keyDim', 'valueDim'] as const;
const FIELDS = [...SIZES, 'capacity', 'window', 'sinkTokens', 'dtype'];
const DTYPES: readonly FloatDType[] = ['f32', 'bf16', 'f16'];

interface Layout {
  sizes: readonly [number, number, number, number];
  capacity: number;
  window: number;
  dtype: FloatDType;
}

/**
 * Keys and values of the tokens that the sequences of a decode have seen, owned by the engine. Passed as `cache` to
 * {@link attention}, which attends to what a slot holds and to the call's own tokens, and then puts those in: for a whole
 * prompt or for one token. A call that throws, or is aborted, puts none in. It serves one call at a time: a second call, or a method,
 * while an asynchronous call uses it is an error.
 *
 * Without `window` a slot keeps every token, up to `capacity`, and a call that has more is an error. With it a slot keeps
 * its first `sinkTokens` and its last `window`, in memory that does not grow with the sequence; calls must then say
 * `window: [left, 0]` with left at most that, and at most so many `sinkTokens`.
 *
 * @example
 * using cache = createKvCache({ batch: 1, kvHeads: 8, keyDim: 128, valueDim: 128, window: 4095 });
 * let { o } = attentionSync({ ...prompt, cache }, { window: [4095, 0] });
 * for (const token of tokens) o = attentionSync({ ...token, cache }, { window: [4095, 0] }).o;
 */
export class KvCache implements Disposable {
  readonly #handle: Handle;
  readonly #layout: Layout;
  #disposed = false;

  private constructor(own: symbol, handle: Handle, layout: Layout) {
    if (own !== OWN)
      throw typeError('KvCache', 'constructor: expected createKvCache(), got a call of it');
    this.#handle = handle;
    this.#layout = layout;
    handles.cache.set(this, handle);
  }

  /** @internal */
  static of(handle: Handle, layout: Layout): KvCache {
    return new KvCache(OWN, handle, layout);
  }

  /** Slots. */
  get batch(): number {
    return this.#layout.sizes[0];
  }

  /** Tokens that a slot has room for: `window + sinkTokens` where it is a ring. */
  get capacity(): number {
    return this.#layout.capacity;
  }

  /** The last tokens that stay; undefined where all do. */
  get window(): number | undefined {
    return this.#layout.window || undefined;
  }

  /** What keys and values are stored as. */
  get dtype(): FloatDType {
    return this.#layout.dtype;
  }

  /** Of the keys and values, in bytes. */
  get bytes(): number {
    const { sizes, capacity, dtype } = this.#layout;
    const [batch, heads, keyDim, valueDim] = sizes;
    return batch * heads * capacity * (keyDim + valueDim) * (dtype === 'f32' ? 4 : 2);
  }

  /** Whether {@link KvCache.dispose} has been called. */
  get disposed(): boolean {
    return this.#disposed;
  }

  /**
   * Tokens that a slot has seen, those of a ring that are gone among them: the position of its next one, as `rope` needs
   * it.
   * @throws Error when it is disposed or in use by a call, RangeError for a slot that it does not have
   */
  length(slot: number): number {
    return binding.cacheLength(this.#handle, slot);
  }

  /**
   * Empties a slot, or all of them.
   * @throws as {@link KvCache.length}
   */
  reset(slot?: number): void {
    binding.cacheReset(this.#handle, slot);
  }

  /**
   * Keeps the first `length` tokens of a slot, as after a draft that was refused.
   * @throws as {@link KvCache.length}; RangeError for more tokens than it has seen, and where a ring has overwritten some
   */
  truncate(slot: number, length: number): void {
    binding.cacheTruncate(this.#handle, slot, length);
  }

  /**
   * A copy of what a slot holds, in order of position: all its tokens, or the first `sinkTokens` and the last `window`.
   * @throws as {@link KvCache.length}; RangeError when there is no memory for it
   */
  toTensors(slot: number): KvCacheContents {
    const { sizes, capacity, dtype } = this.#layout;
    const [, heads, keyDim, valueDim] = sizes;
    const held = Math.min(binding.cacheLength(this.#handle, slot), capacity);
    const make = (width: number) => {
      const shape = [held, heads, width];
      const size = held * heads * width;
      try {
        const data = dtype === 'f32' ? new Float32Array(size) : new Uint16Array(size);
        return { data, shape, dtype } as FloatTensor & { data: ArrayBufferView };
      } catch {
        throw rangeError('KvCache.toTensors', `out of memory for shape [${shape}]`);
      }
    };
    const [k, v] = [make(keyDim), make(valueDim)];
    binding.cacheRead(this.#handle, slot, k.data, v.data);
    return { k, v };
  }

  /**
   * Frees the memory now; without it the garbage collector does. A second dispose() does nothing.
   * @throws Error while an asynchronous call uses the cache
   */
  dispose(): void {
    binding.cacheDispose(this.#handle);
    this.#disposed = true;
  }

  /** The same as {@link KvCache.dispose}, for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }

  static {
    // Where the runtime has no Symbol.dispose, the method above got the name "undefined".
    if (!Symbol.dispose) (KvCache.prototype as any)[disposeSymbol] = KvCache.prototype.dispose;
  }
}

/**
 * A new, empty {@link KvCache}.
 * @param shape batch, kvHeads, keyDim and valueDim: positive integers, the last two at most 65536; and either `capacity` or
 * `window`, with it perhaps `sinkTokens`
 * @throws TypeError or RangeError for anything else, RangeError when there is no memory for it
 */
export function createKvCache(shape: KvCacheShape): KvCache {
  const name = 'createKvCache';
  if (typeof shape !== 'object' || shape === null)
    throw typeError(name, `shape: expected {${FIELDS.join(', ')}}, got ${show(shape)}`);
  for (const key in shape)
    if (!FIELDS.includes(key)) throw unknownKey(name, 'an input', key, FIELDS);
  const { batch, kvHeads, keyDim, valueDim, capacity, window, sinkTokens, dtype = 'f32' } = shape;
  const positive = (field: string, value: unknown, least: number): number => {
    if (typeof value !== 'number')
      throw typeError(name, `${field}: expected an integer, got ${show(value)}`);
    if (!Number.isInteger(value) || value < least || value > 2147483647)
      throw rangeError(name, `${field}: expected an integer from ${least}, got ${value}`);
    return value;
  };
  const sizes = SIZES.map((field, i) =>
    positive(field, [batch, kvHeads, keyDim, valueDim][i], 1),
  ) as unknown as Layout['sizes'];
  if ((capacity === undefined) === (window === undefined))
    throw typeError(
      name,
      `capacity: expected either it or window, got ${window ? 'both' : 'none'}`,
    );
  if (window === undefined && sinkTokens !== undefined)
    throw typeError(name, 'sinkTokens: expected none without window, as all tokens stay');
  if (!DTYPES.includes(dtype))
    throw typeError(name, `dtype: expected 'f32', 'bf16' or 'f16', got ${show(dtype)}`);
  const kept = window === undefined ? 0 : positive('window', window, 1);
  const rows =
    window === undefined
      ? positive('capacity', capacity, 1)
      : kept + positive('sinkTokens', sinkTokens ?? 0, 0);
  const layout = { sizes, capacity: rows, window: kept, dtype };
  const handle = binding.createCache(...sizes, rows, kept, DTYPES.indexOf(dtype as HalfDType));
  return KvCache.of(handle, layout);
}
