import path from 'node:path';
import { type Chart, type Line, saveChart, smooth } from '../common/chart.ts';
import type { DecodePoint } from './decode.ts';
import type { Row } from './main.ts';

const COLORS: Record<string, string> = {
  softmax: '#222222',
  window: '#999999',
  hedgehog: '#cc3311',
  lolcats: '#4477aa',
  liger: '#228833',
};
const STAGES = ['trained', 'swapped', 'transfer', 'LoRA'];

/** Writes the plots; returns their files. */
export function drawPlots(out: string, before: number, rows: readonly Row[]): string[] {
  const charts: Record<string, Chart> = {
    bits: stages(before, rows),
    lora: recovery(before, rows),
    time: decode(rows, 'Time of a token', 'milliseconds', (p) => 1000 / p.tokensPerSecond),
    memory: decode(rows, 'Carried from token to token', 'MiB', (p) => p.bytes / 2 ** 20),
  };
  return Object.entries(charts).map(([name, chart]) => {
    const file = path.join(out, `${name}.svg`);
    saveChart(file, chart);
    return file;
  });
}

function stages(before: number, rows: readonly Row[]): Chart {
  return {
    title: 'From softmax to linear attention and back',
    x: '',
    y: 'held-out bits per byte',
    beside: true,
    marks: STAGES.map((label, x) => ({ label, x })),
    levels: [{ label: `softmax ${before.toFixed(3)}`, y: before }],
    lines: rows.flatMap((row) => {
      if (row.swapped === undefined) return [];
      const bits = [before, row.swapped, row.transferred, row.recovered];
      const points = bits.flatMap((y, x) => (y === undefined ? [] : [[x, y] as const]));
      return [{ label: row.name, color: COLORS[row.name], points, dots: true }];
    }),
  };
}

function recovery(before: number, rows: readonly Row[]): Chart {
  return {
    title: 'LoRA on q, k, v and out after the swap; faint: without attention transfer',
    x: 'training step',
    y: 'bits per byte of the batch, smoothed',
    beside: true,
    levels: [{ label: `held out ${before.toFixed(3)}`, y: before }],
    lines: rows.flatMap(({ name, runs }): Line[] => {
      const color = COLORS[name];
      const line = { label: name, color, points: smooth(runs.lora.curve, 0.95) };
      if (!runs.loraAlone) return [line];
      const points = smooth(runs.loraAlone.curve, 0.95);
      return [line, { label: `${name} alone`, color, points, faint: true }];
    }),
  };
}

function decode(
  rows: readonly Row[],
  title: string,
  y: string,
  value: (point: DecodePoint) => number,
): Chart {
  const contexts = rows[0].decode.map((p) => p.context);
  return {
    title,
    x: 'tokens of context',
    y,
    from: Math.log2(contexts[0]),
    beside: true,
    marks: contexts.map((context) => ({ label: `${context}`, x: Math.log2(context) })),
    levels: [],
    lines: rows.map((row) => ({
      label: row.name,
      color: COLORS[row.name],
      points: row.decode.map((p) => [Math.log2(p.context), value(p)] as const),
      dots: true,
    })),
  };
}
