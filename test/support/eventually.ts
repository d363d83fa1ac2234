/**
 * Claims about time and memory that a stall of the machine, or garbage that is not collected yet, may make untrue for a
 * while, and a fault makes untrue for ever.
 */
import * as assert from 'uvu/assert';

const gc = (globalThis as any).gc as (() => void) | undefined;

const ATTEMPTS = 20;

/** Tries until `attempt` gives true. What it gave or threw the last time is what fails. */
export async function eventually(
  claim: string,
  attempt: (round: number) => boolean | string | Promise<boolean | string>,
  attempts = ATTEMPTS,
): Promise<void> {
  let last: boolean | string = false;
  for (let round = 0; round < attempts; round++) {
    last = await attempt(round);
    if (last === true) return;
  }
  assert.unreachable(last ? `${claim}: ${last}` : claim);
}

/** Runs the collector, and what it leaves for later turns of the loop. */
export async function collect(): Promise<void> {
  for (let i = 0; gc && i < 5; i++) {
    gc();
    await new Promise((resolve) => setImmediate(resolve));
  }
}

/** Collects until `amount()` is below `bound`; other threads may have yet to let go of what they hold. */
export async function collected(amount: () => number, bound: number, what: string): Promise<void> {
  await eventually(what, async (round) => {
    await collect();
    if (amount() < bound) return true;
    await new Promise((resolve) => setTimeout(resolve, 10 * round));
    return `${amount()} bytes`;
  });
}
