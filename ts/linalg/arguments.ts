/** What functions that are not the engine's check of their arguments. */
import { rangeError, show, typeError, unknownKey } from '../errors';
import { arrayKind } from '../header';
import type { Tensor } from '../types';

/** A float32 matrix whose fields have been read once. @internal */
export interface Matrix {
  readonly data: Float32Array;
  readonly shape: readonly [number, number];
}

/** @internal */
export function checkKeys(
  operation: string,
  what: 'an input' | 'an option',
  object: unknown,
  legal: string[],
): void {
  if (typeof object !== 'object' || object === null || Array.isArray(object))
    throw typeError(
      operation,
      `${what === 'an input' ? 'inputs' : 'options'}: expected an object, got ${show(object)}`,
    );
  for (const key of Object.keys(object))
    if (!legal.includes(key)) throw unknownKey(operation, what, key, legal);
}

/** A float32 tensor of rank 2, of given sizes where they are, whose elements are finite. @internal */
export function checkMatrix(
  operation: string,
  name: string,
  value: unknown,
  rows?: number,
  columns?: number,
  sign?: 'not negative',
): Matrix {
  if (typeof value !== 'object' || value === null)
    throw typeError(operation, `${name}: expected a tensor {data, shape}, got ${show(value)}`);
  const { data, shape, dtype } = value as Tensor;
  if (arrayKind(data) !== 'Float32Array' || (dtype !== undefined && dtype !== 'f32'))
    throw typeError(
      operation,
      `${name}: expected a Float32Array (f32), got ${show(data)} with dtype ${show(dtype)}`,
    );
  const [height, width] = Array.isArray(shape) && shape.length === 2 ? shape : [-1, -1];
  const wrong = (n: unknown): boolean => !Number.isSafeInteger(n) || (n as number) < 1;
  if (
    wrong(height) ||
    wrong(width) ||
    (rows !== undefined && height !== rows) ||
    (columns !== undefined && width !== columns)
  )
    throw rangeError(
      operation,
      `${name}: expected shape [${rows ?? 'rows'},${columns ?? 'columns'}], got ` +
        (Array.isArray(shape) ? `[${shape.slice(0, 8).map(show)}]` : show(shape)),
    );
  if (data.length !== height * width)
    throw rangeError(
      operation,
      `${name}: expected ${height * width} elements for shape [${height},${width}], got ${data.length}`,
    );
  for (let i = 0; i < data.length; i++) {
    if (Number.isFinite(data[i]) && (sign === undefined || data[i] >= 0)) continue;
    const kind = sign === undefined ? 'finite' : 'finite and not negative';
    throw rangeError(operation, `${name}: expected ${kind} elements, got ${data[i]} at ${i}`);
  }
  return { data, shape: [height, width] };
}

/** @internal */
export function readInteger(
  operation: string,
  name: string,
  value: unknown,
  fallback: number | undefined,
  least: number,
  most: number = Number.MAX_SAFE_INTEGER,
): number {
  const number = value === undefined ? fallback : value;
  if (typeof number !== 'number')
    throw typeError(operation, `${name}: expected an integer, got ${show(value)}`);
  if (!Number.isSafeInteger(number) || number < least || number > most)
    throw rangeError(
      operation,
      most === Number.MAX_SAFE_INTEGER
        ? `${name}: expected an integer of at least ${least}, got ${number}`
        : `${name}: expected an integer from ${least} to ${most}, got ${number}`,
    );
  return number;
}

/** A finite number above zero, or of at least zero. @internal */
export function readNumber(
  operation: string,
  name: string,
  value: unknown,
  fallback: number | undefined,
  zero: 'positive' | 'or zero' = 'positive',
): number {
  const number = value === undefined ? fallback : value;
  if (typeof number !== 'number')
    throw typeError(operation, `${name}: expected a number, got ${show(value)}`);
  if (!Number.isFinite(number) || number < 0 || (number === 0 && zero === 'positive'))
    throw rangeError(
      operation,
      `${name}: expected a finite number ${zero === 'positive' ? 'above 0' : 'of at least 0'}, got ${number}`,
    );
  return number;
}

/** @internal */
export function readChoice<Choice extends string>(
  operation: string,
  name: string,
  value: unknown,
  choices: readonly Choice[],
): Choice {
  if (value === undefined) return choices[0];
  if (choices.includes(value as Choice)) return value as Choice;
  const listed = choices.map((choice) => `'${choice}'`).join(', ');
  throw rangeError(operation, `${name}: expected one of ${listed}, got ${show(value)}`);
}

/** @internal */
export function readFlag(
  operation: string,
  name: string,
  value: unknown,
  fallback: boolean,
): boolean {
  if (value === undefined) return fallback;
  if (typeof value === 'boolean') return value;
  throw typeError(operation, `${name}: expected a boolean, got ${show(value)}`);
}
