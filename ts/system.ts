// What a binary has to fit, in words, for errors.
import fs from 'node:fs';
import os from 'node:os';
import { libc } from './libc';

/** The widest instruction set of the processor that the kernels distinguish, without the addon's help. */
function isa(): string | undefined {
  if (process.arch === 'arm64') return 'neon';
  if (process.platform !== 'linux' || process.arch !== 'x64') return undefined;
  try {
    const flags = /^flags\s*:(.*)$/m.exec(fs.readFileSync('/proc/cpuinfo', 'utf8'))?.[1].split(' ');
    return ['avx512_bf16', 'avx512bw', 'avx2', 'sse4_2', 'sse2'].find((f) => flags?.includes(f));
  } catch {
    return undefined;
  }
}

function model(): string | undefined {
  try {
    return os.cpus()[0]?.model.trim();
  } catch {
    return undefined; // Deno without permission
  }
}

/** `linux-x64 (glibc 2.36)`. @internal */
export function platformName(): string {
  let library = '';
  try {
    library = libc();
  } catch {
    // Reports are switched off.
  }
  return `${process.platform}-${process.arch}${library && ` (${library})`}`;
}

/** Platform, architecture, C library, Node's version and ABI, processor. @internal */
export function systemName(): string {
  const { node, modules, napi, electron } = process.versions;
  const host = `${electron ? `Electron ${electron}, ` : ''}Node ${node} (ABI ${modules}, Node-API ${napi})`;
  const cpu = [model(), isa()].filter(Boolean).join(', ');
  return `${platformName()}, ${host}, processor: ${cpu || 'unknown'}`;
}
