/**
 * npm run bench -- [FILTER] [options of `rankone bench` for running and reporting]
 *
 * The fixed set of cases of bench/ops, those whose name contains FILTER, on one thread unless told; or, with lora-linear for
 * FILTER, those of the fused LoRA product. For a case of one's own there is `rankone bench`, which measures the same way.
 */
import { parseArgs } from 'node:util';
import { benchCases } from '../ts/cli/bench';
import { nameOf } from '../ts/cli/benchCase';
import { attentionCases } from './ops/attention.ts';
import { featureCases } from './ops/features.ts';
import { hybridCases } from './ops/hybrids.ts';
import { loraLinearCases } from './ops/lora-linear.ts';
import { matmulCases } from './ops/matmul.ts';
import { recurrenceCases } from './ops/recurrence.ts';
import { scanCases } from './ops/scans.ts';
import { segmentCases } from './ops/segments.ts';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    threads: { type: 'string', default: '1' },
    isa: { type: 'string' },
    seconds: { type: 'string', default: '0.3' },
    peers: { type: 'string' },
    compare: { type: 'string' },
    json: { type: 'string' },
    html: { type: 'string' },
  },
});

const filter = positionals[0] ?? '';
const cases =
  filter === 'lora-linear'
    ? loraLinearCases()
    : [
        ...recurrenceCases(),
        ...scanCases(),
        ...featureCases(),
        ...hybridCases(),
        ...segmentCases(),
        ...attentionCases(),
        ...matmulCases(),
      ].filter((c) => nameOf(c).includes(filter));
if (cases.length === 0) throw new Error(`no case has '${filter}' in its name`);
benchCases(cases, {
  ...values,
  threads: values.threads.split(',').map(Number),
  isa: values.isa?.split(','),
  peers: values.peers?.split(','),
  seconds: Number(values.seconds),
}).then((code) => {
  process.exitCode = code;
});
