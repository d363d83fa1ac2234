import os from 'node:os';
import { libc } from '../libc';
import { engine, internals } from './engine';
import { table } from './table';

/** What a result depends on, beside the engine: recorded with every JSON file. */
export interface Machine {
  version: string;
  node: string;
  platform: string;
  arch: string;
  /** Of Linux: `glibc 2.36`, `musl`. */
  libc: string | null;
  processor: string;
  isa: string;
  availableIsas: string[];
  threads: number;
  binary: string;
  cuda: string;
}

/** Whether there is CUDA, and why not. */
export function cudaReport(): string {
  const { devices, library, reason } = engine().info().cuda;
  if (reason !== undefined) return reason;
  const names = devices.map(
    ({ name, computeCapability, memoryBytes, emulated, reason: why }, i) =>
      why ??
      `cuda:${i} ${name} (compute capability ${computeCapability}, ${(memoryBytes / 2 ** 30).toFixed(0)} GiB${emulated ? ', emulated' : ''})`,
  );
  return `${names.join('; ')}; ${library}`;
}

export function machine(): Machine {
  const { version, isa, availableIsas, threads } = engine().info();
  return {
    version,
    ...platform(),
    isa,
    availableIsas,
    threads,
    binary: internals().bindingPath(),
    cuda: cudaReport(),
  };
}

function platform() {
  const [cpu] = os.cpus();
  return {
    node: process.version,
    platform: process.platform as string,
    arch: process.arch as string,
    libc: libc() || null,
    processor: cpu?.model.trim() || 'unknown',
  };
}

/** One line for the head of a table. */
export function headline({ version, isa, processor, threads }: Machine): string {
  return `rankone ${version}, ${isa}, ${threads} thread${threads > 1 ? 's' : ''}, ${processor}`;
}

/** `rankone info`. A package whose addon does not load still says where it stands, and why. */
export function runInfo({ json }: { json?: boolean }): number {
  let known: object;
  let failure: string | undefined;
  try {
    known = machine();
  } catch (error) {
    failure = (error as Error).message;
    known = { version: require('../../package.json').version, ...platform(), error: failure };
  }
  console.log(json ? JSON.stringify(known, null, 2) : table(machineLines(known), 2));
  return failure === undefined ? 0 : 1;
}

/** What is known of a machine, as titles and texts. */
export function machineLines(known: object): string[][] {
  const titles: Record<string, string> = {
    version: 'rankone',
    isa: 'instruction set',
    availableIsas: 'available',
    cuda: 'CUDA',
  };
  return Object.entries(known)
    .filter(([, value]) => value !== null)
    .map(([key, value]) => [
      titles[key] ?? key,
      Array.isArray(value) ? value.join(', ') : String(value),
    ]);
}
