// Objects of the package -> the engine's own that they stand for.
import type { Handle } from './binding';

/** By the names under which calls take them. Look-alikes and proxies are not among them. @internal */
export const handles = {
  base: new WeakMap<object, Handle>(),
  bank: new WeakMap<object, Handle>(),
  cache: new WeakMap<object, Handle>(),
};

/** A tensor on a device, as calls need it. @internal */
export interface DeviceEntry {
  handle: Handle;
  /** As in a header: 0 f32, 1 bf16, 2 f16. */
  dtype: number;
  shape: readonly number[];
  /** It came as a Float16Array, or was made from one that did. */
  float16: boolean;
}

/** DeviceTensors -> what they stand for. @internal */
export const deviceTensors = new WeakMap<object, DeviceEntry>();

/** @internal */
export function handleOf(kind: keyof typeof handles, value: unknown): Handle | undefined {
  return typeof value === 'object' && value !== null ? handles[kind].get(value) : undefined;
}
