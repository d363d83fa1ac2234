import {
  createKvCache,
  createState,
  createWindowLinearCache,
  type KvCache,
  type RecurrentState,
  type Tensor,
  type WindowLinearCache,
  type WindowLinearCacheShape,
} from 'rankone';
import { sizeOf, zeros } from './tensor.ts';

/** How a layer's state is made: `keyHeads` where it divides by the sum of its keys. */
export type StateOptions = { keyHeads?: number };

/**
 * What a model remembers between calls, by layer: recurrent states, the last inputs of short convolutions, and keys and
 * values of attention.
 */
export class Carry {
  readonly batch: number;
  private readonly capacity: number;
  private readonly states = new Map<object, RecurrentState>();
  private readonly caches = new Map<object, KvCache>();
  private readonly positions = new Map<object, number>();
  private readonly windows = new Map<object, [Tensor, Tensor]>();

  /** @param capacity tokens that attention has room for */
  constructor(batch: number, capacity = 4096) {
    this.batch = batch;
    this.capacity = capacity;
  }

  /** The layer's matrix state, zero at first; the engine advances it in place. */
  state(
    layer: object,
    valueHeads: number,
    keyDim: number,
    valueDim: number,
    options: StateOptions = {},
  ): RecurrentState {
    let state = this.states.get(layer);
    if (!state) {
      state = createState({ batch: this.batch, valueHeads, keyDim, valueDim, ...options });
      this.states.set(layer, state);
    }
    return state;
  }

  /** The layer's last inputs, zero at first, and the memory for the next ones; the two change places at every call. */
  window(layer: object, channels: number, length: number): { before: Tensor; after: Tensor } {
    const pair = this.windows.get(layer) ?? [
      zeros(this.batch, channels, length),
      zeros(this.batch, channels, length),
    ];
    const [before, after] = pair;
    this.windows.set(layer, [after, before]);
    return { before, after };
  }

  /** The layer's keys and values, none at first: all of them, or the last `window`. */
  cache(
    layer: object,
    kvHeads: number,
    keyDim: number,
    valueDim: number,
    window?: number,
  ): KvCache {
    let cache = this.caches.get(layer);
    if (!cache) {
      const room = window === undefined ? { capacity: this.capacity } : { window };
      cache = createKvCache({ batch: this.batch, kvHeads, keyDim, valueDim, ...room });
      this.caches.set(layer, cache);
    }
    return cache;
  }

  /** What LoLCATs' layer keeps: a state for what has left its window, and the window. */
  windowLinear(layer: object, shape: Omit<WindowLinearCacheShape, 'batch'>): WindowLinearCache {
    let [state, cache] = [this.states.get(layer), this.caches.get(layer)];
    if (!state || !cache) {
      ({ state, cache } = createWindowLinearCache({ ...shape, batch: this.batch }));
      this.states.set(layer, state);
      this.caches.set(layer, cache);
    }
    return { state, cache };
  }

  /** Of states, windows and caches, with the room that is not used yet. */
  get bytes(): number {
    let sum = 0;
    for (const { shape, zShape } of this.states.values())
      sum += 4 * (sizeOf(shape) + (zShape ? sizeOf(zShape) : 0));
    for (const [{ data }] of this.windows.values()) sum += data.byteLength;
    for (const { bytes } of this.caches.values()) sum += bytes;
    return sum;
  }

  /** How many tokens the layer has read before these. */
  position(layer: object, tokens: number): number {
    const before = this.positions.get(layer) ?? 0;
    this.positions.set(layer, before + tokens);
    return before;
  }

  dispose(): void {
    for (const state of this.states.values()) state.dispose();
    for (const cache of this.caches.values()) cache.dispose();
    this.states.clear();
    this.caches.clear();
    this.positions.clear();
    this.windows.clear();
  }
}
