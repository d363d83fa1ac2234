import type { Case } from '../benchCase';
import type { References, Tensors } from '../operation';

/** Another implementation of some operations, timed beside the engine. */
export interface Peer {
  /** As `--peers` takes it. */
  name: string;
  version: string;
  /** Why it cannot run a case, a forward, backward or decode: no such operation, type or shape. Undefined where it can. */
  objection(one: Case): string | undefined;
  /**
   * Sets one problem up. The inputs are float32; the peer converts them to the type that it multiplies. They are those of the
   * operation, of a recurrence without an initial state but for decode (T is 1 there), of a backward with dO (dY).
   */
  open(one: Case, inputs: Tensors, threads: number): Promise<PeerCase>;
}

/** One problem set up in a peer. */
export interface PeerCase {
  /** The results of one run under the names of the operation's own: o and finalState, or y; of a backward dq and so on. */
  results(): Promise<References>;
  /** Nanoseconds of each of so many runs, one after the other, as the peer's own clock around the bare call has them. */
  time(runs: number): Promise<number[]>;
  close(): Promise<void>;
}

export interface Missing {
  name: string;
  /** What was looked for, and how to get it. */
  reason: string;
}
