import type { Tensor } from 'rankone';
import type { Layer } from './layers/layer.ts';
import { Linear, type LinearOptions } from './layers/linear.ts';
import type { Random } from './random.ts';
import { zeros } from './tensor.ts';

/** A trained tensor, its gradient, and the optimizer's two moments. */
export class Parameter {
  readonly name: string;
  readonly value: Tensor;
  readonly grad: Tensor;
  readonly m: Tensor;
  readonly v: Tensor;
  /** Whether weight decay pulls on it: on matrices, not on gains, biases and decay rates. */
  readonly decays: boolean;
  /** Factor on the schedule's learning rate. */
  rate = 1;
  /** Gradients are not kept. */
  frozen = false;
  private empty = true;

  constructor(name: string, shape: readonly number[], decays: boolean) {
    this.name = name;
    this.decays = decays;
    this.value = zeros(...shape);
    this.grad = zeros(...shape);
    this.m = zeros(...shape);
    this.v = zeros(...shape);
  }

  /** Forgets the gradient. */
  clear(): void {
    this.empty = true;
    this.grad.data.fill(0);
  }

  /** Adds to the gradient. */
  accumulate(part: Tensor): void {
    if (this.frozen) return;
    const grad = this.grad.data;
    if (this.empty) grad.set(part.data);
    else for (let i = 0; i < grad.length; i++) grad[i] += part.data[i];
    this.empty = false;
  }
}

/** Makes a linear layer whose parameters stand in a scope of its own. */
export type MakeLinear = (
  parameters: Parameters,
  inputs: number,
  outputs: number,
  options?: LinearOptions,
) => Layer;

/** The parameters of a model in the order of their making, which is the order of the random draws too. */
export class Parameters {
  readonly random: Random;
  readonly list: Parameter[];
  private readonly makeLinear: MakeLinear;
  private readonly prefix: string;

  constructor(
    random: Random,
    makeLinear: MakeLinear = (...args) => new Linear(...args),
    list: Parameter[] = [],
    prefix = '',
  ) {
    this.random = random;
    this.makeLinear = makeLinear;
    this.list = list;
    this.prefix = prefix;
  }

  /** What all names begin with, without the dot at the end. */
  get path(): string {
    return this.prefix.slice(0, -1);
  }

  /** The same list under a longer name: `blocks.0.` */
  scope(name: string): Parameters {
    return new Parameters(this.random, this.makeLinear, this.list, `${this.prefix}${name}.`);
  }

  /** The linear layer of that name, of the kind that this model has. */
  linear(name: string, inputs: number, outputs: number, options?: LinearOptions): Layer {
    return this.makeLinear(this.scope(name), inputs, outputs, options);
  }

  /** A matrix with normal entries; weight decay applies. */
  matrix(name: string, shape: readonly number[], deviation: number): Parameter {
    return this.add(name, shape, true, () => deviation * this.random.normal());
  }

  /** Entries from `draw`, without weight decay: gains, biases, rates, low-rank factors. */
  vector(name: string, shape: readonly number[], draw: () => number): Parameter {
    return this.add(name, shape, false, draw);
  }

  private add(
    name: string,
    shape: readonly number[],
    decays: boolean,
    draw: () => number,
  ): Parameter {
    const parameter = new Parameter(this.prefix + name, shape, decays);
    const { data } = parameter.value;
    for (let i = 0; i < data.length; i++) data[i] = draw();
    this.list.push(parameter);
    return parameter;
  }

  /** How many numbers there are to train. */
  get count(): number {
    return this.list.reduce((sum, p) => sum + p.value.data.length, 0);
  }

  clear(): void {
    for (const p of this.list) p.clear();
  }
}
