/** Plain tensors of the tests: row-major, contiguous, `{data, shape}`. */

/** Anything the float64 references read: typed arrays of any kind, or plain arrays. */
export interface TensorLike {
  readonly data: ArrayLike<number>;
  readonly shape: readonly number[];
}

export interface Tensor32 {
  data: Float32Array;
  shape: number[];
}

export interface Tensor64 {
  data: Float64Array;
  shape: number[];
}

export function sizeOf(shape: readonly number[]): number {
  return shape.reduce((product, extent) => product * extent, 1);
}

export function zeros(shape: readonly number[]): Tensor64 {
  return { data: new Float64Array(sizeOf(shape)), shape: [...shape] };
}

export function zeros32(shape: readonly number[]): Tensor32 {
  return { data: new Float32Array(sizeOf(shape)), shape: [...shape] };
}

/** A float64 copy, so that a reference may overwrite what it is given. */
export function toFloat64(tensor: TensorLike): Tensor64 {
  if (tensor.data.length !== sizeOf(tensor.shape)) {
    throw new RangeError(`data has ${tensor.data.length} elements, shape is [${tensor.shape}]`);
  }
  return { data: Float64Array.from(tensor.data), shape: [...tensor.shape] };
}

export function toFloat32(tensor: TensorLike): Tensor32 {
  return { data: Float32Array.from(tensor.data), shape: [...tensor.shape] };
}

/** Throws unless the tensor has the shape; the references use it to catch wrong test code early. */
export function expectShape(name: string, tensor: TensorLike, shape: readonly number[]): void {
  const same = tensor.shape.length === shape.length && tensor.shape.every((x, i) => x === shape[i]);
  if (!same) throw new RangeError(`${name}: expected shape [${shape}], got [${tensor.shape}]`);
}
