/**
 * ggml, from the package of its binaries that node-llama-cpp installs. Its recurrences are float32, token by token, with
 * as many value columns as key rows (Mamba-2's scan aside); products take weights in the case's type and float32 rows.
 *
 *   additive cells   gated_linear_attn, whose gate is per key and a factor: exp(g), 1 where there is none
 *   delta cells      gated_delta_net, gate 0 where there is none; state [V,K], scale 1 / sqrt(V) inside
 *   mamba2           dt + bias, ssm_scan (softplus inside; state [P,N]), + D x: the graph of llama.cpp
 *   attention        flash_attn_ext, keys and values in the case's type, masks of float16 made before
 *   matmul           mul_mat
 *   LoRA             mul_mat with W, A and B, scale and add, as llama.cpp has them; one adapter
 */
import fs from 'node:fs';
import path from 'node:path';
import type { Tensor32 } from '#oracle/support/tensor';
import { zeros32 } from '#oracle/support/tensor';
import type { WeightFormat } from '../../lora/packedWeight';
import type { Case } from '../benchCase';
import type { References, Tensors } from '../operation';
import { SCALE } from '../ops/lora';
import { howToGet, packageFolder, resolvePackage } from './packages';
import type { Peer, PeerCase } from './peer';
import type { Grid } from './problem';
import {
  divided,
  factorType,
  gridOf,
  headsFirst,
  kindOf,
  map,
  spread,
  transposed,
  weightCopies,
} from './problem';
import { compiled } from './program';
import { Server } from './server';

/** A problem as the program takes it, and its answers as the operation gives them. */
interface Mapping {
  settings: Record<string, string | number>;
  tensors: Tensors;
  results: (own: References) => References;
}

export async function findGgml(): Promise<Peer> {
  if (process.platform !== 'linux') throw new Error('its libraries are opened on Linux only');
  const packageName = `@node-llama-cpp/linux-${process.arch}`;
  const main = resolvePackage(packageName);
  if (!main) throw new Error(howToGet(packageName));
  const home = packageFolder(packageName, main);
  const folder = librariesOf(home);
  const file = compiled('ggml');
  const start = (): Server => new Server({ name: 'ggml', file, args: [folder] });
  const probe = start();
  const { version } = await probe.hello();
  await probe.close();
  const installed = JSON.parse(fs.readFileSync(path.join(home, 'package.json'), 'utf8')).version;
  return {
    name: 'ggml',
    version: `${version} (${packageName} ${installed})`,
    objection,
    open: (one, inputs, threads) => openCase(start(), one, inputs, threads),
  };
}

function librariesOf(home: string): string {
  const bins = path.join(home, 'bins');
  const folders = fs.existsSync(bins) ? fs.readdirSync(bins) : [];
  const found = folders.find((one) => fs.existsSync(path.join(bins, one, 'libggml-base.so')));
  if (found) return path.join(bins, found);
  throw new Error(`no libggml-base.so in the folders of ${bins}; another version of the package?`);
}

function objection(one: Case): string | undefined {
  const { op, pass, shape, dtype } = one;
  const kind = kindOf(op);
  if (kind.family === 'none') return kind.why;
  if (kind.family === 'lora') return loraObjection(one);
  if (pass === 'backward') return 'no backward';
  if (kind.family === 'matmul' || kind.family === 'attention') return undefined;
  if (dtype !== 'f32') return 'recurrences in f32 only';
  if (kind.family === 'hgrn2') return 'no keys made of gates';
  if (kind.family === 'grid' && shape.K !== shape.V) return 'states with K = V only';
  return undefined;
}

/** Bytes of an element of its types of weights, by the formats of a base. */
const LORA_TYPES: Partial<Record<WeightFormat, { name: string; bytes: number }>> = {
  f32: { name: 'f32', bytes: 4 },
  bf16: { name: 'bf16', bytes: 2 },
  f16: { name: 'f16', bytes: 2 },
  q8: { name: 'q8_0', bytes: 34 / 32 },
  q4: { name: 'q4_0', bytes: 18 / 32 },
};

function loraObjection({ op, pass, shape: { E } }: Case): string | undefined {
  const { format, perRow } = op.lora!;
  if (E > 1 || perRow > 1) return 'one adapter';
  if (pass !== 'forward') return 'no backward';
  if (!LORA_TYPES[format]) return `no ${format} weights`;
  // It multiplies float32 by float32, and rounds rows for any other type of weights.
  if (format === 'f32') return op.arithmetic ? 'f32 weights in float32 only' : undefined;
  return op.arithmetic ? undefined : `${format} weights with rounded rows only`;
}

async function openCase(
  server: Server,
  one: Case,
  inputs: Tensors,
  threads: number,
): Promise<PeerCase> {
  const { settings, tensors, results } = mappingOf(one, inputs);
  await server.open({ threads, dtype: factorType(one), ...settings }, tensors);
  return {
    results: async () => results(await server.results()),
    time: (runs) => server.time(runs),
    close: () => server.close(),
  };
}

