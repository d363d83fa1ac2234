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

/** By the clock, from one barrier to the next; and of the processor, without what waiting for others takes. */
export interface Times {
  clock: Seconds;
  work: Seconds;
}

export interface Report {
  rank: number;
  times: Times;
  /** Sent by this rank in one forward and one backward. */
  bytes: number;
  /** By segment and tensor, in the order of the segments: of one rank's or of many's, they are the same. */
  digests: Record<string, string>[];
  plain?: { times: Times; errors: Record<string, number> };
}

const fastest = (all: Seconds[]): Seconds => ({
  forward: Math.min(...all.map(({ forward }) => forward)),
  backward: Math.min(...all.map(({ backward }) => backward)),
});

function processorSeconds(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1e6;
}

/** Times forward and backward between barriers, again and again; what the last repetition returned is kept. */
class Stopwatch {
  private readonly clocks: Seconds[] = [];
  private readonly works: Seconds[] = [];
  private waited = 0;
  readonly communicator: Communicator;

  constructor(communicator: Communicator) {
    const waiting = async <T>(wait: () => Promise<T>): Promise<T> => {
      const before = processorSeconds();
      const result = await wait();
      this.waited += processorSeconds() - before;
      return result;
    };
    this.communicator = {
      ...communicator,
      allGather: (part) => waiting(() => communicator.allGather(part)),
      barrier: () => waiting(() => communicator.barrier()),
    };
  }

  async time(forward: () => Promise<void>, backward: () => Promise<void>): Promise<void> {
    await this.communicator.barrier();
    const [ahead, back] = [await this.part(forward), await this.part(backward)];
    this.clocks.push({ forward: ahead.clock, backward: back.clock });
    this.works.push({ forward: ahead.work, backward: back.work });
  }

  private async part(run: () => Promise<void>): Promise<{ clock: number; work: number }> {
    const [began, worked, waited] = [performance.now(), processorSeconds(), this.waited];
    await run();
    const work = processorSeconds() - worked - (this.waited - waited);
    await this.communicator.barrier();
    return { clock: (performance.now() - began) / 1000, work };
  }

  times(): Times {
    return { clock: fastest(this.clocks), work: fastest(this.works) };
  }
}

/** Of tokens [from, end) of so many; a tensor may have several rows a token. */
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
  const watch = new Stopwatch(communicatorOf(job));
  const { communicator } = watch;
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
  let results: Results = {};
  let bytes = 0;
  const layer = new SequenceParallelLayer(communicator, starts, options);
  for (let i = 0; i < repeat; i++) {
    const sentBefore = layer.bytesSent;
    await watch.time(
      async () => {
        results = { ...(await layer.forward(inputs)) } as Results;
      },
      async () => {
        results = compared({ ...results, ...(await layer.backward(dO)) } as Results);
      },
    );
    bytes = layer.bytesSent - sentBefore;
  }
  const report: Report = {
    rank,
    times: watch.times(),
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
    const plainWatch = new Stopwatch(alone);
    let [ahead, back]: Results[] = [{}, {}];
    for (let i = 0; i < repeat; i++)
      await plainWatch.time(
        async () => {
          const { o } = recurrenceSync(inputs, { ...options, out: ahead });
          ahead = { o };
        },
        async () => {
          const gradients = recurrenceBackwardSync({ ...inputs, dO }, { ...options, out: back });
          back = compared({ ...gradients } as Results);
        },
      );
    const plain: Results = { ...ahead, ...back };
    const names = Object.keys(plain);
    const errors = names.map((name) => [name, relativeError(results[name], plain[name])]);
    report.plain = { times: plainWatch.times(), errors: Object.fromEntries(errors) };
  }
  writeFileSync(path.join(job.folder, `${rank}.json`), JSON.stringify(report));
  communicator.close();
}

run(JSON.parse(process.argv[2])).catch((error) => {
  console.error(error);
  process.exit(1);
});
