// A layer is written once, as a generator of the engine's calls; here they are made, on the caller's thread or beside it.
import { asynchronous, synchronous } from '../marshal';
import type { AbortSignalLike } from '../types';

/** One call of the engine, by name. */
export interface Call {
  readonly name: string;
  readonly inputs: object;
  readonly options?: object;
}

/** The body of a layer. What a `yield` evaluates to is what its call returns. */
export type Steps<Result> = Generator<Call, Result, any>;

type Made = (inputs: object, options?: object) => any;

function cached(make: (name: string) => Made): (name: string) => Made {
  const made = new Map<string, Made>();
  return (name) => {
    const known = made.get(name);
    if (known) return known;
    const operation = make(name);
    made.set(name, operation);
    return operation;
  };
}

const sync = cached(synchronous);
const async = cached(asynchronous);

/** Makes all calls of a body on the caller's thread. Errors pass through the body, so that it can put things in order. */
export function runSync<Result>(body: Steps<Result>): Result {
  let step = body.next();
  while (!step.done) {
    const { name, inputs, options } = step.value;
    let result: unknown;
    try {
      result = sync(name)(inputs, options);
    } catch (error) {
      step = body.throw(error);
      continue;
    }
    step = body.next(result);
  }
  return step.value;
}

/** {@link runSync} on the engine's threads, one call after the other. */
export async function runAsync<Result>(
  body: Steps<Result>,
  signal: AbortSignalLike | undefined,
): Promise<Result> {
  let step = body.next();
  while (!step.done) {
    const { name, inputs, options } = step.value;
    let result: unknown;
    try {
      result = await async(name)(inputs, { ...options, signal });
    } catch (error) {
      step = body.throw(error);
      continue;
    }
    step = body.next(result);
  }
  return step.value;
}
