/**
 * npm run bench -- [FILTER] [--threads N] [--seconds S] [--json FILE]
 *
 * The fixed set of cases of bench/ops, those whose name contains FILTER, on one thread unless told. For a case of one's own
 * there is `rankone bench`, which measures the same way.
 */
import { parseArgs } from 'node:util';
import { nameOf, reportCases } from '../ts/cli/bench';
import { setNumThreads } from '../ts/index';
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
const cases = [...recurrenceCases(), ...matmulCases()].filter((c) => nameOf(c).includes(filter));
if (cases.length === 0) throw new Error(`no case has '${filter}' in its name`);
reportCases(cases, Number(values.seconds), values.json).then((code) => {
  process.exitCode = code;
});
