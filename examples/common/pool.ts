import { availableParallelism } from 'node:os';
import { parentPort, Worker } from 'node:worker_threads';
import { setNumThreads } from 'rankone';

interface Progressed {
  index: number;
  share: number;
  loss: number;
}

interface Finished<Result> {
  index: number;
  result: Result;
}

/**
 * Trainings side by side, one per core, each with one thread: models this small gain nothing from more, and their results
 * are the same bits at any number. Results come in the order of the jobs.
 * @param script path of a module that calls {@link serve}
 */
export async function trainInWorkers<Job, Result>(
  script: string,
  jobs: readonly Job[],
  onProgress: (job: number, share: number, loss: number) => void,
): Promise<Result[]> {
  const results = new Array<Result>(jobs.length);
  let next = 0;
  // The loader of TypeScript does not reach into workers.
  const start = [require.resolve('tsx/cjs'), script].map((m) => `require(${JSON.stringify(m)})`);
  const work = () =>
    new Promise<void>((resolve, reject) => {
      const worker = new Worker(start.join(';'), { eval: true });
      const give = () => {
        if (next < jobs.length) worker.postMessage({ index: next, job: jobs[next++] });
        else worker.terminate().then(() => resolve(), reject);
      };
      worker.on('error', reject);
      worker.on('message', (message: Progressed | Finished<Result>) => {
        if ('share' in message) {
          onProgress(message.index, message.share, message.loss);
        } else {
          results[message.index] = message.result;
          give();
        }
      });
      give();
    });
  const count = Math.min(jobs.length, availableParallelism());
  await Promise.all(Array.from({ length: count }, work));
  return results;
}

const TOLD_EVERY = 0.02;

/** What a worker does with each job; `tell` says how far it has come. */
export function serve<Job, Result>(
  run: (job: Job, tell: (share: number, loss: number) => void) => Result,
): void {
  setNumThreads(1);
  parentPort!.on('message', ({ index, job }: { index: number; job: Job }) => {
    let told = 0;
    const result = run(job, (share, loss) => {
      if (share - told < TOLD_EVERY && share < 1) return;
      told = share;
      parentPort!.postMessage({ index, share, loss });
    });
    parentPort!.postMessage({ index, result });
  });
}
