// One test file in a process of its own; run.ts starts it and gets the counts by message.
import { pathToFileURL } from 'node:url';

// uvu queues instead of running by itself when these stand before it is loaded.
const globals = globalThis as any;
globals.UVU_DEFER = 1;
globals.UVU_QUEUE = [[]];
globals.UVU_INDEX = 0;

/** errors (or true), passed, skipped, total */
type Suite = () => Promise<[string | true, number, number, number]>;

async function main(): Promise<void> {
  await import(pathToFileURL(process.argv[2]).href);
  const counts = { passed: 0, failed: 0, skipped: 0 };
  for (const suite of globals.UVU_QUEUE[0] as Suite[]) {
    const [errors, passed, skipped, total] = await suite();
    if (errors !== true) process.stdout.write(`\n${errors}\n`);
    // A `before` hook that throws leaves no error, only tests that did not run.
    else if (passed < total) process.stdout.write('\na before hook threw: no test ran\n');
    counts.passed += passed;
    counts.skipped += skipped;
    counts.failed += total - passed;
  }
  process.send?.(counts);
  process.disconnect?.();
}

main();
