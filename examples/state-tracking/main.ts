/** Which mixers keep track of a state, and for how long? `--help` says more. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import path from 'node:path';
import { info } from 'rankone';
import { saveChart } from '../common/chart.ts';
import { trainInWorkers } from '../common/pool.ts';
import { printClaims, runProgram } from '../common/program.ts';
import { Progress } from '../common/progress.ts';
import { table } from '../common/table.ts';
import { HELP, type Options, parseOptions } from './options.ts';
import { ARMS, TASKS, type TaskName } from './problems.ts';
import { best, beyond, claims, json, lengthChart, type Result, within } from './report.ts';
import { type Run, SETTINGS } from './study.ts';
import type { Job } from './worker.ts';

/** The models to be trained, in the order of the tables. */
function plan({ tasks, mixers, layers, steps, seeds, changes, full }: Options): Result[] {
  const results: Result[] = [];
  for (const name of tasks)
    for (const depth of layers)
      for (const arm of ARMS.filter((a) => mixers.includes(a.name))) {
        if (depth === 2 && !full && (arm.options.householders ?? 1) > 2) continue;
        results.push({
          task: TASKS[name](),
          arm,
          settings: { ...SETTINGS, ...changes, layers: depth, steps: steps[name], seed: seeds[0] },
          runs: [],
        });
      }
  return results;
}

async function trainAll(results: readonly Result[], seeds: readonly number[]): Promise<void> {
  const jobs = results.flatMap(({ task, arm, settings }) =>
    seeds.map(
      (seed): Job => ({
        task: task.name as TaskName,
        mixer: arm.name,
        settings: { ...settings, seed },
      }),
    ),
  );
  const progress = new Progress();
  const shares = new Float64Array(jobs.length);
  const total = jobs.reduce((sum, job) => sum + job.settings.steps, 0);
  const script = path.join(__dirname, 'worker.ts');
  const runs = await trainInWorkers<Job, Run>(script, jobs, (i, share, loss) => {
    shares[i] = share;
    const done = jobs.reduce((sum, job, j) => sum + shares[j] * job.settings.steps, 0);
    const { task, mixer, settings } = jobs[i];
    const note = `${task}, ${settings.layers} x ${mixer}, loss ${loss.toFixed(3)}`;
    progress.update(done / total, note);
  });
  progress.stop();
  for (const [i, run] of runs.entries())
    results[Math.floor(i / seeds.length)].runs.push({ seed: jobs[i].settings.seed, run });
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

async function main(options: Options): Promise<void> {
  console.log(`${availableParallelism()} cores, ${info().isa}`);
  const results = plan(options);
  const start = performance.now();
  await trainAll(results, options.seeds);
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
  if (options.complete) printClaims(claims(results));
}

runProgram(parseOptions, HELP, main);
