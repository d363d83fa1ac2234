import type { GradConfig, NamedAttrMap, NamedTensorMap, Tensor } from '@tensorflow/tfjs-core';
import { tf } from './core';

/** One step of a computation: its outputs, and one gradient per input from one gradient per output. @internal */
export interface Step {
  compute(): Tensor[];
  gradient(dOutputs: Tensor[]): Tensor[];
}

// Like tf.customGrad, but for any number of outputs, which only a registered kernel may have. The kernel is the same few
// lines for every operation and backend: what is to be done travels in the place of the attributes, what it is done to
// in an array, since inputs by name cannot be absent.
const kernelFunc = ({ attrs }: { attrs?: unknown }) => (attrs as Step).compute();
const gradFunc = ((dOutputs: Tensor | Tensor[], _saved: Tensor[], attrs: unknown) => {
  const gradients = (attrs as Step).gradient([dOutputs].flat());
  return gradients.map((gradient) => () => gradient);
}) as unknown as GradConfig['gradFunc'];

/** Runs a step as a kernel of the current backend and puts it on the tape, if one is recorded. */
function record(kernelName: string, inputs: Tensor[], step: Step): Tensor[] {
  tf.backend(); // makes TensorFlow.js choose one, if it has not yet
  const backendName = tf.getBackend();
  if (!tf.getKernel(kernelName, backendName))
    tf.registerKernel({ kernelName, backendName, kernelFunc });
  if (!tf.getGradient(kernelName)) tf.registerGradient({ kernelName, gradFunc });
  return tf
    .engine()
    .runKernel(kernelName, inputs as unknown as NamedTensorMap, step as unknown as NamedAttrMap);
}

/**
 * Runs a step of an operation on the tape, under the operation's name. Its gradient goes on the tape itself, so that a
 * gradient of a gradient is an error and not a missing term.
 *
 * @internal
 */
export function recordOnce(operation: string, inputs: Tensor[], step: Step): Tensor[] {
  const kernelName = `Rankone${operation[0].toUpperCase()}${operation.slice(1)}`;
  return record(kernelName, inputs, {
    compute: step.compute,
    gradient: (dOutputs) =>
      record(`${kernelName}Backward`, [...inputs, ...dOutputs], {
        compute: () => step.gradient(dOutputs),
        gradient() {
          throw new Error(`[${operation}] gradients of gradients are not available`);
        },
      }),
  });
}
