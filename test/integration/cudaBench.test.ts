/** `rankone bench --device cuda` as a process of its own, from dist. */
import { spawnSync } from 'node:child_process';
import path from 'node:path';
import * as assert from 'uvu/assert';
import type { BenchReport } from '../../ts/cli/bench/schema';
import { passes } from '../../ts/cli/operation';
import { cudaEnvironment, test } from '../support/device.ts';

const main = path.join(__dirname, '../../dist/cli/main.js');

function bench(args: string) {
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    [main, 'bench', ...args.split(' '), '--seconds', '0.01'],
    { encoding: 'utf8', env: { ...process.env, ...cudaEnvironment() } },
  );
  return { code: status, out: stdout, error: stderr };
}

test("bench: every pass of a recurrence on a device, against the device's own limits", () => {
  const { code, out, error } = bench(
    '--op gatedDeltaNet --shape 1,20,1,2,16,16 --dtype bf16 --device cuda --json -',
  );
  assert.is(code, 0, error);
  const { cases, ceilings, failures }: BenchReport = JSON.parse(out);
  assert.equal(failures, []);
  assert.equal(
    cases.map(({ pass }) => pass),
    passes,
  );
  for (const { isa, peak, worstError, medianNs } of cases) {
    assert.is(isa, 'cuda:0');
    assert.is(peak, 'bf16');
    assert.ok(worstError <= 1 && medianNs > 0);
  }
  const [{ peaks, bandwidths }] = ceilings;
  assert.ok(peaks.f32 > 0 && peaks.bf16! > 0);
  assert.equal(
    bandwidths.map(({ level, read }) => [level, read > 0]),
    [['memory', true]],
  );
});

test('bench: the fused LoRA product on a device', () => {
  const { code, out, error } = bench(
    'lora-linear --op lora/nf4 --tokens 3 --shape 40,64 --pass forward --device cuda:0',
  );
  assert.is(code, 0, error);
  assert.match(out, /^lora\/nf4 +forward +M3 N40 K64 r16 E3 /m);
});

test('bench: what does not go with a device', () => {
  const refused = (args: string, message: RegExp): void => {
    const { code, error } = bench(args);
    assert.is(code, 2);
    assert.match(error, message);
  };
  refused('--op gla --device cuda --isa baseline', /--isa: not together with --device cuda/);
  refused('--op matmul --device cuda', /matmul is computed on the CPU only/);
  refused('--op gla --device cuda:99', /--device cuda:99: there are cuda:0 to cuda:/);
  refused('--op gla --device gpu', /Expected cpu, cuda or cuda:N/);
});

test.run();
