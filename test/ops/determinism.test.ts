/** The same bits: any number of threads, every run, any batch, both forms of a call. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { Tensor } from '../../ts/index';
import {
  getNumThreads,
  recurrence,
  recurrenceBackward,
  recurrenceBackwardSync,
  recurrenceSync,
  setNumThreads,
} from '../../ts/index';
import type { Problem, ProblemSpec } from '../support/cases.ts';
import { makeProblem } from '../support/cases.ts';
import type { Cell } from '../support/native.ts';
import { cells, nameOf } from '../support/native.ts';
import { batchRowOf, slice } from '../support/slices.ts';

type Named = Record<string, Tensor>;

const FORWARDS = [
  { mode: 'recurrent' },
  { mode: 'auto' },
  { mode: 'chunk', chunkSize: 64 },
  { saveForBackward: true },
] as const;

/** Outputs, final states and all gradients, by name and form. */
function everything(problem: Problem, { n }: Cell): Named {
  const { dO: _dO, dFinalState: _dState, ...inputs } = problem;
  const all: Named = {};
  const add = (form: string, results: object): void => {
    for (const [name, x] of Object.entries(results)) {
      if (name !== 'saved') all[`${name}, ${form}`] = x as Tensor;
    }
  };
  const given = { numHouseholder: n };
  for (const options of FORWARDS) {
    const results = recurrenceSync(inputs, { ...given, ...options, outputFinalState: true });
    add(JSON.stringify(options), results);
    if (!results.saved) continue;
    add('with saved', recurrenceBackwardSync({ ...problem, saved: results.saved }, given));
    results.saved.dispose();
  }
  add('recomputed', recurrenceBackwardSync(problem, given));
  return all;
}

function expectSameBits(label: string, a: Named, b: Named): void {
  assert.equal(Object.keys(a), Object.keys(b), label);
  for (const name of Object.keys(a)) {
    assert.equal(a[name].shape, b[name].shape, `${label}: ${name}`);
    const [x, y] = [bitsOf(a[name]), bitsOf(b[name])];
    const at = x.findIndex((bits, i) => bits !== y[i]);
    if (at < 0) continue;
    const [first, second] = [a[name].data[at], b[name].data[at]];
    assert.unreachable(`${label}: ${name} differs at ${at}: ${first}, ${second}`);
  }
}

function bitsOf({ data }: Tensor): Uint32Array {
  return new Uint32Array(data.buffer, data.byteOffset, data.length);
}

const states = { withInitialState: true, withFinalStateGradient: true, seed: 9 };

const shapes: Omit<ProblemSpec, keyof Cell>[] = [
  // One head: the columns of V are what threads share.
  { B: 1, T: 40, H: 1, K: 33, V: 200, ...states },
  { B: 2, T: 35, H: 2, HV: 6, K: 24, V: 40, ...states },
  { B: 1, T: 1, H: 3, K: 17, V: 70, ...states },
];

const threads = suite('determinism: threads 1, 2 and 5, and again');

for (const cell of cells) {
  threads(nameOf(cell), () => {
    const before = getNumThreads();
    try {
      for (const shape of shapes) {
        const problem = makeProblem({ ...shape, ...cell });
        setNumThreads(1);
        const one = everything(problem, cell);
        expectSameBits('run again', everything(problem, cell), one);
        for (const count of [2, 5]) {
          setNumThreads(count);
          expectSameBits(`${count} threads`, everything(problem, cell), one);
        }
      }
    } finally {
      setNumThreads(before);
    }
  });
}

threads.run();

const batch = suite('determinism: a sequence does not depend on its batch');

for (const cell of cells) {
  batch(nameOf(cell), () => {
    // Of a head's gate the gradient is a sum over the batch, and no one sequence's.
    const shared = (name: string): boolean => cell.gate === 'head' && name.startsWith('dg');
    for (const V of [40, 130]) {
      const spec: ProblemSpec = { B: 3, T: 35, H: 1, HV: 2, K: 24, V, ...states, ...cell };
      const problem = makeProblem(spec);
      const together = everything(problem, cell);
      const names = Object.keys(together).filter((name) => !shared(name));
      for (let b = 0; b < 3; b++) {
        const alone = everything(batchRowOf(problem, b), cell);
        const rows = names.map((name) => {
          return [name, slice(together[name] as never, 0, b, b + 1)] as const;
        });
        const own = Object.fromEntries(names.map((name) => [name, alone[name]]));
        expectSameBits(`row ${b}`, own, Object.fromEntries(rows));
      }
    }
  });
}

batch.run();

const calls = suite('determinism: async = sync');

for (const cell of cells) {
  calls(nameOf(cell), async () => {
    const given = { numHouseholder: cell.n };
    const forward = { ...given, outputFinalState: true };
    for (const shape of shapes) {
      const problem = makeProblem({ ...shape, ...cell });
      const { dO: _dO, dFinalState: _dState, ...inputs } = problem;
      const [outputs, gradients] = await Promise.all([
        recurrence(inputs, forward),
        recurrenceBackward(problem, given),
      ]);
      const named = (results: object): Named => ({ ...results }) as Named;
      expectSameBits('forward', named(outputs), named(recurrenceSync(inputs, forward)));
      const expected = named(recurrenceBackwardSync(problem, given));
      expectSameBits('backward', named(gradients), expected);
    }
  });
}

calls.run();
