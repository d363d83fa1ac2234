/** One rank: makes its tokens, runs the layer over them, and writes down what it found. launch.ts starts it. */
import { createHash } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import path from 'node:path';
import type { Tensor } from 'rankone';
import { recurrenceBackwardSync, recurrenceSync, setNumThreads } from 'rankone';
import { alone, type Communicator } from './communicator.ts';
import { SequenceParallelLayer } from './layer.ts';
import { overMpi } from './mpi.ts';
import { overParent } from './processes.ts';
import { type CellName, optionsOf, type Sizes, startOf, tokensOf } from './tokens.ts';

/** What every rank is told. */
export interface Job extends Sizes {
  cell: CellName;
  tokens: number;
  segments: number;
  repeat: number;
  transport: 'alone' | 'mpi' | 'processes';
  /** Also the plain scan over all tokens, and how far the segments are off it. Only alone. */
  plain: boolean;
  /** Where reports go. */
  folder: string;
}

type Results = Record<string, Tensor>;

/** Seconds of the fastest of the repetitions. */
export interface Seconds {
  forward: number;
  backward: number;
}

export interface Report {
  rank: number;
  seconds: Seconds;
  /** Sent by this rank in one forward and one backward. */
  bytes: number;
  /** By segment and tensor, in the order of the segments: of one rank's or of many's, they are the same. */
  digests: Record<string, string>[];
  plain?: { seconds: Seconds; errors: Record<string, number> };
}

const now = (): number => performance.now() / 1000;
const fastest = (all: Seconds[]): Seconds => ({
  forward: Math.min(...all.map(({ forward }) => forward)),
  backward: Math.min(...all.map(({ backward }) => backward)),
});

/** Of rows [from, end) of a share [0, 1) each, so that rows of tokens and of steps are cut alike. */
function digest({ data, shape }: Tensor, tokens: number, from: number, end: number): string {
  const width = data.length / tokens;
  const bytes = new Uint8Array(
    data.buffer,
    data.byteOffset + from * width * data.BYTES_PER_ELEMENT,
    (end - from) * width * data.BYTES_PER_ELEMENT,
  );
  return createHash('sha256').update(shape.slice(2).join()).update(bytes).digest('hex');
}

/** ||a - b|| / ||b|| */
function relativeError(a: Tensor, b: Tensor): number {
  let [error, norm] = [0, 0];
  for (let i = 0; i < b.data.length; i++) {
    error += (a.data[i] - b.data[i]) ** 2;
    norm += b.data[i] ** 2;
  }
  return Math.sqrt(error / norm);
}

function compared(results: Results): Results {
  const { dInitialState: _, finalState: __, saved: ___, ...rest } = results;
  return Object.fromEntries(Object.entries(rest).filter(([, x]) => x !== undefined));
}

function communicatorOf({ transport }: Job): Communicator {
  if (transport === 'mpi') return overMpi();
  if (transport === 'alone') return alone;
  const communicator = overParent();
  if (!communicator) throw new Error('no parent to talk to: start main.ts');
  return communicator;
}

async function run(job: Job): Promise<void> {
  setNumThreads(1);
  const communicator = communicatorOf(job);
  const { rank, size } = communicator;
  const { cell, tokens, repeat } = job;
  const segments = job.segments / size;
  const bounds = Array.from({ length: segments + 1 }, (_, i) =>
    startOf(tokens, job.segments, rank * segments + i),
  );
  const [first, end] = [bounds[0], bounds[segments]];
  const starts = Int32Array.from(bounds, (x) => x - first);
  const { inputs, dO } = tokensOf(cell, job, first, end);
  const options = optionsOf(cell);
  const all: Seconds[] = [];
  let results: Results = {};
  let bytes = 0;
  for (let i = 0; i < repeat; i++) {
    const layer = new SequenceParallelLayer(communicator, starts, options);
    await communicator.barrier();
    const began = now();
    const { o } = await layer.forward(inputs);
    await communicator.barrier();
    const between = now();
    const gradients = await layer.backward(dO);
    await communicator.barrier();
    all.push({ forward: between - began, backward: now() - between });
    results = compared({ ...gradients, o } as Results);
    bytes = layer.bytesSent;
  }
  const report: Report = {
    rank,
    seconds: fastest(all),
    bytes,
    digests: bounds.slice(1).map((_, i) => {
      const entries = Object.entries(results).map(([name, x]) => [
        name,
        digest(x, end - first, starts[i], starts[i + 1]),
      ]);
      return Object.fromEntries(entries);
    }),
  };
  if (job.plain) {
    const times: Seconds[] = [];
    let plain: Results = {};
    for (let i = 0; i < repeat; i++) {
      const began = now();
      const { o } = recurrenceSync(inputs, options);
      const between = now();
      const gradients = recurrenceBackwardSync({ ...inputs, dO }, options);
      times.push({ forward: between - began, backward: now() - between });
      plain = compared({ ...gradients, o } as unknown as Results);
    }
    const names = Object.keys(plain);
    const errors = names.map((name) => [name, relativeError(results[name], plain[name])]);
    report.plain = { seconds: fastest(times), errors: Object.fromEntries(errors) };
  }
  writeFileSync(path.join(job.folder, `${rank}.json`), JSON.stringify(report));
  communicator.close();
}

run(JSON.parse(process.argv[2])).catch((error) => {
  console.error(error);
  process.exit(1);
});
