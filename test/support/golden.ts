/** The golden vectors as calls: arguments, options, and the outputs and gradients expected. */
import { readdirSync } from 'node:fs';
import path from 'node:path';
import type { StoredTensor } from './safetensors.ts';
import { readSafetensors } from './safetensors.ts';
import type { Tensor32, Tensor64 } from './tensor.ts';

export interface Golden {
  name: string;
  /** The file's op: linear_attention, retention, gla, ... */
  op: string;
  numHouseholder: number;
  inputs: {
    q: Tensor32;
    k: Tensor32;
    v: Tensor32;
    g?: Tensor32;
    beta?: Tensor32;
    initialState?: Tensor32;
  };
  /** Only in files with fused activations, where sigmoid2 and qkL2norm apply too. */
  gate?: { aLog: Tensor32; dtBias: Tensor32 };
  dO: Tensor32;
  dFinalState?: Tensor32;
  /** o, finalState, dq, dk, dv, dg, dbeta, dInitialState, dALog, dDtBias as far as present. */
  expected: Record<string, Tensor64>;
}

const folder = path.join(__dirname, '../fixtures/golden');

const expectedNames: Record<string, string> = {
  o: 'o',
  ht: 'finalState',
  dq: 'dq',
  dk: 'dk',
  dv: 'dv',
  dg: 'dg',
  dbeta: 'dbeta',
  dh0: 'dInitialState',
  daLog: 'dALog',
  ddtBias: 'dDtBias',
};

export function goldenFiles(): string[] {
  return readdirSync(folder)
    .filter((name) => name.endsWith('.safetensors'))
    .sort();
}

export function loadGolden(file: string): Golden {
  const { tensors, metadata } = readSafetensors(path.join(folder, file));
  const input = (name: string): Tensor32 | undefined => {
    const tensor = tensors.get(name);
    return tensor && float32(file, name, tensor);
  };
  const required = (name: string): Tensor32 => {
    const tensor = input(name);
    if (!tensor) throw new Error(`${file}: no tensor ${name}`);
    return tensor;
  };
  const expected: Record<string, Tensor64> = {};
  for (const [stored, argument] of Object.entries(expectedNames)) {
    const tensor = tensors.get(stored);
    if (!tensor) continue;
    if (!(tensor.data instanceof Float64Array)) throw new TypeError(`${file}: ${stored} not F64`);
    expected[argument] = { data: tensor.data, shape: tensor.shape };
  }
  const inputs: Golden['inputs'] = { q: required('q'), k: required('k'), v: required('v') };
  const optional = { g: input('g'), beta: input('beta'), initialState: input('h0') };
  for (const key of ['g', 'beta', 'initialState'] as const) {
    if (optional[key]) inputs[key] = optional[key];
  }
  const golden: Golden = {
    name: file.replace('.safetensors', ''),
    op: metadata.op,
    numHouseholder: Number(metadata.num_householder),
    inputs,
    dO: required('do'),
    expected,
  };
  const dFinalState = input('dht');
  if (dFinalState) golden.dFinalState = dFinalState;
  if (tensors.has('aLog')) golden.gate = { aLog: required('aLog'), dtBias: required('dtBias') };
  return golden;
}

function float32(file: string, name: string, tensor: StoredTensor): Tensor32 {
  if (!(tensor.data instanceof Float32Array)) throw new TypeError(`${file}: ${name} is not F32`);
  return { data: tensor.data, shape: tensor.shape };
}