function mappingOf(one: Case, inputs: Tensors): Mapping {
  const { op } = one;
  const kind = kindOf(op);
  if (kind.family === 'lora') return lora(one, inputs);
  if (kind.family === 'grid') {
    const grid = gridOf(op, inputs);
    return kind.update === 'delta' ? gatedDeltaNet(grid) : gatedLinearAttention(grid);
  }
  if (kind.family === 'mamba2') return ssmScan(inputs as Record<string, Tensor32>);
  if (kind.family === 'attention') return flashAttention(inputs);
  const { a, b, bias } = inputs;
  const y = [a.shape[0], b.shape[0]];
  return {
    settings: { op: 'mul_mat' },
    tensors: { a, b, ...(bias && { bias }) },
    results: (own) => divided(own.y!, { y }),
  };
}

/** Rows of a mask come in multiples of so many, which older versions insist on. */
const MASK_ROWS = 64;

function flashAttention({ q, k, v }: Tensors): Mapping {
  const [B, T, H, K] = q.shape;
  const [S, V] = [k.shape[1], v.shape[3]];
  const mask = zeros32([1, 1, Math.ceil(T / MASK_ROWS) * MASK_ROWS, S]);
  for (let t = 0; t < T; t++) mask.data.fill(-Infinity, t * S + S - T + t + 1, (t + 1) * S);
  return {
    settings: { op: 'flash_attn_ext', scale: K ** -0.5 },
    tensors: {
      q: headsFirst(q),
      k: headsFirst(k),
      v: headsFirst(v),
      ...(T > 1 && { mask }),
    },
    results: (own) => divided(own.o!, { o: [B, T, H, V] }),
  };
}

function lora(one: Case, { x, weight, a, b }: Tensors): Mapping {
  const { name, bytes } = LORA_TYPES[one.op.lora!.format]!;
  const y = [x.shape[0], weight.shape[0]];
  const settings = { dtype: name, copies: weightCopies(one, bytes) };
  const results = (own: References) => divided(own.y!, { y });
  if (!a)
    return { settings: { ...settings, op: 'mul_mat' }, tensors: { a: x, b: weight }, results };
  // A stack of one adapter has its shape but for the first axis.
  const [ofA, ofB] = [a, b].map(({ data, shape }) => ({ data, shape: shape.slice(1) }) as Tensor32);
  return {
    settings: { ...settings, op: 'lora', adapters: one.dtype, scale: SCALE },
    tensors: { x, weight, a: ofA, b: ofB },
    results,
  };
}

function gatedLinearAttention({ B, T, HV, K, V, q, k, v, g, initialState }: Grid): Mapping {
  const factors = g
    ? map(g, Math.exp)
    : { data: new Float32Array(B * T * HV).fill(1), shape: [B, T, HV] };
  const gate = factors.shape.length === 4 ? factors : spread(factors, K);
  // Sequences lie one after the other on the axis of tokens.
  const joined = ({ data, shape }: Tensor32): Tensor32 => ({
    data,
    shape: [B * T, ...shape.slice(2)],
  });
  return {
    settings: { op: 'gated_linear_attn', scale: K ** -0.5 },
    tensors: {
      q: joined(q),
      k: joined(k),
      v: joined(v),
      g: joined(gate),
      state: { data: initialState.data, shape: [B, HV * K * V] },
    },
    results: (own) => divided(own.out!, { o: v.shape, finalState: initialState.shape }),
  };
}

function gatedDeltaNet({ B, T, HV, K, V, q, k, v, g, beta, initialState }: Grid): Mapping {
  const gate = g ?? zeros32([B, T, HV]);
  return {
    settings: { op: 'gated_delta_net' },
    tensors: {
      q,
      k,
      v,
      g: gate.shape.length === 4 ? gate : spread(gate, 1),
      beta: spread(beta!, 1),
      state: transposed(initialState),
    },
    results: (own) => {
      const { o, state } = divided(own.out!, { o: v.shape, state: [B, HV, V, K] });
      return { o, finalState: transposed(state) };
    },
  };
}

function ssmScan({ x, dt, A, B, C, D, dtBias, initialState }: Record<string, Tensor32>): Mapping {
  const [sequences, , HV, P] = x.shape;
  const N = B.shape[3];
  const state = initialState ? transposed(initialState) : zeros32([sequences, HV, P, N]);
  return {
    settings: { op: 'ssm_scan' },
    tensors: {
      x,
      dt,
      B,
      C,
      A: spread(A, 1),
      state,
      ...(D && { D: spread(D, 1) }),
      ...(dtBias && { dtBias }),
    },
    results: (own) => {
      const parts = divided(own.out!, { y: x.shape, state: state.shape });
      const y = own.y ? divided(own.y, { y: x.shape }).y : parts.y;
      return { y, finalState: transposed(parts.state) };
    },
  };
}
