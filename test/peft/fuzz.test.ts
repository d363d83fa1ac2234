// Files that were changed at random must be read rightly or refused by name, in memory that their size bounds.
//   RANKONE_FUZZ_SEED=7        another seed than 1
//   RANKONE_FUZZ_MINUTES=5     for so long each, instead of a fixed number of runs
import fs from 'node:fs';
import path from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import {
  readPeftConfigSync,
  readPeftSync,
  readSafetensorsSync,
  writePeftSync,
} from '../../ts/index';
import { Random } from '../support/random';
import { counted, fresh, packed, type Raw, words, writeAdapter } from './files';
import { mutateFile, mutateText } from './mutate';

const seed = Number(process.env.RANKONE_FUZZ_SEED ?? 1);
const minutes = Number(process.env.RANKONE_FUZZ_MINUTES ?? 0);

/** Calls `body` for one seed after the other. */
function repeat(runs: number, body: (random: Random) => string | undefined): void {
  const end = performance.now() + minutes * 60_000;
  for (let i = 0; minutes > 0 ? performance.now() < end : i < runs; i++) {
    const wrong = body(new Random(Math.imul(seed, 0x10001) + i));
    assert.is(wrong, undefined, `run ${i} of seed ${seed}: ${wrong}`);
  }
}

function validFile(random: Random): Uint8Array {
  const tensors: Record<string, Raw> = {};
  const count = random.integer(5);
  for (let i = 0; i < count; i++) {
    const shape = Array.from({ length: random.integer(4) }, () => random.integer(4));
    const size = shape.reduce((a, b) => a * b, 1);
    const name = ['x', 'y.weight', 'ä', '__proto__', 'z\n"'][i];
    tensors[name] = [
      () => counted(shape),
      () => words('BF16', shape, new Array(size).fill(7)),
      () => ({ dtype: 'I64', shape, bytes: new Uint8Array(8 * size).fill(1) }),
      () => ({ dtype: 'BOOL', shape, bytes: new Uint8Array(size).fill(1) }),
    ][random.integer(4)]();
  }
  return packed(tensors, random.integer(2) ? { format: 'pt', __proto__x: 'y' } : undefined);
}

const WIDTHS: Record<string, number> = { F64: 8, F32: 4, F16: 2, BF16: 2, BOOL: 1 };

/** Whether a file is what the format says, in the plainest way; what is wrong with what was read of it. */
function judge(
  bytes: Uint8Array,
  read: ReturnType<typeof readSafetensorsSync>,
): string | undefined {
  const file = Buffer.from(bytes);
  const start = 8 + Number(file.readBigUInt64LE(0));
  const header = JSON.parse(file.toString('utf8', 8, start));
  const names = Object.keys(header).filter((name) => name !== '__metadata__');
  if (names.length !== read.tensors.size) return `${read.tensors.size} of ${names.length} tensors`;
  let total = 0;
  for (const name of names) {
    const {
      dtype,
      shape,
      data_offsets: [from, to],
    } = header[name];
    const tensor = read.tensors.get(name);
    if (!tensor) return `no ${name}`;
    if (tensor.dtype !== dtype.toLowerCase()) return `${name} as ${tensor.dtype}`;
    if (tensor.shape.join() !== shape.join()) return `${name} with shape [${tensor.shape}]`;
    const size = shape.reduce((a: number, b: number) => a * b, 1);
    const width = WIDTHS[dtype] ?? Number(dtype.match(/\d+/)[0]) / 8;
    if (tensor.data.length !== size || to - from !== size * width)
      return `${name}: ${size} elements`;
    const { data } = tensor;
    const stored = file.subarray(start + from, start + to);
    if (Buffer.compare(Buffer.from(data.buffer, 0, data.byteLength), stored) !== 0)
      return `${name} with other values`;
    total += to - from;
  }
  if (total !== file.length - start) return `${total} of ${file.length - start} bytes`;
  const metadata = Object.entries(header.__metadata__ ?? {});
  if (JSON.stringify(Object.entries(read.metadata)) !== JSON.stringify(metadata)) return 'metadata';
  return undefined;
}

/** What allocations of `body` add up to. */
function allocated(body: () => void): number {
  const Real = globalThis.ArrayBuffer;
  let sum = 0;
  globalThis.ArrayBuffer = new Proxy(Real, {
    construct(target, args, newTarget) {
      sum += Number(args[0]);
      return Reflect.construct(target, args, newTarget);
    },
  });
  try {
    body();
  } finally {
    globalThis.ArrayBuffer = Real;
  }
  return sum;
}

function judgeError(error: any, start: string): string | undefined {
  const text = `${error?.name}: ${error?.message}`;
  if (!(error instanceof RangeError) && !(error instanceof TypeError)) return text;
  if (!error.message.startsWith(start) || /undefined/.test(error.message)) return text;
  return error.message.length > 1000
    ? `a message of ${error.message.length} characters`
    : undefined;
}

