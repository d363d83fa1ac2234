/**
 * onnxruntime-node, in this process: the operators LinearAttention, Attention and MatMul, each alone in a model. Float32
 * on the CPU.
 * A gate per head is given as one per token, which is what the operator has. The weights of a product are a constant of
 * the model, which the runtime packs when the session is made.
 */
import fs from 'node:fs';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Tensor32 } from '#oracle/support/tensor';
import type { Case } from '../benchCase';
import type { References, Tensors } from '../operation';
import type { Graph } from './onnxModel';
import { onnxModel } from './onnxModel';
import { howToGet, packageFolder, resolvePackage } from './packages';
import type { Peer, PeerCase } from './peer';
import {
  factorsOf,
  factorType,
  gridOf,
  headsFirst,
  kindOf,
  objectionToProduct,
  transposed,
  weightCopies,
} from './problem';
import { REST } from './server';

const PACKAGE = 'onnxruntime-node';
export const DOMAIN = 'com.microsoft';

/** As much of the package as is used. */
interface Runtime {
  Tensor: new (type: string, data: Float32Array, shape: readonly number[]) => RuntimeTensor;
  InferenceSession: { create(model: Uint8Array, options: object): Promise<Session> };
}

interface RuntimeTensor {
  data: Float32Array;
  dims: readonly number[];
}

interface Session {
  run(feeds: Record<string, RuntimeTensor>): Promise<Record<string, RuntimeTensor>>;
  release(): Promise<void>;
}

/** The package and its version. @throws Error that says what is missing */
export function loadRuntime(): { runtime: Runtime; version: string } {
  const file = resolvePackage(PACKAGE);
  if (!file) throw new Error(howToGet(PACKAGE));
  const manifest = path.join(packageFolder(PACKAGE, file), 'package.json');
  const { version } = JSON.parse(fs.readFileSync(manifest, 'utf8'));
  return { runtime: require(file), version };
}

export function sessionOptions(threads: number): object {
  return {
    executionProviders: ['cpu'],
    intraOpNumThreads: threads,
    interOpNumThreads: 1,
    executionMode: 'sequential',
    logSeverityLevel: 3,
  };
}

export async function findOnnxruntime(): Promise<Peer> {
  const { runtime, version } = loadRuntime();
  return {
    name: 'onnxruntime',
    version: `${PACKAGE} ${version}`,
    objection,
    open: (one, inputs, threads) => openCase(runtime, one, inputs, threads),
  };
}

function objection(one: Case): string | undefined {
  const { op, pass } = one;
  const kind = kindOf(op);
  if (kind.family === 'none') return kind.why;
  if (kind.family === 'mamba2' || kind.family === 'hgrn2') return 'no such operator';
  if (kind.family === 'lora') return objectionToProduct(one);
  if (pass === 'backward') return 'no backward';
  const { T, S } = one.shape;
  // Its mask counts from the first key, so that a query sees the keys of its own number.
  if (kind.family === 'attention' && T > 1 && T !== S) return 'no queries behind keys';
  return factorType(one) === 'f32' ? undefined : 'f32 only';
}

interface Result {
  name: string;
  shape: readonly number[];
  /** It has heads before tokens. */
  turned?: boolean;
}

/** A model, what it is fed, and the names of its outputs among the operation's results. */
interface Setting {
  model: Uint8Array;
  feeds: Record<string, Tensor32>;
  results: Record<string, Result>;
}

async function openCase(
  { Tensor, InferenceSession }: Runtime,
  one: Case,
  inputs: Tensors,
  threads: number,
): Promise<PeerCase> {
  const { model, feeds, results } = settingOf(one, inputs);
  const sessions: Session[] = [];
  for (let i = 0; i < weightCopies(one, 4); i++)
    sessions.push(await InferenceSession.create(model, sessionOptions(threads)));
  let turn = 0;
  const given = Object.fromEntries(
    Object.entries(feeds).map(([name, { data, shape }]) => [
      name,
      new Tensor('float32', data, shape),
    ]),
  );
  return {
    results: async () => {
      const own = await sessions[0].run(given);
      const named = Object.entries(results).map(([output, { name, shape, turned }]) => {
        const tensor = { data: own[output].data, shape };
        return [name, turned ? headsFirst(tensor) : tensor];
      });
      return Object.fromEntries(named) as References;
    },
    time: async (runs) => {
      const times: number[] = [];
      for (let i = 0; i < runs; i++) {
        const start = process.hrtime.bigint();
        await sessions[turn++ % sessions.length].run(given);
        times.push(Number(process.hrtime.bigint() - start));
      }
      if (threads > 1) await sleep(REST);
      return times;
    },
    close: async () => {
      for (const session of sessions) await session.release();
    },
  };
}

