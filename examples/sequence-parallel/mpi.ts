/** MPI where it is installed: finds it, builds the addon over it, and starts programs with it. */
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, statSync } from 'node:fs';
import path from 'node:path';
import type { Communicator } from './communicator.ts';

const folder = path.join(__dirname, 'mpi');
const addon = path.join(folder, 'build', 'Release', 'mpi.node');

interface Addon {
  init(): { rank: number; size: number };
  allGather(part: Float32Array, all: Float32Array): void;
  barrier(): void;
  finalize(): void;
}

/** What mpirun says of itself; or why there is no MPI. */
export function findMpi(): { version: string } | { missing: string } {
  const hint = 'Debian and Ubuntu: apt-get install openmpi-bin libopenmpi-dev';
  const found = spawnSync('mpirun', ['--version'], { encoding: 'utf8' });
  if (found.status !== 0) return { missing: `there is no mpirun (${hint})` };
  if (spawnSync('mpicxx', ['--version']).status !== 0)
    return { missing: `there is mpirun, but no mpicxx to build the addon with (${hint})` };
  return { version: found.stdout.split('\n')[0].trim() };
}

/** Builds the addon unless it is newer than its source; throws with the compiler's words. */
export function buildAddon(): void {
  const age = (file: string) => (existsSync(file) ? statSync(file).mtimeMs : 0);
  const sources = ['addon.cpp', 'CMakeLists.txt'].map((name) => age(path.join(folder, name)));
  if (age(addon) > Math.max(...sources)) return;
  const cmake = require.resolve('cmake-js/bin/cmake-js');
  const args = [cmake, 'build', '--directory', folder, '--out', path.join(folder, 'build')];
  const { status, stdout, stderr } = spawnSync(process.execPath, args, { encoding: 'utf8' });
  if (status !== 0) throw new Error(`the MPI addon does not build:\n${stdout}${stderr}`);
}

/** In a rank that mpirun has started: the communicator of all of them. */
export function overMpi(): Communicator {
  const mpi = require(addon) as Addon;
  const { rank, size } = mpi.init();
  return {
    rank,
    size,
    async allGather(part) {
      const all = new Float32Array(size * part.length);
      mpi.allGather(part, all);
      return all;
    },
    barrier: async () => mpi.barrier(),
    close: () => mpi.finalize(),
  };
}

/** Runs a program as `size` ranks, with what Open MPI wants where that is who mpirun is. */
export async function runMpi(
  size: number,
  program: string,
  args: string[],
  env: NodeJS.ProcessEnv,
): Promise<void> {
  const found = findMpi();
  if ('missing' in found) throw new Error(found.missing);
  const open = found.version.includes('Open MPI') || found.version.includes('OpenRTE');
  const flags = open ? ['--oversubscribe', '--bind-to', 'none'] : [];
  // As root, which a container often is, and with no remote machine to look for.
  const asRoot = { OMPI_ALLOW_RUN_AS_ROOT: '1', OMPI_ALLOW_RUN_AS_ROOT_CONFIRM: '1' };
  const local = { OMPI_MCA_plm: 'isolated', OMPI_MCA_btl_vader_single_copy_mechanism: 'none' };
  const node = [process.execPath, '--import', 'tsx', program, ...args];
  const child = spawn('mpirun', [...flags, '-n', String(size), ...node], {
    stdio: 'inherit',
    env: { ...env, ...(open && { ...asRoot, ...local }) },
  });
  await new Promise<void>((resolve, reject) => {
    child.on('error', reject);
    child.on('exit', (code, signal) =>
      code === 0 ? resolve() : reject(new Error(`mpirun ended with ${signal ?? code}`)),
    );
  });
}
