import type { Missing, Peer } from './peer';

/** What `--peers` takes. */
export const peerNames: readonly string[] = [];

/** The peers of these names that this machine has, and why not for the others. @throws UsageError for an unknown name */
export async function findPeers(
  names: readonly string[],
): Promise<{ found: Peer[]; missing: Missing[] }> {
  return { found: [], missing: names.map((name) => ({ name, reason: 'unknown' })) };
}
