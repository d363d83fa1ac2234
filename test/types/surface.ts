// Compiled, never run: what the public types must accept, and what they must refuse.

import type { FloatTensor, HalfTensor, ResultTensor, Tensor } from '../../dist/index';
import * as rankone from '../../dist/index';

declare const t: Tensor;
declare const b: HalfTensor<'bf16'>;
declare const h: HalfTensor<'f16'>;
declare const either: FloatTensor;
declare const untyped: any;
declare const offsets: Int32Array;
declare const ids: { data: Int32Array; shape: number[] };
declare const state: rankone.RecurrentState;
declare const saved: rankone.SavedForward;
declare const aborter: AbortController;

function same<A>(_value: A): void {}

async function segments(): Promise<void> {
  const { transition, state, z } = await rankone.segmentSummary(
    { q: b, k: b, v: b, g: t, beta: b },
    { cuSeqlens: offsets, qkL2norm: true, outputTransition: false },
  );
  same<ResultTensor | undefined>(transition);
  same<ResultTensor>(state);
  same<ResultTensor | undefined>(z);
  const wide = rankone.segmentSummaryBackwardSync({ k: h, v: h, dState: t, dTransition: t });
  same<ResultTensor>(wide.dv);
  const narrow = rankone.segmentSummaryBackwardSync({ k: h, v: h }, { gradDtype: 'input' });
  same<HalfTensor<'f16'>>(narrow.dv);
  same<ResultTensor>(
    rankone.segmentGradientSync({ q: b, k: b, dO: b }, { scale: 1 }).dInitialState,
  );
  same<ResultTensor>(rankone.composeStatesSync({ transitions: t, states: t }).initialStates);
  const { dStates } = await rankone.composeStatesBackward(
    { transitions: t, dInitialStates: t },
    { signal: aborter.signal, out: { dStates: t } },
  );
  same<ResultTensor>(dStates);
  // @ts-expect-error a summary starts from nothing
  rankone.segmentSummarySync({ k: t, v: t, initialState: t });
  // @ts-expect-error v has the dtype of k
  rankone.segmentSummarySync({ k: b, v: t });
  // @ts-expect-error states are float32
  rankone.composeStatesSync({ transitions: t, states: b });
  // @ts-expect-error no scale: there are no outputs
  rankone.segmentSummarySync({ k: t, v: t }, { scale: 1 });
}

async function asked(flag: boolean): Promise<void> {
  const qkvg = { q: t, k: t, v: t, g: t };
  const { finalState, saved: kept } = await rankone.gla(qkvg, {
    outputFinalState: true,
    saveForBackward: true,
    signal: aborter.signal,
  });
  same<ResultTensor>(finalState);
  same<rankone.SavedForward>(kept);
  const layer = { layer: 0, layers: 2, outputFinalState: true } as const;
  same<ResultTensor>(rankone.lightningAttentionSync({ q: b, k: b, v: b }, layer).finalState);
  same<ResultTensor>(
    rankone.shortConvSync({ x: b, weight: t }, { outputFinalState: true }).finalState,
  );
  same<ResultTensor>(rankone.attentionSync({ q: h, k: h, v: h }, { outputLse: true }).lse);
  const solved = { outputSolution: true, outputResidual: true } as const;
  const lines = await rankone.localLinearAttention({ q: t, k: t, v: t, lambda: t }, solved);
  same<ResultTensor[]>([lines.solution, lines.residual]);
  same<ResultTensor>(rankone.matmulBackwardSync({ a: t, b: t, dY: t }, { withBias: true }).dBias);
  same<ResultTensor>(rankone.segmentSummarySync({ k: h, v: h }, { normalize: false }).transition);

  // @ts-expect-error not asked for
  same<ResultTensor>(rankone.glaSync(qkvg, { saveForBackward: true }).finalState);
  // @ts-expect-error asked for or not
  same<ResultTensor>(rankone.glaSync(qkvg, { outputFinalState: flag }).finalState);
  const bare = { outputTransition: false } as const;
  // @ts-expect-error not wanted
  same<ResultTensor>(rankone.segmentSummarySync({ k: t, v: t }, bare).transition);
  // @ts-expect-error a product has no state
  rankone.matmulSync({ a: t, b: t }, { outputFinalState: true });
  // @ts-expect-error a typo beside it
  rankone.glaSync(qkvg, { outputFinalState: true, scael: 1 });
}

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

