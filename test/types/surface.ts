// Compiled, never run: what the public types must accept, and what they must refuse.

import type { ResultTensor, Tensor } from '../../dist/index';
import * as rankone from '../../dist/index';

declare const t: Tensor;
declare const ids: { data: Int32Array; shape: number[] };
declare const state: rankone.RecurrentState;
declare const saved: rankone.SavedForward;
declare const aborter: AbortController;

function same<A>(_value: A): void {}

async function forward(): Promise<void> {
  const { o, finalState } = await rankone.gatedDeltaNet({ q: t, k: t, v: t, g: t, beta: t });
  same<ResultTensor>(o);
  same<ResultTensor | undefined>(finalState);
  same<rankone.ForwardResult>(
    rankone.gatedDeltaNetSync({ q: t, k: t, v: t, g: t, beta: t, state }),
  );
  await rankone.gla({ q: t, k: t, v: t, g: t }, { scale: 1, mode: 'chunk', chunkSize: 64 });
  await rankone.gla({ q: t, k: t, v: t, g: t }, { signal: aborter.signal, out: { o: t } });
  await rankone.recurrence({ q: t, k: t, v: t }, { update: 'additive', saveForBackward: true });
  await rankone.gatedDeltaProduct({ q: t, k: t, v: t, g: t, beta: t }, { numHouseholder: 2 });
  await rankone.lightningAttention({ q: t, k: t, v: t }, { layer: 1, layers: 12 });
  await rankone.mamba2({ x: t, dt: t, A: t, B: t, C: t }, { dtSoftplus: true, dtLimit: [0, 1] });
  await rankone.hgrn2({ q: t, v: t, g: t });

  // @ts-expect-error a preset without a gate has no g
  rankone.deltaNet({ q: t, k: t, v: t, beta: t, g: t });
  // @ts-expect-error retention's gate is its own
  rankone.retention({ q: t, k: t, v: t, g: t });
  // @ts-expect-error an additive preset has no beta
  rankone.gla({ q: t, k: t, v: t, g: t, beta: t });
  // @ts-expect-error the delta rule needs beta
  rankone.gatedDeltaNet({ q: t, k: t, v: t, g: t });
  // @ts-expect-error a typo
  rankone.gla({ q: t, k: t, v: t, g: t }, { scael: 1 });
  // @ts-expect-error not a mode
  rankone.gla({ q: t, k: t, v: t, g: t }, { mode: 'fast' });
  // @ts-expect-error not a chunk size
  rankone.gla({ q: t, k: t, v: t, g: t }, { chunkSize: 48 });
  // @ts-expect-error only products take numHouseholder
  rankone.deltaNet({ q: t, k: t, v: t, beta: t }, { numHouseholder: 2 });
  // @ts-expect-error a preset fixes its update
  rankone.gla({ q: t, k: t, v: t, g: t }, { update: 'delta' });
  // @ts-expect-error initialState or state, not both
  rankone.gla({ q: t, k: t, v: t, g: t, initialState: t, state });
  // @ts-expect-error the synchronous form has no signal
  rankone.glaSync({ q: t, k: t, v: t, g: t }, { signal: aborter.signal });
  // @ts-expect-error no such output
  rankone.glaSync({ q: t, k: t, v: t, g: t }, { out: { y: t } });
  // @ts-expect-error layer and layers are required
  rankone.lightningAttention({ q: t, k: t, v: t });
  // @ts-expect-error hgrn2 makes its own k
  rankone.hgrn2({ q: t, k: t, v: t, g: t });
  // @ts-expect-error doubles are not float32
  rankone.gla({ q: { data: new Float64Array(1), shape: [1] }, k: t, v: t, g: t });
}

async function backward(): Promise<void> {
  const full = await rankone.gatedDeltaNetBackward({
    q: t,
    k: t,
    v: t,
    g: t,
    beta: t,
    dO: t,
    saved,
  });
  same<ResultTensor>(full.dg);
  same<ResultTensor>(full.dbeta);
  same<ResultTensor | undefined>(full.dInitialState);
  const plain = rankone.linearAttentionBackwardSync({ q: t, k: t, v: t, dO: t, dFinalState: t });
  same<ResultTensor>(plain.dq);
  const grid = rankone.recurrenceBackwardSync({ q: t, k: t, v: t, g: t, dO: t });
  same<ResultTensor | undefined>(grid.dg);

  rankone.hgrn2BackwardSync({ q: t, v: t, g: t, dO: t }, { gradDtype: 'f32' });
  rankone.mamba2BackwardSync({ x: t, dt: t, A: t, B: t, C: t, dY: t }, { gradDtype: 'input' });

  // @ts-expect-error not a dtype of gradients
  rankone.mamba2BackwardSync({ x: t, dt: t, A: t, B: t, C: t, dY: t }, { gradDtype: 'f16' });
  // @ts-expect-error only a backward has gradients
  rankone.hgrn2({ q: t, v: t, g: t }, { gradDtype: 'f32' });
  // @ts-expect-error no gate, no gradient of one
  plain.dg;
  // @ts-expect-error dO is required
  rankone.linearAttentionBackward({ q: t, k: t, v: t });
  // @ts-expect-error a backward takes no state
  rankone.linearAttentionBackward({ q: t, k: t, v: t, dO: t, state });
  // @ts-expect-error hgrn2 has no dk
  (await rankone.hgrn2Backward({ q: t, v: t, g: t, dO: t })).dk;
}

function layers(): void {
  same<ResultTensor>(rankone.matmulSync({ a: t, b: t, bias: t }, { transposeB: true }).y);
  same<ResultTensor>(rankone.embeddingSync({ ids, weight: t }).y);
  same<ResultTensor>(rankone.crossEntropySync({ logits: t, targets: ids }).loss);
  rankone.adamWSync({ param: t, grad: t, m: t, v: t }, { step: 1, lr: 1e-3 });
  rankone.embeddingBackwardSync({ ids, dY: t }, { numEmbeddings: 10 });
  // @ts-expect-error step and lr are required
  rankone.adamWSync({ param: t, grad: t, m: t, v: t });
  // @ts-expect-error ids are int32
  rankone.embeddingSync({ ids: t, weight: t });
}

function states(): void {
  const made = rankone.createState({ batch: 1, valueHeads: 2, keyDim: 3, valueDim: 4 });
  made.copyFrom(made.toTensor());
  same<rankone.RecurrentState>(made.clone());
  made.dispose();
  // @ts-expect-error a state comes from createState
  new rankone.RecurrentState();
  // @ts-expect-error all four dimensions are needed
  rankone.createState({ batch: 1, valueHeads: 2, keyDim: 3 });
  same<Tensor>(rankone.tensor([1, 2], [2]));
  same<rankone.IndexTensor>(rankone.tensor([1, 2], [2], 'i32'));
  // @ts-expect-error 16-bit floats need their dtype
  rankone.tensor(new Uint16Array(2), [2]);
}

void [forward, backward, layers, states];
