import { binding, description } from './binding';
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
}

/** The engine and what it runs on. */
export function info(): EngineInfo {
  return {
    version,
    isa: description.isa,
    availableIsas: [...description.availableIsas],
    threads: binding.getNumThreads(),
  };
}
