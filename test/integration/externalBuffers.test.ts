// Electron, and Node built with V8's memory cage, refuse array buffers over memory of an addon. The engine makes none:
// results are arrays of the runtime's own, and the built addon does not even name the functions that would make others.
import fs from 'node:fs';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { bindingPath } from '../../ts/binding';
import * as rankone from '../../ts/index';
import { problem, ramp } from '../ops/helpers';

/** Names that an ELF64 little-endian file imports; undefined for another format. */
function elfImports(file: Buffer): string[] | undefined {
  if (file.toString('latin1', 0, 6) !== '\x7fELF\x02\x01') return undefined;
  const number = (at: number) => Number(file.readBigUInt64LE(at));
  const sections = number(0x28);
  const size = file.readUInt16LE(0x3a);
  const count = file.readUInt16LE(0x3c);
  const section = (i: number) => {
    const at = sections + i * size;
    const link = file.readUInt32LE(at + 0x28);
    return {
      type: file.readUInt32LE(at + 4),
      start: number(at + 0x18),
      size: number(at + 0x20),
      link,
    };
  };
  const names: string[] = [];
  for (let i = 0; i < count; i++) {
    const { type, start, size: bytes, link } = section(i);
    if (type !== 11) continue; // SHT_DYNSYM
    const strings = section(link).start;
    for (let at = start; at < start + bytes; at += 24) {
      const undefinedSection = file.readUInt16LE(at + 6) === 0;
      const name = strings + file.readUInt32LE(at);
      if (undefinedSection) names.push(file.toString('latin1', name, file.indexOf(0, name)));
    }
  }
  return names;
}

const EXTERNAL = [
  'napi_create_external_arraybuffer',
  'napi_create_external_buffer',
  'node_api_create_external_string_latin1',
  'node_api_create_external_string_utf16',
  'node_api_create_external_sharedarraybuffer',
];

test('the addon imports no function that makes external buffers', () => {
  const file = fs.readFileSync(bindingPath());
  const imports = elfImports(file);
  if (imports) {
    // The reading works: what the addon does use is found.
    assert.ok(imports.includes('napi_create_threadsafe_function'), imports.slice(0, 20).join());
    assert.ok(imports.includes('napi_get_typedarray_info'));
    assert.equal(
      imports.filter((name) => EXTERNAL.includes(name)),
      [],
    );
  } else {
    assert.ok(file.includes('napi_create_threadsafe_function\0'));
    for (const name of EXTERNAL) assert.not.ok(file.includes(`${name}\0`), name);
  }
});

test('results are ordinary arrays: each on a buffer of its own that can be transferred', async () => {
  const inputs = problem(1, 20, 2, 8, 4);
  const results = [
    rankone.gatedDeltaNetSync(inputs, { outputFinalState: true }),
    await rankone.gatedDeltaNet(inputs, { outputFinalState: true }),
    rankone.gatedDeltaNetBackwardSync({ ...inputs, dO: ramp(1, 20, 2, 4) }),
    await rankone.matmul({ a: ramp(9, 8), b: ramp(8, 7) }),
  ];
  const buffers = new Set<ArrayBufferLike>();
  for (const { data } of results.flatMap((result) => Object.values(result) as rankone.Tensor[])) {
    assert.is(Object.getPrototypeOf(data), Float32Array.prototype);
    assert.is(Object.getPrototypeOf(data.buffer), ArrayBuffer.prototype);
    assert.is(data.byteOffset, 0);
    assert.is(data.buffer.byteLength, data.byteLength);
    assert.not.ok(buffers.has(data.buffer));
    buffers.add(data.buffer);
    const before = data.slice();
    const moved = structuredClone(data, { transfer: [data.buffer as ArrayBuffer] });
    assert.is(data.length, 0);
    assert.equal(moved, before);
  }
  assert.ok(buffers.size >= 10);
});

test.run();
