/**
 * node --import tsx bench/peers/onnxruntime.ts [--runs N] [--json] [--check]
 *
 * rankone beside the LinearAttention operator of onnxruntime-node, one thread each, run by run in
 * turns, on every cell that the operator has. Both answers are held against the float64 reference
 * before anything is timed. --json writes bench/results/onnxruntime.json; --check fails when
 * rankone is slower on any cell at T = 512.
 *
 * T = 1 is a decode step over states that are not in cache: LAYERS of them in one graph for the
 * peer, which so pays for one call from JavaScript, and LAYERS calls of rankone, which pays for all.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { forward } from '../../test/reference/recurrence.ts';
import type { Gate, Problem, Update } from '../../test/support/cases.ts';
import { makeProblem } from '../../test/support/cases.ts';
import { expectWithin, rowFor } from '../../test/support/compare.ts';
import { median } from '../../ts/cli/bench/statistics';
import { onnxModel } from '../../ts/cli/peers/onnxModel';
import { DOMAIN, loadRuntime, sessionOptions } from '../../ts/cli/peers/onnxruntime';
import type { RecurrentState } from '../../ts/index';
import { createState, info, recurrenceSync, setNumThreads } from '../../ts/index';

const LAYERS = 64;
// What a float32 answer of another implementation may be off by, to count as the same answer.
const PEER_LIMIT = 1e-4;

const CELLS: { rule: string; gate: Gate; update: Update }[] = [
  { rule: 'linear', gate: 'none', update: 'additive' },
  { rule: 'gated', gate: 'token', update: 'additive' },
  { rule: 'gated', gate: 'channel', update: 'additive' },
  { rule: 'delta', gate: 'none', update: 'delta' },
  { rule: 'gated_delta', gate: 'token', update: 'delta' },
  { rule: 'gated_delta', gate: 'channel', update: 'delta' },
];

const SHAPES = [
  { H: 16, K: 64 },
  { H: 8, K: 128 },
];

type Cell = (typeof CELLS)[number];
type Shape = (typeof SHAPES)[number] & { T: number };

interface Row {
  rule: string;
  gate: Gate;
  K: number;
  T: number;
  /** Nanoseconds per token and head, medians. */
  rankone: number;
  onnxruntime: number;
  ratio: number;
}

interface Contender {
  /** One run; the result is that of the first layer. */
  run: () => Promise<{ o: Float32Array; finalState: Float32Array }>;
  close: () => Promise<void>;
}

function loadPeer(): ReturnType<typeof loadRuntime> {
  try {
    return loadRuntime();
  } catch (error) {
    console.error(`onnxruntime: ${(error as Error).message}`);
    process.exit(2);
  }
}

/** `count` nodes, each with a state of its own, the queries of one being the outputs of the last. */
async function peerOf(
  ort: any,
  { rule }: Cell,
  { H, K, T }: Shape,
  problem: Problem,
  count: number,
): Promise<Contender> {
  const wide = [1, T, H * K];
  const feeds: Record<string, any> = {};
  const feed = (name: string, data: Float32Array, shape: number[]) => {
    feeds[name] = new ort.Tensor('float32', data, shape);
    return { name, shape };
  };
  const { q, k, v, g, beta } = problem;
  const inputs = [feed('q', q.data, wide), feed('k', k.data, wide), feed('v', v.data, wide)];
  if (g) inputs.push(feed('g', g.data, [1, T, g.data.length / T]));
  if (beta) inputs.push(feed('beta', beta.data, [1, T, H]));
  const layers = Array.from({ length: count }, (_, i) => i);
  const stateShape = [1, H, K, K];
  const model = onnxModel(
    {
      nodes: layers.map((i) => ({
        op: 'LinearAttention',
        domain: DOMAIN,
        inputs: [i ? `o${i - 1}` : 'q', 'k', 'v', `s${i}`, g ? 'g' : '', beta ? 'beta' : ''],
        outputs: [`o${i}`, `f${i}`],
        attributes: { update_rule: rule, q_num_heads: H, kv_num_heads: H },
      })),
      initializers: layers.map((i) => {
        return { name: `s${i}`, shape: stateShape, data: problem.initialState!.data };
      }),
      inputs,
      outputs: [
        { name: 'o0', shape: wide },
        { name: 'f0', shape: stateShape },
        ...(count > 1 ? [{ name: `o${count - 1}`, shape: wide }] : []),
      ],
    },
    [DOMAIN],
  );
  const session = await ort.InferenceSession.create(model, sessionOptions(1));
  return {
    run: async () => {
      const { o0, f0 } = await session.run(feeds);
      return { o: o0.data, finalState: f0.data };
    },
    close: () => session.release(),
  };
}

