/**
 * npm run bench -- [FILTER] [--threads N] [--seconds S] [--json FILE]
 *
 * Times the cases whose name contains FILTER, each checked against the float64 reference first, and prints medians: time
 * per run, ns per token and head where there are such, GF/s by minimum flops. An absolute figure of a shared machine means
 * little; compare figures of one run.
 */
import { writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { Bench } from 'tinybench';
import { info, setNumThreads } from '../ts/index';
import { matmulCases } from './ops/matmul.ts';
import { recurrenceCases } from './ops/recurrence.ts';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    threads: { type: 'string', default: '1' },
    seconds: { type: 'string', default: '0.3' },
    json: { type: 'string' },
  },
});
setNumThreads(Number(values.threads));

const filter = positionals[0] ?? '';
const cases = [...recurrenceCases(), ...matmulCases()].filter((c) => c.name.includes(filter));
if (cases.length === 0) throw new Error(`no case has '${filter}' in its name`);
const machine = info();
console.log(`rankone ${machine.version}, ${machine.isa}, ${machine.threads} thread(s)\n`);
console.log(
  `${'case'.padEnd(40)}${'median us'.padStart(12)}${'ns/unit'.padStart(12)}${'GF/s'.padStart(10)}`,
);

async function main(): Promise<void> {
  const rows = [];
  for (const c of cases) {
    c.check();
    const bench = new Bench({ time: 1000 * Number(values.seconds), warmupTime: 50, iterations: 5 });
    bench.add(c.name, c.run);
    await bench.run();
    const result = bench.tasks[0].result;
    if (!('latency' in result)) throw new Error(`${c.name}: ${result.state}`);
    const ns = 1e6 * result.latency.p50;
    const row = { name: c.name, ns, nsPerUnit: ns / c.units, gflops: c.flops / ns };
    rows.push(row);
    console.log(
      row.name.padEnd(40) +
        (ns / 1000).toFixed(1).padStart(12) +
        (c.units > 1 ? row.nsPerUnit.toFixed(0) : '').padStart(12) +
        row.gflops.toFixed(1).padStart(10),
    );
  }
  if (values.json) writeFileSync(values.json, `${JSON.stringify({ machine, rows }, null, 2)}\n`);
}

main();
