// Where the tensors of a benchmark are: on the CPU, or on a device. One process has one place.
import type { CudaDeviceName } from '../device';
import { engine } from './engine';

export type Place = 'cpu' | CudaDeviceName;

let place: Place = 'cpu';

/** Everything from here on is computed there. */
export function computeOn(where: Place): void {
  place = where;
}

export function placeName(): Place {
  return place;
}

/** What makes a state, a weight or a bank there: an option of its own function. */
export function placeOption(): { device?: Place } {
  return place === 'cpu' ? {} : { device: place };
}

function isFloats(value: object): boolean {
  const { data, shape } = value as { data?: unknown; shape?: unknown };
  return Array.isArray(shape) && (data instanceof Float32Array || data instanceof Uint16Array);
}

function isPlain(value: unknown): value is object {
  return (
    typeof value === 'object' && value !== null && Object.getPrototypeOf(value) === Object.prototype
  );
}

/** A call's inputs or options with their float tensors in place; index arrays stay where they are. */
export function placed<T>(value: T): T {
  if (place === 'cpu' || !isPlain(value)) return value;
  if (isFloats(value)) return engine().toDeviceSync(value as never, place) as T;
  const entries = Object.entries(value).map(([name, own]) => [name, placed(own)]);
  return Object.fromEntries(entries) as T;
}

/** Results on the CPU. */
export function fetched<T>(value: T): T {
  if (place === 'cpu') return value;
  if (value instanceof engine().DeviceTensor) return value.toHostSync() as T;
  if (value instanceof Map)
    return new Map([...value].map(([key, own]) => [key, fetched(own)])) as T;
  if (!isPlain(value)) return value;
  return Object.fromEntries(Object.entries(value).map(([name, own]) => [name, fetched(own)])) as T;
}

/** Returns when the place has done what it was asked for. */
export function finish(): void {
  if (place !== 'cpu') engine().synchronizeSync(place);
}
