// Seeded weights of every format: the values that a weight stands for, and the weight as the engine has it.
import type { LowBitFormat } from '#oracle/reference/packedWeight';
import { dequantise, scaleCount, twoPerByte } from '#oracle/reference/packedWeight';
import { round } from '#oracle/support/half';
import { Random } from '#oracle/support/random';
import type { Tensor32 } from '#oracle/support/tensor';
import type { PackedWeight, WeightFormat } from '../../lora/packedWeight';
import { engine } from '../engine';
import { placeOption } from '../place';

interface Drawn {
  values: Tensor32;
  pack: () => PackedWeight;
  packed?: PackedWeight;
}

/** By the values' array. */
const known = new WeakMap<Float32Array, Drawn>();

// Large ones take longer to draw than to multiply with, and a run goes through many problems on one.
const LARGE = 1 << 20;
let last: { key: string; drawn: Drawn } | undefined;

/** The values [N,K] of a weight; they are the caller's to read only. */
export function drawWeight(format: WeightFormat, N: number, K: number): Tensor32 {
  const key = `${format} ${N} ${K}`;
  if (last?.key === key) return last.drawn.values;
  const drawn = draw(format, [N, K]);
  known.set(drawn.values.data, drawn);
  if (N * K < LARGE) return drawn.values;
  last?.drawn.packed?.dispose();
  last = { key, drawn };
  return drawn.values;
}

/** One that was drawn, packed once; it lives as long as the values. */
export function packDrawn({ data }: Tensor32): PackedWeight {
  const drawn = known.get(data)!;
  if (!drawn.packed || drawn.packed.disposed) drawn.packed = drawn.pack();
  return drawn.packed;
}

/** One that was drawn, packed anew: the caller disposes of it. */
export function packAgain({ data }: Tensor32): PackedWeight {
  return known.get(data)!.pack();
}

function draw(format: WeightFormat, shape: number[]): Drawn {
  const random = new Random(20 + shape[0] + shape[1]);
  const [N, K] = shape;
  const deviation = 1 / Math.sqrt(K);
  if (format === 'f32' || format === 'bf16' || format === 'f16') {
    const most = Math.sqrt(3) * deviation;
    const data = random.uniforms(N * K, -most, most);
    if (format !== 'f32') for (let i = 0; i < data.length; i++) data[i] = round(format, data[i]);
    const values = { data, shape };
    return {
      values,
      pack: () => engine().packWeightSync(values, { format, ...placeOption() } as never),
    };
  }
  return drawnCodes(format, shape, random, deviation);
}

/** Blocks of q8 and q4 as ggml's quantisation of the same values has them: a largest code, and a scale of half precision. */
function drawnCodes(
  format: LowBitFormat,
  shape: number[],
  random: Random,
  deviation: number,
): Drawn {
  const [N, K] = shape;
  const signed = format === 'int8' || format === 'q8';
  const codes = signed ? new Int8Array(N * K) : new Uint8Array(N * K);
  for (let i = 0; i < codes.length; i += 4) {
    const bits = random.nextUint32();
    for (let j = i; j < Math.min(i + 4, codes.length); j++) {
      const byte = (bits >>> (8 * (j - i))) & 255;
      codes[j] = signed ? Math.max(byte - 128, -127) : byte & 15;
    }
  }
  if (format === 'q8' || format === 'q4')
    for (let row = 0; row < N; row++)
      for (let column = 0; column < K; column += 32)
        codes[row * K + column] = format === 'q8' ? 127 : 0;
  const most = { int8: 127, q8: 127, q4: 8, nf4: 1 }[format];
  const scales = random
    .uniforms(scaleCount(format, N, K), deviation / most, (2.5 * deviation) / most)
    .map((scale) => round('f16', scale));
  const values = dequantise(format, codes, scales, shape) as Tensor32;
  const stored = signed ? codes : twoPerByte(codes);
  const weight = { format, codes: stored, [format === 'nf4' ? 'absmax' : 'scales']: scales, shape };
  return {
    values,
    pack: () => engine().packQuantisedSync(weight as never, placeOption() as never),
  };
}