function dtypes(): void {
  const bf16 = rankone.glaSync({ q: b, k: b, v: b, g: t }, { outputFinalState: true });
  same<Uint16Array>(bf16.o.data);
  same<'bf16'>(bf16.o.dtype);
  same<ResultTensor | undefined>(bf16.finalState);
  const f16 = rankone.kdaSync({ q: h, k: h, v: h, g: h, beta: t });
  same<'f16'>(f16.o.dtype);
  rankone.kdaSync({ q: f16.o, k: f16.o, v: h, g: t, beta: h });
  same<Tensor>(rankone.glaSync({ q: t, k: t, v: t, g: t }).o);
  same<ResultTensor>(rankone.glaSync({ q: untyped, k: untyped, v: untyped, g: untyped }).o);
  same<FloatTensor>(rankone.glaSync({ q: either, k: either, v: either, g: either }).o);
  const literal = { data: new Uint16Array(1), shape: [1, 1, 1, 1], dtype: 'bf16' } as const;
  same<'bf16'>(rankone.deltaNetSync({ q: literal, k: literal, v: b, beta: b }).o.dtype);
  const y = rankone.mamba2Sync({ x: b, dt: t, A: t, B: b, C: b, D: t, dtBias: t }).y;
  same<HalfTensor<'bf16'>>(y);
  same<'f16'>(rankone.hgrn2Sync({ q: h, v: h, g: t }).o.dtype);

  // @ts-expect-error q decides: k is bf16 as well
  rankone.glaSync({ q: b, k: t, v: b, g: t });
  // @ts-expect-error not both half-width types
  rankone.glaSync({ q: b, k: b, v: h, g: t });
  // @ts-expect-error g is float32 where q is
  rankone.glaSync({ q: t, k: t, v: t, g: b });
  // @ts-expect-error a state is float32
  rankone.glaSync({ q: b, k: b, v: b, g: t, initialState: b });
  // @ts-expect-error bits of which type?
  rankone.glaSync({ q: { data: new Uint16Array(1), shape: [1] }, k: b, v: b, g: t });
  // @ts-expect-error A is float32
  rankone.mamba2Sync({ x: b, dt: t, A: b, B: b, C: b });
}

