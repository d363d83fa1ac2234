import type { Tensor } from '@tensorflow/tfjs-core';
import { typeError } from '../../errors';
import { checkKeys, readFlag } from '../../linalg/arguments';
import { type AdapterBank, createAdapterBank } from '../../lora/adapterBank';
import { type LoraSharedOptions, loraLinearSync } from '../../lora/loraLinear';
import { loraLinearBackwardSync } from '../../lora/loraLinearBackward';
import { PackedWeight } from '../../lora/packedWeight';
import { packWeightSync } from '../../lora/packWeight';
import type { ResultTensor } from '../../types';
import { tf } from './core';
import { LoraArguments, type LoraLinearTensors } from './loraArguments';
import { type Plain, plainTensor, tensorOf } from './plain';
import { recordOnce } from './record';
import type { ResultOptions, TapeOptions } from './types';

export type { LoraAdapterTensors, LoraLinearTensors, LoraTensorRouting } from './loraArguments';

/** Options of {@link loraLinear}. */
export type LoraLinearTensorOptions = LoraSharedOptions & TapeOptions & ResultOptions;

const OPERATION = 'loraLinear';
const SHARED = ['compute', 'dropout', 'skip'];

/** An error of a function that this operation calls, with the beginning of its message as this one's argument. */
function inPlace<T>(from: string, to: string, call: () => T): T {
  try {
    return call();
  } catch (cause) {
    const { message } = cause as Error;
    if (!message.startsWith(from)) throw cause;
    const text = `[${OPERATION}] ${to}${message.slice(from.length)}`;
    throw new ((cause as Error).constructor as ErrorConstructor)(text, { cause });
  }
}

/**
 * Gives the engine's own objects to a call, and takes them back when it ends: nothing of them is kept for the backward, which
 * makes them again, so nothing is left behind where no gradient is ever taken.
 */
function withEngine<T>(given: LoraArguments, call: (inputs: any) => T): T {
  const { x, bias, adapters, routing } = given;
  let packed: PackedWeight | undefined;
  let bank: AdapterBank | undefined;
  try {
    let { base } = given;
    if (base !== null && base !== 'identity' && !(base instanceof PackedWeight)) {
      const weight = base as Plain & { data: Float32Array };
      packed = inPlace('[packWeight] weight', 'base', () =>
        packWeightSync(weight, { format: 'f32' }),
      );
      base = packed;
    }
    if (adapters) {
      const { inFeatures, outFeatures } = given;
      bank = inPlace('[createAdapterBank] ', '', () =>
        createAdapterBank({ inFeatures, outFeatures }),
      );
      // A new bank counts from 0, so that ids are places in the list.
      for (const [i, adapter] of adapters.entries())
        inPlace('[AdapterBank.load] ', `adapters[${i}].`, () => bank!.load(adapter as any));
    }
    return call({ x, base, bank, routing, bias });
  } finally {
    bank?.dispose();
    packed?.dispose();
  }
}

/** The backward must draw what the forward drew, whatever becomes of the caller's object. */
function copyOf<T>(option: T): T {
  return typeof option === 'object' && option !== null ? { ...option } : option;
}

/**
 * A linear layer with low-rank adapters, `y = d * (W x) + bias + sum of gate * scale * (B M phi(A x' + a) + c)`: x `[...,in]`
 * -> y `[...,out]`; see `loraLinear` of the package itself for the pieces. Gradients flow to x, bias and gates and to every
 * tensor of every adapter, and not to the base. `dropout` and `skip` draw by their seed: another step takes another one.
 *
 * @throws as {@link recurrence}; RangeError for a routing that names no adapter
 * @see Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, 2021 (arXiv:2106.09685)
 *
 * @example
 * const base = packWeightSync({ data: weight.dataSync(), shape: weight.shape }, { format: 'nf4' });
 * const { y } = loraLinear({ x, base, adapters: { a, b, scale: 2 } }, { dropout: { p: 0.1, seed: step } });
 */
export function loraLinear(
  inputs: LoraLinearTensors,
  options: LoraLinearTensorOptions = {},
): { y: Tensor } {
  const given = new LoraArguments(inputs);
  checkKeys(OPERATION, 'an option', options, [...SHARED, 'saveForBackward', 'out']);
  if (options.out !== undefined)
    throw typeError(OPERATION, 'out: expected no such option beside tf.Tensors, got one');
  const keeps = readFlag(OPERATION, 'saveForBackward', options.saveForBackward, true);
  const { compute, dropout, skip } = options;
  const shared = { compute, dropout: copyOf(dropout), skip: copyOf(skip) };
  const saveRank = keeps && given.adapters !== undefined && tf.engine().isTapeOn();
  let t: ResultTensor | undefined;

  const [y] = recordOnce(OPERATION, given.tensors, {
    compute() {
      const result = withEngine(given, (args) => loraLinearSync(args, { ...shared, saveRank }));
      t = result.t;
      return [tensorOf(result.y as Plain)];
    },
    gradient([dOutput]) {
      const dY = plainTensor(OPERATION, 'dY', dOutput, 'float32');
      const results = withEngine(given, (args) =>
        loraLinearBackwardSync({ ...args, dY, t }, shared),
      );
      return given.gradients(results).map(tensorOf);
    },
  });
  return { y };
}
