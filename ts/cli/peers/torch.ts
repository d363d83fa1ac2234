/**
 * PyTorch on the CPU in a Python of the system: products, attention, and the recurrences in their papers' plain chunked
 * form, which bench/peers/torch_peer.py writes out. A backward is autograd's alone: the graph of the forward is kept.
 */
import path from 'node:path';
import { zeros32 } from '#oracle/support/tensor';
import type { Case } from '../benchCase';
import type { Operation, Tensors } from '../operation';
import { blasEnvironment, coreTypes } from './openblas';
import type { Peer } from './peer';
import { factorType, fixedGate, kindOf } from './problem';
import { sources } from './program';
import { Server } from './server';

const KEPT_MEMORY = String(2 ** 30);
const SCRIPT = path.join(sources, 'torch_peer.py');

export async function findTorch(): Promise<Peer> {
  const named = process.env.RANKONE_PYTHON;
  // The system's first: where one of a user's own comes before it on the path, Debian's torch is not in that.
  const candidates = named ? [named] : ['/usr/bin/python3', 'python3', 'python'];
  const reasons: string[] = [];
  for (const file of candidates) {
    const start = (threads: number): Server =>
      new Server({ name: 'torch', file, args: [SCRIPT], env: environment(threads) });
    const probe = start(1);
    try {
      const { version } = await probe.hello();
      return {
        name: 'torch',
        version,
        objection,
        open: async (one, inputs, threads) => {
          const server = start(threads);
          await server.open(settingsOf(one, threads), argumentsOf(one.op, inputs));
          return server;
        },
      };
    } catch (error) {
      reasons.push(`${file}: ${(error as Error).message.replace(/^torch: /, '')}`);
    } finally {
      await probe.close();
    }
  }
  throw new Error(
    `no Python with torch (${reasons.join('; ')}); install one, on Debian python3-torch, or name the interpreter in RANKONE_PYTHON`,
  );
}

/** OpenBLAS beneath it has threads of its own, whose number torch does not set. */
function environment(threads: number): NodeJS.ProcessEnv {
  const count = String(threads);
  return {
    // The last is the one that old versions have too.
    ...blasEnvironment(coreTypes().at(-1)),
    OMP_NUM_THREADS: count,
    OPENBLAS_NUM_THREADS: count,
    MKL_NUM_THREADS: count,
    // Tensors of some hundred kilobytes else go back to the system after every operation, and are cleared page by page.
    MALLOC_MMAP_THRESHOLD_: KEPT_MEMORY,
    MALLOC_TRIM_THRESHOLD_: KEPT_MEMORY,
    // The package's folder may be read-only.
    PYTHONDONTWRITEBYTECODE: '1',
  };
}

function objection(one: Case): string | undefined {
  const kind = kindOf(one.op);
  const dtype = factorType(one);
  if (kind.family === 'none') return kind.why;
  if (kind.family === 'lora') return 'no such operation';
  if (kind.family === 'matmul') return dtype === 'f16' ? 'no f16 on the CPU' : undefined;
  return dtype === 'f32' ? undefined : 'recurrences and attention in f32 only';
}

function settingsOf(one: Case, threads: number): Record<string, string | number> {
  return { op: kindOf(one.op).family, pass: one.pass, dtype: factorType(one), threads };
}

/** What the operation is given, with the gate that a paper fixes, and a state to start from. */
function argumentsOf(op: Operation, inputs: Tensors): Tensors {
  const { family } = kindOf(op);
  if (family === 'matmul' || family === 'attention') return inputs;
  const [v, k] = family === 'mamba2' ? [inputs.x, inputs.B] : [inputs.v, inputs.q];
  const [B, , HV, V] = v.shape;
  const g = fixedGate(op, HV);
  const initialState = inputs.initialState ?? zeros32([B, HV, k.shape[3], V]);
  return { ...inputs, ...(g && { g }), initialState };
}
