/// <reference lib="esnext.disposable" preserve="true" />
import { binding, type Handle } from './binding';
import { disposeSymbol } from './dispose';
import { typeError } from './errors';

/** What only this file can give to the constructor. */
const OWN = Symbol('own');

/**
 * What a forward with `saveForBackward` keeps so that its backward need not recompute it: the state at every chunk start
 * and the residuals of every update. Engine-owned; freed by {@link SavedForward.dispose}, at the end of a `using` block,
 * or with the object. Pass it as `saved` to the backward of the same problem; it may be used more than once.
 */
export class SavedForward implements Disposable {
  readonly #handle: Handle;

  private constructor(own: symbol, handle: Handle) {
    if (own !== OWN)
      throw typeError('SavedForward', 'constructor: expected saveForBackward, got a call of it');
    this.#handle = handle;
  }

  /** @internal */
  static of(handle: Handle): SavedForward {
    return new SavedForward(OWN, handle);
  }

  /** @internal */
  static handleOf(value: unknown): Handle | undefined {
    return typeof value === 'object' && value !== null && #handle in value
      ? value.#handle
      : undefined;
  }

  /** Frees the memory now. A later use as `saved` is an error; a second dispose() is not. */
  dispose(): void {
    binding.savedDispose(this.#handle);
  }

  /** The same as {@link SavedForward.dispose}. */
  [Symbol.dispose](): void {
    this.dispose();
  }

  static {
    // Where the runtime has no Symbol.dispose, the method above got the name "undefined".
    if (!Symbol.dispose)
      (SavedForward.prototype as any)[disposeSymbol] = SavedForward.prototype.dispose;
  }
}
