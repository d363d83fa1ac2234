// Hostile input: every function that the package exports, called with arguments of the wrong kinds, shapes, sizes and
// habits. A call must end with a named error (or with the very error that the caller's own code threw), or with a right
// answer, which the float64 references decide. A crash, a hang or an unhandled rejection fails.
//
//   RANKONE_FUZZ_SEED=7        another seed than 1; what is drawn depends on nothing else
//   RANKONE_FUZZ_MINUTES=5     for so long, instead of a fixed number of runs
//   RANKONE_FUZZ_REPLAY=FILE   plays back one input, as printed by a failure:
//                              RANKONE_FUZZ_REPLAY=FILE node --import tsx test/fuzz/run.ts
//   RANKONE_ISA                as everywhere
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { description } from '../../ts/binding';
import * as rankone from '../../ts/index';

const minutes = Number(process.env.RANKONE_FUZZ_MINUTES ?? 0);

test('every call ends with a named error or a right answer', () => {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'rankone-fuzz-'));
  const log = path.join(folder, 'last.json');
  const args = ['--import', 'tsx', path.join(__dirname, 'run.ts')];
  const { status, signal, stdout, stderr } = spawnSync(process.execPath, args, {
    encoding: 'utf8',
    timeout: (minutes + 20) * 60_000,
    killSignal: 'SIGKILL',
    env: { ...process.env, RANKONE_FUZZ_LOG: log },
  });
  const last = fs.existsSync(log) ? fs.readFileSync(log, 'utf8').trim() : 'none';
  fs.rmSync(folder, { recursive: true });
  if (process.env.RANKONE_TEST_FIGURES) console.log(stdout);
  assert.ok(
    status === 0,
    `ended with ${signal ?? `exit code ${status}`}\n${stdout}\n${stderr}\nlast input: ${last}`,
  );
});

test('the fuzzer knows every export', () => {
  const names = description.entries.map(({ name }) => name).filter((name) => !name.includes('.'));
  const operations = names.flatMap((name) => [name, `${name}Sync`]);
  const others = [
    'RecurrentState',
    'SavedForward',
    'createState',
    'deserializeState',
    'getNumThreads',
    'info',
    'setNumThreads',
    'tensor',
    'version',
  ];
  // test/ops/kvCache.test.ts
  others.push('KvCache', 'createKvCache');
  // test/ops/windowLinearAttention.test.ts
  others.push('createWindowLinearCache');
  // test/integration/cudaTensors.test.ts
  const devices = [
    'DeviceTensor',
    'deviceMemory',
    'synchronize',
    'synchronizeSync',
    'toDevice',
    'toDeviceSync',
  ];
  // test/peft/fuzz.test.ts
  const files = ['readPeft', 'readPeftConfig', 'readSafetensors', 'writePeft', 'writeSafetensors'];
  others.push(...files.flatMap((name) => [name, `${name}Sync`]));
  // test/lora
  others.push(
    'AdapterBank',
    'PackedWeight',
    'alloraGradient',
    'alloraRowScale',
    'createAdapterBank',
    'dequantiseNf4',
    'doraAdapter',
    'doraAdapterSync',
    'doraGradients',
    'evaRanks',
    'initCorda',
    'initEva',
    'initLoldu',
    'initLoftq',
    'initLora',
    'initLoraGa',
    'initLoraSb',
    'initLqLora',
    'initMilora',
    'initNlora',
    'initOlora',
    'initPissa',
    'initSlora',
    'initSvfit',
    'loraPlusRates',
    'loraProGradients',
    'nf4',
    'quantiseNf4',
    'randomizedSvd',
    'updateEva',
  );
  assert.equal(Object.keys(rankone).sort(), [...operations, ...others, ...devices].sort());
});

test.run();
