import { test } from 'uvu';
import * as assert from 'uvu/assert';
import * as rankone from '../../ts/index';
import { endOfAborted, ramp, sameBits, throwsWith } from '../ops/helpers';
import fc from '../support/property.ts';

const { createState, deserializeState, gatedDeltaNet } = rankone;
const HEADER = 36;

function filled(shape: rankone.StateShape): rankone.RecurrentState {
  const state = createState(shape);
  state.copyFrom(ramp(...state.shape), state.zShape && ramp(...state.zShape));
  return state;
}

const small = { batch: 2, valueHeads: 2, keyDim: 3, valueDim: 5, keyHeads: 1 };
const shapes = fc
  .record({
    batch: fc.integer({ min: 1, max: 3 }),
    keyHeads: fc.integer({ min: 0, max: 2 }),
    groups: fc.integer({ min: 1, max: 3 }),
    keyDim: fc.integer({ min: 1, max: 9 }),
    valueDim: fc.integer({ min: 1, max: 9 }),
  })
  .map(({ keyHeads, groups, ...rest }) => {
    const valueHeads = Math.max(keyHeads, 1) * groups;
    return keyHeads ? { ...rest, keyHeads, valueHeads } : { ...rest, valueHeads };
  });

function refuses(bytes: unknown, pattern: RegExp, kind: typeof Error = RangeError): void {
  throwsWith(() => deserializeState(bytes as Uint8Array), kind, pattern);
}

function changed(change: (view: DataView, bytes: Uint8Array) => void): Uint8Array {
  const bytes = filled(small).serialize();
  change(new DataView(bytes.buffer), bytes);
  return bytes;
}

/** The polynomial bit by bit. */
function crc32(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return (crc ^ 0xffffffff) >>> 0;
}

/** Bytes of these dimensions that are right in all but what they say. */
function forged(dims: number[], numbers: number): Uint8Array {
  const bytes = new Uint8Array(HEADER + 4 * numbers);
  bytes.set(filled(small).serialize().subarray(0, 12));
  const view = new DataView(bytes.buffer);
  dims.forEach((d, i) => {
    view.setUint32(16 + 4 * i, d, true);
  });
  view.setUint32(12, crc32(bytes.subarray(16)), true);
  return bytes;
}

test('a state comes back with its dimensions and bits', () => {
  fc.assert(
    fc.property(shapes, fc.infiniteStream(fc.float()), (shape, values) => {
      const state = createState(shape);
      const draw = (dims: readonly number[]) => {
        const size = dims.reduce((a, b) => a * b);
        return {
          data: Float32Array.from({ length: size }, () => values.next().value),
          shape: dims,
        };
      };
      state.copyFrom(draw(state.shape), state.zShape && draw(state.zShape));
      const back = deserializeState(state.serialize());
      assert.equal(back.shape, state.shape);
      assert.equal(back.zShape, state.zShape);
      sameBits(back.toTensor(), state.toTensor());
      if (state.zShape) sameBits(back.zToTensor()!, state.zToTensor()!);
      else assert.is(back.zToTensor(), undefined);
    }),
    { numRuns: 100, seed: 1 },
  );
});

test('the format', () => {
  const state = createState({ batch: 1, valueHeads: 2, keyDim: 1, valueDim: 2, keyHeads: 2 });
  const data = new Float32Array([1, -2, 0.5, 0]);
  new Uint32Array(data.buffer)[3] = 0x7f812345; // a signalling NaN with a payload
  state.copyFrom(
    { data, shape: state.shape },
    { data: new Float32Array([3, 4]), shape: [1, 2, 1] },
  );
  const bytes = state.serialize();
  const hex = (from: number, to?: number) => Buffer.from(bytes.subarray(from, to)).toString('hex');
  assert.is(Buffer.from(bytes.subarray(0, 8)).toString('latin1'), 'RK1STATE');
  assert.is(hex(8, 12), '01000000');
  assert.is(hex(16, 36), '0100000002000000010000000200000002000000');
  assert.is(hex(36, 52), '0000803f000000c00000003f4523817f');
  assert.is(hex(52), '0000404000008040');
  const view = new DataView(bytes.buffer);
  assert.is(view.getUint32(12, true), crc32(bytes.subarray(16)));
  assert.is(crc32(Buffer.from('123456789')), 0xcbf43926); // the check value of CRC-32
  sameBits(deserializeState(bytes).toTensor(), state.toTensor());
});

test('bytes that are a part of others, shared, or a Buffer', () => {
  const state = filled(small);
  const bytes = state.serialize();
  const wide = new Uint8Array(bytes.length + 10);
  wide.set(bytes, 3);
  const shared = new Uint8Array(new SharedArrayBuffer(bytes.length));
  shared.set(bytes);
  for (const given of [wide.subarray(3, 3 + bytes.length), shared, Buffer.from(bytes)])
    sameBits(deserializeState(given).toTensor(), state.toTensor());
});

