import { mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';

export interface Line {
  label: string;
  color: string;
  points: readonly (readonly [x: number, y: number])[];
  /** Marks each point with a dot. */
  dots?: boolean;
  faint?: boolean;
}

export interface Chart {
  title: string;
  x: string;
  y: string;
  lines: readonly Line[];
  /** Dashed horizontal lines to compare with. */
  levels: readonly { label: string; y: number }[];
  /** Labels along x, in the place of round numbers. */
  marks?: readonly { label: string; x: number }[];
  /** Where the x axis begins, instead of 0. */
  from?: number;
  /** The legend stands beside the plot and not in it. */
  beside?: boolean;
}

const WIDTH = 860;
const HEIGHT = 480;
const BOX = { left: 64, right: 150, top: 48, bottom: 52 };
const LEGEND = 190;

const escapeXml = (text: string) =>
  text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');

/** Round numbers that divide a range into about five parts. */
function ticks(low: number, high: number): number[] {
  const rough = (high - low) / 5 || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5, 10].find((m) => m * power >= rough) ?? 10);
  const marks: number[] = [];
  for (let i = Math.ceil(low / step); i * step <= high + 1e-9; i++) marks.push(i * step);
  return marks;
}

/** Values of a noisy line, each averaged with those just before it; the first ones start no bias. */
export function smooth(
  points: readonly (readonly [number, number])[],
  keep = 0.9,
): [number, number][] {
  let sum = 0;
  let weight = 0;
  return points.map(([x, y]) => {
    sum = keep * sum + (1 - keep) * y;
    weight = keep * weight + (1 - keep);
    return [x, sum / weight];
  });
}

/** A line chart as SVG text. */
export function renderChart({ title, x, y, lines, levels, from, beside, marks }: Chart): string {
  const all = lines.flatMap((line) => line.points);
  const xs = all.map((p) => p[0]);
  const ys = [...all.map((p) => p[1]), ...levels.map((l) => l.y)];
  const [x0, x1] = [from ?? Math.min(0, ...xs), Math.max(...xs, 1e-9)];
  const spread = Math.max(...ys) - Math.min(...ys) || 1;
  const [y0, y1] = [Math.min(...ys) - 0.05 * spread, Math.max(...ys) + 0.05 * spread];
  const right = WIDTH - (beside ? LEGEND + 16 : BOX.right);
  const bottom = HEIGHT - BOX.bottom;
  const px = (v: number) => (BOX.left + ((v - x0) / (x1 - x0)) * (right - BOX.left)).toFixed(1);
  const py = (v: number) => (bottom - ((v - y0) / (y1 - y0)) * (bottom - BOX.top)).toFixed(1);
  const text = (at: string, anchor: string, body: string, more = '') =>
    `<text ${at} text-anchor="${anchor}" ${more}>${escapeXml(body)}</text>`;
  const number = (v: number) => String(Number(v.toPrecision(6)));

  const out = [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" font-family="sans-serif" font-size="12">`,
    `<rect width="${WIDTH}" height="${HEIGHT}" fill="#fff"/>`,
    text(`x="${BOX.left}" y="28"`, 'start', title, 'font-size="16"'),
  ];
  const round = ticks(x0, x1).map((at) => ({ label: number(at), x: at }));
  for (const mark of marks ?? round) {
    const at = px(mark.x);
    out.push(`<path d="M${at} ${BOX.top}V${bottom}" stroke="#eee"/>`);
    out.push(text(`x="${at}" y="${bottom + 18}"`, 'middle', mark.label, 'fill="#555"'));
  }
  for (const mark of ticks(y0, y1)) {
    const at = py(mark);
    out.push(`<path d="M${BOX.left} ${at}H${right}" stroke="#eee"/>`);
    out.push(text(`x="${BOX.left - 8}" y="${Number(at) + 4}"`, 'end', number(mark), 'fill="#555"'));
  }
  out.push(text(`x="${(BOX.left + right) / 2}" y="${HEIGHT - 12}"`, 'middle', x));
  const middle = (BOX.top + bottom) / 2;
  out.push(text(`x="16" y="${middle}" transform="rotate(-90 16 ${middle})"`, 'middle', y));
  for (const level of levels) {
    const at = py(level.y);
    out.push(`<path d="M${BOX.left} ${at}H${right}" stroke="#888" stroke-dasharray="5 4"/>`);
    out.push(text(`x="${right + 8}" y="${Number(at) + 4}"`, 'start', level.label, 'fill="#555"'));
  }
  for (const { points, color, dots, faint } of lines) {
    const path = points.map(([a, b]) => `${px(a)} ${py(b)}`).join('L');
    if (points.length > 0) {
      const opacity = faint ? 0.35 : 1;
      const width = faint ? 1 : 2;
      out.push(
        `<path d="M${path}" fill="none" stroke="${color}" stroke-width="${width}" opacity="${opacity}"/>`,
      );
    }
    if (dots) {
      for (const [a, b] of points) {
        out.push(`<circle cx="${px(a)}" cy="${py(b)}" r="3.5" fill="${color}"/>`);
      }
    }
  }
  lines.forEach(({ label, color, faint }, i) => {
    const at = BOX.top + 14 + 18 * i;
    const start = beside ? right + 16 : right - LEGEND;
    out.push(
      `<path d="M${start} ${at}h24" stroke="${color}" stroke-width="2" opacity="${faint ? 0.5 : 1}"/>`,
    );
    out.push(text(`x="${start + 32}" y="${at + 4}"`, 'start', label));
  });
  out.push('</svg>');
  return `${out.join('\n')}\n`;
}

/** Writes the chart, making its folder where needed. */
export function saveChart(file: string, chart: Chart): void {
  mkdirSync(path.dirname(file), { recursive: true });
  writeFileSync(file, renderChart(chart));
}