function layerDtypes(): void {
  same<'bf16'>(rankone.rmsNormSync({ x: b, weight: t }).y.dtype);
  same<'f16'>(rankone.rmsNormGatedSync({ x: h, gate: h, weight: h }).y.dtype);
  same<ResultTensor>(rankone.swigluSync({ gate: t, up: t }).y);
  same<'bf16'>(rankone.embeddingSync({ ids, weight: b }).y.dtype);
  same<ResultTensor>(rankone.crossEntropySync({ logits: h, targets: ids }).loss);
  const conv = rankone.shortConvSync({ x: b, weight: t, bias: b, initialState: t });
  rankone.shortConvSync(
    {
      x: b,
      weight: t,
      state: rankone.createState({ batch: 1, valueHeads: 1, keyDim: 1, valueDim: 3 }),
    },
    { stateIndices: new Int32Array(1), cuSeqlens: new BigInt64Array(2) },
  );
  same<'bf16'>(rankone.l2normSync({ x: b }).y.dtype);
  same<ResultTensor>(rankone.l2normBackwardSync({ x: b, dY: b }).dx);
  rankone.rmsNormGatedSync({ x: t, gate: t }, { activation: 'sigmoid', normBeforeGate: false });
  same<'bf16'>(rankone.featureMapSync({ x: b, weight: t, bias: b }, { kind: 'hedgehog' }).y.dtype);
  const seen = { q: b, k: b, v: b, qWeight: t, kWeight: b };
  same<'bf16'>(
    rankone.bidirectionalLinearAttentionSync(seen, { featureMap: 'hedgehog', rankAugmented: true })
      .o.dtype,
  );
  same<ResultTensor | undefined>(
    rankone.bidirectionalLinearAttentionBackwardSync({ ...seen, dO: b }).dQWeight,
  );
  const mapped = { x: h, scale: h, dY: h };
  const slopes = { kind: 'focused', power: 2, gradDtype: 'input' } as const;
  same<'f16'>(rankone.featureMapBackwardSync(mapped, slopes).dx.dtype);
  same<'f16'>(rankone.ropeSync({ x: h, positions: ids, inverseFrequencies: t }).y.dtype);
  same<'f16'>(rankone.ropeBackwardSync({ dY: h }, { theta: 5, gradDtype: 'input' }).dx.dtype);
  rankone.ropeInPlaceSync({ q: b, k: b }, { offset: 4, interleaved: true, rotaryDim: 8 });
  same<HalfTensor<'bf16'>>(conv.y);
  same<ResultTensor | undefined>(conv.finalState);
  same<'f16'>(rankone.matmulSync({ a: h, b: h, bias: t }, { compute: 'bf16' }).y.dtype);
  same<ResultTensor>(rankone.matmulBackwardSync({ a: h, b: h, dY: h }).da);
  const halves = rankone.matmulBackwardSync({ a: h, b: h, dY: h }, { gradDtype: 'input' });
  same<HalfTensor<'f16'>>(halves.db);
  same<'bf16'>(
    rankone.embeddingBackwardSync({ ids, dY: b }, { numEmbeddings: 3, gradDtype: 'input' }).dWeight
      .dtype,
  );
  rankone.adamWSync({ param: t, grad: b, m: t, v: t }, { step: 1, lr: 1 });

  const slots = { batch: 1, kvHeads: 2, keyDim: 8, valueDim: 8 };
  rankone.createKvCache({ ...slots, capacity: 9, dtype: 'bf16' });
  rankone.createKvCache({ ...slots, window: 9, sinkTokens: 4 });
  // @ts-expect-error how many tokens
  rankone.createKvCache(slots);
  // @ts-expect-error a capacity or a window
  rankone.createKvCache({ ...slots, capacity: 9, window: 9 });
  // @ts-expect-error initialState or state, not both
  rankone.shortConvSync({ x: t, weight: t, initialState: t, state });
  // @ts-expect-error b has the dtype of a
  rankone.matmulSync({ a: h, b: t });
  // @ts-expect-error the carried inputs are float32
  rankone.shortConvSync({ x: b, weight: b, initialState: b });
  // @ts-expect-error a backward takes no state
  rankone.shortConvBackwardSync({ x: t, weight: t, dY: t, state: undefined as any });
  // @ts-expect-error k has the dtype of q
  rankone.ropeInPlaceSync({ q: b, k: t });
  // @ts-expect-error frequencies are float32
  rankone.ropeSync({ x: b, inverseFrequencies: b });
  // @ts-expect-error which map
  rankone.featureMapSync({ x: t }, {});
  // @ts-expect-error not an activation
  rankone.rmsNormGatedSync({ x: t, gate: t }, { activation: 'relu' });
  // @ts-expect-error not a precision
  rankone.matmulSync({ a: t, b: t }, { compute: 'f16' });
  // @ts-expect-error parameters are float32
  rankone.adamWSync({ param: b, grad: b, m: t, v: t }, { step: 1, lr: 1 });
}

