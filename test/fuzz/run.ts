// A process of the fuzzer: properties by fast-check, every input written to a file before it is used, so that what
// crashed the process can be played back. Started by fuzz.test.ts, which says how.
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import fc from 'fast-check';
import { recipe, runCall, tally } from './calls';
import { functionRecipe, runFunction } from './functions';
import { loraRecipe, loraTally, runLora } from './lora';
import { plainEntries } from './problems';
import { runSteps, steps } from './states';

const { RANKONE_FUZZ_LOG: log, RANKONE_FUZZ_REPLAY: replay } = process.env;
const seed = Number(process.env.RANKONE_FUZZ_SEED ?? 1);
const minutes = Number(process.env.RANKONE_FUZZ_MINUTES ?? 0);

interface Part {
  /** Runs of the default, and the part of the time that longer ones get. */
  runs: number;
  share: number;
  input: fc.Arbitrary<any>;
  run: (input: any) => Promise<string | undefined> | string | undefined;
}

const parts: Record<string, Part> = {
  call: { runs: 9000, share: 0.5, input: recipe, run: runCall },
  overlap: {
    runs: 1000,
    share: 0.1,
    input: fc.array(recipe, { minLength: 2, maxLength: 8 }),
    async run(recipes) {
      const all = recipes.map((r: any) => runCall({ ...r, asynchronous: true }));
      return (await Promise.all(all)).find((end) => end !== undefined);
    },
  },
  functions: { runs: 3000, share: 0.1, input: functionRecipe, run: runFunction },
  lora: { runs: 4000, share: 0.2, input: loraRecipe, run: runLora },
  states: {
    runs: 1500,
    share: 0.1,
    input: fc.record({ steps, seed: fc.nat() }),
    run: ({ steps: list, seed: values }) => runSteps(list, values),
  },
};

/**
 * Absurd sizes must fail to be allocated, and a system that promises more memory than it has would grant them: no more
 * than three gigabytes beyond what is mapped now. Where this cannot be said, the system's own limits do.
 */
async function limitMemory(): Promise<void> {
  if (process.platform !== 'linux') return;
  const mapped = (): number =>
    Number(/VmSize:\s+(\d+)/.exec(fs.readFileSync('/proc/self/status', 'utf8'))?.[1] ?? 0);
  // What the loader of TypeScript maps, it maps late.
  let size = -1;
  for (let now = mapped(); now > size; now = mapped()) {
    size = now;
    await sleep(500);
  }
  const most = size * 1024 + 3 * 2 ** 30;
  spawnSync('prlimit', ['--pid', String(process.pid), `--as=${most}`]);
}

let file: number | undefined;
let longest = 0;

function note(part: string, input: unknown): void {
  if (file === undefined) return;
  const line = JSON.stringify({ part, input });
  longest = Math.max(longest, line.length);
  fs.writeSync(file, line.padEnd(longest), 0);
}

async function runPart(name: string, { runs, share, input, run }: Part): Promise<void> {
  const property = fc.asyncProperty(input, async (value) => {
    note(name, value);
    const wrong = await run(value);
    if (wrong) throw new Error(wrong);
  });
  const time = minutes * 60_000 * share;
  const limits = time
    ? { numRuns: 1e9, interruptAfterTimeLimit: time, markInterruptAsFailure: false }
    : { numRuns: runs };
  const started = performance.now();
  const details = await fc.check(property, { seed, endOnFailure: false, ...limits });
  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  console.log(`${name}: ${details.numRuns} runs, ${seconds} s`);
  if (!details.failed) return;
  console.log((details.errorInstance as Error | null)?.message ?? 'failed');
  console.log(
    `to play it back: ${JSON.stringify({ part: name, input: details.counterexample![0] })}`,
  );
  process.exitCode = 1;
}

function reportTally(): void {
  const sum = { errors: 0, results: 0, compared: 0 };
  for (const each of Object.values(tally))
    for (const key of Object.keys(sum) as (keyof typeof sum)[]) sum[key] += each[key];
  console.log(`calls: ${JSON.stringify(sum)}`);
  const untried = plainEntries.filter(
    ({ name }) => !((tally[name]?.compared ?? 0) > 0 && tally[name].errors > 0),
  );
  console.log(`lora: ${JSON.stringify(loraTally)}`);
  for (const [target, { errors, results }] of Object.entries(loraTally)) {
    if (errors > 0 && results > 0) continue;
    console.log(`${target}: ${errors} errors and ${results} results`);
    process.exitCode = 1;
  }
  if (untried.length === 0) return;
  console.log(`without a right answer or without an error: ${untried.map(({ name }) => name)}`);
  process.exitCode = 1;
}

async function main(): Promise<void> {
  if (replay) {
    const { part, input } = JSON.parse(fs.readFileSync(replay, 'utf8'));
    console.log((await parts[part].run(input)) ?? 'nothing is wrong with it');
    return;
  }
  await limitMemory();
  if (log) file = fs.openSync(log, 'w');
  for (const [name, part] of Object.entries(parts)) await runPart(name, part);
  reportTally();
}

main();
