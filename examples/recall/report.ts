import type { Chart } from '../common/chart.ts';
import { mean, rounded } from '../common/statistics.ts';
import { COLORS, type RecallMixer, type Run, type Settings, stateSize } from './study.ts';

/** All trainings of one mixer at one width. */
export interface Result {
  mixer: RecallMixer;
  settings: Settings;
  runs: { seed: number; learningRate: number; run: Run }[];
}

/** The training with the best accuracy over all numbers of pairs. */
export function best({ runs }: Result): Run {
  const score = (run: Run) => mean(run.accuracy);
  return runs.map((r) => r.run).reduce((a, b) => (score(b) > score(a) ? b : a));
}

export function stateChart(pairs: number, results: readonly Result[]): Chart {
  const { pairs: all, vocabulary } = results[0].settings;
  const at = all.indexOf(pairs);
  const mixers = [...new Set(results.map((r) => r.mixer))];
  const x = (r: Result) => Math.log2(stateSize(r.settings));
  const xs = results.map(x);
  return {
    title: `recall of ${pairs} pairs`,
    x: 'numbers in the states of all layers, log2',
    y: 'accuracy',
    lines: mixers.map((mixer) => ({
      label: mixer,
      color: COLORS[mixer],
      points: results
        .filter((r) => r.mixer === mixer)
        .map((r) => [x(r), best(r).accuracy[at]] as const),
      dots: true,
    })),
    levels: [
      { label: 'guessing', y: 2 / vocabulary },
      { label: '', y: 1 },
    ],
    from: Math.min(...xs) - 0.25,
    beside: true,
  };
}

export function json(results: readonly Result[]): string {
  const rows = results.map(({ mixer, settings, runs }) => ({
    mixer,
    ...settings,
    stateSize: stateSize(settings),
    runs: runs.map(({ seed, learningRate, run }) => ({
      seed,
      learningRate,
      seconds: rounded(run.seconds),
      accuracy: run.accuracy.map(rounded),
      losses: run.losses.map(rounded),
    })),
  }));
  return `${JSON.stringify({ results: rows })}\n`;
}

/** The delta rule remembers more than the sum in a state of the same size, wherever the sum is not perfect already. */
export function claims(results: readonly Result[]): { claim: string; holds: boolean }[] {
  const out: { claim: string; holds: boolean }[] = [];
  const widths = [...new Set(results.map((r) => r.settings.width))];
  for (const width of widths) {
    const of = (mixer: RecallMixer) => {
      const r = results.find((x) => x.mixer === mixer && x.settings.width === width);
      return r && mean(best(r).accuracy);
    };
    const delta = of('deltaNet');
    for (const additive of ['linearAttention', 'gla'] as const) {
      const other = of(additive);
      if (delta === undefined || other === undefined) continue;
      out.push({
        claim: `width ${width}: deltaNet (${delta.toFixed(3)}) above ${additive} (${other.toFixed(3)})`,
        holds: delta > other || other > 0.99,
      });
    }
  }
  return out;
}
