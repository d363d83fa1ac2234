/** The answers of the benchmark's peers, those that are present here. */
import { spawnSync } from 'node:child_process';
import path from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { Case } from '../../ts/cli/benchCase';
import { fractionOfLimit, makeProblem } from '../../ts/cli/check';
import type { Dtype } from '../../ts/cli/dtype';
import type { Pass, Shape, Tensors } from '../../ts/cli/operation';
import { shapeText } from '../../ts/cli/operation';
import { findOperations } from '../../ts/cli/ops';
import { findPeers, peerNames } from '../../ts/cli/peers';
import type { Missing, Peer } from '../../ts/cli/peers/peer';

const peers = suite('peers: answers');

const GROUPED: Shape = { B: 2, T: 70, H: 2, HV: 4, K: 32, V: 32 };
const TOKEN: Shape = { B: 2, T: 1, H: 1, HV: 3, K: 48, V: 48 };
const OBLONG: Shape = { B: 1, T: 9, H: 1, HV: 2, K: 32, V: 64 };
const PROMPT: Shape = { B: 2, T: 70, S: 70, H: 4, HKV: 2, K: 32, V: 32 };
const BEHIND: Shape = { ...PROMPT, T: 9 };
const NEXT: Shape = { ...PROMPT, T: 1 };
const WITHOUT: Shape = { M: 5, N: 33, K: 64, r: 0, E: 0 };
const ADAPTED: Shape = { M: 5, N: 33, K: 64, r: 6, E: 1 };
const BASES = ['lora/f32', 'bf16/lora/bf16', 'bf16/lora/f16', 'bf16/lora/q8', 'bf16/lora/q4'];
const PRODUCT: Shape = { M: 5, N: 33, K: 64 };
// Of what rankone itself may be off by.
const ALLOWED = 10;

const CELLS = ['none', 'head', 'token', 'channel'].flatMap((gate) => [
  `${gate}/additive`,
  `${gate}/delta`,
]);

const GRADIENTS = ['none/additive', 'token/delta', 'channel/additive', 'channel/delta'];

interface Tried {
  ops: string[];
  pass: Pass;
  shape: Shape;
  dtype?: Dtype;
  /** In turns few rows go through copies of the weights. */
  turns?: string;
}

const TRIED: Tried[] = [
  { ops: [...CELLS, 'mamba2'], pass: 'forward', shape: GROUPED },
  { ops: ['hgrn2'], pass: 'forward', shape: { ...GROUPED, HV: 2 } },
  {
    ops: ['retention', 'lightningAttention', 'token/delta', 'mamba2'],
    pass: 'forward',
    shape: OBLONG,
  },
  {
    ops: ['none/additive', 'channel/delta', 'token/delta', 'mamba2'],
    pass: 'decode',
    shape: TOKEN,
  },
  { ops: [...GRADIENTS, 'mamba2'], pass: 'backward', shape: GROUPED },
  { ops: ['hgrn2'], pass: 'backward', shape: { ...GROUPED, HV: 2 } },
  { ops: ['attention'], pass: 'forward', shape: PROMPT },
  { ops: ['attention'], pass: 'forward', shape: BEHIND },
  { ops: ['attention/token'], pass: 'forward', shape: NEXT },
  { ops: ['attention'], pass: 'forward', shape: PROMPT, dtype: 'bf16' },
  { ops: ['attention'], pass: 'forward', shape: PROMPT, dtype: 'f16' },
  { ops: ['attention'], pass: 'backward', shape: PROMPT },
  { ops: ['attention'], pass: 'backward', shape: BEHIND },
  { ops: ['matmul'], pass: 'forward', shape: PRODUCT },
  { ops: ['matmul'], pass: 'forward', shape: PRODUCT, dtype: 'bf16' },
  { ops: ['matmul'], pass: 'forward', shape: PRODUCT, dtype: 'f16' },
  { ops: ['matmul'], pass: 'backward', shape: PRODUCT },
  // Products of rounded factors, whatever these came in.
  { ops: ['bf16/matmul'], pass: 'forward', shape: PRODUCT },
  { ops: ['bf16/matmul'], pass: 'backward', shape: PRODUCT },
  { ops: BASES, pass: 'forward', shape: WITHOUT },
  { ops: BASES, pass: 'forward', shape: ADAPTED },
  { ops: BASES, pass: 'forward', shape: WITHOUT, turns: 'few rows' },
  { ops: BASES.slice(1), pass: 'forward', shape: ADAPTED, dtype: 'bf16', turns: 'few rows' },
];

