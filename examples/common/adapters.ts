import { type AdapterBankMemory, loraPlusRates, type WeightFormat } from 'rankone';
import { type AdapterChoice, type Factors, LoraLinear } from './layers/loraLinear.ts';
import { SequenceModel } from './model.ts';
import { type Parameter, Parameters } from './parameters.ts';
import { Random } from './random.ts';

export interface AdapterSettings {
  rank: number;
  /** The factors' product is multiplied by alpha / rank. */
  alpha: number;
  /** LoRA+: how much faster b learns than a. */
  ratio?: number;
  seed: number;
}

/** Low-rank factors for layers of a model, to be trained: a random, b zero, so that it starts as the base. */
export class TrainableAdapter {
  readonly name: string;
  readonly settings: AdapterSettings;
  readonly parameters: Parameters;
  private readonly factors = new Map<string, { a: Parameter; b: Parameter }>();

  constructor(name: string, layers: readonly LoraLinear[], settings: AdapterSettings) {
    const { rank, ratio = 1, seed } = settings;
    this.name = name;
    this.settings = settings;
    this.parameters = new Parameters(new Random(seed));
    const rates = loraPlusRates({ lr: 1, ratio });
    for (const { path, inputs, outputs } of layers) {
      const scope = this.parameters.scope(path);
      const bound = 1 / Math.sqrt(inputs);
      const draw = () => scope.random.uniform(-bound, bound);
      const a = scope.vector('a', [rank, inputs], draw);
      const b = scope.vector('b', [outputs, rank], () => 0);
      a.rate = rates.a;
      b.rate = rates.b;
      this.factors.set(path, { a, b });
    }
  }

  get scale(): number {
    return this.settings.alpha / this.settings.rank;
  }

  /** Puts the factors as they are now into the banks of the layers. */
  putInto(layers: readonly LoraLinear[]): void {
    for (const layer of layers) {
      const trained = this.factors.get(layer.path);
      if (!trained) continue;
      const { a, b } = trained;
      layer.put(this.name, { a: a.value, b: b.value, scale: this.scale }, trained);
    }
  }

  /** By the path of the layer. */
  values(): Map<string, Factors> {
    const scale = this.scale;
    return new Map(
      [...this.factors].map(([path, { a, b }]) => [path, { a: a.value, b: b.value, scale }]),
    );
  }
}

/** A trained model with frozen, packed weights, and banks of adapters on all of its linear layers. */
export class AdaptedModel {
  readonly model: SequenceModel;
  readonly layers: LoraLinear[] = [];
  private readonly choice: AdapterChoice = { names: [null] };
  private readonly names = new Set<string>();

  constructor(base: SequenceModel, format: WeightFormat) {
    this.model = new SequenceModel(base.config, 0, (...args) => {
      const layer = new LoraLinear(this.choice, ...args);
      this.layers.push(layer);
      return layer;
    });
    this.model.parameters.list.forEach((parameter, i) => {
      parameter.value.data.set(base.parameters.list[i].value.data);
      parameter.frozen = true;
    });
    for (const layer of this.layers) layer.freeze(format);
  }

  /** One adapter for the whole batch, or one for each of its rows; null for none. */
  use(...names: (string | null)[]): void {
    for (const name of names)
      if (name !== null && !this.names.has(name)) throw new Error(`no adapter ${name}`);
    this.choice.names = names;
  }

  /** Loads an adapter, or what training has made of it. */
  put(adapter: TrainableAdapter): void {
    this.names.add(adapter.name);
    adapter.putInto(this.layers);
  }

  /** Loads factors by the path of their layer. */
  load(name: string, factors: ReadonlyMap<string, Factors>): void {
    const paths = new Set(this.layers.map((layer) => layer.path));
    for (const path of factors.keys()) if (!paths.has(path)) throw new Error(`no layer ${path}`);
    this.names.add(name);
    for (const layer of this.layers) {
      const own = factors.get(layer.path);
      if (own) layer.put(name, own);
    }
  }

  evict(name: string): void {
    for (const layer of this.layers) layer.evict(name);
    this.names.delete(name);
    this.choice.names = [null];
  }

  /** What the banks of all layers hold. */
  get memory(): Pick<AdapterBankMemory, 'adapters' | 'usedBytes' | 'reservedBytes'> {
    const sum = { adapters: 0, usedBytes: 0, reservedBytes: 0 };
    for (const { bank } of this.layers) {
      const { adapters, usedBytes, reservedBytes } = bank.memory();
      sum.adapters += adapters;
      sum.usedBytes += usedBytes;
      sum.reservedBytes += reservedBytes;
    }
    return sum;
  }
}
