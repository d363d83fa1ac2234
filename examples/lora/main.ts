/** Teaches a frozen language model other texts with adapters, and lets all of them write in one batch. `--help` says more. */
import { readdirSync, statSync } from 'node:fs';
import path from 'node:path';
import { getNumThreads, info } from 'rankone';
import { AdaptedModel } from '../common/adapters.ts';
import { bitsPerByte, tokensOf } from '../common/evaluate.ts';
import type { SequenceModel } from '../common/model.ts';
import { runProgram } from '../common/program.ts';
import { Random } from '../common/random.ts';
import { generateRows } from '../common/sample.ts';
import { BATCH, LENGTH, loadModel } from '../language-model/model.ts';
import type { Corpus } from '../language-model/text.ts';
import { HELP, type Options, parseOptions } from './options.ts';
import { loadAdapter, saveAdapter } from './peft.ts';
import { loadTexts, type Task } from './texts.ts';
import { type Trained, trainAdapter, trainBase } from './training.ts';

const PROMPT = 32;
const SAMPLE = 240;
const TEMPERATURE = 0.6;
/** Bits per byte are measured on so much of each text. */
const MEASURED = 256 * LENGTH;
const QUICK = 8 * LENGTH;

const count = (n: number) => n.toLocaleString('en-US', { maximumFractionDigits: 0 });

/** What has turned out to be otherwise than it should be. */
const faults: string[] = [];

function expect(what: string, holds: boolean): void {
  console.log(`${what}: ${holds ? 'yes' : 'NO'}`);
  if (!holds) faults.push(what);
}

/** The largest difference over the largest value. */
function difference(actual: Float32Array, expected: Float32Array): number {
  let [difference, largest] = [0, 0];
  for (let i = 0; i < expected.length; i++) {
    difference = Math.max(difference, Math.abs(actual[i] - expected[i]));
    largest = Math.max(largest, Math.abs(expected[i]));
  }
  return difference / largest;
}

const same = (a: Float32Array, b: Float32Array) => Buffer.compare(bytesOf(a), bytesOf(b)) === 0;
const bytesOf = (x: Float32Array) => Buffer.from(x.buffer, x.byteOffset, x.byteLength);

function logits(model: SequenceModel, bytes: Uint8Array): Float32Array {
  return model.forward(tokensOf(bytes)).data.slice();
}

/** Rank and seed of each task's adapter: mixed ranks in one bank. */
function settingsOf(i: number, { rank, ratio, seed }: Options) {
  const ranks = [rank, 2 * rank, Math.max(1, Math.floor(rank / 4))];
  return { rank: ranks[i], alpha: 2 * ranks[i], ratio, seed: seed + 100 + i };
}

function sizeOf(folder: string): number {
  return readdirSync(folder).reduce((sum, f) => sum + statSync(path.join(folder, f)).size, 0);
}

/** Bits per byte of each text under no adapter and under each. */
function measure(adapted: AdaptedModel, names: (string | null)[], texts: Uint8Array[]): number[][] {
  return names.map((name) => {
    adapted.use(name);
    return texts.map((text) => bitsPerByte(adapted.model, text, BATCH, LENGTH));
  });
}

function printTable(head: string[], body: string[][]): void {
  const widths = head.map((_, i) => Math.max(...[head, ...body].map((row) => row[i].length)));
  for (const row of [head, ...body]) {
    const cells = row.map((x, i) => (i === 0 ? x.padEnd(widths[i]) : x.padStart(widths[i])));
    console.log(`  ${cells.join('   ')}`);
  }
}

interface Row {
  name: string | null;
  prompt: Uint8Array;
}

/** Each row goes on with its own prompt by its own adapter, all of them in one loop; returns what they write. */
function write(adapted: AdaptedModel, rows: readonly Row[], seed: number): number[][] {
  adapted.use(...rows.map((row) => row.name));
  const written: number[][] = rows.map(() => []);
  const prompts = rows.map((row) => row.prompt);
  const randoms = rows.map(() => new Random(seed));
  for (const step of generateRows(adapted.model, prompts, SAMPLE, TEMPERATURE, randoms))
    for (const [row, token] of step.entries()) written[row].push(token);
  return written;
}