async function gradientDtypes(): Promise<void> {
  const inputs = { q: b, k: b, v: b, g: t, beta: b, dO: b };
  const floats = await rankone.gatedDeltaNetBackward(inputs);
  same<ResultTensor>(floats.dq);
  same<ResultTensor>(floats.dbeta);
  const halves = await rankone.gatedDeltaNetBackward(inputs, {
    gradDtype: 'input',
    gate: { aLog: t, dtBias: t, lowerBound: -5 },
    signal: aborter.signal,
  });
  same<Uint16Array>(halves.dk.data);
  same<ResultTensor | HalfTensor<'bf16'>>(halves.dg);
  same<ResultTensor | undefined>(halves.dALog);
  same<ResultTensor | undefined>(halves.dDtBias);
  const plain = rankone.glaBackwardSync(
    { q: t, k: t, v: t, g: t, dO: t },
    { gradDtype: 'input', out: { dALog: t } },
  );
  same<ResultTensor>(plain.dg);
  const lightning = rankone.lightningAttentionBackwardSync(
    { q: h, k: h, v: h, dO: h },
    { layer: 0, layers: 2, gradDtype: 'input' },
  );
  same<'f16'>(lightning.dv.dtype);
  const mamba = { x: h, dt: t, A: t, B: h, C: h, dY: h };
  const { dB, dA } = rankone.mamba2BackwardSync(mamba, { gradDtype: 'input' });
  same<'f16'>(dB.dtype);
  same<ResultTensor>(dA);

  // @ts-expect-error dO has the dtype of q
  rankone.glaBackwardSync({ q: b, k: b, v: b, g: t, dO: t });
  // @ts-expect-error the gradient of a state is float32
  rankone.glaBackwardSync({ q: b, k: b, v: b, g: t, dO: b, dFinalState: b });
}

async function devices(): Promise<void> {
  const q = await rankone.toDevice(t, 'cuda');
  same<rankone.DeviceTensor<'f32'>>(q);
  const half = rankone.toDeviceSync(b, 'cuda:1');
  same<rankone.DeviceTensor<'bf16'>>(half);
  same<ResultTensor>(await q.toHost());
  same<'bf16'>((await half.toHost()).dtype);
  const { o, finalState } = rankone.gatedDeltaNetSync(
    { q, k: q, v: q, g: q, beta: q, initialState: q },
    { out: { o: q }, gate: { aLog: q }, device: 'cuda:0' },
  );
  same<rankone.DeviceTensor<'f32'>>(o);
  same<rankone.DeviceTensor<'f32'> | undefined>(finalState);
  const halves = await rankone.glaBackward({ q: half, k: half, v: half, g: q, dO: half });
  same<rankone.DeviceTensor<'f32'>>(halves.dq);
  const rounded = rankone.glaBackwardSync(
    { q: half, k: half, v: half, g: q, dO: half },
    { gradDtype: 'input' },
  );
  same<rankone.DeviceTensor<'bf16'>>(rounded.dq);
  same<rankone.DeviceTensor<'bf16'>>(
    rankone.mamba2Sync({ x: half, dt: q, A: q, B: half, C: half }).y,
  );
  const bank = rankone.createAdapterBank({ inFeatures: 1, outFeatures: 1, device: 'cuda' });
  const base = await rankone.packWeight(t, { format: 'nf4', device: 'cuda' });
  const { y } = rankone.loraLinearSync({ x: half, base, bank, routing: { kind: 'one', id: 0 } });
  same<rankone.DeviceTensor<'bf16'>>(y);
  const { dx, adapters } = rankone.loraLinearBackwardSync({ x: half, dY: half, base, bias: q });
  same<rankone.DeviceTensor<'f32'>>(dx);
  same<rankone.DeviceTensor<'f32'> | undefined>(adapters.get(0)!.dA);
  same<number>(adapters.get(0)!.dScale);
  rankone.createState({ batch: 1, valueHeads: 1, keyDim: 1, valueDim: 1, device: 'cuda' });

  // @ts-expect-error q decides: v is there too
  rankone.glaSync({ q, k: q, v: t, g: q });
  // @ts-expect-error q decides: v is on the CPU
  rankone.glaSync({ q: t, k: t, v: q, g: t });
  // @ts-expect-error not both half-width types
  rankone.glaSync({ q: half, k: half, v: q, g: q });
  // @ts-expect-error a state is where q is
  rankone.glaSync({ q, k: q, v: q, g: q, initialState: t });
  // @ts-expect-error no CUDA form
  rankone.rmsNormSync({ x: q, weight: q });
  // @ts-expect-error no such device
  rankone.toDeviceSync(t, 'gpu');
  // @ts-expect-error a tensor on a device has no data
  q.data;
  // @ts-expect-error indices stay on the CPU
  rankone.glaSync({ q, k: q, v: q, g: q }, { cuSeqlens: q });
}