function settingOf(one: Case, inputs: Tensors): Setting {
  switch (kindOf(one.op).family) {
    case 'matmul':
    case 'lora':
      return matMul(factorsOf(one, inputs) as Record<string, Tensor32>);
    case 'attention':
      return attention(inputs);
    default:
      return linearAttention(one.op, inputs);
  }
}

function attention(inputs: Tensors): Setting {
  const feeds = Object.fromEntries(['q', 'k', 'v'].map((name) => [name, headsFirst(inputs[name])]));
  const [B, H, T] = feeds.q.shape;
  const shape = [B, H, T, feeds.v.shape[3]];
  const graph: Graph = {
    nodes: [
      {
        op: 'Attention',
        domain: '',
        inputs: ['q', 'k', 'v'],
        outputs: ['o'],
        attributes: { is_causal: T > 1 ? 1 : 0 },
      },
    ],
    initializers: [],
    inputs: Object.entries(feeds).map(([name, { shape }]) => ({ name, shape })),
    outputs: [{ name: 'o', shape }],
    opset: 23,
  };
  return { model: onnxModel(graph), feeds, results: { o: { name: 'o', shape, turned: true } } };
}

function linearAttention(op: Case['op'], inputs: Tensors): Setting {
  const { B, T, HV, K, V, q, k, v, g, beta, initialState } = gridOf(op, inputs);
  const wide = ({ data }: Tensor32): Tensor32 => ({ data, shape: [B, T, data.length / (B * T)] });
  const feeds: Record<string, Tensor32> = {
    q: wide(q),
    k: wide(k),
    v: wide(v),
    state: initialState,
    ...(g && { g: wide(g) }),
    ...(beta && { beta: wide(beta) }),
  };
  const rule = g ? (beta ? 'gated_delta' : 'gated') : beta ? 'delta' : 'linear';
  const outputs = [
    { name: 'o', shape: [B, T, HV * V] },
    { name: 'final', shape: [B, HV, K, V] },
  ];
  const graph: Graph = {
    nodes: [
      {
        op: 'LinearAttention',
        domain: DOMAIN,
        inputs: ['q', 'k', 'v', 'state', g ? 'g' : '', beta ? 'beta' : ''],
        outputs: ['o', 'final'],
        attributes: { update_rule: rule, q_num_heads: HV, kv_num_heads: HV },
      },
    ],
    initializers: [],
    inputs: Object.entries(feeds).map(([name, { shape }]) => ({ name, shape })),
    outputs,
  };
  return {
    model: onnxModel(graph, [DOMAIN]),
    feeds,
    results: {
      o: { name: 'o', shape: v.shape },
      final: { name: 'finalState', shape: initialState.shape },
    },
  };
}

function matMul({ a, b, bias }: Record<string, Tensor32>): Setting {
  const shape = [a.shape[0], b.shape[0]];
  const product = bias ? 'product' : 'y';
  const graph: Graph = {
    nodes: [
      { op: 'MatMul', domain: '', inputs: ['a', 'b'], outputs: [product], attributes: {} },
      ...(bias
        ? [{ op: 'Add', domain: '', inputs: [product, 'bias'], outputs: ['y'], attributes: {} }]
        : []),
    ],
    initializers: [{ name: 'b', ...transposed(b) }, ...(bias ? [{ name: 'bias', ...bias }] : [])],
    inputs: [{ name: 'a', shape: a.shape }],
    outputs: [{ name: 'y', shape }],
  };
  return { model: onnxModel(graph), feeds: { a }, results: { y: { name: 'y', shape } } };
}
