import type { NormalizedForwardResult } from '../../ops/grid';
import type { RecurrenceInputs, RecurrenceOptions } from '../../ops/recurrence';
import { differentiable } from './differentiable';
import type { DifferentiableOperation } from './types';

/**
 * The recurrence grid over tf.Tensors of float32: linear attention with any gate and either update rule; see
 * `recurrence` of the package itself. With `outputFinalState` gradients flow through `finalState` too. A `state` is
 * advanced in place, which has no gradients.
 *
 * @throws TypeError for what is no tensor, a wrong dtype, a missing argument, an unknown key or a contradiction;
 * RangeError for a wrong shape or value; Error for a disposed tensor or state
 *
 * @example
 * const { o, finalState } = recurrence({ q, k, v, g, beta }, { outputFinalState: true });
 */
export const recurrence: DifferentiableOperation<
  RecurrenceInputs,
  RecurrenceOptions,
  NormalizedForwardResult
> = differentiable('recurrence');
