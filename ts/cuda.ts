// Where the CUDA backend's library is. It is opened at the first use of a device.
import fs from 'node:fs';
import path from 'node:path';
import { binding, bindingPath, type CudaLibrary } from './binding';

const NAME = 'rankone_cuda.so';
const PACKAGE = 'rankone-cuda-linux-x64';

function find(): string | undefined {
  const wish = process.env.RANKONE_CUDA_PATH;
  if (wish) return path.resolve(wish);
  const candidates = [path.join(path.dirname(bindingPath()), NAME)];
  try {
    candidates.unshift(path.join(path.dirname(require.resolve(`${PACKAGE}/package.json`)), NAME));
  } catch {
    // Not installed.
  }
  return candidates.find((file) => fs.existsSync(file));
}

let opened: CudaLibrary | undefined;

/**
 * The library and its devices, at least one.
 * @throws RangeError `[operation] cuda unavailable: <reason>` where there is none
 * @internal
 */
export function cudaLibrary(operation: string): CudaLibrary {
  if (opened) return opened;
  const file = find();
  if (!file)
    throw new RangeError(
      `[${operation}] cuda unavailable: no backend library; install ${PACKAGE}, or name one in RANKONE_CUDA_PATH`,
    );
  try {
    opened = binding.cudaOpen(file);
  } catch (error) {
    const text = (error as Error).message.replace(/^\[[^\]]*\]/, `[${operation}]`);
    throw new RangeError(text, { cause: error });
  }
  return opened;
}