/** How many cases each peer must have computed: fewer would mean that it refuses what it has. */
const EXPECTED: Record<string, number> = { onnxruntime: 19, ggml: 42, openblas: 4, torch: 34 };

/** With everything that peers take, and without what the operation may do without. */
function variantsOf({ sinks, gate, ...given }: Tensors): Tensors[] {
  const { initialState, bias, ...bare } = given;
  return initialState || bias ? [given, bare] : [given];
}

async function compare(peer: Peer, one: Case, threads: number): Promise<void> {
  const { op, pass, shape, dtype } = one;
  const label = `${peer.name} ${pass} ${op.name} ${shapeText(shape)} ${dtype}`;
  const { inputs, gradients } = makeProblem(op, shape, dtype);
  for (const given of variantsOf(pass === 'backward' ? { ...inputs, ...gradients } : inputs)) {
    const opened = await peer.open(one, given, threads);
    try {
      const results = await opened.results();
      const expected = pass === 'backward' ? op.backward!(given) : op.forward(given);
      let compared = 0;
      for (const [name, reference] of Object.entries(expected)) {
        if (!reference || !results[name]) continue;
        // The sum of what a peer has rounded, where rankone adds up dY as it came.
        if (name === 'dBias' && op.arithmetic) continue;
        const fraction = fractionOfLimit(results[name], reference, op.row(name, shape, dtype));
        assert.ok(fraction <= ALLOWED, `${label}: ${name} is off by ${fraction} times the limit`);
        compared++;
      }
      assert.ok(compared >= (pass === 'backward' || op.recurrent ? 2 : 1), `${label}: ${compared}`);
      const times = await opened.time(2);
      assert.is(times.length, 2, label);
      assert.ok(
        times.every((x: number) => x > 0),
        `${label}: ${times}`,
      );
    } finally {
      await opened.close();
    }
    // Starting a Python takes a second.
    if (peer.name === 'torch') return;
  }
}

/** Found in a process of its own, since tests are told apart before any of them runs. */
function discover(): { found: string[]; missing: Missing[] } {
  const source = `
    require('./ts/cli/peers').findPeers(${JSON.stringify(peerNames)}).then(({ found, missing }) => {
      console.log(JSON.stringify({ found: found.map(({ name }) => name), missing }));
    });
  `;
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    ['--import', 'tsx', '-e', source],
    { cwd: path.join(__dirname, '../..'), encoding: 'utf8' },
  );
  assert.is(status, 0, stderr);
  return JSON.parse(stdout);
}

const { found, missing } = discover();
for (const { name, reason } of missing) peers.skip(`answers of ${name}: ${reason}`, () => {});
for (const name of found) {
  peers(`answers of ${name}`, async () => {
    const [peer] = (await findPeers([name])).found;
    let computed = 0;
    for (const { ops, pass, shape, dtype = 'f32', turns } of TRIED) {
      for (const op of findOperations(ops)) {
        const one: Case = { op, pass, shape, dtype, mode: 'auto', turns };
        if (op.objection?.(shape) || peer.objection(one)) continue;
        // Two threads now and then: on a busy machine they wait for each other, torch's most of all.
        const several = name === 'torch' ? op.call === 'matmul' : op.name === ops[0];
        await compare(peer, one, several ? 2 : 1);
        computed++;
      }
    }
    assert.ok(computed >= EXPECTED[name], `${computed} cases`);
  });
}

peers.run();
