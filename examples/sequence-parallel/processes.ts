/**
 * Ranks as child processes of one Node process, which passes their parts around: what the example does where there is no
 * MPI. Correct, and slower by a few copies of the states.
 */
import { type ChildProcess, fork } from 'node:child_process';
import { type Communicator, Round } from './communicator.ts';

const SIZE = 'SEQUENCE_PARALLEL_SIZE';
const RANK = 'SEQUENCE_PARALLEL_RANK';

/** In a rank: the communicator over the parent, if the parent is one. */
export function overParent(): Communicator | undefined {
  const [size, rank] = [SIZE, RANK].map((name) => Number(process.env[name]));
  const send = process.send?.bind(process);
  if (!send || !process.env[SIZE]) return undefined;
  const waiting: ((all: Float32Array) => void)[] = [];
  process.on('message', (all: Float32Array) => waiting.shift()?.(all));
  const allGather = (part: Float32Array) =>
    new Promise<Float32Array>((resolve) => {
      waiting.push(resolve);
      send(part);
    });
  return {
    rank,
    size,
    allGather,
    barrier: async () => void (await allGather(new Float32Array(1))),
    close: () => process.disconnect(),
  };
}

/** Runs a program as `size` ranks; rejects when one of them fails, and ends the others. */
export async function runProcesses(
  size: number,
  program: string,
  args: string[],
  env: NodeJS.ProcessEnv,
): Promise<void> {
  const round = new Round(size);
  const children: ChildProcess[] = [];
  const ends = Array.from({ length: size }, (_, rank) => {
    const child = fork(program, args, {
      execArgv: ['--import', 'tsx'],
      serialization: 'advanced',
      env: { ...env, [SIZE]: String(size), [RANK]: String(rank) },
    });
    children.push(child);
    return new Promise<void>((resolve, reject) => {
      child.on('message', (part: Float32Array) => {
        try {
          round.add(rank, part, (all) => child.send(all));
        } catch (error) {
          reject(error);
        }
      });
      child.on('error', reject);
      child.on('exit', (code, signal) =>
        code === 0 ? resolve() : reject(new Error(`rank ${rank} ended with ${signal ?? code}`)),
      );
    });
  });
  try {
    await Promise.all(ends);
  } finally {
    for (const child of children) child.kill();
  }
}
