import { embeddingBackwardSync, embeddingSync, type IndexTensor, type Tensor } from 'rankone';
import type { Parameter, Parameters } from '../parameters.ts';
import { Buffers } from '../tensor.ts';

/** Rows of a table, by token. The head of the chain: its input is not differentiated. */
export class Embedding {
  private readonly weight: Parameter;
  private readonly buffers = new Buffers();
  private ids!: IndexTensor;

  constructor(parameters: Parameters, vocabulary: number, width: number, deviation: number) {
    this.weight = parameters.matrix('weight', [vocabulary, width], deviation);
  }

  forward(ids: IndexTensor): Tensor {
    this.ids = ids;
    const y = this.buffers.get('y', ...ids.shape, this.weight.value.shape[1]);
    embeddingSync({ ids, weight: this.weight.value }, { out: { y } });
    return y;
  }

  backward(dY: Tensor): void {
    const dWeight = this.buffers.get('dWeight', ...this.weight.value.shape);
    embeddingBackwardSync(
      { ids: this.ids, dY },
      { numEmbeddings: dWeight.shape[0], out: { dWeight } },
    );
    this.weight.accumulate(dWeight);
  }
}
