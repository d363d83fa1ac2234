/** How many pairs does a state of fixed size remember? `--help` says more. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import path from 'node:path';
import { info } from 'rankone';
import { saveChart } from '../common/chart.ts';
import { trainInWorkers } from '../common/pool.ts';
import { printClaims, runProgram } from '../common/program.ts';
import { Progress } from '../common/progress.ts';
import { mean } from '../common/statistics.ts';
import { table } from '../common/table.ts';
import { HELP, type Options, parseOptions } from './options.ts';
import { best, claims, json, type Result, stateChart } from './report.ts';
import { type Run, SETTINGS, stateSize } from './study.ts';
import type { Job } from './worker.ts';

function plan({ mixers, widths, pairs, vocabulary, steps, rates, seeds }: Options): Result[] {
  return widths.flatMap((width) =>
    mixers.map((mixer) => ({
      mixer,
      settings: {
        ...SETTINGS,
        vocabulary,
        width,
        pairs,
        steps,
        learningRate: rates[0],
        seed: seeds[0],
      },
      runs: [],
    })),
  );
}

async function trainAll(results: readonly Result[], { rates, seeds }: Options): Promise<void> {
  const variants = seeds.flatMap((seed) => rates.map((learningRate) => ({ seed, learningRate })));
  const jobs = results.flatMap(({ mixer, settings }) =>
    variants.map((variant): Job => ({ mixer, settings: { ...settings, ...variant } })),
  );
  const progress = new Progress();
  const shares = new Float64Array(jobs.length);
  const script = path.join(__dirname, 'worker.ts');
  const runs = await trainInWorkers<Job, Run>(script, jobs, (i, share, loss) => {
    shares[i] = share;
    const { mixer, settings } = jobs[i];
    const note = `${mixer}, width ${settings.width}, rate ${settings.learningRate}`;
    progress.update(mean([...shares]), `${note}, loss ${loss.toFixed(3)}`);
  });
  progress.stop();
  for (const [i, run] of runs.entries())
    results[Math.floor(i / variants.length)].runs.push({ ...variants[i % variants.length], run });
}

async function main(options: Options): Promise<void> {
  console.log(`${availableParallelism()} cores, ${info().isa}`);
  const results = plan(options);
  const start = performance.now();
  await trainAll(results, options);
  mkdirSync(options.out, { recursive: true });
  console.log('\naccuracy by number of pairs');
  const head = ['', 'width', 'state', ...options.pairs.map(String)];
  const body = results.map((r) => [
    r.mixer,
    `${r.settings.width}`,
    `${stateSize(r.settings)}`,
    ...best(r).accuracy.map((x) => x.toFixed(3)),
  ]);
  console.log(table(head, body));
  for (const pairs of options.pairs)
    saveChart(path.join(options.out, `pairs-${pairs}.svg`), stateChart(pairs, results));
  writeFileSync(path.join(options.out, 'results.json'), json(results));
  const seconds = ((performance.now() - start) / 1000).toFixed(0);
  console.log(`\n${seconds} seconds; plots and every number in ${options.out}`);
  if (options.complete) printClaims(claims(results));
}

runProgram(parseOptions, HELP, main);
