import { createState, type RecurrentState, type Tensor } from 'rankone';
import { zeros } from './tensor.ts';

/** What a model remembers between calls, by layer: recurrent states and the last inputs of short convolutions. */
export class Carry {
  readonly batch: number;
  private readonly states = new Map<object, RecurrentState>();
  private readonly windows = new Map<object, [Tensor, Tensor]>();

  constructor(batch: number) {
    this.batch = batch;
  }

  /** The layer's matrix state, zero at first; the engine advances it in place. */
  state(layer: object, valueHeads: number, keyDim: number, valueDim: number): RecurrentState {
    let state = this.states.get(layer);
    if (!state) {
      state = createState({ batch: this.batch, valueHeads, keyDim, valueDim });
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

  dispose(): void {
    for (const state of this.states.values()) state.dispose();
    this.states.clear();
    this.windows.clear();
  }
}
