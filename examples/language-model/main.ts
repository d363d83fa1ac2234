/** Trains a byte-level language model on a novel, compares it with counting, and lets it write. `--help` says more. */
import path from 'node:path';
import { getNumThreads, info } from 'rankone';
import { randomBatch } from '../common/batches.ts';
import { saveChart, smooth } from '../common/chart.ts';
import { saveCheckpoint } from '../common/checkpoint.ts';
import { bitsPerByte, decodeError } from '../common/evaluate.ts';
import { SequenceModel } from '../common/model.ts';
import { runProgram } from '../common/program.ts';
import { Progress } from '../common/progress.ts';
import { Random } from '../common/random.ts';
import { generate } from '../common/sample.ts';
import { isEmpty, train } from '../common/train.ts';
import { BATCH, LENGTH, loadModel, MODEL, SCHEDULE } from './model.ts';
import { NgramModel } from './ngram.ts';
import { HELP, type Options, parseOptions } from './options.ts';
import { type Corpus, loadCorpus } from './text.ts';

/** The curve's held-out points are measured on this many bytes, the final figure on all. */
const GLIMPSE = 16 * LENGTH;
const GLIMPSES = 12;
const SAMPLE = 600;
const TEMPERATURE = 0.7;
const OUT = path.join('examples', 'language-model', 'out');

interface History {
  /** Bits per byte of each step's batch. */
  training: [step: number, bits: number][];
  heldOut: [step: number, bits: number][];
  tokensPerSecond: number;
}

const count = (n: number) => n.toLocaleString('en-US', { maximumFractionDigits: 0 });

function makeModel({ mixer, seed, load }: Options): SequenceModel {
  if (load === undefined) {
    return new SequenceModel({ ...MODEL, mixer: mixer ?? 'gatedDeltaNet' }, seed);
  }
  const model = loadModel(load, seed);
  const { config } = model;
  if (mixer && mixer !== config.mixer) {
    throw new Error(`--mixer: ${load} holds a ${config.mixer} model, not ${mixer}`);
  }
  return model;
}

function learn(model: SequenceModel, corpus: Corpus, { budget, seed }: Options): History {
  const random = new Random(seed + 1);
  const glimpse = corpus.heldOut.subarray(0, GLIMPSE + 1);
  const history: History = { training: [], heldOut: [], tokensPerSecond: 0 };
  if (isEmpty(budget)) return history;
  const progress = new Progress();
  let glimpses = 0;
  train(model.parameters, () => model.learn(randomBatch(corpus.train, BATCH, LENGTH, random)), {
    budget,
    schedule: SCHEDULE,
    clip: 1,
    onStep({ step, loss, progress: share, seconds }) {
      const bits = loss / Math.LN2;
      history.training.push([step, bits]);
      history.tokensPerSecond = (step * BATCH * LENGTH) / seconds;
      if (share * GLIMPSES >= glimpses) {
        glimpses = Math.floor(share * GLIMPSES) + 1;
        history.heldOut.push([step, bitsPerByte(model, glimpse, BATCH, LENGTH)]);
      }
      const [, held] = history.heldOut[history.heldOut.length - 1];
      progress.update(
        share,
        `step ${step} | ${bits.toFixed(3)} bits per byte, held out ${held.toFixed(3)} | ` +
          `${count(history.tokensPerSecond)} tokens/s`,
      );
    },
  });
  progress.stop();
  return history;
}

function drawCurve(
  history: History,
  name: string,
  baselines: { name: string; bits: number }[],
): string {
  const file = path.join(OUT, `loss-${name}.svg`);
  saveChart(file, {
    title: `Language model with ${name}`,
    x: 'training step',
    y: 'bits per byte',
    lines: [
      { label: 'training batch', color: '#4477aa', points: history.training, faint: true },
      { label: 'training, smoothed', color: '#4477aa', points: smooth(history.training) },
      { label: 'held out (first part)', color: '#cc3311', points: history.heldOut, dots: true },
    ],
    levels: baselines.map((b) => ({ label: `${b.name} ${b.bits.toFixed(2)}`, y: b.bits })),
  });
  return file;
}

function write(model: SequenceModel, prompt: string, seed: number): void {
  const decoder = new TextDecoder();
  const random = new Random(seed + 2);
  process.stdout.write(`\n--- the model goes on from "${prompt}" ---\n${prompt}`);
  const start = performance.now();
  for (const byte of generate(model, Buffer.from(prompt), SAMPLE, TEMPERATURE, random)) {
    process.stdout.write(decoder.decode(Uint8Array.of(byte), { stream: true }));
  }
  const seconds = (performance.now() - start) / 1000;
  console.log(`\n---\n${SAMPLE} tokens, one at a time: ${count(SAMPLE / seconds)} tokens/s`);
}

function main(options: Options): void {
  const corpus = loadCorpus(options.text);
  const model = makeModel(options);
  const { mixer, width, layers } = model.config;
  const { isa } = info();
  console.log(
    `${corpus.name}: ${count(corpus.train.length)} bytes to learn from, the last ` +
      `${count(corpus.heldOut.length)} held out\n` +
      `${mixer}: ${layers} blocks of width ${width}, ${count(model.parameters.count)} parameters; ` +
      `${getNumThreads()} threads, ${isa}\n`,
  );
  const baselines = ['unigram', 'bigram', 'trigram'].map((name, i) => {
    return { name, bits: new NgramModel(corpus.train, i + 1).bitsPerByte(corpus.heldOut) };
  });
  const history = learn(model, corpus, options);
  if (options.save) {
    saveCheckpoint(options.save, model.parameters, { config: JSON.stringify(model.config) });
    console.log(`weights: ${options.save}`);
  }
  const bits = bitsPerByte(model, corpus.heldOut, BATCH, LENGTH);
  console.log('\nheld-out text, bits per byte');
  for (const row of [...baselines, { name: mixer, bits }]) {
    console.log(`  ${row.name.padEnd(18)} ${row.bits.toFixed(3)}`);
  }

  write(model, options.prompt ?? 'The whale ', options.seed);
  const error = decodeError(model, corpus.heldOut.subarray(0, LENGTH), LENGTH / 2);
  console.log(
    `logits token by token against one forward over ${LENGTH} bytes: off by ` +
      `${error.toExponential(1)} of the largest (${error < 1e-4 ? 'ok' : 'NOT OK'})`,
  );
  if (!(error < 1e-4)) process.exitCode = 1;
  if (history.training.length > 0) {
    const steps = history.training.length;
    console.log(`${count(steps)} steps, ${count(history.tokensPerSecond)} tokens/s in training`);
    console.log(`loss curve: ${drawCurve(history, mixer, baselines)}`);
  }
}

runProgram(parseOptions, HELP, main);
