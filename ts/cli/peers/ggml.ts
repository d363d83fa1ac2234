/**
 * ggml, from the package of its binaries that node-llama-cpp installs. Its recurrences are float32, token by token, with
 * as many value columns as key rows (Mamba-2's scan aside); products take weights in the case's type and float32 rows.
 *
 *   additive cells   gated_linear_attn, whose gate is per key and a factor: exp(g), 1 where there is none
 *   delta cells      gated_delta_net, gate 0 where there is none; state [V,K], scale 1 / sqrt(V) inside
 *   mamba2           dt + bias, ssm_scan (softplus inside; state [P,N]), + D x: the graph of llama.cpp
 *   matmul           mul_mat
 */
import fs from 'node:fs';
import path from 'node:path';
import type { Tensor32 } from '#oracle/support/tensor';
import { zeros32 } from '#oracle/support/tensor';
import type { Case } from '../benchCase';
import type { References, Tensors } from '../operation';
import { howToGet, packageFolder, resolvePackage } from './packages';
import type { Peer, PeerCase } from './peer';
import type { Grid } from './problem';
import { divided, factorType, gridOf, kindOf, map, spread, transposed } from './problem';
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

function objection({ op, pass, shape, dtype }: Case): string | undefined {
  const kind = kindOf(op);
  if (kind.family === 'none') return kind.why;
  if (pass === 'backward') return 'no backward';
  if (kind.family === 'matmul') return undefined;
  if (dtype !== 'f32') return 'recurrences in f32 only';
  if (kind.family === 'hgrn2') return 'no keys made of gates';
  if (kind.family === 'grid' && shape.K !== shape.V) return 'states with K = V only';
  return undefined;
}

async function openCase(
  server: Server,
  one: Case,
  inputs: Tensors,
  threads: number,
): Promise<PeerCase> {
  const { settings, tensors, results } = mappingOf(one, inputs);
  await server.open({ ...settings, threads, dtype: factorType(one) }, tensors);
  return {
    results: async () => results(await server.results()),
    time: (runs) => server.time(runs),
    close: () => server.close(),
  };
}

function mappingOf({ op }: Case, inputs: Tensors): Mapping {
  const kind = kindOf(op);
  if (kind.family === 'grid') {
    const grid = gridOf(op, inputs);
    return kind.update === 'delta' ? gatedDeltaNet(grid) : gatedLinearAttention(grid);
  }
  if (kind.family === 'mamba2') return ssmScan(inputs as Record<string, Tensor32>);
  const { a, b, bias } = inputs;
  const y = [a.shape[0], b.shape[0]];
  return {
    settings: { op: 'mul_mat' },
    tensors: { a, b, ...(bias && { bias }) },
    results: (own) => divided(own.y!, { y }),
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
