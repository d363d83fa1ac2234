// Which instruction sets a command runs on. The engine chooses one per process, when it is loaded.
import { engine } from './engine';
import { UsageError } from './errors';

/** Makes the engine, not loaded yet, take this instruction set. */
export function chooseIsa(isa: string | undefined): void {
  if (isa === undefined) return;
  process.env.RANKONE_ISA = isa;
  try {
    engine();
  } catch (error) {
    const { message } = error as Error;
    const at = message.indexOf('RANKONE_ISA=');
    if (at < 0) throw error;
    throw new UsageError(`--isa ${message.slice(at + 'RANKONE_ISA='.length)}`);
  }
}

/** The asked ones, the one that RANKONE_ISA names, or all of this machine. */
export function isasToRun(asked: readonly string[] | undefined): string[] {
  const available = engine().info().availableIsas;
  const forced = process.env.RANKONE_ISA;
  for (const isa of asked ?? []) {
    if (available.includes(isa)) continue;
    throw new UsageError(`--isa ${isa}: expected one of ${available.join(', ')} on this machine`);
  }
  return asked ? [...asked] : forced ? [forced] : available;
}
