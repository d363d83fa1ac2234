// Whatever is written is read again as it was, and lies where the format says.
import fs from 'node:fs';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import {
  type PeftAdapter,
  type PeftConfig,
  readPeftConfigSync,
  readPeftSync,
  readSafetensorsSync,
  type StoredDType,
  type WritableTensor,
  writePeftSync,
  writeSafetensorsSync,
} from '../../ts/index';
import fc from '../support/property.ts';
import { fresh, unpacked } from './files';

const ARRAYS = {
  f64: Float64Array,
  f32: Float32Array,
  bf16: Uint16Array,
  f16: Uint16Array,
  i64: BigInt64Array,
  u64: BigUint64Array,
  i32: Int32Array,
  u32: Uint32Array,
  i16: Int16Array,
  u16: Uint16Array,
  i8: Int8Array,
  u8: Uint8Array,
  bool: Uint8Array,
  f8_e5m2: Uint8Array,
} satisfies Partial<Record<StoredDType, unknown>>;

const shape = fc.array(fc.integer({ min: 0, max: 4 }), { maxLength: 4 });

const tensor: fc.Arbitrary<WritableTensor> = fc
  .tuple(fc.constantFrom(...(Object.keys(ARRAYS) as (keyof typeof ARRAYS)[])), shape, fc.nat(255))
  .map(([dtype, dims, fill]) => {
    const Kind = ARRAYS[dtype];
    const size = dims.reduce((a, b) => a * b, 1);
    const bytes = Uint8Array.from(
      { length: size * Kind.BYTES_PER_ELEMENT },
      (_, i) => i * 7 + fill,
    );
    return { data: new Kind(bytes.buffer), shape: dims, dtype } as WritableTensor;
  });

const name = fc.string({ unit: 'binary', maxLength: 12 }).filter((text) => text !== '__metadata__');
const bytesOf = (data: ArrayBufferView): Buffer =>
  Buffer.from(data.buffer, data.byteOffset, data.byteLength);

test('tensors and metadata through a file', () => {
  const file = fresh();
  fc.assert(
    fc.property(
      fc.array(fc.tuple(name, tensor), { maxLength: 8 }),
      fc.array(fc.tuple(name, name), { maxLength: 3 }),
      (entries, pairs) => {
        const tensors = new Map(entries);
        const metadata = Object.fromEntries(pairs);
        writeSafetensorsSync(file, tensors, metadata);
        const read = readSafetensorsSync(file);
        assert.equal([...read.tensors.keys()].sort(), [...tensors.keys()].sort());
        for (const [key, { data, shape, dtype }] of tensors) {
          const back = read.tensors.get(key)!;
          assert.equal([back.shape, back.dtype], [[...shape], dtype]);
          assert.is(Buffer.compare(bytesOf(back.data), bytesOf(data as ArrayBufferView)), 0);
        }
        assert.equal(Object.entries(read.metadata), Object.entries(metadata));
        const first = fs.readFileSync(file);
        const header = 8 + Number(first.readBigUInt64LE(0));
        assert.is(header % 8, 0);
        for (const { bytes, shape, dtype, at } of places(file)) {
          const width = bytes / (shape.reduce((a, b) => a * b, 1) || 1);
          if (bytes > 0) assert.is((header + at) % width, 0, `${dtype} [${shape}] at ${at}`);
        }
        // The same tensors in another order.
        writeSafetensorsSync(file, new Map([...tensors].reverse()), metadata);
        assert.is(Buffer.compare(fs.readFileSync(file), first), 0);
      },
    ),
    { seed: 5, numRuns: 150 },
  );
});

function places(file: string): { bytes: number; shape: number[]; dtype: string; at: number }[] {
  const bytes = fs.readFileSync(file);
  const header = JSON.parse(bytes.toString('utf8', 8, 8 + Number(bytes.readBigUInt64LE(0))));
  delete header.__metadata__;
  return Object.values<any>(header).map(({ dtype, shape, data_offsets: [from, to] }) => {
    return { bytes: to - from, shape, dtype, at: from };
  });
}

interface Layer {
  path: string;
  r: number;
  alpha: number;
  inFeatures: number;
  outFeatures: number;
  dtype: 'f32' | 'bf16' | 'f16';
}

const layer: fc.Arbitrary<Layer> = fc.record({
  path: fc
    .tuple(fc.nat(3), fc.constantFrom('q_proj', 'k_proj', 'mlp.up'))
    .map(([i, part]) => `model.layers.${i}.${part}`),
  r: fc.integer({ min: 1, max: 5 }),
  alpha: fc.integer({ min: 1, max: 9 }),
  inFeatures: fc.integer({ min: 1, max: 6 }),
  outFeatures: fc.integer({ min: 1, max: 6 }),
  dtype: fc.constantFrom('f32', 'bf16', 'f16'),
});

function filled(dtype: Layer['dtype'], ...dims: number[]): any {
  const size = dims.reduce((a, b) => a * b, 1);
  const data = dtype === 'f32' ? new Float32Array(size) : new Uint16Array(size);
  for (let i = 0; i < size; i++) data[i] = (i * 2654435761) % 65521;
  return { data, shape: dims, dtype };
}

test('adapters of any ranks, kinds and scales through a folder', () => {
  const [first, second] = [fresh('one'), fresh('two')];
  fc.assert(
    fc.property(
      fc.uniqueArray(layer, { selector: ({ path }) => path, minLength: 1, maxLength: 6 }),
      fc.record({ rslora: fc.boolean(), dora: fc.boolean(), expert: fc.boolean() }),
      (layers, { rslora, dora, expert }) => {
        const config: PeftConfig = {
          peft_type: 'LORA',
          r: 64,
          lora_alpha: 64,
          use_rslora: rslora,
          use_dora: dora && !expert,
          lora_bias: false,
          target_modules: layers.map(({ path }) => path),
          // Full names, of which none is the end of another, and regular expressions.
          rank_pattern: Object.fromEntries(layers.map(({ path, r }) => [`^${path}`, r])),
          alpha_pattern: Object.fromEntries(layers.map(({ path, alpha }) => [path, alpha])),
          ...(expert && { target_parameters: ['experts.w'] }),
        };
        const adapters = new Map<string, PeftAdapter>();
        for (const { path, r, alpha, inFeatures, outFeatures, dtype } of layers)
          adapters.set(path, {
            kind: 'linear',
            a: filled(dtype, r, inFeatures),
            b: filled(dtype, outFeatures, r),
            scale: alpha / (rslora ? Math.sqrt(r) : r),
            ...(dora && !expert && { magnitude: filled('f32', outFeatures) }),
          });
        if (expert)
          adapters.set('model.experts.w', {
            kind: 'experts',
            a: filled('bf16', 3, 64, 2),
            b: filled('bf16', 3, 4, 64),
            scale: rslora ? 8 : 1,
          });
        writePeftSync(first, adapters, config);
        const modules = new Map(
          layers.map(({ path, inFeatures, outFeatures }) => [path, { inFeatures, outFeatures }]),
        );
        if (expert)
          modules.set('model.experts.w', { inFeatures: 2, outFeatures: 4, experts: 3 } as never);
        const read = readPeftSync(first, modules);
        assert.equal(new Map([...read].sort()), new Map([...adapters].sort()));
        assert.equal(readPeftConfigSync(first), JSON.parse(JSON.stringify(config)));
        writePeftSync(second, read, config);
        const file = 'adapter_model.safetensors';
        assert.equal(unpacked(`${second}/${file}`), unpacked(`${first}/${file}`));
      },
    ),
    { seed: 9, numRuns: 150 },
  );
});

test.run();
