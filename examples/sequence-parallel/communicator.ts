/**
 * What a layer needs of those who share a sequence: one collective call. Its contract is that of MPI_Allgather and of
 * ncclAllGather: every rank calls it the same number of times, in the same order, with parts of one length, and all get all
 * parts in the order of the ranks. Another transport (NCCL between GPUs, with device tensors for the arrays) is one more
 * class; the layer does not change.
 */
export interface Communicator {
  readonly rank: number;
  readonly size: number;
  allGather(part: Float32Array): Promise<Float32Array>;
  /** Comes back once every rank has called it. */
  barrier(): Promise<void>;
  close(): void;
}

/** One rank alone. */
export const alone: Communicator = {
  rank: 0,
  size: 1,
  allGather: async (part) => part.slice(),
  barrier: async () => {},
  close: () => {},
};

/** Collects one part of each rank, then hands all of them to everybody. */
export class Round {
  private parts: (Float32Array | undefined)[];
  private waiting: ((all: Float32Array) => void)[] = [];

  constructor(private readonly size: number) {
    this.parts = new Array(size).fill(undefined);
  }

  add(rank: number, part: Float32Array, done: (all: Float32Array) => void): void {
    if (this.parts[rank]) throw new Error(`rank ${rank} called twice before the others did once`);
    this.parts[rank] = part;
    this.waiting.push(done);
    if (this.waiting.length < this.size) return;
    const parts = this.parts as Float32Array[];
    if (parts.some(({ length }) => length !== parts[0].length))
      throw new Error(`parts of different lengths: ${parts.map(({ length }) => length)}`);
    const all = new Float32Array(this.size * parts[0].length);
    for (const [i, x] of parts.entries()) all.set(x, i * x.length);
    const waiting = this.waiting;
    [this.parts, this.waiting] = [new Array(this.size).fill(undefined), []];
    for (const resolve of waiting) resolve(all);
  }
}

/** Ranks of one process that take turns on its event loop: nothing is gained by them, everything can be tried. */
export function inOneProcess(size: number): Communicator[] {
  const round = new Round(size);
  return Array.from({ length: size }, (_, rank) => {
    const allGather = (part: Float32Array) =>
      new Promise<Float32Array>((resolve) => round.add(rank, part, (all) => resolve(all.slice())));
    const barrier = async () => void (await allGather(new Float32Array(1)));
    return { rank, size, allGather, barrier, close: () => {} };
  });
}
