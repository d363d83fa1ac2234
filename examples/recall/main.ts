/** How many pairs does a state of fixed size remember? `--help` says more. */
import { mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { getNumThreads, info } from 'rankone';
import { saveChart } from '../common/chart.ts';
import { Progress } from '../common/progress.ts';
import { table } from '../common/table.ts';
import { HELP, type Options, parseOptions } from './options.ts';
import { best, claims, json, type Result, stateChart } from './report.ts';
import { run, SETTINGS, stateSize } from './study.ts';

function plan({ mixers, widths, pairs, steps, rates, seeds }: Options): Result[] {
  return widths.flatMap((width) =>
    mixers.map((mixer) => ({
      mixer,
      settings: { ...SETTINGS, width, pairs, steps, learningRate: rates[0], seed: seeds[0] },
      runs: [],
    })),
  );
}

function trainAll(results: readonly Result[], { rates, seeds }: Options): void {
  const progress = new Progress();
  const total = results.length * rates.length * seeds.length;
  let done = 0;
  for (const { mixer, settings, runs } of results) {
    for (const seed of seeds) {
      for (const learningRate of rates) {
        const note = `${mixer}, width ${settings.width}, rate ${learningRate}`;
        const made = run(mixer, { ...settings, seed, learningRate }, (share, loss) => {
          progress.update((done + share) / total, `${note}, loss ${loss.toFixed(3)}`);
        });
        runs.push({ seed, learningRate, run: made });
        done += 1;
      }
    }
  }
  progress.stop();
}

function main(options: Options): void {
  console.log(`${getNumThreads()} threads, ${info().isa}`);
  const results = plan(options);
  const start = performance.now();
  trainAll(results, options);
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
  if (!options.complete) return;
  for (const { claim, holds } of claims(results)) {
    console.log(`${claim}: ${holds ? 'yes' : 'NO'}`);
    if (!holds) process.exitCode = 1;
  }
}

try {
  const options = parseOptions(process.argv.slice(2));
  if (options === 'help') process.stdout.write(HELP);
  else main(options);
} catch (error) {
  console.error(String((error as Error).message ?? error));
  process.exitCode = 1;
}