/** Saves adapters, empties the banks, and loads the files. */
function throughFiles(adapted: AdaptedModel, trained: readonly Trained[], out: string): number {
  for (const { adapter } of trained) {
    saveAdapter(path.join(out, adapter.name), adapter);
    adapted.evict(adapter.name);
  }
  const { adapters, usedBytes } = adapted.memory;
  expect('evicted, the adapters leave nothing in the banks', adapters === 0 && usedBytes === 0);
  for (const { adapter } of trained)
    adapted.load(adapter.name, loadAdapter(path.join(out, adapter.name), adapted.layers));
  return trained.reduce((sum, { adapter }) => sum + sizeOf(path.join(out, adapter.name)), 0);
}

function sample(adapted: AdaptedModel, novel: Corpus, tasks: readonly Task[], seed: number): void {
  const texts: [string | null, Corpus][] = [[null, novel]];
  for (const { name, corpus } of tasks) texts.push([name, corpus]);
  const rows = texts.map(([name, { heldOut }]) => {
    const line = heldOut.indexOf(10) + 1;
    return { name, prompt: heldOut.subarray(line, line + PROMPT) };
  });
  const start = performance.now();
  const written = write(adapted, rows, seed);
  const seconds = (performance.now() - start) / 1000;
  console.log(`\none batch of ${rows.length}, every row by another adapter:`);
  for (const [i, { name, prompt }] of rows.entries()) {
    console.log(`--- ${name ?? 'none'} ---`);
    console.log(`${Buffer.from(prompt)}|${Buffer.from(written[i])}`);
  }
  console.log(`---\n${count((rows.length * SAMPLE) / seconds)} tokens/s, ${rows.length} at a time`);
  const alone = rows.map((row) => write(adapted, [row], seed)[0]);
  expect(
    'each row writes alone what it writes in the batch',
    alone.every((tokens, i) => tokens.join() === written[i].join()),
  );
}

function main(options: Options): void {
  const { load, seed, quick } = options;
  const { novel, tasks } = loadTexts();
  console.log(`${getNumThreads()} threads, ${info().isa}`);
  const base = load === undefined ? trainBase(novel, options) : loadModel(load, seed);
  const adapted = new AdaptedModel(base, options.format);
  const probe = novel.heldOut.subarray(0, LENGTH);
  const alone = logits(adapted.model, probe);
  const error = difference(alone, logits(base, probe));
  console.log(
    `weights frozen and packed as ${options.format}: logits off by ${error.toExponential(1)}`,
  );

  const trained = tasks.map(({ name, corpus }, i) =>
    trainAdapter(adapted, name, corpus, settingsOf(i, options), options.adapterSteps),
  );
  console.log();
  const names = tasks.map((task) => task.name);
  const before = names.map((name) => {
    adapted.use(name);
    return logits(adapted.model, probe);
  });
  const bytes = throughFiles(adapted, trained, options.out);
  expect(
    'the files hold what was trained, bit for bit',
    names.every((name, i) => {
      adapted.use(name);
      return same(logits(adapted.model, probe), before[i]);
    }),
  );
  adapted.use(null);
  expect('without an adapter the base, bit for bit', same(logits(adapted.model, probe), alone));

  const all = [novel, ...tasks.map((task) => task.corpus)];
  const measured = (quick ? QUICK : MEASURED) + 1;
  const texts = all.map(({ heldOut }) => heldOut.subarray(0, measured));
  const bits = measure(adapted, [null, ...names], texts);
  console.log(`\nheld-out bits per byte (${options.format} weights)`);
  printTable(
    ['adapter', ...all.map((text) => text.name), 'rank', 'parameters', 'seconds'],
    [null, ...names].map((name, i) => {
      const own = i > 0 ? trained[i - 1] : undefined;
      const { rank } = own?.adapter.settings ?? {};
      const size = own?.adapter.parameters.count ?? base.parameters.count;
      return [
        name ?? 'none',
        ...bits[i].map((x) => x.toFixed(3)),
        `${rank ?? '-'}`,
        count(size),
        own?.seconds.toFixed(0) ?? '-',
      ];
    }),
  );
  const { adapters, usedBytes } = adapted.memory;
  console.log(
    `${adapters} adapters in the banks of ${adapted.layers.length} layers: ` +
      `${count(usedBytes / 1024)} KiB; ${count(bytes / 1024)} KiB in ${options.out}`,
  );
  sample(adapted, novel, tasks, seed);
  if (faults.length > 0) process.exitCode = 1;
}

runProgram(parseOptions, HELP, main);
