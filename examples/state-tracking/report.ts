import type { Chart } from '../common/chart.ts';
import { mean, rounded } from '../common/statistics.ts';
import type { Task } from './groups.ts';
import type { Arm } from './problems.ts';
import { type Run, type Settings, TESTED, TRAINED } from './study.ts';

/** All trainings of one model on one task. */
export interface Result {
  task: Task;
  arm: Arm;
  settings: Settings;
  /** By seed. */
  runs: { seed: number; run: Run }[];
}

/** Mean accuracy at the positions that training had, and at those beyond. */
export const within = ({ accuracy }: Run) => mean(accuracy.slice(0, TRAINED.longest));
export const beyond = ({ accuracy }: Run) => mean(accuracy.slice(TRAINED.longest));

/** The training that does best beyond the trained length. */
export function best({ runs }: Result): Run {
  return runs.map((r) => r.run).reduce((a, b) => (beyond(b) > beyond(a) ? b : a));
}

/** 0 for guessing, 1 for solved. */
export function scaled(accuracy: number, { group }: Task): number {
  const chance = 1 / group.order;
  return Math.max(0, (accuracy - chance) / (1 - chance));
}

const BLOCK = 8;

/** Accuracy by length, smoothed over a few neighbours. */
export function lengthChart(task: Task, layers: number, results: readonly Result[]): Chart {
  const points = ({ accuracy }: Run) => {
    const out: [number, number][] = [];
    for (let i = 0; i < accuracy.length; i += BLOCK)
      out.push([i + (BLOCK + 1) / 2, mean(accuracy.slice(i, i + BLOCK))]);
    return out;
  };
  return {
    title: `${task.title}, ${layers === 1 ? 'one layer' : 'two layers'}: trained on 3 to ${TRAINED.longest} letters`,
    x: 'letters so far',
    y: 'accuracy',
    lines: results.map((r) => ({
      label: r.arm.label,
      color: r.arm.color,
      points: points(best(r)),
    })),
    levels: [
      { label: 'guessing', y: 1 / task.group.order },
      { label: '', y: 1 },
    ],
    beside: true,
  };
}

export function json(results: readonly Result[]): string {
  const rows = results.map(({ task, arm, settings, runs }) => ({
    task: task.name,
    chance: 1 / task.group.order,
    mixer: arm.name,
    ...settings,
    runs: runs.map(({ seed, run }) => ({
      seed,
      seconds: rounded(run.seconds),
      accuracyWithin: rounded(within(run)),
      accuracyBeyond: rounded(beyond(run)),
      accuracy: run.accuracy.map(rounded),
      losses: run.losses.map(rounded),
    })),
  }));
  return `${JSON.stringify({ trained: TRAINED, tested: TESTED, results: rows })}\n`;
}

/** What the papers report, as far as these results can show it. */
export function claims(results: readonly Result[]): { claim: string; holds: boolean }[] {
  const out: { claim: string; holds: boolean }[] = [];
  const score = (task: string, mixer: string, layers: number) => {
    const r = results.find(
      (x) => x.task.name === task && x.arm.name === mixer && x.settings.layers === layers,
    );
    return r && scaled(beyond(best(r)), r.task);
  };
  const expect = (claim: string, value: number | undefined, holds: (x: number) => boolean) => {
    if (value !== undefined)
      out.push({ claim: `${claim} (${value.toFixed(3)})`, holds: holds(value) });
  };
  const solved = (x: number) => x > 0.9;
  const failed = (x: number) => x < 0.5;
  const guessed = (x: number) => x < 0.1;
  for (const mixer of ['mamba2', 'gla', 'gatedDeltaNet', 'deltaNet'])
    for (const layers of [1, 2])
      expect(
        `${mixer}, eigenvalues in [0,1], ${layers} layer(s): guesses parity beyond the trained length`,
        score('parity', mixer, layers),
        guessed,
      );
  expect('deltaNet, beta in [0,2]: solves parity', score('parity', 'deltaNet2', 1), solved);
  expect('one Householder step, one layer: fails mod5', score('mod5', 'deltaNet2', 1), failed);
  expect('two Householder steps, one layer: solve mod5', score('mod5', 'deltaProduct2', 1), solved);
  expect('one Householder step, one layer: fails S3', score('S3', 'deltaNet2', 1), failed);
  expect('two Householder steps, one layer: solve S3', score('S3', 'deltaProduct2', 1), solved);
  return out;
}
