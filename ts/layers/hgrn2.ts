import { rangeError } from '../errors';
import { readInteger, readNumber } from '../linalg/arguments';
import type { FloatTensor, Tensor } from '../types';
import { asyncLayer, syncLayer } from './define';
import { logSigmoid, mapFloats, reshape } from './elementwise';
import { projected, projectionNames } from './heads';
import type {
  AsyncLayerFunction,
  LayerDefinition,
  LayerOptions,
  Pass,
  SyncLayerFunction,
} from './pass';
import type { Steps } from './run';
import { type LayerWeights, readFloats } from './weights';

/** Weights of {@link hgrn2Layer}. */
export type Hgrn2LayerWeights = LayerWeights<
  'q_proj.weight' | 'f_proj.weight' | 'i_proj.weight' | 'o_proj.weight',
  never,
  | 'g_norm.weight'
  | 'q_conv1d.weight'
  | 'f_conv1d.weight'
  | 'i_conv1d.weight'
  | 'q_conv1d.bias'
  | 'f_conv1d.bias'
  | 'i_conv1d.bias'
>;

/** Options of {@link hgrn2Layer}. */
export interface Hgrn2LayerOptions extends LayerOptions {
  heads: number;
  /** `[H K]`, float32, in [0,1): what this layer's forget gates stay above; absent (as for the first layer) zeros. */
  lowerBound?: Tensor;
  /** Of the output norm; default 1e-5. */
  normEps?: number;
}

/** log(l + (1 - l) sigmoid(f)), and logsigmoid(f) where there is no lower bound. */
function logForget(pass: Pass, f: FloatTensor, lowerBound: Tensor | undefined): Tensor {
  if (lowerBound === undefined) return mapFloats(f, logSigmoid);
  const { data, shape, dtype } = readFloats(pass.operation, 'lowerBound', lowerBound);
  const width = f.shape[2];
  if (dtype !== 'f32' || shape.length !== 1 || shape[0] !== width)
    throw rangeError(
      pass.operation,
      `lowerBound: expected float32 [${width}], got ${dtype} [${shape}]`,
    );
  const bounds = data as Float32Array;
  for (let i = 0; i < width; i++)
    if (!(bounds[i] >= 0 && bounds[i] < 1))
      throw rangeError(
        pass.operation,
        `lowerBound: expected numbers in [0,1), got ${bounds[i]} at ${i}`,
      );
  return mapFloats(f, (x, i) => {
    const least = bounds[i % width];
    return least === 0 ? logSigmoid(x) : Math.log(least + (1 - least) / (1 + Math.exp(-x)));
  });
}

function* body(pass: Pass, options: Hgrn2LayerOptions): Steps<FloatTensor> {
  const { operation, batch, tokens } = pass;
  const heads = readInteger(operation, 'heads', options.heads, undefined, 1);
  const keyDim = pass.perHead('q_proj.weight', heads);
  const valueDim = pass.perHead('i_proj.weight', heads);
  pass.expectRows('f_proj.weight', heads * keyDim);
  pass.rows('o_proj.weight', heads * valueDim);
  const eps = readNumber(operation, 'normEps', options.normEps, 1e-5, 'or zero');

  const flat = [batch, tokens, heads * keyDim];
  const q = yield* pass.silu(yield* projected(pass, 'q', flat, 'none'));
  const f = yield* projected(pass, 'f', flat, 'none');
  const v = yield* projected(pass, 'i', [batch, tokens, heads, valueDim], 'none');
  const g = logForget(pass, f, options.lowerBound);
  const shape = [batch, tokens, heads, keyDim];
  const o = yield* pass.recur('hgrn2', [heads, keyDim, valueDim], {
    q: reshape(q, shape),
    v,
    g: reshape(g, shape),
  });
  const whole = reshape(o, [batch, tokens, heads * valueDim]);
  const y = yield* pass.norm('g_norm.weight', whole, undefined, { eps });
  return yield* pass.project('o_proj.weight', y);
}

const definition: LayerDefinition<Hgrn2LayerOptions> = {
  weights: [...['q', 'f', 'i'].flatMap(projectionNames), 'g_norm.weight', 'o_proj.weight'],
  options: ['heads', 'lowerBound', 'normEps'],
  body,
};

/**
 * The token mixer of an HGRN2 block, with the weights of flash-linear-attention's `HGRN2Attention`: forget gates
 * `sigmoid(f_proj(x))` above the layer's lower bound, `hgrn2`, RMS norm over all heads.
 *
 * Weights: `q_proj`, `f_proj` `[H K,D]`, `i_proj` `[H V,D]`, `o_proj` `[D,H V]`; `*_conv1d` `[C,1,W]`; `g_norm` `[H V]`.
 *
 * @throws (rejects) as {@link gatedDeltaNetLayer}
 * @see Qin et al., HGRN2, 2024 (arXiv:2404.07904)
 */
export const hgrn2Layer: AsyncLayerFunction<Hgrn2LayerWeights, Hgrn2LayerOptions> = asyncLayer(
  'hgrn2Layer',
  definition,
);

/**
 * {@link hgrn2Layer} on the caller's thread and memory, with the pool's help.
 * @throws the same errors, synchronously
 */
export const hgrn2LayerSync: SyncLayerFunction<Hgrn2LayerWeights, Hgrn2LayerOptions> = syncLayer(
  'hgrn2Layer',
  definition,
);