test('a decode goes on from the bytes', async () => {
  const shape = { batch: 1, valueHeads: 2, keyDim: 8, valueDim: 4 };
  const inputs = () => {
    const g = { data: new Float32Array(6).fill(-0.1), shape: [1, 3, 2] };
    return {
      q: ramp(1, 3, 2, 8),
      k: ramp(1, 3, 2, 8),
      v: ramp(1, 3, 2, 4),
      g,
      beta: ramp(1, 3, 2),
    };
  };
  const state = createState(shape);
  await gatedDeltaNet({ ...inputs(), state });
  const back = deserializeState(state.serialize());
  const { o } = await gatedDeltaNet({ ...inputs(), state });
  sameBits((await gatedDeltaNet({ ...inputs(), state: back })).o, o);
  sameBits(back.toTensor(), state.toTensor());
});

test('bytes cut off anywhere', () => {
  const bytes = filled(small).serialize();
  for (let length = 0; length < bytes.length; length++)
    refuses(bytes.subarray(0, length), /^\[deserializeState\] bytes: expected .* got \d+/);
});

test('bytes beyond the end', () => {
  const bytes = filled(small).serialize();
  const wide = new Uint8Array(bytes.length + 1);
  wide.set(bytes);
  refuses(wide, /expected 300 in all for batch 2, valueHeads 2, .* got 301$/);
});

test('one bit changed anywhere', () => {
  const bytes = filled(small).serialize();
  for (let i = 0; i < 8 * bytes.length; i++) {
    bytes[i >> 3] ^= 1 << (i & 7);
    refuses(bytes, /^\[deserializeState\] bytes: expected /);
    bytes[i >> 3] ^= 1 << (i & 7);
  }
  deserializeState(bytes);
});

test('bytes of something else', () => {
  refuses(new Uint8Array(100), /expected 'RK1STATE' at their start, got "\\u0000/);
  refuses(
    changed((view) => view.setUint32(8, 2, true)),
    /expected version 1, got 2$/,
  );
  refuses(
    changed((view) => view.setFloat32(60, 3, true)),
    /expected checksum \d+, got \d+: /,
  );
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 1, maxLength: 200 }), (bytes) => {
      refuses(bytes, /^\[deserializeState\] bytes: /);
      refuses(
        changed((_, all) => all.set(bytes, 16)),
        /^\[deserializeState\] bytes: /,
      );
    }),
    { numRuns: 300, seed: 2 },
  );
});

test('dimensions that are huge take no memory', () => {
  const before = process.memoryUsage().arrayBuffers;
  for (const dims of [
    [0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff],
    [1, 1 << 30, 512, 512, 0],
    [1 << 16, 1 << 16, 1, 1, 1 << 16],
  ])
    refuses(forged(dims, 4), /expected \S+ in all for batch/);
  assert.ok(process.memoryUsage().arrayBuffers - before < 1e6);
});

test('dimensions that no state has', () => {
  refuses(forged([0, 1, 1, 1, 0], 0), /^\[deserializeState\] batch: expected .*, got 0$/);
  refuses(forged([1, 1, 513, 1, 0], 513), /^\[deserializeState\] keyDim: expected .*, got 513$/);
  refuses(forged([1, 1, 1, 600, 0], 600), /^\[deserializeState\] valueDim: .*, got 600$/);
  refuses(forged([1, 3, 1, 1, 2], 5), /^\[deserializeState\] keyHeads: expected a divisor/);
});

test('what is no array of bytes', () => {
  const bytes = filled(small).serialize();
  for (const value of [undefined, null, 'RK1STATE', 7, [...bytes], bytes.buffer, new Int8Array(99)])
    refuses(value, /^\[deserializeState\] bytes: expected a Uint8Array, got /, TypeError);
  refuses(new Proxy(bytes, {}), /expected a Uint8Array/, TypeError);
  class Liar extends Uint8Array {
    override get length(): number {
      return 1e9;
    }
    override get buffer(): ArrayBuffer {
      throw new Error('no');
    }
  }
  sameBits(deserializeState(new Liar(bytes)).toTensor(), filled(small).toTensor());
  structuredClone(bytes, { transfer: [bytes.buffer as ArrayBuffer] });
  refuses(bytes, /^\[deserializeState\] bytes: expected .* detached/);
});

test('a state that cannot be read', async () => {
  const [T, D] = [8_000, 128];
  const state = createState({ batch: 1, valueHeads: 2, keyDim: D, valueDim: D });
  const wide = ramp(1, T, 2, D);
  const beta = ramp(1, T, 2);
  const g = { data: new Float32Array(2 * T).fill(-0.1), shape: [1, T, 2] };
  const refused = (pattern: RegExp) => throwsWith(() => state.serialize(), Error, pattern);
  const end = await endOfAborted((signal) => {
    const pending = gatedDeltaNet({ q: wide, k: wide, v: wide, g, beta, state }, { signal });
    refused(/^\[RecurrentState.serialize\] state: it is busy/);
    return pending;
  });
  assert.match(end.message, /abort/);
  refused(/^\[RecurrentState.serialize\] state: .*half advanced/);
  state.dispose();
  refused(/^\[RecurrentState.serialize\] state: .*disposed/);
});

test.run();
