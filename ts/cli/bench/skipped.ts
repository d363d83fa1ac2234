import type { Skip } from './schema';

/** Adds what a peer did not run to the list: one entry per peer and reason. */
export function addSkip(list: Skip[], { peer, reason, cases }: Skip): void {
  const known = list.find((one) => one.peer === peer && one.reason === reason);
  if (known) known.cases += cases;
  else list.push({ peer, reason, cases });
}

export function skipText({ peer, reason, cases }: Skip): string {
  const count = cases === 0 ? '' : ` (${cases} case${cases > 1 ? 's' : ''})`;
  return `${peer}: ${reason}${count}`;
}
