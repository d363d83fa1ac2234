/** Which mixers keep track of a state, and for how long? `--help` says more. */
import { mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { getNumThreads, info } from 'rankone';
import { saveChart } from '../common/chart.ts';
import { Progress } from '../common/progress.ts';
import { table } from '../common/table.ts';
import { HELP, type Options, parseOptions } from './options.ts';
import { ARMS, TASKS } from './problems.ts';
import { best, beyond, claims, json, lengthChart, type Result, within } from './report.ts';
import { run, SETTINGS } from './study.ts';

/** The models to be trained, in the order of the tables. */
function plan({ tasks, mixers, layers, steps, seeds, full }: Options): Result[] {
  const results: Result[] = [];
  for (const name of tasks)
    for (const depth of layers)
      for (const arm of ARMS.filter((a) => mixers.includes(a.name))) {
        if (depth === 2 && !full && (arm.options.householders ?? 1) > 2) continue;
        results.push({
          task: TASKS[name](),
          arm,
          settings: { ...SETTINGS, layers: depth, steps: steps[name], seed: seeds[0] },
          runs: [],
        });
      }
  return results;
}

function trainAll(results: readonly Result[], seeds: readonly number[]): void {
  const progress = new Progress();
  const total = results.reduce((sum, r) => sum + seeds.length * r.settings.steps, 0);
  let done = 0;
  for (const { task, arm, settings, runs } of results) {
    for (const seed of seeds) {
      const note = `${task.name}, ${settings.layers} x ${arm.label}`;
      const made = run(task, arm, { ...settings, seed }, (share, loss) => {
        progress.update(
          (done + share * settings.steps) / total,
          `${note}, loss ${loss.toFixed(3)}`,
        );
      });
      runs.push({ seed, run: made });
      done += settings.steps;
    }
  }
  progress.stop();
}

/** A row per mixer, a pair of columns per task: within the trained lengths, and beyond. */
function printTable(results: readonly Result[], layers: number): void {
  const shown = results.filter((r) => r.settings.layers === layers);
  const tasks = [...new Set(shown.map((r) => r.task.name))];
  const arms = [...new Set(shown.map((r) => r.arm))];
  console.log(
    `\naccuracy at 1 to 40 letters | at 41 to 256, ${layers === 1 ? 'one layer' : 'two layers'}`,
  );
  const head = ['', ...tasks.flatMap((name) => [name, '|'])];
  const body = arms.map((arm) => [
    arm.label,
    ...tasks.flatMap((name) => {
      const made = best(shown.find((r) => r.arm === arm && r.task.name === name)!);
      return [within(made).toFixed(3), beyond(made).toFixed(3)];
    }),
  ]);
  const chance = shown.map((r) => [r.task.name, (1 / r.task.group.order).toFixed(3)]);
  const guess = tasks.flatMap((name) => ['', Object.fromEntries(chance)[name]]);
  console.log(table(head, [...body, ['guessing', ...guess]]));
}

function main(options: Options): void {
  console.log(`${getNumThreads()} threads, ${info().isa}`);
  const results = plan(options);
  const start = performance.now();
  trainAll(results, options.seeds);
  mkdirSync(options.out, { recursive: true });
  for (const layers of options.layers) {
    printTable(results, layers);
    for (const name of options.tasks) {
      const shown = results.filter((r) => r.settings.layers === layers && r.task.name === name);
      const file = path.join(options.out, `${name}-${layers}.svg`);
      saveChart(file, lengthChart(shown[0].task, layers, shown));
    }
  }
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
