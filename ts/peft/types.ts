import type { FloatTensor } from '../types';
import type { WritableTensor } from './safetensors';

/** A `URL` of scheme `file:`, by parts of it: so that types of neither the DOM nor Node are needed to compile. */
export interface FileUrl {
  /** The whole of it. */
  readonly href: string;
  /** `'file:'` */
  readonly protocol: string;
}

/** Tensors that replace those of the base model's module, by their names in it, such as `weight` and `bias`. */
export type SavedTensors = ReadonlyMap<string, WritableTensor>;

/** Low-rank factors of a linear layer: `y += scale * B (A x + ...)`. */
export interface LinearAdapter {
  readonly kind: 'linear';
  /** `[r,in]` */
  readonly a: FloatTensor;
  /** `[out,r]` */
  readonly b: FloatTensor;
  /** lora_alpha / r, or lora_alpha / sqrt(r) with use_rslora; with the module's own alpha and rank. */
  readonly scale: number;
  /** DoRA's magnitudes `[out]`: row i of `W + scale B A` is scaled to this norm. */
  readonly magnitude?: FloatTensor;
  /** `[out]`, with lora_bias; multiplied by `scale` like `B A x`. */
  readonly outBias?: FloatTensor;
  /** Tensors of the layer itself that were trained too: its bias, with `bias: 'all'` or `'lora_only'`. */
  readonly saved?: SavedTensors;
}

/** Low-rank factors of an embedding: row t of the table gains `scale * (B A)[:, t]`. */
export interface EmbeddingAdapter {
  readonly kind: 'embedding';
  /** `[r,tokens]` */
  readonly a: FloatTensor;
  /** `[width,r]` */
  readonly b: FloatTensor;
  /** As of {@link LinearAdapter}. */
  readonly scale: number;
  /** DoRA's magnitudes `[width]`. */
  readonly magnitude?: FloatTensor;
  /** The table itself, where tokens were added. */
  readonly saved?: SavedTensors;
}

/** Low-rank factors of a parameter that holds one matrix per expert (one in all where it has two dimensions). */
export interface ExpertsAdapter {
  readonly kind: 'experts';
  /** `[E,r,in]` */
  readonly a: FloatTensor;
  /** `[E,out,r]` */
  readonly b: FloatTensor;
  /** As of {@link LinearAdapter}. */
  readonly scale: number;
  readonly saved?: undefined;
}

/** A module of which the file holds other tensors than low-rank factors. */
export interface SavedModule {
  readonly kind: 'saved';
  readonly saved: SavedTensors;
}

/** What a file holds for one module. */
export type PeftAdapter = LinearAdapter | EmbeddingAdapter | ExpertsAdapter | SavedModule;

/** Sizes of a module of the base model. */
export interface PeftModule {
  /** Width of the input; of an embedding the number of tokens. */
  inFeatures: number;
  outFeatures: number;
  /** Default: either. */
  kind?: 'linear' | 'embedding';
  /** For a parameter with one matrix per expert, their number. */
  experts?: number;
}

/**
 * Modules of the base model by path. A parameter of target_parameters stands by its own path, `<module>.<parameter>`,
 * those of one module in the order in which it defines them.
 */
export type PeftModules = ReadonlyMap<string, PeftModule> | { readonly [path: string]: PeftModule };

/** Options of {@link readPeft} and {@link writePeft}. */
export interface PeftOptions {
  /** Keys of the configuration that are not supported or not known, and are left alone all the same. */
  ignore?: readonly string[];
}