function fusedAndPacked(): void {
  const delta = { q: t, k: t, v: t, g: t, beta: t };
  rankone.gatedDeltaNetSync(
    { ...delta, state },
    { cuSeqlens: offsets, stateIndices: offsets, qkL2norm: true },
  );
  rankone.gatedDeltaNetSync(delta, { gate: { aLog: t }, betaActivation: 'sigmoid2' });
  rankone.gatedDeltaNetBackwardSync({ ...delta, dO: t }, { cuSeqlens: new BigInt64Array(2) });
  rankone.mamba2Sync(
    { x: t, dt: t, A: t, B: t, C: t, state },
    { cuSeqlens: offsets, stateIndices: offsets },
  );
  rankone.hgrn2Sync({ q: t, v: t, g: t }, { cuSeqlens: offsets, compute: 'bf16' });
  const normalized = rankone.linearAttentionSync(
    { q: t, k: t, v: t, initialState: t, initialZ: t },
    { normalize: true, outputFinalState: true, out: { finalZ: t } },
  );
  same<ResultTensor | undefined>(normalized.finalZ);
  const { dInitialZ } = rankone.recurrenceBackwardSync(
    { q: t, k: t, v: t, initialZ: t, dO: t, dFinalZ: t },
    { normalize: true },
  );
  same<ResultTensor | undefined>(dInitialZ);

  // @ts-expect-error without a gate nothing to activate
  rankone.deltaNetSync({ q: t, k: t, v: t, beta: t }, { gate: { aLog: t } });
  // @ts-expect-error retention's gate takes no activation
  rankone.retentionSync({ q: t, k: t, v: t }, { gate: { aLog: t } });
  // @ts-expect-error aLog is required
  rankone.glaSync({ q: t, k: t, v: t, g: t }, { gate: { dtBias: t } });
  // @ts-expect-error aLog is float32
  rankone.glaSync({ q: b, k: b, v: b, g: b }, { gate: { aLog: b } });
  // @ts-expect-error an additive preset has no beta to activate
  rankone.glaSync({ q: t, k: t, v: t, g: t }, { betaActivation: 'sigmoid' });
  // @ts-expect-error not an activation
  rankone.gatedDeltaNetSync(delta, { betaActivation: 'tanh' });
  // @ts-expect-error only linear attention without gate is normalized
  rankone.glaSync({ q: t, k: t, v: t, g: t }, { normalize: true });
  // @ts-expect-error and only it has a z
  rankone.retentionSync({ q: t, k: t, v: t, initialZ: t });
  // @ts-expect-error a state holds its own z
  rankone.linearAttentionSync({ q: t, k: t, v: t, state, initialZ: t }, { normalize: true });
  // @ts-expect-error hgrn2 makes its own k
  rankone.hgrn2Sync({ q: t, v: t, g: t }, { qkL2norm: true });
  // @ts-expect-error its gate is its own too
  rankone.hgrn2Sync({ q: t, v: t, g: t }, { gate: { aLog: t } });
  // @ts-expect-error mamba2 has no q and k
  rankone.mamba2Sync({ x: t, dt: t, A: t, B: t, C: t }, { qkL2norm: true });
  // @ts-expect-error a backward has no state
  rankone.glaBackwardSync({ q: t, k: t, v: t, g: t, dO: t }, { stateIndices: offsets });
  // @ts-expect-error offsets are bare
  rankone.glaSync({ q: t, k: t, v: t, g: t }, { cuSeqlens: ids });
  // @ts-expect-error indices of a pool are 32 bits wide
  rankone.glaSync({ q: t, k: t, v: t, g: t, state }, { stateIndices: new BigInt64Array(1) });
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

async function adapters(): Promise<void> {
  const packed = rankone.packWeightSync(b, { format: 'nf4' });
  same<rankone.PackedWeight>(await rankone.packWeight(t, { format: 'q8', signal: aborter.signal }));
  same<ResultTensor>(packed.toTensor());
  const nf4 = rankone.quantiseNf4(t);
  same<rankone.PackedWeight>(rankone.packQuantisedSync({ format: 'nf4', ...nf4 }));
  const absmax = { codes: new Uint8Array(1), absmax: new Float32Array(1), offset: 0 };
  rankone.packQuantisedSync({ ...nf4, format: 'nf4', absmax });
  rankone.packQuantisedSync({
    format: 'int8',
    codes: new Int8Array(1),
    scales: new Float32Array(1),
    shape: [1, 1],
  });
  const bank = rankone.createAdapterBank({ inFeatures: 1, outFeatures: 1 });
  same<number>(bank.load({ a: t, b: h, scale: 2, mid: t, act: 'gelu', rankBias: b, rank: 1 }));
  bank.replace(0, { a: offsets, b: offsets, act: { topK: 1 }, baseScale: t, outBias: either });
  same<number>(bank.memory().usedBytes);
  const routing = { kind: 'one', id: 0 } as const;
  const { y, t: ranks } = rankone.loraLinearSync(
    { x: b, base: packed, bank, routing, bias: t },
    { saveRank: true, dropout: { p: 0.1, seed: 1 }, skip: { p: 0.5, seed: 2 }, out: { y: b } },
  );
  same<'bf16'>(y.dtype);
  same<ResultTensor | undefined>(ranks);
  await rankone.loraLinear({ x: t, base: 'identity' }, { signal: aborter.signal });
  rankone.loraLinearSync({
    x: t,
    base: null,
    bank,
    routing: { kind: 'segments', indptr: new BigInt64Array(2), ids: offsets },
  });
  rankone.loraLinearSync({ x: t, bank, routing: { kind: 'topK', k: 1, ids: offsets, gates: h } });
  const inputs = { x: h, dY: h, base: packed, bank, routing };
  const all = rankone.loraLinearBackwardSync(inputs);
  same<ResultTensor>(all.dx);
  same<ResultTensor | undefined>(all.adapters.get(0)?.dA);
  same<ResultTensor | undefined>(all.dGates);
  const halves = await rankone.loraLinearBackward(inputs, { gradDtype: 'input' });
  same<'f16'>(halves.dx.dtype);
  const some = rankone.loraLinearBackwardSync(inputs, { need: { dx: false } });
  same<number | undefined>(some.adapters.get(0)?.dScale);
  same<rankone.PackedWeight>(rankone.mergeAdapterSync(packed, bank, 0, { format: 'f32' }));
  same<rankone.PackedWeight>(await rankone.unmergeAdapter(packed, bank, 0));

  // @ts-expect-error a format is required
  rankone.packWeightSync(t);
  // @ts-expect-error not a format
  rankone.packWeightSync(t, { format: 'int4' });
  // @ts-expect-error codes of q4 have no sign
  rankone.packQuantisedSync({ ...absmax, format: 'q4', codes: new Int8Array(1), shape: [1, 1] });
  // @ts-expect-error dY has the dtype of x
  rankone.loraLinearBackwardSync({ ...inputs, dY: t });
  // @ts-expect-error what is not needed does not come
  some.dx;
  // @ts-expect-error only dx may be the caller's
  rankone.loraLinearBackwardSync(inputs, { out: { dA: t } });
  // @ts-expect-error an id for each row
  rankone.loraLinearSync({ x: t, bank, routing: { kind: 'tokens', id: 0 } });
  // @ts-expect-error gates
  rankone.loraLinearSync({ x: t, bank, routing: { kind: 'topK', k: 1, ids: offsets } });
  // @ts-expect-error a weight has to be packed
  rankone.loraLinearSync({ x: t, base: t });
  // @ts-expect-error not an activation
  bank.load({ a: t, b: t, act: 'tanh' });
  // @ts-expect-error a seed is required
  rankone.loraLinearSync({ x: t, base: packed }, { dropout: { p: 0.1 } });
  // @ts-expect-error a weight comes from packWeight
  new rankone.PackedWeight();
  // @ts-expect-error and a bank from createAdapterBank
  new rankone.AdapterBank();
}

function companions(): void {
  const wide = { data: new BigInt64Array(3), shape: [3] };
  const { adapter, norms } = rankone.doraAdapterSync({ weight: b, a: h, b: t, magnitude: t });
  same<HalfTensor<'f16'>>(adapter.a);
  same<ResultTensor>(norms);
  same<ResultTensor>(rankone.doraNormsSync({ weight: either, a: b, b: h }, { scale: 2 }).norms);
  const base = rankone.packWeightSync(t, { format: 'nf4' });
  same<ResultTensor>(rankone.doraAdapterSync({ base, a: t, b: t, magnitude: t }).adapter.b);
  rankone.scatterAddSync({ w: b, values: t, rows: ids, columns: wide }, { scale: -1 });
  same<'bf16'>(rankone.spmmSync({ x: b, values: t, indptr: ids, columns: wide }).y.dtype);
  const sparse = { x: h, values: h, rows: ids, columns: ids };
  same<HalfTensor<'f16'>>(
    rankone.spmmBackwardSync({ ...sparse, dY: h }, { gradDtype: 'input' }).dx,
  );
  same<ResultTensor>(rankone.spmmBackwardSync({ ...sparse, dY: h }).dValues);
  same<ResultTensor>(rankone.sddmmSync({ a: b, b, indptr: wide, columns: wide }).values);
  same<'f16'>(rankone.kroneckerLinearSync({ x: h, a: t, b: h, addend: t }).y.dtype);
  same<ResultTensor>(rankone.kroneckerLinearBackwardSync({ x: b, a: b, b, dY: b }).da);
  const drawn = { rows: 2, columns: 3, seed: 1 };
  same<ResultTensor>(rankone.basisCombinationSync({ coefficients: t }, drawn).sum);
  same<'bf16'>(rankone.basisCombinationSync({ coefficients: t, bases: b }).sum.dtype);
  same<ResultTensor>(rankone.randLoraSync({ a: b, b: h, lambda: t, gamma: t }).delta);
  const { sketch } = rankone.rowSketchSync({ x: b }, { size: 4, seed: 2 });
  same<ResultTensor>(rankone.rowSketchGradientSync({ dY: h, sketch }, { seed: 2 }).dWeight);

  // @ts-expect-error the magnitude is float32
  rankone.doraAdapterSync({ weight: b, a: h, b: t, magnitude: b });
  // @ts-expect-error columns are needed
  rankone.scatterAddSync({ w: t, values: t, rows: ids });
  // @ts-expect-error indices are integers
  rankone.spmmSync({ x: t, values: t, indptr: t, columns: ids });
  // @ts-expect-error dY has the dtype of x
  rankone.kroneckerLinearBackwardSync({ x: b, a: b, b, dY: t });
  // @ts-expect-error not an axis
  rankone.basisCombinationSync({ coefficients: t, bases: t }, { headAxis: 'both' });
  // @ts-expect-error the diagonals are float32
  rankone.randLoraSync({ a: b, b, lambda: b, gamma: t });
  // @ts-expect-error size is required
  rankone.rowSketchSync({ x: t });
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
  const z = rankone.createState({
    ...{ batch: 1, valueHeads: 2 },
    keyDim: 3,
    valueDim: 4,
    keyHeads: 2,
  });
  z.copyFrom(z.toTensor(), z.zToTensor());
  same<Uint8Array>(made.serialize());
  same<rankone.RecurrentState>(rankone.deserializeState(made.serialize()));
  // @ts-expect-error bytes
  rankone.deserializeState('RK1STATE');
  same<Tensor>(rankone.tensor([1, 2], [2]));
  same<Uint16Array>(rankone.tensor(new Uint16Array(2), [2], 'f16').data);
  same<HalfTensor<'bf16'>>(rankone.tensor(new Uint16Array(2), [2], 'bf16'));
  same<rankone.IndexTensor>(rankone.tensor([1, 2], [2], 'i32'));
  // @ts-expect-error 16-bit floats need their dtype
  rankone.tensor(new Uint16Array(2), [2]);
}

void [
  adapters,
  asked,
  forward,
  backward,
  dtypes,
  devices,
  gradientDtypes,
  fusedAndPacked,
  layers,
  layerDtypes,
  companions,
  segments,
  states,
];