function ownOf({ H, K }: Shape, problem: Problem, count: number): Contender {
  const { dO: _dO, initialState, initialZ: _, ...inputs } = problem;
  if (count === 1) {
    return {
      run: async () => {
        const given = { ...inputs, initialState };
        const { o, finalState } = recurrenceSync(given, { outputFinalState: true });
        return { o: o.data, finalState: finalState!.data };
      },
      close: async () => {},
    };
  }
  const states: RecurrentState[] = Array.from({ length: count }, () => {
    const state = createState({ batch: 1, valueHeads: H, keyDim: K, valueDim: K });
    state.copyFrom(initialState!);
    return state;
  });
  let first = true;
  return {
    run: async () => {
      let q = inputs.q;
      let o = new Float32Array();
      states.forEach((state, i) => {
        const result = recurrenceSync({ ...inputs, q, state });
        q = { data: result.o.data, shape: inputs.q.shape };
        if (i === 0) o = result.o.data as Float32Array<ArrayBuffer>;
      });
      // Copied for the check only, which is the first run.
      const finalState = first ? states[0].toTensor().data : new Float32Array();
      first = false;
      return { o, finalState };
    },
    close: async () => {
      for (const state of states) state.dispose();
    },
  };
}

async function measure(ort: any, cell: Cell, shape: Shape, runs: number): Promise<Row> {
  const { H, K, T } = shape;
  const count = T === 1 ? LAYERS : 1;
  const { gate, update, rule } = cell;
  const spec = { B: 1, T, H, K, V: K, gate, update, withInitialState: true, seed: 77 };
  const problem = makeProblem(spec);
  const expected = forward(problem);
  const contenders = {
    rankone: ownOf(shape, problem, count),
    onnxruntime: await peerOf(ort, cell, shape, problem, count),
  };
  const times: Record<string, number[]> = { rankone: [], onnxruntime: [] };
  for (const [name, { run }] of Object.entries(contenders)) {
    const result = await run();
    for (const output of ['o', 'finalState'] as const) {
      const own = rowFor(output, T);
      const row = name === 'rankone' ? own : { ...own, limit: PEER_LIMIT };
      const { data, shape: outputShape } = expected[output];
      expectWithin(`${name} ${rule} ${gate}: ${output}`, result[output], data, outputShape, row);
    }
  }
  // The first rounds warm caches and allocators up.
  for (let round = -3; round < runs; round++) {
    for (const [name, { run }] of Object.entries(contenders)) {
      const start = performance.now();
      await run();
      if (round >= 0) times[name].push(((performance.now() - start) * 1e6) / (T * H * count));
    }
  }
  for (const { close } of Object.values(contenders)) await close();
  const [rankone, onnxruntime] = [median(times.rankone), median(times.onnxruntime)];
  return { rule, gate, K, T, rankone, onnxruntime, ratio: onnxruntime / rankone };
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      runs: { type: 'string', default: '21' },
      json: { type: 'boolean' },
      check: { type: 'boolean' },
    },
  });
  const runs = Number(values.runs);
  if (!(runs >= 15)) throw new RangeError(`--runs: expected at least 15, got ${values.runs}`);
  const { runtime: ort, version: installed } = loadPeer();
  setNumThreads(1);
  const peer = `onnxruntime-node ${installed}`;
  const { version, isa } = info();
  console.log(`rankone ${version} (${isa}) beside ${peer}, one thread, ${os.cpus()[0].model}`);
  console.log(
    `ns per token and head, medians of ${runs} runs in turns; ratio > 1: rankone faster\n`,
  );
  console.log('rule          gate        K=V     T     rankone  onnxruntime   ratio');
  const rows: Row[] = [];
  for (const T of [512, 1]) {
    for (const shape of SHAPES) {
      for (const cell of CELLS) {
        const row = await measure(ort, cell, { ...shape, T }, runs);
        rows.push(row);
        console.log(
          row.rule.padEnd(14) +
            row.gate.padEnd(10) +
            String(row.K).padStart(5) +
            String(row.T).padStart(6) +
            row.rankone.toFixed(0).padStart(12) +
            row.onnxruntime.toFixed(0).padStart(13) +
            row.ratio.toFixed(2).padStart(8),
        );
      }
    }
  }
  if (values.json) {
    const folder = path.join(__dirname, '../results');
    mkdirSync(folder, { recursive: true });
    const file = path.join(folder, 'onnxruntime.json');
    const report = { version, isa, peer, cpu: os.cpus()[0].model, runs, threads: 1, rows };
    writeFileSync(file, `${JSON.stringify(report, null, 2)}\n`);
    console.log(`\nwritten to ${path.relative(process.cwd(), file)}`);
  }
  const slower = rows.filter(({ T, ratio }) => T === 512 && ratio < 1);
  if (slower.length) {
    const names = slower.map(({ rule, gate, K }) => `${rule} ${gate} K=${K}`).join(', ');
    console.log(`\nslower than the peer at T = 512: ${names}`);
    if (values.check) process.exitCode = 1;
  }
}

main().catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
