/**
 * A layer of the recurrence grid whose sequence lies on several ranks, after LASP-2 (Sun et al. 2025): every rank sums up
 * what its segments do to the state, one all-gather tells all of it to all, and each then scans its own tokens from the
 * right state. The backward mirrors it, with one all-gather of its own. What is exchanged are states: their size does not
 * depend on the number of tokens.
 */
import type { CellOptions, Tensor } from 'rankone';
import {
  composeStatesBackwardSync,
  composeStatesSync,
  recurrenceBackwardSync,
  recurrenceSync,
  segmentGradientSync,
  segmentSummarySync,
} from 'rankone';
import type { Communicator } from './communicator.ts';

/** One rank's tokens: as `recurrence` takes them, B = 1. */
export interface LocalInputs {
  q: Tensor;
  k: Tensor;
  v: Tensor;
  g?: Tensor;
  beta?: Tensor;
}

type Options = Omit<CellOptions, 'normalize'> & { scale?: number };

/** What the forward leaves for the backward. */
interface Kept {
  inputs: LocalInputs;
  transitions: Tensor;
  /** That enter this rank's segments, `[own,HV,K,V]`. */
  initialStates: Tensor;
}

const sizeOf = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1);

export class SequenceParallelLayer {
  /** Segments of the whole sequence, and which of them are this rank's. */
  private readonly segments: number;
  private readonly own: { first: number; count: number };
  private kept: Kept | undefined;
  /** Where results go: the arrays of the first call are those of all. */
  private readonly out: { forward: object; backward: object } = { forward: {}, backward: {} };
  /** Bytes that this rank has sent. */
  bytesSent = 0;

  /**
   * `starts`: where this rank's segments begin, counted in its own tokens, and where the last one ends. All ranks have the
   * same number of segments. `edges`: whether a state enters the sequence, and whether the one that leaves it is of
   * interest; where they are not, the transition of the first and of the last segment is not either.
   */
  constructor(
    private readonly communicator: Communicator,
    private readonly starts: Int32Array,
    private readonly options: Options,
    private readonly edges: { enters: boolean; leaves: boolean } = { enters: false, leaves: false },
  ) {
    const { rank, size } = communicator;
    const count = starts.length - 1;
    this.segments = size * count;
    this.own = { first: rank * count, count };
  }

  async forward(
    inputs: LocalInputs,
    initialState?: Tensor,
  ): Promise<{ o: Tensor; finalState?: Tensor }> {
    if ((initialState !== undefined) !== this.edges.enters)
      throw new TypeError('initialState: expected one just where the layer was made for it');
    const { transitions, states } = await this.gatherSummaries(inputs);
    const composed = composeStatesSync({ transitions, states, initialState });
    const initialStates = this.mine(composed.initialStates);
    const options = { ...this.options, cuSeqlens: this.starts };
    const { o } = recurrenceSync(
      { ...inputs, initialState: initialStates },
      { ...options, out: this.out.forward },
    );
    this.out.forward = { o };
    this.kept = { inputs, transitions, initialStates };
    return { o, ...(this.edges.leaves && { finalState: composed.finalState }) };
  }

