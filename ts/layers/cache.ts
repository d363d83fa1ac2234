/// <reference lib="esnext.disposable" preserve="true" />
import { disposeSymbol } from '../dispose';
import { rangeError } from '../errors';
import { createState, type RecurrentState } from '../state';
import type { ResultTensor } from '../types';

/** What a call leaves for the next one, kept apart until the call has succeeded. */
export interface Carried {
  /** Last inputs of the convolutions and token shifts, by the name of their weight; float32 */
  inputs: Map<string, ResultTensor>;
  /** Tokens of each sequence so far. */
  lengths: number[];
}

/**
 * What a layer carries from one call to the next: the recurrent state, the last inputs of its short convolutions, and how
 * many tokens each sequence has had. Empty at first; the first call that it is passed to shapes it, and from then on it
 * belongs to that layer and number of sequences. One call at a time may use it. A call that fails or is aborted before its
 * recurrence leaves it as it was; one that does so later makes it unusable until {@link LayerCache.reset}.
 */
export class LayerCache implements Disposable {
  #state: RecurrentState | undefined;
  #carried: Carried | undefined;
  #busy = false;
  /** The call under way may have advanced the state. */
  #advanced = false;
  #broken = false;
  #disposed = false;

  /** Tokens of each sequence so far; empty before the first call. */
  get lengths(): readonly number[] {
    return [...(this.#carried?.lengths ?? [])];
  }

  /** The recurrent state; absent before the first call. */
  get state(): RecurrentState | undefined {
    return this.#state;
  }

  /** Whether {@link LayerCache.dispose} has been called. */
  get disposed(): boolean {
    return this.#disposed;
  }

  /**
   * Forgets every sequence. The cache may then serve another layer.
   * @throws Error while a call uses it, or when it is disposed
   */
  reset(): void {
    this.#free('LayerCache.reset');
    this.#state?.dispose();
    this.#state = undefined;
    this.#carried = undefined;
    this.#broken = false;
  }

  /**
   * A second cache with the same contents, for sequences that part here.
   * @throws Error while a call uses it, when it is disposed, or left half advanced by a call that failed
   */
  clone(): LayerCache {
    this.#usable('LayerCache.clone');
    const copy = new LayerCache();
    copy.#state = this.#state?.clone();
    if (this.#carried)
      copy.#carried = {
        inputs: new Map(this.#carried.inputs),
        lengths: [...this.#carried.lengths],
      };
    return copy;
  }

  /**
   * Frees the state now; without it the garbage collector does. A second dispose() does nothing.
   * @throws Error while a call uses it
   */
  dispose(): void {
    if (this.#disposed) return;
    this.#free('LayerCache.dispose');
    this.#state?.dispose();
    this.#carried = undefined;
    this.#disposed = true;
  }

  /** The same as {@link LayerCache.dispose}, for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }

  static {
    // Where the runtime has no Symbol.dispose, the method above got the name "undefined".
    if (!Symbol.dispose)
      (LayerCache.prototype as any)[disposeSymbol] = LayerCache.prototype.dispose;
  }

  #free(operation: string): void {
    if (this.#disposed) throw new Error(`[${operation}] the cache has been disposed`);
    if (this.#busy) throw new Error(`[${operation}] the cache is in use by a call`);
  }

  #usable(operation: string): void {
    this.#free(operation);
    if (this.#broken)
      throw new Error(`[${operation}] cache: a call failed half way through it; it needs reset()`);
  }

  /**
   * Takes the cache for a call of `sequences` sequences; what it carries, empty before the first one.
   * @internal
   */
  begin(operation: string, sequences: number): Carried {
    this.#usable(operation);
    if (this.#carried && this.#carried.lengths.length !== sequences)
      throw rangeError(
        operation,
        `cache: expected one of ${sequences} sequences, got one of ${this.#carried.lengths.length}`,
      );
    this.#busy = true;
    this.#advanced = false;
    const { inputs = [], lengths = Array(sequences).fill(0) } = this.#carried ?? {};
    return { inputs: new Map(inputs), lengths: [...lengths] };
  }

  /**
   * The recurrent state for a call that has begun.
   * @internal
   */
  stateOf(operation: string, shape: readonly [number, number, number, number]): RecurrentState {
    const [batch, valueHeads, keyDim, valueDim] = shape;
    this.#state ??= createState({ batch, valueHeads, keyDim, valueDim });
    if (this.#state.shape.some((size, i) => size !== shape[i]))
      throw rangeError(
        operation,
        `cache: expected one with a state [N,HV,K,V] = [${shape}], got one with [${this.#state.shape}]`,
      );
    this.#advanced = true;
    return this.#state;
  }

  /**
   * Gives the cache back, with what the next call shall find; without an argument as it was.
   * @internal
   */
  end(carried?: Carried): void {
    if (carried) this.#carried = carried;
    else this.#broken = this.#advanced;
    this.#busy = false;
  }
}

/** An empty {@link LayerCache}. */
export function createLayerCache(): LayerCache {
  return new LayerCache();
}
