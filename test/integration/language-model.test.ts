/** The example models as wholes: gradients, learning, decoding, checkpoints, reproducibility. */
import { mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { getNumThreads, setNumThreads } from 'rankone';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { allBatches, randomBatch } from '../../examples/common/batches.ts';
import { readCheckpoint, restore, saveCheckpoint } from '../../examples/common/checkpoint.ts';
import * as elementwise from '../../examples/common/elementwise.ts';
import { bitsPerByte, decodeError, tokensOf } from '../../examples/common/evaluate.ts';
import { type MixerName, mixerNames } from '../../examples/common/mixers/index.ts';
import { type Batch, SequenceModel } from '../../examples/common/model.ts';
import { cosine } from '../../examples/common/optimizer.ts';
import { Random } from '../../examples/common/random.ts';
import { generate } from '../../examples/common/sample.ts';
import { train } from '../../examples/common/train.ts';
import { NgramModel } from '../../examples/language-model/ngram.ts';
import { parseOptions } from '../../examples/language-model/options.ts';
import { loadCorpus } from '../../examples/language-model/text.ts';

const test = suite('language model');
const TEXT = Buffer.from('a whale is a whale, said the mate to the whale. '.repeat(40));
const SMALL = { vocabulary: 128, width: 16, layers: 2, headDim: 8, hidden: 24 };

function small(mixer: MixerName, seed = 1): SequenceModel {
  return new SequenceModel({ ...SMALL, mixer }, seed);
}

function trained(mixer: MixerName, steps: number): { model: SequenceModel; losses: number[] } {
  const model = small(mixer);
  const random = new Random(7);
  const losses: number[] = [];
  train(model.parameters, () => model.learn(randomBatch(TEXT, 4, 24, random)), {
    budget: { steps },
    schedule: { peak: 2e-2, warmup: 0.1, floor: 0.1 },
    clip: 1,
    onStep: ({ loss }) => losses.push(loss),
  });
  return { model, losses };
}

/** The loss summed in float64, for differences that float32 would round away. */
function lossOf(model: SequenceModel, batch: Batch): number {
  const { data, shape } = model.forward(batch.inputs);
  const vocabulary = shape[shape.length - 1];
  let sum = 0;
  for (let row = 0; row < batch.targets.data.length; row++) {
    const logits = data.subarray(row * vocabulary, (row + 1) * vocabulary);
    const top = Math.max(...logits);
    let total = 0;
    for (const x of logits) total += Math.exp(x - top);
    sum += top + Math.log(total) - logits[batch.targets.data[row]];
  }
  return sum / batch.targets.data.length;
}

for (const mixer of mixerNames) {
  test(`${mixer}: gradients of the whole model against central differences`, () => {
    const { model } = trained(mixer, 5); // away from the symmetric start
    const random = new Random(11);
    const batch = randomBatch(TEXT, 2, 11, random);
    model.parameters.clear();
    model.learn(batch);
    let largest = 0;
    for (const { grad } of model.parameters.list) {
      for (const x of grad.data) largest = Math.max(largest, Math.abs(x));
    }
    for (const { name, value, grad } of model.parameters.list) {
      // Along the gradient, where the slope is its norm, and for the one number that matters most.
      const norm = Math.hypot(...grad.data);
      const along = Float64Array.from(grad.data, (x) => x / norm);
      const top = grad.data.reduce((b, x, i, g) => (Math.abs(x) > Math.abs(g[b]) ? i : b), 0);
      const single = new Float64Array(grad.data.length);
      single[top] = 1;
      const kept = value.data.slice();
      for (const direction of [along, single]) {
        const expected = direction.reduce((sum, d, i) => sum + d * grad.data[i], 0);
        const at = (h: number) => {
          for (let i = 0; i < kept.length; i++) value.data[i] = kept[i] + h * direction[i];
          return lossOf(model, batch);
        };
        // Fourth order, so that h can be large against float32's grain; largest where the slope is gentle.
        const h = Math.min(1e-2, Math.max(1e-3, 1e-4 / Math.abs(expected)));
        const numeric = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h);
        value.data.set(kept);
        const error = Math.abs(numeric - expected);
        const tolerance = 5e-3 * Math.abs(expected) + 1e-7 / h;
        assert.ok(
          error <= tolerance,
          `${name}: gradient ${expected}, central differences ${numeric}`,
        );
      }
      assert.ok(norm > 0, `${name}: no gradient`);
    }
    assert.ok(largest > 1e-3);
  });

  test(`${mixer}: the loss falls within 30 steps`, () => {
    const { losses } = trained(mixer, 30);
    assert.ok(losses[29] < 0.45 * losses[0], `${losses[0]} -> ${losses[29]}`);
  });

  test(`${mixer}: prefill, then token by token, gives the logits of one forward`, () => {
    const { model } = trained(mixer, 10);
    for (const prefill of [1, 2, 17]) {
      const error = decodeError(model, TEXT.subarray(0, 33), prefill);
      assert.ok(error < 1e-4, `prefill ${prefill}: off by ${error}`);
    }
  });

  test(`${mixer}: a checkpoint keeps every bit`, () => {
    const folder = mkdtempSync(path.join(os.tmpdir(), 'rankone-'));
    try {
      const { model } = trained(mixer, 3);
      const file = path.join(folder, 'weights.safetensors');
      saveCheckpoint(file, model.parameters, { config: JSON.stringify(model.config) });
      const checkpoint = readCheckpoint(file);
      assert.is(checkpoint.metadata.config, JSON.stringify(model.config));
      const copy = small(mixer, 99);
      restore(copy.parameters, checkpoint);
      model.parameters.list.forEach(({ name, value }, i) => {
        assert.is(copy.parameters.list[i].name, name);
        assert.equal(copy.parameters.list[i].value.data, value.data, name);
      });
      const ids = tokensOf(TEXT.subarray(0, 20));
      assert.equal(copy.forward(ids).data, model.forward(ids).data);
      const again = path.join(folder, 'again.safetensors');
      saveCheckpoint(again, copy.parameters, checkpoint.metadata);
      assert.equal(readCheckpoint(again), checkpoint);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  test(`${mixer}: the same losses at any number of threads`, () => {
    const before = getNumThreads();
    try {
      const runs = [1, 2, 3].map((threads) => {
        setNumThreads(threads);
        return trained(mixer, 8).losses;
      });
      assert.equal(runs[1], runs[0]);
      assert.equal(runs[2], runs[0]);
    } finally {
      setNumThreads(before);
    }
  });
}

test('a checkpoint of another model is refused', () => {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'rankone-'));
  try {
    const file = path.join(folder, 'weights.safetensors');
    saveCheckpoint(file, small('gla').parameters, {});
    const other = small('deltaNet');
    const before = other.parameters.list.map((p) => p.value.data.slice());
    assert.throws(() => restore(other.parameters, readCheckpoint(file)), /the checkpoint has/);
    other.parameters.list.forEach((p, i) => {
      assert.equal(p.value.data, before[i]);
    });
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test('a backward after decoding is refused', () => {
  const model = small('gatedDeltaNet');
  decodeError(model, TEXT.subarray(0, 5), 2);
  const dLogits = { data: new Float32Array(128), shape: [1, 1, 128] };
  assert.throws(() => model.backward(dLogits), /backward without a forward/);
});

test('generation is reproducible and goes on from the prompt', () => {
  const { model } = trained('gatedDeltaNet', 30);
  const write = (seed: number) => [
    ...generate(model, TEXT.subarray(0, 9), 20, 0.5, new Random(seed)),
  ];
  assert.equal(write(3), write(3));
  assert.is(write(3).length, 20);
  assert.ok(write(3).every((byte) => byte < 128));
});

test('evaluation counts every byte but the first once', () => {
  const bytes = TEXT.subarray(0, 101);
  let targets: number[] = [];
  for (const batch of allBatches(bytes, 3, 8)) {
    targets = targets.concat([...batch.targets.data].filter((t) => t >= 0));
  }
  assert.equal(targets, [...bytes.subarray(1)]);
  const model = small('deltaNet');
  const oneByOne = [...allBatches(bytes, 1, 8)].flatMap((b) => [...model.losses(b)]);
  const expected = oneByOne.reduce((a, b) => a + b) / Math.LN2 / 100;
  assert.ok(Math.abs(bitsPerByte(model, bytes, 3, 8) - expected) < 1e-5);
});

test('n-grams: probabilities sum to one, more context codes the text shorter', () => {
  const [one, two, three] = [1, 2, 3].map((n) => new NgramModel(TEXT, n).bitsPerByte(TEXT));
  assert.ok(three < two && two < one && one < 8);
  const model = new NgramModel(Buffer.from('abracadabra'), 3);
  let sum = 0;
  // bitsPerByte of [a, x] is -log2 P(x | a)
  for (let x = 0; x < 256; x++) sum += 2 ** -model.bitsPerByte(Uint8Array.of(97, x));
  assert.ok(Math.abs(sum - 1) < 1e-12, `${sum}`);
});

test('the novel arrives whole, its end held out', () => {
  const { train: start, heldOut } = loadCorpus();
  assert.ok(start.length > 1_000_000 && heldOut.length > 80_000);
  assert.match(Buffer.from(start).toString(), 'Call me Ishmael.');
  assert.match(Buffer.from(heldOut).toString(), 'only found another orphan.');
});

test('options: defaults, and errors for what is not one', () => {
  assert.equal(parseOptions(['--help']), 'help');
  const defaults = parseOptions([]);
  assert.ok(defaults !== 'help' && 'seconds' in defaults.budget);
  assert.is(defaults.budget.seconds, 90);
  const steps = parseOptions(['--steps', '5', '--mixer', 'kda', '--seed', '3']);
  assert.ok(steps !== 'help' && 'steps' in steps.budget);
  assert.equal([steps.budget.steps, steps.mixer, steps.seed], [5, 'kda', 3]);
  assert.throws(() => parseOptions(['--step', '5']), /--step/);
  assert.throws(() => parseOptions(['extra']), /extra/);
  assert.throws(() => parseOptions(['--mixer', 'lstm']), /--mixer: expected/);
  assert.throws(() => parseOptions(['--steps', 'many']), /--steps: expected a whole number/);
  assert.throws(() => parseOptions(['--steps', '5', '--seconds', '5']), /exclude/);
});

test('training by steps takes so many, and none for nothing', () => {
  assert.is(trained('deltaNet', 3).losses.length, 3);
  const model = small('deltaNet');
  for (const budget of [{ steps: 0 }, { seconds: 0 }]) {
    const learn = () => {
      throw new Error('a step');
    };
    train(model.parameters, learn, {
      budget,
      schedule: { peak: 1, warmup: 0, floor: 0 },
      clip: 1,
    });
  }
});

test('learning rate: up in a line, down to the floor', () => {
  const schedule = { peak: 2, warmup: 0.1, floor: 0.1 };
  const rates = [0, 0.05, 0.1, 0.55, 1].map((p) => cosine(schedule, p));
  [0, 1, 2, 1.1, 0.2].forEach((rate, i) => {
    assert.ok(Math.abs(rates[i] - rate) < 1e-12);
  });
});

/** Central differences of sum(out * weights) over x, at a step for float32. */
function differences(x: Float32Array, out: () => Float32Array, weights: Float32Array): number[] {
  const loss = () => out().reduce((sum, y, i) => sum + y * weights[i], 0);
  return Array.from(x, (kept, i) => {
    const h = 1e-2;
    const at = (value: number) => {
      x[i] = value;
      return loss();
    };
    const [a, b, c, d] = [at(kept - 2 * h), at(kept - h), at(kept + h), at(kept + 2 * h)];
    x[i] = kept;
    return (8 * (c - b) - (d - a)) / (12 * h);
  });
}

function close(actual: Float32Array, expected: number[], name: string): void {
  const size = Math.max(...expected.map(Math.abs));
  actual.forEach((x, i) => {
    assert.ok(Math.abs(x - expected[i]) <= 1e-3 * size, `${name}[${i}]: ${x}, not ${expected[i]}`);
  });
}

test('logSigmoid: gradient against central differences', () => {
  const random = new Random(5);
  const normals = (n: number) => Float32Array.from({ length: n }, () => random.normal());
  const x = normals(12);
  const dy = normals(12);
  const y = new Float32Array(12);
  const dx = new Float32Array(12);

  elementwise.logSigmoidBackward(x, 0.25, dy, dx);
  const logSigmoid = () => {
    elementwise.logSigmoid(x, 0.25, y);
    return y;
  };
  close(dx, differences(x, logSigmoid, dy), 'logSigmoid');
});

test('elementwise: no overflow at the ends, splits and joins undo each other', () => {
  const x = Float32Array.of(-1000, -100, 0, 100, 1000);
  const y = new Float32Array(5);
  elementwise.logSigmoid(x, 1, y);
  assert.equal([y[0], y[4]], [-1000, -0]);
  const whole = Float32Array.from({ length: 14 }, (_, i) => i);
  const parts = [new Float32Array(4), new Float32Array(10)];
  elementwise.splitColumns(whole, parts, [2, 5]);
  assert.equal([...parts[0]], [0, 1, 7, 8]);
  const back = new Float32Array(14);
  elementwise.joinColumns(parts, back, [2, 5]);
  assert.equal(back, whole);
  const sum = new Float32Array(14);
  elementwise.add(whole, back, sum);
  assert.equal(
    [...sum],
    [...whole].map((v) => 2 * v),
  );
});

test.run();
