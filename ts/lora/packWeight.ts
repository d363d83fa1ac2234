import type { Device } from '../device';
import { asynchronous, named, synchronous } from '../marshal';
import type { AsyncOptions, FloatTensor } from '../types';
import type { PackedWeight, WeightFormat } from './packedWeight';
import { placed, placedSync } from './placed';

/** Options of {@link packWeight}. */
export interface PackWeightOptions {
  format: WeightFormat;
  /** Where it shall be; default `'cpu'`. On a device it has the same codes and scales as on the CPU. */
  device?: Device;
}

/** The engine's own options, without `device`. */
function withoutDevice(options: any): any {
  if (typeof options !== 'object' || options === null || !('device' in options)) return options;
  const { device, ...rest } = options;
  return rest;
}

const pack = asynchronous('packWeight');
const packSync = synchronous('packWeight');

/**
 * A weight in the order in which products read it, rounded to a format.
 *
 * `'int8'` and `'q8'` divide by the largest magnitude of a row or block and round to -127 .. 127; `'q4'` divides by the
 * value of largest magnitude over -8, as ggml's q4_0; `'nf4'` rounds to the nearest value as {@link quantiseNf4} does.
 *
 * @param weight `[out,in]`, of any float dtype; finite for formats of codes and scales
 * @throws (rejects) TypeError for a wrong type, dtype or unknown key; RangeError for a wrong shape, format or value and
 * when there is no memory
 * @see Dettmers et al., QLoRA: Efficient Finetuning of Quantized LLMs, 2023 (arXiv:2305.14314)
 *
 * @example
 * using base = await packWeight(weight, { format: 'int8' });
 */
export const packWeight: (
  weight: FloatTensor,
  options: PackWeightOptions & AsyncOptions,
) => Promise<PackedWeight> = named('packWeight', async (weight, options) =>
  placed(
    'packWeight',
    options?.device,
    async () => (await pack({ weight }, withoutDevice(options))).packed,
  ),
);

/**
 * {@link packWeight} on the caller's thread and memory.
 * @throws the same errors, synchronously
 */
export const packWeightSync: (weight: FloatTensor, options: PackWeightOptions) => PackedWeight =
  named('packWeightSync', (weight, options) =>
    placedSync(
      'packWeight',
      options?.device,
      () => packSync({ weight }, withoutDevice(options)).packed,
    ),
  );
