import type * as Rankone from '../index';

/**
 * The package, loaded at the first call: RANKONE_ISA counts at that moment, and what needs no addon (`--help`) works
 * without one.
 */
export function engine(): typeof Rankone {
  return require('../index');
}

/** What the package keeps to itself. */
export function internals(): typeof import('../binding') {
  return require('../binding');
}

type Call = (inputs: object, options?: object) => any;

/** A synchronous operation of the package by name. */
export function operationNamed(name: string): Call {
  return (engine() as unknown as Record<string, Call>)[name];
}
