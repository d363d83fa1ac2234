/**
 * node --import tsx bench/layers.ts [FILTER] [--threads 1] [--seconds 1] [--format bf16] [--json FILE]
 *
 * One layer of `rankone/layers` at the sizes of a published model, random weights packed once, x float32: a prompt of 2048
 * tokens, and the decode of one token over a cache. `engine` is the share of the time inside the engine's calls; the rest
 * is JavaScript between them (activations that no operation has, reading weights, results' memory).
 */
import { writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { binding } from '../ts/binding';
import { quantiles } from '../ts/cli/bench/statistics';
import { findOperations } from '../ts/cli/ops';
import { info, setNumThreads, type Tensor, type WeightFormat } from '../ts/index';
import * as layers from '../ts/layers/index';
import { type Layer, publishedLayers } from './layerSizes.ts';

interface Options {
  threads: number;
  seconds: number;
  format: WeightFormat;
  json?: string;
}

const PROMPT = 2048;
const FEWEST_RUNS = 3;

interface Timing {
  medianMs: number;
  p25Ms: number;
  p75Ms: number;
  tokensPerSecond: number;
  /** Minimum flops of projections and recurrence. */
  gflopsPerSecond: number;
  /** Inside the engine's calls. */
  engineShare: number;
}

interface Row {
  layer: string;
  model: string;
  source: string;
  weightBytes: number;
  prefill: Timing;
  decode: Timing & { weightGbPerSecond: number };
}

/** Numbers of about the size that trained weights have, so that nothing saturates. */
function values(shape: readonly number[], deviation: number): Tensor {
  const data = new Float32Array(shape.reduce((a, b) => a * b, 1));
  let state = data.length >>> 0 || 1;
  for (let i = 0; i < data.length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    data[i] = (state / 2 ** 31 - 1) * Math.sqrt(3) * deviation;
  }
  return { data, shape: [...shape] };
}

function weightsOf({ weights, width }: Layer): Record<string, Tensor> {
  return Object.fromEntries(
    Object.entries(weights).map(([name, shape]) => [
      name,
      values(shape, shape.length === 2 ? width ** -0.5 : 0.5),
    ]),
  );
}

/** Milliseconds inside the engine's synchronous calls since this was asked last. */
function meterEngine(): () => number {
  const { call } = binding;
  let spent = 0;
  binding.call = ((...args: Parameters<typeof call>) => {
    const begin = performance.now();
    try {
      return call.apply(binding, args);
    } finally {
      spent += performance.now() - begin;
    }
  }) as typeof call;
  return () => {
    const last = spent;
    spent = 0;
    return last;
  };
}

function flopsOf({ weights, recurrence: { op, shape } }: Layer, tokens: number): number {
  const [{ flops }] = findOperations([op]);
  const projections = Object.entries(weights)
    .filter(([name, { length }]) => name.endsWith('weight') && length === 2)
    .reduce((sum, [, [out, within]]) => sum + 2 * out * within, 0);
  return projections * tokens + flops('forward', { B: 1, T: tokens, ...shape });
}

function time(
  run: () => void,
  { seconds, threads }: Options,
  tokens: number,
  flops: number,
  meter: () => number,
): Timing {
  run();
  run();
  const samples: number[] = [];
  meter();
  let total = 0;
  while (samples.length < FEWEST_RUNS || total < 1e3 * seconds) {
    const [begin, used] = [performance.now(), process.cpuUsage()];
    run();
    const wall = performance.now() - begin;
    const { user, system } = process.cpuUsage(used);
    // With one thread what the process computed: other work on the machine takes turns with it.
    samples.push(threads === 1 ? Math.min(wall, (user + system) / 1e3) : wall);
    total += wall;
  }
  const engineShare = meter() / total;
  const [p25Ms, medianMs, p75Ms] = quantiles(samples, [0.25, 0.5, 0.75]);
  const gflopsPerSecond = flops / medianMs / 1e6;
  return {
    medianMs,
    p25Ms,
    p75Ms,
    tokensPerSecond: (1e3 * tokens) / medianMs,
    gflopsPerSecond,
    engineShare,
  };
}

function bench(one: Layer, asked: Options, meter: () => number): Row {
  const weights = layers.packLayerWeights(weightsOf(one), { format: asked.format });
  const run = (layers as any)[`${one.layer}Sync`];
  const options = one.options;
  const given = (tokens: number) => ({
    x: values([1, tokens, one.width], 1),
    weights,
    ...(one.vFirst && { vFirst: values([1, tokens, one.vFirst], 1) }),
  });
  const prompt = given(PROMPT);
  const prefill = time(() => run(prompt, options), asked, PROMPT, flopsOf(one, PROMPT), meter);
  const cache = layers.createLayerCache();
  run({ ...given(70), cache }, options);
  const token = { ...given(1), cache };
  const decode = time(() => run(token, options), asked, 1, flopsOf(one, 1), meter);
  cache.dispose();
  let weightBytes = 0;
  for (const value of Object.values(weights) as any[]) {
    weightBytes += value.bytes ?? value.data.byteLength;
    value.dispose?.();
  }
  const weightGbPerSecond = weightBytes / decode.medianMs / 1e6;
  const { layer, model, source } = one;
  return { layer, model, source, weightBytes, prefill, decode: { ...decode, weightGbPerSecond } };
}

function percent(share: number): string {
  return `${(100 * share).toFixed(0)} %`;
}

function lineOf({ layer, model, prefill, decode, weightBytes }: Row): string {
  return [
    '',
    `\`${layer}\``,
    model,
    prefill.medianMs.toPrecision(3),
    prefill.tokensPerSecond.toFixed(0),
    prefill.gflopsPerSecond.toPrecision(3),
    percent(prefill.engineShare),
    decode.medianMs.toPrecision(3),
    decode.tokensPerSecond.toFixed(0),
    `${decode.weightGbPerSecond.toPrecision(3)} (${(weightBytes / 1e6).toPrecision(3)} MB)`,
    percent(decode.engineShare),
    '',
  ]
    .join(' | ')
    .trim();
}

/** Prints a table in Markdown as it goes. */
function benchLayers(options: Options, filter: string): void {
  setNumThreads(options.threads);
  const meter = meterEngine();
  const { isa } = info();
  console.log(
    `rankone/layers, ${isa}, ${options.threads} threads, weights ${options.format}, x f32, B 1; prefill of ${PROMPT} tokens\n`,
  );
  console.log(
    '| layer | sizes of | prefill ms | tokens/s | GF/s | engine | decode ms | tokens/s | weights GB/s | engine |',
  );
  console.log('|---|---|---|---|---|---|---|---|---|---|');
  const rows: Row[] = [];
  for (const one of publishedLayers.filter(({ layer }) => layer.includes(filter))) {
    const row = bench(one, options, meter);
    rows.push(row);
    console.log(lineOf(row));
  }
  if (options.json !== undefined) {
    const { threads, format } = options;
    writeFileSync(options.json, `${JSON.stringify({ isa, threads, format, rows }, null, 1)}\n`);
  }
}

const { values: given, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    threads: { type: 'string', default: '1' },
    seconds: { type: 'string', default: '1' },
    format: { type: 'string', default: 'bf16' },
    json: { type: 'string' },
  },
});
benchLayers(
  {
    threads: Number(given.threads),
    seconds: Number(given.seconds),
    format: given.format as WeightFormat,
    json: given.json,
  },
  positionals[0] ?? '',
);
