import { nearest } from '../../errors';
import { UsageError } from '../errors';
import { findGgml } from './ggml';
import { findOnnxruntime } from './onnxruntime';
import { findOpenblas } from './openblas';
import type { Missing, Peer } from './peer';
import { findTorch } from './torch';

/** Each rejects with the reason where the peer is not there. */
const finders: Record<string, () => Promise<Peer>> = {
  onnxruntime: findOnnxruntime,
  ggml: findGgml,
  openblas: findOpenblas,
  torch: findTorch,
};

/** What `--peers` takes. */
export const peerNames: readonly string[] = Object.keys(finders);

/** The peers of these names that this machine has, and why not for the others. @throws UsageError for an unknown name */
export async function findPeers(
  names: readonly string[],
): Promise<{ found: Peer[]; missing: Missing[] }> {
  for (const name of names) {
    if (peerNames.includes(name)) continue;
    const hint = nearest(name, [...peerNames]);
    throw new UsageError(
      `--peers ${name}: expected one of ${peerNames.join(', ')}` +
        (hint ? `; nearest: ${hint}` : ''),
    );
  }
  const found: Peer[] = [];
  const missing: Missing[] = [];
  for (const name of new Set(names)) {
    try {
      found.push(await finders[name]());
    } catch (error) {
      const { message } = error as Error;
      const said = `${name}: `;
      missing.push({
        name,
        reason: message.startsWith(said) ? message.slice(said.length) : message,
      });
    }
  }
  return { found, missing };
}
