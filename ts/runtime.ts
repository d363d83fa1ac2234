import { binding, type CudaDevice, description } from './binding';
import { cudaLibrary } from './cuda';
import { show, typeError } from './errors';

/** The package's version. */
export const version: string = require('../package.json').version;

/**
 * How many threads the engine computes with, the caller's included. At the start it is the value of the environment
 * variable RANKONE_NUM_THREADS, else the number of processors.
 */
export function getNumThreads(): number {
  return binding.getNumThreads();
}

/**
 * Sets the number of threads, for the whole process. Results do not depend on it, bit for bit.
 * @param n 1 to 1024
 * @throws TypeError or RangeError for anything else
 */
export function setNumThreads(n: number): void {
  if (typeof n !== 'number')
    throw typeError('setNumThreads', `n: expected an integer from 1 to 1024, got ${show(n)}`);
  binding.setNumThreads(n);
}

/** CUDA as {@link info} reports it. */
export interface CudaInfo {
  /** In the order of their numbers; none where CUDA is unavailable. */
  devices: CudaDevice[];
  /** The file of the backend; absent where CUDA is unavailable. */
  library?: string;
  /** Why CUDA is unavailable. */
  reason?: string;
}

/** What {@link info} returns. */
export interface EngineInfo {
  /** The package's version. */
  version: string;
  /** The instruction set in use: the widest available one, or the one that RANKONE_ISA names. */
  isa: string;
  /** Instruction sets that this build and this machine have. */
  availableIsas: string[];
  /** See {@link getNumThreads}. */
  threads: number;
  /** Opens the CUDA backend where there is one. */
  cuda: CudaInfo;
}

function cudaInfo(): CudaInfo {
  try {
    const { path, devices } = cudaLibrary('info');
    return { devices: devices.map((device) => ({ ...device })), library: path };
  } catch (error) {
    return { devices: [], reason: (error as Error).message.replace(/^\[info\] /, '') };
  }
}

/** The engine and what it runs on. */
export function info(): EngineInfo {
  return {
    version,
    isa: description.isa,
    availableIsas: [...description.availableIsas],
    threads: binding.getNumThreads(),
    cuda: cudaInfo(),
  };
}
