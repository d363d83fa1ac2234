/** Splits one sequence over processes and holds it against one process and against the plain scan. `--help` says more. */
import { info } from 'rankone';
import { launch } from './launch.ts';
import { findMpi } from './mpi.ts';
import { HELP, type Options, parseOptions } from './options.ts';
import type { Report, Seconds, Times } from './rank.ts';

/** What a result of float32 may be off a float64 reference where T is over 8192; gates have a row of their own. */
const LIMITS: Record<string, number> = { o: 2e-5, dg: 5e-5, dbeta: 5e-5 };
const limitOf = (name: string): number => LIMITS[name] ?? 1e-5;

/** What has turned out to be otherwise than it should be. */
const faults: string[] = [];

function expect(what: string, holds: boolean): void {
  console.log(`${what}: ${holds ? 'yes' : 'NO'}`);
  if (!holds) faults.push(what);
}

/** Where there is no MPI and it was not asked for by name, processes; and why. */
function chooseTransport({ transport }: Options): 'mpi' | 'processes' {
  if (transport === 'processes') return transport;
  const mpi = findMpi();
  if ('version' in mpi) {
    console.log(`transport: ${mpi.version}`);
    return 'mpi';
  }
  if (transport === 'mpi') throw new Error(`--transport mpi: ${mpi.missing}`);
  console.log(`transport: child processes, as ${mpi.missing}`);
  return 'processes';
}

const most = (all: Seconds[]): Seconds => ({
  forward: Math.max(...all.map(({ forward }) => forward)),
  backward: Math.max(...all.map(({ backward }) => backward)),
});

/** Of the slowest rank. */
const slowest = (reports: Report[]): Times => ({
  clock: most(reports.map(({ times }) => times.clock)),
  work: most(reports.map(({ times }) => times.work)),
});

function printTimes(title: string, rows: [string, Seconds][]): void {
  const [, base] = rows[0];
  console.log(`${title}\n  ${''.padEnd(26)}   forward            backward           both`);
  for (const [name, { forward, backward }] of rows) {
    const cells = [
      [forward, base.forward],
      [backward, base.backward],
      [forward + backward, base.forward + base.backward],
    ].map(([x, of]) => `${x.toFixed(3).padStart(7)} s ${(of / x).toFixed(2).padStart(5)}x  `);
    console.log(`  ${name.padEnd(26)} ${cells.join(' ')}`);
  }
}

async function main(): Promise<void> {
  const options = parseOptions(process.argv.slice(2));
  if (options === 'help') {
    console.log(HELP);
    return;
  }
  const { ranks, segments, tokens, cell, heads, dim, repeat } = options;
  console.log(
    `${cell}: ${tokens.toLocaleString('en-US')} tokens, ${heads} x ${dim} x ${dim}, ` +
      `${segments} segments, ${info().isa}, one thread a rank`,
  );
  const transport = chooseTransport(options);
  const job = { cell, tokens, heads, dim, segments, repeat };
  const [one] = await launch(1, { ...job, transport: 'alone', plain: true });
  const many = await launch(ranks, { ...job, transport, plain: false });

  const rows: [string, Times][] = [
    ['plain scan, 1 rank', one.plain!.times],
    [`${segments} segments, 1 rank`, one.times],
    [`${segments} segments, ${ranks} rank${ranks > 1 ? 's' : ''}`, slowest(many)],
  ];
  printTimes(
    'by the clock, the fastest of the repetitions',
    rows.map(([name, { clock }]) => [name, clock]),
  );
  printTimes(
    'processor time of the busiest rank, without waiting',
    rows.map(([name, { work }]) => [name, work]),
  );
  const [{ bytes }] = many;
  console.log(
    `bytes that a rank sends, forward and backward: ${bytes.toLocaleString('en-US')}, for any number of tokens`,
  );
  const digests = many.flatMap((report) => report.digests);
  expect(
    `every bit of ${Object.keys(digests[0]).join(', ')} as one rank has it`,
    JSON.stringify(digests) === JSON.stringify(one.digests),
  );
  const errors = Object.entries(one.plain!.errors);
  const text = errors.map(([name, error]) => `${name} ${error.toExponential(1)}`).join(', ');
  expect(
    `within float32's row of the plain scan (${text})`,
    errors.every(([name, error]) => error <= limitOf(name)),
  );
  if (faults.length > 0) process.exitCode = 1;
}

main().catch((error) => {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
});
