/** Replaces the attention of a trained language model by linear forms, and recovers what that costs. `--help` says more. */
import { mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { getNumThreads, info } from 'rankone';
import { randomBatch } from '../common/batches.ts';
import { saveCheckpoint } from '../common/checkpoint.ts';
import { bitsPerByte, decodeError } from '../common/evaluate.ts';
import type { HybridCell } from '../common/mixers/mixer.ts';
import type { Batch, SequenceModel } from '../common/model.ts';
import { runProgram } from '../common/program.ts';
import { Random } from '../common/random.ts';
import { loadModel } from '../language-model/model.ts';
import { type Corpus, loadCorpus } from '../language-model/text.ts';
import { type DecodePoint, decodeCurve } from './decode.ts';
import { HELP, type Method, type Options, parseOptions } from './options.ts';
import { drawPlots } from './plots.ts';
import { processorSeconds, recover, type StageRun, trainSoftmax } from './training.ts';
import { attentionOf, outputError, ownParameters, swap, transfer } from './transfer.ts';

const count = (n: number) => n.toLocaleString('en-US', { maximumFractionDigits: 0 });

/** What has turned out to be otherwise than it should be. */
const faults: string[] = [];

function expect(what: string, holds: boolean): void {
  console.log(`${what}: ${holds ? 'yes' : 'NO'}`);
  if (!holds) faults.push(what);
}

/** One model with its figures; bits per byte of held-out text wherever nothing else is said. */
export interface Row {
  name: string;
  /** After the attention was replaced, and nothing learned since. */
  swapped?: number;
  transferred?: number;
  recovered: number;
  /** With the same LoRA training straight after the swap. */
  recoveredAlone?: number;
  /** What the recovered hybrid is with its window alone. */
  withoutTail?: number;
  /** Squared error of the attention layers' outputs on the softmax model's inputs, over their own square. */
  outputErrors: number[];
  /** Logits token by token against one forward, over the largest. */
  decodeError: number;
  mapParameters: number;
  loraParameters: number;
  decode: DecodePoint[];
  runs: { transfer?: StageRun; lora: StageRun; loraAlone?: StageRun };
}

interface Bench {
  corpus: Corpus;
  options: Options;
  teacher: SequenceModel;
  /** For the comparison of outputs. */
  probe: Batch;
}

function bits(model: SequenceModel, { corpus, options }: Bench): number {
  const { measured, batch, length } = options.scale;
  return bitsPerByte(model, corpus.heldOut.subarray(0, measured + 1), batch, length);
}

function withoutTail(model: SequenceModel, bench: Bench): number | undefined {
  const cells = attentionOf(model).map(({ cell }) => cell);
  const hybrids = cells.filter((cell): cell is HybridCell => 'tail' in cell);
  if (hybrids.length === 0) return undefined;
  for (const cell of hybrids) cell.tail = false;
  const result = bits(model, bench);
  for (const cell of hybrids) cell.tail = true;
  return result;
}

/** Recovers a model, and measures what has come of it. */
function finish(model: SequenceModel, name: string, bench: Bench) {
  const { corpus, options } = bench;
  const { length, contexts, decoded } = options.scale;
  const { adapted, factors, run } = recover(model, corpus.train, name, options);
  const recovered = bits(adapted.model, bench);
  return {
    recovered,
    withoutTail: withoutTail(adapted.model, bench),
    loraParameters: factors,
    decodeError: decodeError(adapted.model, corpus.heldOut.subarray(0, length), length >> 1),
    decode: decodeCurve(adapted.model, corpus.heldOut, contexts, decoded),
    run,
  };
}

/** The softmax model with the same LoRA training: what of the recovery is mere training. */
function control(bench: Bench): Row {
  const { run, ...figures } = finish(bench.teacher, 'softmax', bench);
  return { name: 'softmax', outputErrors: [], mapParameters: 0, runs: { lora: run }, ...figures };
}

/** A row of a form that takes the softmax's place. The window alone shows what the linear part of the hybrids is worth. */
function linearise(method: Method | 'window', bench: Bench): Row {
  const { teacher, corpus, options, probe } = bench;
  const student = swap(teacher, method === 'window' ? 'windowAttention' : method, options);
  const maps = ownParameters(teacher, student);
  const swapped = bits(student, bench);
  const outputErrors = [outputError(teacher, student, probe)];
  const row: Partial<Row> = {};
  let run: StageRun | undefined;
  let loraAlone: StageRun | undefined;
  // Liger has nothing to transfer to: its gates are made of the keys. Nor has a window.
  if (maps.count > 0) {
    const alone = recover(student, corpus.train, `${method} without transfer`, options);
    row.recoveredAlone = bits(alone.adapted.model, bench);
    loraAlone = alone.run;
    run = transfer(teacher, student, corpus.train, method, options);
    row.transferred = bits(student, bench);
    outputErrors.push(outputError(teacher, student, probe));
  }
  const { run: lora, ...figures } = finish(student, method, bench);
  const runs = { transfer: run, lora, loraAlone };
  return {
    name: method,
    swapped,
    outputErrors,
    mapParameters: maps.count,
    ...row,
    runs,
    ...figures,
  };
}

function printTable(head: string[], body: string[][]): void {
  const widths = head.map((_, i) => Math.max(...[head, ...body].map((row) => row[i].length)));
  for (const row of [head, ...body]) {
    const cells = row.map((x, i) => (i === 0 ? x.padEnd(widths[i]) : x.padStart(widths[i])));
    console.log(`  ${cells.join('   ')}`);
  }
}

const fixed = (x: number | undefined, digits = 3) => x?.toFixed(digits) ?? '-';

function report(before: number, rows: readonly Row[], { contexts }: Options['scale']): void {
  console.log(`\nheld-out bits per byte; the softmax model has ${fixed(before)}`);
  printTable(
    ['', 'swapped', 'transfer', 'LoRA', 'LoRA alone', 'tail cut', 'output error', 'parameters'],
    rows.map((row) => [
      row.name,
      fixed(row.swapped),
      fixed(row.transferred),
      fixed(row.recovered),
      fixed(row.recoveredAlone),
      fixed(row.withoutTail),
      row.outputErrors.map((error) => error.toFixed(2)).join(' -> ') || '-',
      `${count(row.mapParameters)} + ${count(row.loraParameters)}`,
    ]),
  );
  for (const [title, cell] of [
    ['decode, tokens/s after a context of', (p: DecodePoint) => count(p.tokensPerSecond)],
    ['carried per sequence, KiB', (p: DecodePoint) => count(p.bytes / 1024)],
  ] as const) {
    console.log(`\n${title}`);
    printTable(
      ['', ...contexts.map(String)],
      rows.map((row) => [row.name, ...row.decode.map(cell)]),
    );
  }
  console.log();
}

function check(rows: readonly Row[], untouched: boolean): void {
  expect('the softmax model is what it was, bit for bit', untouched);
  for (const { name, swapped, transferred, recovered, outputErrors, decode, ...row } of rows) {
    const error = row.decodeError.toExponential(1);
    expect(`${name}: token by token as in one forward (off by ${error})`, row.decodeError < 1e-4);
    if (swapped === undefined) continue;
    if (transferred !== undefined) {
      expect(`${name}: transfer brings the outputs closer`, outputErrors[1] < outputErrors[0]);
      expect(`${name}: transfer saves bits`, transferred < swapped);
    }
    expect(`${name}: LoRA saves bits`, recovered < (transferred ?? swapped));
    const sizes = decode.map((p) => p.bytes);
    expect(`${name}: memory is the same at any context`, Math.max(...sizes) === Math.min(...sizes));
  }
}

/** The softmax model, trained here or before. */
function makeTeacher(corpus: Corpus, options: Options) {
  const { load, save, seed } = options;
  if (load !== undefined) {
    const teacher = loadModel(load, seed);
    const { mixer } = teacher.config;
    if (mixer !== 'attention') throw new Error(`--load: ${load} holds a ${mixer} model`);
    return { teacher };
  }
  const { model: teacher, run } = trainSoftmax(corpus.train, options);
  const config = JSON.stringify(teacher.config);
  if (save !== undefined) saveCheckpoint(save, teacher.parameters, { config });
  return { teacher, run };
}

function main(options: Options): void {
  const { scale, seed, methods, out, text } = options;
  const corpus = loadCorpus(text);
  console.log(`${corpus.name}; ${getNumThreads()} threads, ${info().isa}`);
  const { teacher, run } = makeTeacher(corpus, options);
  const weights = () =>
    Buffer.concat(teacher.parameters.list.map(({ value }) => bytesOf(value.data)));
  const kept = weights();
  const probe = randomBatch(corpus.heldOut, scale.batch, scale.length, new Random(seed));
  const bench = { corpus, options, teacher, probe };
  const before = bits(teacher, bench);
  console.log(
    `softmax: ${count(teacher.parameters.count)} parameters, ${fixed(before)} bits per byte`,
  );
  const forms = ['window', ...methods] as const;
  const rows = [control(bench), ...forms.map((form) => linearise(form, bench))];
  report(before, rows, scale);
  check(rows, weights().equals(kept));
  const seconds = processorSeconds();
  mkdirSync(out, { recursive: true });
  const json = { options, isa: info().isa, threads: getNumThreads(), seconds, before, run, rows };
  const file = path.join(out, 'linearise.json');
  writeFileSync(file, `${JSON.stringify(json, null, 1)}\n`);
  const plots = drawPlots(out, before, rows);
  console.log(`${count(seconds)} s of processor time in all; ${[file, ...plots].join(', ')}`);
  if (faults.length > 0) process.exitCode = 1;
}

const bytesOf = (x: Float32Array) => Buffer.from(x.buffer, x.byteOffset, x.byteLength);

runProgram(parseOptions, HELP, main);
