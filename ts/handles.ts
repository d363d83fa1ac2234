// Objects of the package -> the engine's own that they stand for.
import type { Handle } from './binding';

/** By the names under which calls take them. Look-alikes and proxies are not among them. @internal */
export const handles = {
  base: new WeakMap<object, Handle>(),
  bank: new WeakMap<object, Handle>(),
};

/** @internal */
export function handleOf(kind: keyof typeof handles, value: unknown): Handle | undefined {
  return typeof value === 'object' && value !== null ? handles[kind].get(value) : undefined;
}
