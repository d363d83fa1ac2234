/** OpenBLAS: products by sgemm, and by sbgemm where the library was built with it. */
import type { Case } from '../benchCase';
import { engine } from '../engine';
import type { Peer } from './peer';
import { factorsOf, factorType, kindOf, objectionToProduct, weightCopies } from './problem';
import { compiled } from './program';
import type { Hello } from './server';
import { Server } from './server';

const LIBRARIES = [
  'libopenblas.so.0',
  'libopenblas.so',
  '/opt/homebrew/opt/openblas/lib/libopenblas.dylib',
  '/usr/local/opt/openblas/lib/libopenblas.dylib',
];

/**
 * The kernels for this machine, the best first. Left alone the library goes by a list of processors, and takes those of
 * Haswell on ones newer than itself: half the speed on AVX-512, and a false comparison. So does one whose environment
 * was made for another machine.
 */
export function coreTypes(): string[] {
  const isas = engine().info().availableIsas;
  if (!isas.includes('avx512')) return isas.includes('avx2') ? ['Haswell'] : [];
  return isas.includes('avx512bf16') ? ['Cooperlake', 'SkylakeX'] : ['SkylakeX'];
}

/** The environment of a process whose OpenBLAS takes these kernels. */
export function blasEnvironment(core: string | undefined): NodeJS.ProcessEnv {
  return core ? { ...process.env, OPENBLAS_CORETYPE: core } : process.env;
}

export async function findOpenblas(): Promise<Peer> {
  const named = process.env.RANKONE_OPENBLAS;
  const args = named ? [named] : LIBRARIES;
  const file = compiled('openblas');
  const start = (core?: string): Server =>
    new Server({ name: 'openblas', file, args, env: blasEnvironment(core) });
  let hello: Hello | undefined;
  let core: string | undefined;
  for (core of [...coreTypes(), undefined]) {
    hello = await greet(start(core));
    // A library that does not have them goes back to its own choice.
    if (core === undefined || hello.properties.core.toLowerCase() === core.toLowerCase()) break;
  }
  const { version, properties } = hello!;
  return {
    name: 'openblas',
    version,
    objection: (one) => objection(one, properties.bf16 === '1'),
    open: async (one, inputs, threads) => {
      const server = start(core);
      const dtype = factorType(one);
      const { a, b, bias, dY } = factorsOf(one, inputs);
      await server.open(
        { threads, dtype, copies: weightCopies(one, 4) },
        { a, b, ...(bias && { bias }), ...(dY && { dY }) },
      );
      return server;
    },
  };
}

async function greet(server: Server): Promise<Hello> {
  try {
    return await server.hello();
  } catch (error) {
    const how =
      'install it, on Debian libopenblas0-pthread, or name the library in RANKONE_OPENBLAS';
    throw new Error(`${(error as Error).message}; ${how}`);
  } finally {
    await server.close();
  }
}

function objection(one: Case, bf16: boolean): string | undefined {
  const { family } = kindOf(one.op);
  if (family === 'lora') return objectionToProduct(one);
  if (family !== 'matmul') return 'products only';
  const dtype = factorType(one);
  if (dtype === 'f32') return undefined;
  if (dtype === 'f16') return 'no f16';
  if (one.pass === 'backward') return 'backward in f32 only';
  return bf16 ? undefined : 'this library was built without bf16';
}
