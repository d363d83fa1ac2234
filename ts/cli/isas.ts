// Which instruction sets a command runs on. The engine chooses one per process, when it is loaded.
import { engine } from './engine';
import { UsageError } from './errors';

/** The asked ones (`all`: those of this machine), the one that RANKONE_ISA names, or all of this machine. */
export function isasToRun(asked: readonly string[] | undefined): string[] {
  const available = engine().info().availableIsas;
  const forced = process.env.RANKONE_ISA;
  for (const isa of asked ?? []) {
    if (isa === 'all' || available.includes(isa)) continue;
    throw new UsageError(`--isa ${isa}: expected one of ${available.join(', ')} on this machine`);
  }
  if (asked?.includes('all')) return available;
  return asked ? [...new Set(asked)] : forced ? [forced] : available;
}