test('mutated .safetensors files', () => {
  const tally = { read: 0, refused: new Set<string>() };
  repeat(12_000, (random) => {
    const bytes = mutateFile(random, validFile(random));
    let wrong: string | undefined;
    const sum = allocated(() => {
      try {
        wrong = judge(bytes, readSafetensorsSync(bytes));
        tally.read++;
      } catch (error: any) {
        wrong = judgeError(error, '[readSafetensors] the bytes: ');
        tally.refused.add(String(error.message).replace(/".*?"|\d+/g, ''));
      }
    });
    if (sum > bytes.length) wrong ??= `allocates ${sum} bytes for a file of ${bytes.length}`;
    return wrong && `${wrong}\n${Buffer.from(bytes).toString('base64')}`;
  });
  // A fuzzer whose files all fail at the first check, or never, finds nothing.
  if (process.env.RANKONE_TEST_FIGURES) console.log(tally.read, [...tally.refused]);
  assert.ok(tally.read > 100, `${tally.read} read`);
  assert.ok(tally.refused.size > 40, `${tally.refused.size} kinds of errors`);
  for (const kind of ['overlaps', 'a gap', 'cut off', 'twice', 'UTF-', 'surrogate'])
    assert.ok(
      [...tally.refused].some((message) => message.includes(kind)),
      kind,
    );
});

test('random bytes behind a right length', () => {
  repeat(3_000, (random) => {
    const body = Buffer.from(Array.from({ length: random.integer(40) }, () => random.integer(256)));
    if (body.length > 0) body[0] = 0x7b;
    const bytes = Buffer.alloc(8 + body.length);
    bytes.writeBigUInt64LE(BigInt(body.length));
    body.copy(bytes, 8);
    try {
      return judge(bytes, readSafetensorsSync(bytes));
    } catch (error) {
      return judgeError(error, '[readSafetensors] the bytes: ');
    }
  });
});

const P = 'base_model.model.';
const CONFIG = {
  peft_type: 'LORA',
  r: 2,
  lora_alpha: 4,
  target_modules: ['q', 'e'],
  modules_to_save: ['head'],
  rank_pattern: { 'x.*q': 1 },
  alpha_pattern: {},
  use_dora: false,
  bias: 'none',
  layers_to_transform: null,
  target_parameters: ['moe.w'],
};
const TENSORS: Record<string, Raw> = {
  [`${P}a.q.lora_A.weight`]: counted([2, 3]),
  [`${P}a.q.lora_B.weight`]: counted([4, 2]),
  [`${P}x.q.lora_A.weight`]: counted([1, 3]),
  [`${P}x.q.lora_B.weight`]: words('BF16', [4, 1], [1, 2, 3, 4]),
  [`${P}e.lora_embedding_A`]: counted([2, 5]),
  [`${P}e.lora_embedding_B`]: counted([3, 2]),
  [`${P}head.weight`]: counted([2, 2]),
  [`${P}moe.lora_A.weight`]: counted([6, 3]),
  [`${P}moe.lora_B.weight`]: counted([4, 6]),
};

test('mutated adapters', () => {
  const folder = writeAdapter(TENSORS, CONFIG);
  const [json, file] = ['adapter_config.json', 'adapter_model.safetensors'].map((name) =>
    path.join(folder, name),
  );
  const again = fresh('again');
  const [text, bytes] = [fs.readFileSync(json, 'utf8'), fs.readFileSync(file)];
  const modules = {
    'a.q': { inFeatures: 3, outFeatures: 4 },
    'x.q': { inFeatures: 3, outFeatures: 4 },
    e: { inFeatures: 5, outFeatures: 3 },
    'moe.w': { inFeatures: 3, outFeatures: 4, experts: 3 },
  };
  assert.is(readPeftSync(folder, modules).size, 5);
  let read = 0;
  repeat(1_500, (random) => {
    const which = random.integer(3);
    fs.writeFileSync(json, which !== 1 ? mutateText(random, text) : text);
    fs.writeFileSync(file, which > 0 ? mutateFile(random, bytes) : bytes);
    try {
      // What was read without being told of modules may be of others than these.
      const told = random.integer(2) ? modules : undefined;
      const adapters = readPeftSync(folder, told);
      read++;
      writePeftSync(again, adapters, readPeftConfigSync(folder));
      const twin = readPeftSync(again, told);
      return twin.size === adapters.size ? undefined : `${twin.size} of ${adapters.size} adapters`;
    } catch (error) {
      return judgeError(error, `[readPeft] ${folder}`);
    }
  });
  assert.ok(read > 10, `${read} read`);
});

test.run();
