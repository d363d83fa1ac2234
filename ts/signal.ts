// AbortSignals of asynchronous calls. A signal that many calls share gets one listener: more would look like a leak.
import { binding } from './binding';
import { show, typeError } from './errors';
import type { AbortSignalLike } from './types';

/** A call that a signal may abort. @internal */
export interface Watched {
  /** Given by the engine once the call is under way. */
  job: number | undefined;
  aborted: boolean;
}

interface Watch {
  calls: Set<Watched>;
  abort: () => void;
}

const watches = new WeakMap<AbortSignalLike, Watch>();

/** @internal */
export function checkSignal(operation: string, value: any): AbortSignalLike | undefined {
  if (value === undefined) return undefined;
  const good =
    typeof value === 'object' &&
    value !== null &&
    typeof value.addEventListener === 'function' &&
    typeof value.removeEventListener === 'function';
  if (!good) throw typeError(operation, `signal: expected an AbortSignal, got ${show(value)}`);
  return value;
}

/** What a call that the signal aborted rejects with. @internal */
export function abortReason(signal: AbortSignalLike): unknown {
  const { reason } = signal;
  if (reason !== undefined) return reason;
  const text = 'This operation was aborted';
  if (typeof DOMException === 'function') return new DOMException(text, 'AbortError');
  return Object.assign(new Error(text), { name: 'AbortError', code: 'ABORT_ERR' });
}

/** To be called before the call is made: a signal that throws from addEventListener prevents it. @internal */
export function watch(signal: AbortSignalLike): Watched {
  const call: Watched = { job: undefined, aborted: false };
  const known = watches.get(signal);
  if (known) {
    known.calls.add(call);
    return call;
  }
  const calls = new Set([call]);
  const abort = () => {
    for (const each of calls) {
      each.aborted = true;
      if (each.job !== undefined) binding.cancel(each.job);
    }
  };
  signal.addEventListener('abort', abort);
  watches.set(signal, { calls, abort });
  return call;
}

/** The call is under way. @internal */
export function started(call: Watched, job: number): void {
  call.job = job;
  if (call.aborted) binding.cancel(job);
}

/** To follow every watch(), once the call has ended. @internal */
export function unwatch(signal: AbortSignalLike, call: Watched): void {
  const watch = watches.get(signal);
  if (!watch?.calls.delete(call) || watch.calls.size > 0) return;
  watches.delete(signal);
  try {
    signal.removeEventListener('abort', watch.abort);
  } catch {
    // Not of the platform. The call has ended, and what it wrote is written: that is what the caller must hear.
  }
}
