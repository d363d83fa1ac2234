/** Weights of few bits in plain code: codes drawn or rounded to, and the values that they stand for. */

export type LowBitFormat = 'int8' | 'q8' | 'q4' | 'nf4';

/** Quantiles of a normal distribution as QLoRA tabulates them (Dettmers et al., 2023, appendix E). */
export const NF4_VALUES = [
  -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
  -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
  0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
  0.7229568362236023, 1.0,
];

/** Elements that share a scale: a row, 32 of a row, or 64 in row-major order whatever the rows. */
export function scaleIndex(format: LowBitFormat, row: number, column: number, columns: number) {
  switch (format) {
    case 'int8':
      return row;
    case 'q8':
    case 'q4':
      return row * Math.ceil(columns / 32) + Math.floor(column / 32);
    case 'nf4':
      return Math.floor((row * columns + column) / 64);
  }
}

export function scaleCount(format: LowBitFormat, rows: number, columns: number): number {
  return rows && columns ? scaleIndex(format, rows - 1, columns - 1, columns) + 1 : 0;
}

/** One value; a code is -128 .. 127, or 0 .. 15. */
export function elementOf(format: LowBitFormat, code: number, scale: number): number {
  if (format === 'nf4') return NF4_VALUES[code] * scale;
  return (format === 'q4' ? code - 8 : code) * scale;
}

/** [rows, columns] from one code an element. */
export function dequantise(
  format: LowBitFormat,
  codes: ArrayLike<number>,
  scales: ArrayLike<number>,
  [rows, columns]: readonly number[],
): { data: Float32Array; shape: number[] } {
  const data = new Float32Array(rows * columns);
  for (let row = 0; row < rows; row++)
    for (let column = 0; column < columns; column++) {
      const at = row * columns + column;
      data[at] = elementOf(format, codes[at], scales[scaleIndex(format, row, column, columns)]);
    }
  return { data, shape: [rows, columns] };
}

/** Two codes a byte, the first one in the high half; a last odd half is zero. */
export function twoPerByte(codes: ArrayLike<number>): Uint8Array {
  const bytes = new Uint8Array(Math.ceil(codes.length / 2));
  for (let i = 0; i < codes.length; i++) bytes[i >> 1] |= i & 1 ? codes[i] : codes[i] << 4;
  return bytes;
}

/**
 * The 256 values of bitsandbytes' signed dynamic map, ascending: for every power 10^-6 .. 10^0 twice as many steps of
 * [0.1, 1] as for the one before, their midpoints with both signs, 0 and 1.
 */
export function dynamicMap(): number[] {
  const values = [0, 1];
  for (let i = 0; i < 7; i++) {
    const steps = 2 ** i;
    for (let j = 0; j < steps; j++) {
      const middle = 0.1 + (0.9 * (j + 0.5)) / steps;
      values.push(10 ** (i - 6) * middle, -(10 ** (i - 6)) * middle);
    }
  }
  return values.sort((a, b) => a - b);
}
