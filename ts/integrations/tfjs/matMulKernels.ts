import type { KernelBackend, KernelConfig, TensorInfo } from '@tensorflow/tfjs-core';
import { synchronous } from '../../marshal';
import type { MatmulInputs, MatmulOptions, MatmulResult } from '../../ops/matmul';
import { tf } from './core';

interface Call {
  inputs: Record<string, TensorInfo | undefined>;
  attrs: Record<string, any>;
  backend: KernelBackend;
}

const BACKEND = 'cpu';
const ACTIVATIONS: Record<string, string> = {
  relu: 'Relu',
  relu6: 'Relu6',
  elu: 'Elu',
  sigmoid: 'Sigmoid',
  leakyrelu: 'LeakyRelu',
  prelu: 'Prelu',
};
const matmul: (inputs: MatmulInputs, options: MatmulOptions) => MatmulResult =
  synchronous('matmul');

const size = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1);
const isMatrix = ({ shape }: TensorInfo): boolean => size(shape.slice(0, -2)) === 1;
const sameBatch = (a: TensorInfo, b: TensorInfo): boolean =>
  a.shape.length === b.shape.length && a.shape.slice(0, -2).every((d, i) => d === b.shape[i]);

/** Whether the product is one of the engine's: float32, of matrices or of batches that need no broadcasting. */
function handles({ inputs }: Call): boolean {
  const a = inputs.a!;
  const b = inputs.b!;
  if (a.dtype !== 'float32' || b.dtype !== 'float32') return false;
  return sameBatch(a, b) || isMatrix(a) || isMatrix(b);
}

/** Values of a float32 tensor. One that was cast keeps the array that it was cast from. */
function read(backend: KernelBackend, { dataId }: TensorInfo): Float32Array {
  const values = backend.readSync(dataId);
  return values instanceof Float32Array ? values : Float32Array.from(values as ArrayLike<number>);
}

function product({ inputs, attrs, backend }: Call, bias?: TensorInfo): TensorInfo {
  const a = inputs.a!;
  const b = inputs.b!;
  // All that stands before a matrix is put into one dimension, or none: the engine wants equal batches, or a single one.
  const operand = (t: TensorInfo) => {
    const matrix = t.shape.slice(-2);
    const shape = isMatrix(t) ? matrix : [size(t.shape.slice(0, -2)), ...matrix];
    return { data: read(backend, t), shape };
  };
  const { transposeA = false, transposeB = false } = attrs;
  const terms: MatmulInputs = { a: operand(a), b: operand(b) };
  if (bias) terms.bias = { data: read(backend, bias), shape: [size(bias.shape)] };
  const { y } = matmul(terms, { transposeA, transposeB });
  const batch = tf.broadcast_util.assertAndGetBroadcastShape(
    a.shape.slice(0, -2),
    b.shape.slice(0, -2),
  );
  const shape = [...batch, ...y.shape.slice(-2)];
  return { dataId: backend.write(y.data, shape, 'float32'), shape, dtype: 'float32' };
}

function runKernel(name: string, inputs: Call['inputs'], attrs: object, backend: KernelBackend) {
  const { kernelFunc } = tf.getKernel(name, BACKEND);
  return kernelFunc({ inputs, attrs: attrs as Call['attrs'], backend }) as TensorInfo;
}

/** Bias and activation are fused in name only on this backend: what the engine does not add, its own kernels do. */
function fused(call: Call): TensorInfo {
  const { backend, attrs } = call;
  const { bias, preluActivationWeights: alpha } = call.inputs;
  const columns = call.inputs.b!.shape.at(attrs.transposeB ? -2 : -1)!;
  const isRow =
    bias?.dtype === 'float32' && bias.shape.at(-1) === columns && size(bias.shape) === columns;
  let result = product(call, isRow ? bias : undefined);
  const replace = (next: TensorInfo): void => {
    backend.disposeData(result.dataId);
    result = next;
  };
  if (bias && !isRow) replace(runKernel('Add', { a: result, b: bias }, {}, backend));
  const activation = ACTIVATIONS[attrs.activation];
  if (activation === 'Prelu') replace(runKernel(activation, { x: result, alpha }, {}, backend));
  else if (activation)
    replace(runKernel(activation, { x: result }, { alpha: attrs.leakyreluAlpha }, backend));
  return result;
}

function canFuse(call: Call): boolean {
  const { activation } = call.attrs;
  const needed = activation && activation !== 'linear' ? [ACTIVATIONS[activation]] : [];
  if (call.inputs.bias) needed.push('Add');
  return handles(call) && needed.every((name) => name && tf.getKernel(name, BACKEND));
}

const REPLACEMENTS: [string, (call: Call) => boolean, (call: Call) => TensorInfo][] = [
  ['BatchMatMul', handles, product],
  ['_FusedMatMul', canFuse, fused],
];

let registrations = 0;
let originals: KernelConfig[] = [];

function install(config: KernelConfig): void {
  if (tf.getKernel(config.kernelName, BACKEND)) tf.unregisterKernel(config.kernelName, BACKEND);
  tf.registerKernel(config);
}

/**
 * Makes `tf.matMul` and `tf.fused.matMul`, and so the dense layers and all gradients of both, compute with the engine's
 * {@link matmul} on TensorFlow.js's `cpu` backend. What the engine has no product for (int32, batches that broadcast)
 * still goes to the backend's own kernel. Results differ from that one's in rounding.
 *
 * @returns a function that gives its kernels back to the backend; after several registrations, the last one called does
 * @throws Error where the backend's kernels are not registered: import `@tensorflow/tfjs-backend-cpu` first
 *
 * @example
 * const restore = registerMatMul();
 */
export function registerMatMul(): () => void {
  if (registrations === 0) {
    const found = REPLACEMENTS.map(([name]) => tf.getKernel(name, BACKEND)).filter(Boolean);
    if (!found.some(({ kernelName }) => kernelName === 'BatchMatMul'))
      throw new Error(
        '[registerMatMul] expected the kernels of the cpu backend to be registered: import @tensorflow/tfjs-backend-cpu first',
      );
    originals = found;
    for (const original of originals) {
      const [, accepts, compute] = REPLACEMENTS.find(([name]) => name === original.kernelName)!;
      const kernelFunc = ((call: Call) =>
        accepts(call)
          ? compute(call)
          : original.kernelFunc(call as any)) as unknown as KernelConfig['kernelFunc'];
      install({ ...original, kernelFunc });
    }
  }
  registrations++;
  let registered = true;
  return () => {
    if (!registered) return;
    registered = false;
    registrations--;
    if (registrations > 0) return;
    originals.forEach(install);
    originals = [];
  };
}
