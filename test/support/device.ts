/**
 * CUDA in tests: which library they run with, and calls whose tensors are moved to a device and back.
 *
 * RANKONE_TEST_CUDA chooses: `real`, the backend of RANKONE_CUDA_PATH or of the installed package on a GPU; `emulated`, the
 * one that `npm run build:simt` makes. Without it a GPU is taken where there is one, else the emulator. run.ts builds the
 * emulated library before it starts such tests.
 */
import fs from 'node:fs';
import path from 'node:path';
import { test as uvuTest } from 'uvu';
import * as rankone from '../../ts/index';

const root = path.join(__dirname, '../..');

/** What build:simt makes. */
export const emulatedLibrary = path.join(root, 'build-simt/librankone_cuda_emulated.so');

type Found = { library: string; emulated: boolean; devices: number } | { reason: string };

function choose(): Found {
  const wish = process.env.RANKONE_TEST_CUDA;
  // The first library that opens stays: without a driver that must not be the real one, which may have been built here.
  const driver = ['/dev/nvidiactl', '/dev/dxg'].some((file) => fs.existsSync(file));
  if (wish === 'real' || (wish === undefined && driver)) {
    const { devices, library, reason } = rankone.info().cuda;
    const [first] = devices;
    if (library && (!first.emulated || wish === 'real'))
      return { library, emulated: first.emulated, devices: devices.length };
    if (wish === 'real') return { reason: reason! };
  }
  if (!fs.existsSync(emulatedLibrary)) return { reason: 'npm run build:simt has not been run' };
  process.env.RANKONE_CUDA_PATH = emulatedLibrary;
  process.env.RANKONE_EMULATED_DEVICES = '2';
  const { devices, library, reason } = rankone.info().cuda;
  return library ? { library, emulated: true, devices: devices.length } : { reason: reason! };
}

const found = choose();

/** Whether there is a device, and what of one. */
export const cuda = 'reason' in found ? undefined : found;

if ('reason' in found) console.log(`skipped: ${found.reason}`);

/** uvu's test(), skipped where there is no device. */
export const test: typeof uvuTest =
  'reason' in found
    ? Object.assign((name: string) => uvuTest.skip(name), uvuTest, { run: uvuTest.run })
    : uvuTest;

/** Variables that let another process use the same library. */
export function cudaEnvironment(): NodeJS.ProcessEnv {
  const { library, emulated } = cuda!;
  return {
    RANKONE_CUDA_PATH: library,
    ...(emulated && { RANKONE_EMULATED_DEVICES: process.env.RANKONE_EMULATED_DEVICES }),
  };
}

const MAKERS = ['createState', 'createAdapterBank', 'packWeightSync', 'packQuantisedSync'];

function isTensor(value: any): boolean {
  const { data, shape } = value;
  return ArrayBuffer.isView(data) && !(data instanceof Int32Array) && Array.isArray(shape);
}

/** Something else in the place of every tensor in it; engine-owned objects and typed arrays stay. */
function replaced(value: any, replace: (tensor: any) => unknown): any {
  if (typeof value !== 'object' || value === null || ArrayBuffer.isView(value)) return value;
  if (value instanceof rankone.DeviceTensor || isTensor(value)) return replace(value);
  if (value instanceof Map)
    return new Map([...value].map(([key, inner]) => [key, replaced(inner, replace)]));
  if (Object.getPrototypeOf(value) !== Object.prototype) return value;
  const entries = Object.entries(value);
  return Object.fromEntries(entries.map(([key, inner]) => [key, replaced(inner, replace)]));
}

/** A function of the package that makes what it makes on a device, and computes there from tensors on the CPU. */
export function placed(name: string, f: any, device: rankone.Device): any {
  if (MAKERS.includes(name)) {
    return (first: object, options?: object) =>
      name.startsWith('create') ? f({ ...first, device }) : f(first, { ...options, device });
  }
  if (name === 'packWeight') throw new Error(`${name}: its synchronous form, please`);
  return (inputs: object, options?: any) => {
    const moved: rankone.DeviceTensor[] = [];
    const move = (tensor: any) => {
      if (tensor instanceof rankone.DeviceTensor) return tensor;
      moved.push(rankone.toDeviceSync(tensor, device));
      return moved[moved.length - 1];
    };
    const back = (given: any, results: any): any => {
      const host = replaced(results, (tensor) => {
        const copy = tensor instanceof rankone.DeviceTensor ? tensor.toHostSync() : tensor;
        if (tensor instanceof rankone.DeviceTensor) tensor.dispose();
        return copy;
      });
      for (const [key, tensor] of Object.entries<any>(given?.out ?? {})) {
        if (!host[key]) continue;
        tensor.data.set(host[key].data);
        host[key] = tensor;
      }
      return host;
    };
    const end = (): void => {
      for (const tensor of moved) tensor.dispose();
    };
    let pending: Promise<unknown> | undefined;
    try {
      const results = f(replaced(inputs, move), options && replaced(options, move));
      if (typeof results?.then !== 'function') return back(options, results);
      pending = results.then((settled: any) => back(options, settled)).finally(end);
      return pending;
    } finally {
      if (!pending) end();
    }
  };
}
