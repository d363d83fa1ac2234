/** examples/sequence-parallel: the layer in one process, and the program over child processes and over MPI. */
import { spawnSync } from 'node:child_process';
import path from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import {
  alone,
  type Communicator,
  inOneProcess,
  Round,
} from '../../examples/sequence-parallel/communicator.ts';
import { SequenceParallelLayer } from '../../examples/sequence-parallel/layer.ts';
import { findMpi } from '../../examples/sequence-parallel/mpi.ts';
import { parseOptions } from '../../examples/sequence-parallel/options.ts';
import {
  type CellName,
  cellNames,
  optionsOf,
  startOf,
  tokensOf,
} from '../../examples/sequence-parallel/tokens.ts';
import type { Tensor } from '../../ts/index';
import { backward, forward } from '../reference/recurrence.ts';
import { expectSame } from '../support/bits.ts';
import { expectWithin, rowFor, type TensorName } from '../support/compare.ts';
import { join } from '../support/slices.ts';
import type { Tensor32 } from '../support/tensor.ts';

const root = path.join(__dirname, '../..');
const test = suite('examples/sequence-parallel');

const TOKENS = 101;
const SIZES = { heads: 2, dim: 12 };
const EDGE = [1, 2, 12, 12];
const edge = (seed: number): Tensor => ({
  data: Float32Array.from({ length: 288 }, (_, i) => Math.sin(i * seed + 1)),
  shape: EDGE,
});

/** What one rank finds. */
async function run(cell: CellName, communicator: Communicator, segments: number, edges: boolean) {
  const own = segments / communicator.size;
  const bounds = Array.from({ length: own + 1 }, (_, i) =>
    startOf(TOKENS, segments, communicator.rank * own + i),
  );
  const { inputs, dO } = tokensOf(cell, SIZES, bounds[0], bounds[own]);
  const starts = Int32Array.from(bounds, (x) => x - bounds[0]);
  const ends = { enters: edges, leaves: edges };
  const layer = new SequenceParallelLayer(communicator, starts, optionsOf(cell), ends);
  const ahead = await layer.forward(inputs, edges ? edge(2) : undefined);
  const back = await layer.backward(dO, edges ? edge(3) : undefined);
  return { ...ahead, ...back, bytes: layer.bytesSent } as any;
}

const names = ['o', 'dq', 'dk', 'dv', 'dg', 'dbeta'];

for (const cell of cellNames)
  for (const edges of [false, true])
    test(`${cell}${edges ? ', a state enters and leaves' : ''}`, async () => {
      const { inputs, dO } = tokensOf(cell, SIZES, 0, TOKENS);
      const ends = edges && { initialState: edge(2), dFinalState: edge(3) };
      const options = optionsOf(cell) as object;
      const expected: any = {
        ...forward({ ...inputs, ...ends }, options),
        ...backward({ ...inputs, dO, ...ends }, options),
      };
      for (const segments of [4, 8]) {
        const one = await run(cell, alone, segments, edges);
        for (const name of [...names, ...(edges ? ['finalState', 'dInitialState'] : [])]) {
          if (!one[name]) continue;
          const { data, shape } = one[name];
          const row = rowFor(name as TensorName, TOKENS);
          expectWithin(`${cell}: ${name}`, data, expected[name].data, shape, row);
        }
        for (const size of [2, 4]) {
          const ranks = inOneProcess(size).map((rank) => run(cell, rank, segments, edges));
          const parts = await Promise.all(ranks);
          for (const name of names) {
            if (!one[name]) continue;
            const all = join(
              parts.map((part) => part[name] as Tensor32),
              1,
            );
            expectSame(`${name}, ${size} ranks`, all, one[name]);
          }
          if (!edges) continue;
          for (const part of parts)
            for (const name of ['finalState', 'dInitialState'])
              expectSame(`${name}, ${size} ranks`, part[name], one[name]);
        }
      }
    });

test('what is sent depends on the segments, not on the tokens', async () => {
  const floats = (cell: CellName, segments: number) =>
    run(cell, alone, segments, true).then(({ bytes }) => bytes / 4 / segments / SIZES.heads);
  const { dim: K } = SIZES;
  // M and N in the forward, one gradient of a state in the backward.
  for (const segments of [1, 4]) {
    assert.is(await floats('linearAttention', segments), 1 + 2 * K * K);
    assert.is(await floats('gla', segments), K + 2 * K * K);
    assert.is(await floats('kda', segments), 3 * K * K);
  }
});

test('misuse', async () => {
  const round = new Round(2);
  round.add(0, new Float32Array(1), () => {});
  assert.throws(() => round.add(0, new Float32Array(1), () => {}), /rank 0 called twice/);
  assert.throws(() => round.add(1, new Float32Array(2), () => {}), /different lengths: 1,2/);
  const layer = new SequenceParallelLayer(alone, Int32Array.of(0, 5), {});
  const { inputs, dO } = tokensOf('gla', SIZES, 0, 5);
  const end = async (promise: Promise<unknown>) => promise.then(String, ({ message }) => message);
  assert.match(await end(layer.backward(dO)), /no forward before it/);
  assert.match(await end(layer.forward(inputs, edge(1))), /initialState: expected one just where/);
  await layer.forward(inputs);
  assert.match(await end(layer.backward(dO, edge(1))), /made without a final state/);
});

test('options', () => {
  const defaults = parseOptions([]);
  assert.ok(defaults !== 'help' && defaults.tokens === 1048576 && defaults.segments === 2);
  assert.is(parseOptions(['--help']), 'help');
  for (const [args, pattern] of [
    [['--ranks', '0'], /--ranks: expected a whole number from 1 on, got 0/],
    [['--ranks', '4', '--segments', '6'], /--segments: expected a multiple of ranks = 4, got 6/],
    [['--cell', 'gru'], /--cell: expected linearAttention, .*; got gru/],
    [['--transport', 'tcp'], /--transport: expected auto, mpi or processes; got tcp/],
  ] as const)
    assert.throws(() => parseOptions([...args]), pattern);
});

/** The program's output, whose last two lines must be its checks. */
function program(...args: string[]): string {
  const common = ['--tokens', '3001', '--dim', '16', '--repeat', '1'];
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    ['--import', 'tsx', 'examples/sequence-parallel/main.ts', ...common, ...args],
    { cwd: root, encoding: 'utf8' },
  );
  assert.is(status, 0, `${stdout}${stderr}`);
  assert.is(stdout.match(/: yes$/gm)?.length, 2, stdout);
  return stdout;
}

test('the program over child processes', () => {
  const out = program('--transport', 'processes', '--ranks', '3', '--cell', 'gatedDeltaNet');
  assert.match(out, /3 segments, 3 ranks/);
});

const mpi = findMpi();
if ('version' in mpi) {
  test('the program over MPI', () => {
    assert.match(program('--transport', 'mpi', '--segments', '4'), /4 segments, 2 ranks/);
  });
} else {
  test.skip('the program over MPI', () => {});
  console.log(`skipped: the program over MPI, as ${mpi.missing}`);
}

test('a rank that fails ends the program', () => {
  const { status, stderr } = spawnSync(
    process.execPath,
    ['--import', 'tsx', 'examples/sequence-parallel/main.ts', '--dim', '513', '--tokens', '8'],
    { cwd: root, encoding: 'utf8' },
  );
  assert.is(status, 1);
  assert.match(stderr, /513/);
});

test.run();
