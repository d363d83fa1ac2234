// AbortSignals of asynchronous calls. A signal that many calls share gets one listener: more would look like a leak.
import { binding } from './binding';
import { show, typeError } from './errors';
import type { AbortSignalLike } from './types';

interface Watch {
  jobs: Set<number>;
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

/** Has the job cancelled when the signal aborts. @internal */
export function watch(signal: AbortSignalLike, job: number): void {
  const known = watches.get(signal);
  if (known) {
    known.jobs.add(job);
    return;
  }
  const jobs = new Set([job]);
  const abort = () => {
    for (const each of jobs) binding.cancel(each);
  };
  signal.addEventListener('abort', abort);
  watches.set(signal, { jobs, abort });
}

/** To follow every watch(), once the job has ended. @internal */
export function unwatch(signal: AbortSignalLike, job: number): void {
  const { jobs, abort } = watches.get(signal)!;
  jobs.delete(job);
  if (jobs.size > 0) return;
  watches.delete(signal);
  signal.removeEventListener('abort', abort);
}
