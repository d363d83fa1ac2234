// The programs that serve peers are compiled on this machine when they are first used: the package has no binaries of them.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';

/** Of the package: the same from ts/ and from dist/. */
export const sources = path.join(__dirname, '../../../bench/peers');

const FLAGS = ['-std=c++17', '-O2', '-pthread'];
const LIBRARIES = ['-ldl'];

/** Where the operating system keeps what programs can make again. */
export function cacheFolder(env: NodeJS.ProcessEnv = process.env): string {
  const own = process.platform === 'darwin' ? 'Library/Caches' : '.cache';
  const named = env.XDG_CACHE_HOME ?? '';
  // A relative one does not count, as the specification has it.
  const base = path.isAbsolute(named) ? named : path.join(os.homedir(), own);
  return path.join(base, 'rankone', 'peers');
}

/** The C++ compiler: CXX, or the first of the usual names that runs. */
function findCompiler(env: NodeJS.ProcessEnv): { command: string; version: string } {
  const names = env.CXX ? [env.CXX] : ['c++', 'g++', 'clang++'];
  for (const command of names) {
    const { status, stdout } = spawnSync(command, ['--version'], { encoding: 'utf8', env });
    if (status === 0) return { command, version: stdout.split('\n')[0] };
  }
  throw new Error(
    `no C++ compiler (looked for ${names.join(', ')}); install one, for instance g++, or name it in CXX`,
  );
}

/** Whether a file is there that nobody but this user can have written: it is going to be run. */
function isOwn(file: string): boolean {
  const found = fs.statSync(file, { throwIfNoEntry: false });
  if (!found) return false;
  return !process.getuid || (found.uid === process.getuid() && (found.mode & 0o022) === 0);
}

/**
 * The path of a program of `folder`, compiled unless the cache has it from the same sources, compiler and flags.
 * @throws Error that says what is missing
 */
export function compiled(
  name: string,
  folder: string = sources,
  env: NodeJS.ProcessEnv = process.env,
): string {
  const { command, version } = findCompiler(env);
  const key = createHash('sha256').update([command, version, ...FLAGS].join('\0'));
  const headers = fs.readdirSync(folder).filter((file) => file.endsWith('.h'));
  for (const file of [`${name}.cpp`, ...headers.sort()]) {
    key.update(fs.readFileSync(path.join(folder, file)));
  }
  const cache = cacheFolder(env);
  const program = path.join(cache, `${name}-${key.digest('hex').slice(0, 16)}`);
  if (isOwn(program)) return program;
  fs.mkdirSync(cache, { recursive: true, mode: 0o700 });
  // Renamed when it is whole: several commands may compile at once.
  const unfinished = `${program}.${process.pid}`;
  const args = [...FLAGS, '-o', unfinished, path.join(folder, `${name}.cpp`), ...LIBRARIES];
  const { status, stderr } = spawnSync(command, args, { encoding: 'utf8', env });
  if (status !== 0) {
    fs.rmSync(unfinished, { force: true });
    const lines = (stderr ?? '').trim().split('\n').slice(0, 5).join('\n');
    throw new Error(`${command} does not compile ${name}.cpp:\n${lines}`);
  }
  fs.chmodSync(unfinished, 0o700);
  fs.renameSync(unfinished, program);
  return program;
}
