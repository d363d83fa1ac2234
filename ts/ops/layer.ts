// What the parts of a layer have in common: the dtypes that a call may have.
import type {
  Answered,
  AnyTensor,
  Asking,
  AsyncOptions,
  Beside,
  DTypeOf,
  FloatTensor,
  OptionsArgument,
  ResultBeside,
  Tensor,
  TensorBeside,
} from '../types';
import type { GradDType, GradientOption } from './grid';

/**
 * Which inputs and results of a layer part may be half-width. A call's dtype is read off `lead`; `same` have it too,
 * `either` that one or float32. What is not named is float32 always.
 */
export interface LayerNames {
  lead: string;
  same: string;
  either: string;
}

/** `Inputs` of a call whose leading tensor is an `X`. */
export type LayerInputs<Inputs, Names extends LayerNames, X extends AnyTensor> = {
  [P in keyof Inputs]: P extends Names['lead']
    ? X
    : P extends Names['same']
      ? TensorBeside<X, DTypeOf<X>>
      : P extends Names['either']
        ? TensorBeside<X, 'f32' | DTypeOf<X>>
        : Beside<Inputs[P], X>;
};

/** `Result` of a call whose leading tensor is an `X`. */
export type LayerResult<Result, Names extends LayerNames, X extends AnyTensor> = {
  [P in keyof Result]: P extends Names['same']
    ? ResultBeside<X, DTypeOf<X>>
    : P extends Names['either']
      ? ResultBeside<X, 'f32' | DTypeOf<X>>
      : Beside<Result[P], X>;
};

/** Gradients of a call whose leading tensor is an `X`, in the dtype that the option `gradDtype` asks for. */
export type LayerGradients<
  Result,
  Names extends LayerNames,
  X extends FloatTensor,
  G extends GradDType,
> = G extends 'input' ? LayerResult<Result, Names, X> : Result;

/** A layer part on the caller's thread. */
export type SyncLayer<Names extends LayerNames, Inputs, Options, Result> = <
  X extends FloatTensor = Tensor,
  First extends boolean = false,
  Second extends boolean = false,
>(
  inputs: LayerInputs<Inputs, Names, X>,
  ...options: OptionsArgument<Options, Asking<Options, First, Second>>
) => Answered<LayerResult<Result, Names, X>, Options, First, Second>;

/** A layer part on the engine's threads, with inputs copied at the call. */
export type AsyncLayer<Names extends LayerNames, Inputs, Options, Result> = <
  X extends FloatTensor = Tensor,
  First extends boolean = false,
  Second extends boolean = false,
>(
  inputs: LayerInputs<Inputs, Names, X>,
  ...options: OptionsArgument<Options, Asking<Options, First, Second> & AsyncOptions>
) => Promise<Answered<LayerResult<Result, Names, X>, Options, First, Second>>;

/** {@link SyncLayer} of a part that has a CUDA form. */
export type SyncDeviceLayer<Names extends LayerNames, Inputs, Options, Result> = <
  X extends AnyTensor = Tensor,
  First extends boolean = false,
  Second extends boolean = false,
>(
  inputs: LayerInputs<Inputs, Names, X>,
  ...options: OptionsArgument<Options, Asking<Options, First, Second>>
) => Answered<LayerResult<Result, Names, X>, Options, First, Second>;

/** {@link AsyncLayer} of a part that has a CUDA form. */
export type AsyncDeviceLayer<Names extends LayerNames, Inputs, Options, Result> = <
  X extends AnyTensor = Tensor,
  First extends boolean = false,
  Second extends boolean = false,
>(
  inputs: LayerInputs<Inputs, Names, X>,
  ...options: OptionsArgument<Options, Asking<Options, First, Second> & AsyncOptions>
) => Promise<Answered<LayerResult<Result, Names, X>, Options, First, Second>>;

/** Gradients of a layer part on the caller's thread. */
export type SyncLayerBackward<Names extends LayerNames, Inputs, Options, Result> = <
  X extends FloatTensor = Tensor,
  G extends GradDType = 'f32',
  First extends boolean = false,
  Second extends boolean = false,
>(
  inputs: LayerInputs<Inputs, Names, X>,
  ...options: OptionsArgument<Options, Asking<Options, First, Second> & GradientOption<G>>
) => Answered<LayerGradients<Result, Names, X, G>, Options, First, Second>;

/** Gradients of a layer part on the engine's threads, with inputs copied at the call. */
export type AsyncLayerBackward<Names extends LayerNames, Inputs, Options, Result> = <
  X extends FloatTensor = Tensor,
  G extends GradDType = 'f32',
  First extends boolean = false,
  Second extends boolean = false,
>(
  inputs: LayerInputs<Inputs, Names, X>,
  ...options: OptionsArgument<
    Options,
    Asking<Options, First, Second> & GradientOption<G> & AsyncOptions
  >
) => Promise<Answered<LayerGradients<Result, Names, X, G>, Options, First, Second>>;