  /** Gradients of this rank's inputs, good until the next call; that of a gate per head is this rank's share of a sum over the ranks. */
  async backward(
    dO: Tensor,
    dFinalState?: Tensor,
  ): Promise<ReturnType<typeof recurrenceBackwardSync> & { dInitialState?: Tensor }> {
    if (!this.kept) throw new Error('backward: no forward before it');
    if (dFinalState && !this.edges.leaves)
      throw new TypeError('dFinalState: the layer was made without a final state');
    const { inputs, transitions, initialStates } = this.kept;
    this.kept = undefined;
    const options = { ...this.options, cuSeqlens: this.starts };
    const shape = [this.own.count, ...initialStates.shape.slice(1)];
    // What the first segment's outputs say concerns a state that enters, and nobody else.
    const unasked = !this.edges.enters && this.isOnly(0);
    const said = unasked
      ? { data: new Float32Array(sizeOf(shape)), shape }
      : segmentGradientSync({ ...inputs, dO }, options).dInitialState;
    const dInitialStates = this.chained(await this.gather([said]).then(([all]) => all), shape);
    const [, , , K, V] = dInitialStates.shape;
    const heads = initialStates.shape[1];
    const composed = composeStatesBackwardSync({
      transitions,
      dInitialStates,
      dFinalState,
      ...(this.edges.enters && {
        initialState: { data: new Float32Array(heads * K * V), shape: [1, heads, K, V] },
      }),
    });
    const { dInitialState: _, ...gradients } = recurrenceBackwardSync(
      { ...inputs, dO, initialState: initialStates, dFinalState: this.mine(composed.dStates) },
      { ...options, out: this.out.backward },
    );
    this.out.backward = gradients;
    return { ...gradients, dInitialState: composed.dInitialState };
  }

  /** Transitions `[R,1,HV,...]` and states `[R,1,HV,K,V]` of all segments, with one all-gather. */
  private async gatherSummaries(inputs: LocalInputs) {
    const { k, v, g, beta } = inputs;
    const [HV, V] = [v.shape[2], v.shape[3]];
    const K = k.shape[3];
    const delta = beta !== undefined;
    const inner = delta ? [K, K] : g?.shape.length === 4 ? [K] : [];
    const shapes = [
      [this.own.count, HV, ...inner],
      [this.own.count, HV, K, V],
    ];
    const empty = shapes.map((shape) => ({ data: new Float32Array(sizeOf(shape)), shape }));
    const last = !this.edges.leaves && this.isOnly(this.segments - 1);
    const { scale: _, ...options } = this.options;
    const summary: { transition?: Tensor; state: Tensor } = last
      ? { state: empty[1] }
      : segmentSummarySync(inputs, {
          ...options,
          cuSeqlens: this.starts,
          outputTransition: this.edges.enters || !this.isOnly(0),
        });
    const parts = await this.gather([summary.transition ?? empty[0], summary.state]);
    const [transitions, states] = parts.map((all, i) => this.chained(all, shapes[i]));
    return { transitions, states };
  }

  /** Whether that segment is all that this rank has. */
  private isOnly(segment: number): boolean {
    return this.own.count === 1 && this.own.first === segment;
  }

  /** One all-gather of several tensors; each comes back with the ranks' parts one behind the other. */
  private async gather(tensors: readonly Tensor[]): Promise<Float32Array[]> {
    const length = tensors.reduce((sum, { data }) => sum + data.length, 0);
    const part = new Float32Array(length);
    let at = 0;
    for (const { data } of tensors) {
      part.set(data as Float32Array, at);
      at += data.length;
    }
    const all = await this.communicator.allGather(part);
    this.bytesSent += part.byteLength;
    at = 0;
    return tensors.map(({ data: { length: own } }) => {
      const joined = new Float32Array(this.communicator.size * own);
      for (let rank = 0; rank < this.communicator.size; rank++) {
        const from = rank * length + at;
        joined.set(all.subarray(from, from + own), rank * own);
      }
      at += own;
      return joined;
    });
  }

  /** All segments of the one sequence, as the composition takes them: `[R,1,HV,...]`. */
  private chained(data: Float32Array, [, ...inner]: number[]): Tensor {
    return { data, shape: [this.segments, 1, ...inner] };
  }

  /** This rank's share of `[R,1,HV,K,V]`, as the recurrence takes it: `[own,HV,K,V]`. */
  private mine({ data, shape }: Tensor): Tensor {
    const [, , ...inner] = shape;
    const size = sizeOf(inner);
    const { first, count } = this.own;
    const part = (data as Float32Array).subarray(first * size, (first + count) * size);
    return { data: part, shape: [count, ...inner] };
  }
}
