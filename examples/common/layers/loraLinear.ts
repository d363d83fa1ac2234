import {
  type AdapterBank,
  type AdapterRouting,
  createAdapterBank,
  type FloatTensor,
  loraLinearBackwardSync,
  loraLinearSync,
  type PackedWeight,
  packWeightSync,
  type Tensor,
  type WeightFormat,
} from 'rankone';
import type { Carry } from '../carry.ts';
import type { Parameter, Parameters } from '../parameters.ts';
import { Buffers, reshape, rows, zeros } from '../tensor.ts';
import type { Layer } from './layer.ts';
import type { LinearOptions } from './linear.ts';

/** Which adapter each row of the batch has, or the only one has that all have; null: none. Shared by a model's layers. */
export interface AdapterChoice {
  names: readonly (string | null)[];
}

/** The low-rank factors of one layer: the layer adds `scale B A x`. */
export interface Factors {
  /** `[r,in]` */
  a: FloatTensor;
  /** `[out,r]` */
  b: FloatTensor;
  scale: number;
}

/** Factors that are being trained: gradients are added to their parameters'. */
export interface TrainedFactors {
  a: Parameter;
  b: Parameter;
}

/** y = x W + b over the last dimension with W and b frozen, and for each row of the batch the adapter of its choice. */
export class LoraLinear implements Layer {
  readonly path: string;
  readonly inputs: number;
  readonly outputs: number;
  readonly bank: AdapterBank;
  private readonly weight: Parameter;
  private readonly bias?: Parameter;
  private readonly choice: AdapterChoice;
  private readonly ids = new Map<string, number>();
  private readonly trained = new Map<number, TrainedFactors>();
  private readonly buffers = new Buffers();
  private base?: PackedWeight;
  private x!: Tensor;
  private t?: Tensor;
  private routing?: AdapterRouting;

  /** Parameters and their names are those of Linear, so that its weights can be put in. */
  constructor(
    choice: AdapterChoice,
    parameters: Parameters,
    inputs: number,
    outputs: number,
    { bias = false }: LinearOptions = {},
  ) {
    this.path = parameters.path;
    this.inputs = inputs;
    this.outputs = outputs;
    this.choice = choice;
    this.bank = createAdapterBank({ inFeatures: inputs, outFeatures: outputs });
    this.weight = parameters.matrix('weight', [inputs, outputs], 0);
    if (bias) this.bias = parameters.vector('bias', [outputs], () => 0);
  }

  /** Packs the weight as it is now. */
  freeze(format: WeightFormat): void {
    const { data } = this.weight.value;
    const transposed = zeros(this.outputs, this.inputs);
    for (let i = 0; i < this.inputs; i++)
      for (let o = 0; o < this.outputs; o++)
        transposed.data[o * this.inputs + i] = data[i * this.outputs + o];
    this.base?.dispose();
    this.base = packWeightSync(transposed, { format });
  }

  /** Puts factors into the bank, in the place of those that had the name. */
  put(name: string, factors: Factors, trained?: TrainedFactors): void {
    let id = this.ids.get(name);
    if (id === undefined) {
      id = this.bank.load(factors);
      this.ids.set(name, id);
    } else {
      this.bank.replace(id, factors);
    }
    if (trained) this.trained.set(id, trained);
    else this.trained.delete(id);
  }

  evict(name: string): void {
    const id = this.ids.get(name);
    if (id === undefined) return;
    this.bank.evict(id);
    this.ids.delete(name);
    this.trained.delete(id);
  }

  forward(x: Tensor, carry?: Carry): Tensor {
    const flat = rows(x);
    this.x = x;
    this.routing = this.route(x.shape[0], flat.shape[0]);
    const y = this.buffers.get('y', flat.shape[0], this.outputs);
    this.t = loraLinearSync(
      { x: flat, ...this.operands() },
      { saveRank: !carry && this.trained.size > 0, out: { y } },
    ).t;
    return reshape(y, ...x.shape.slice(0, -1), this.outputs);
  }

  backward(dy: Tensor): Tensor {
    const { x, t } = this;
    const flat = rows(x);
    const dx = this.buffers.get('dx', ...flat.shape);
    const { adapters } = loraLinearBackwardSync(
      { x: flat, dY: rows(dy), t, ...this.operands() },
      { need: { dBias: false }, out: { dx } },
    );
    for (const [id, { dA, dB }] of adapters) {
      const factors = this.trained.get(id);
      if (dA) factors?.a.accumulate(dA);
      if (dB) factors?.b.accumulate(dB);
    }
    return reshape(dx, ...x.shape);
  }

  private operands() {
    const { base, bank, routing } = this;
    if (!base) throw new Error(`${this.path}: its weight has not been frozen`);
    // Without a routing this is the base product alone.
    return { base, bias: this.bias?.value, ...(routing && { bank, routing }) };
  }

  /** A batch's rows are one behind the other in x, each with its tokens. */
  private route(batch: number, tokens: number): AdapterRouting | undefined {
    if (this.ids.size === 0) return undefined;
    const { names } = this.choice;
    const ids = Int32Array.from(names, (name) => (name === null ? -1 : (this.ids.get(name) ?? -1)));
    if (ids.length === 1) return { kind: 'one', id: ids[0] };
    if (ids.length !== batch)
      throw new Error(`adapters for ${ids.length} rows, and a batch of ${batch}`);
    if (tokens === batch) return { kind: 'tokens', ids };
    const indptr = Int32Array.from({ length: batch + 1 }, (_, row) => (row * tokens) / batch);
    return { kind: 'segments', indptr, ids };
  }
}
