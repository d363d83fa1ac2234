// y_t = act(bias + sum_j weight_j x_{t-W+1+j}) per channel, in ascending j in float32: error <= (W + 1) * 2^-24 * sum
// |w||x|. Tokens before the first come from initialState, which a forward leaves as finalState for the next call.
// dWeight and dBias are summed over blocks of 64 tokens in float32, then by rowSum: relative error below 1e-5.
// Half-width tensors are converted as they are loaded and stored; taps and bias are float32 copies.
// The short convolution of H3 (Fu et al., 2022) and of Mamba, DeltaNet and their kin.
#include "kernels/elementwise.inl"
#include "kernels/short_conv_taps.inl"

namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

constexpr int64_t kStripe = 512;  // channels of a task of the backward

// taps[j] = weight[:, j], or in reverse order of j
template <class E>
void transposeTaps(const void* weight, int64_t D, int64_t W, bool reverse, float* taps) {
  for (int64_t j = 0; j < W; ++j) {
    float* row = taps + (reverse ? W - 1 - j : j) * D;
    for (int64_t d = 0; d < D; ++d) row[d] = E::one(elements<E>(weight, d * W + j));
  }
}
void takeTaps(const void* weight, DType dtype, int64_t D, int64_t W, bool reverse, float* taps) {
  withDType(dtype, [&](auto e) { transposeTaps<decltype(e)>(weight, D, W, reverse, taps); });
}

// The W-1 tokens before the first and the `tokens` <= W-1 first ones, one after the other: [W-1 + tokens, channels].
template <class E>
void fillHead(const typename E::Element* x, const float* state, int64_t D, int64_t W, int64_t c0, int64_t channels,
              int64_t tokens, float* head) {
  const int64_t past = W - 1;
  for (int64_t i = 0; i < past; ++i)
    for (int64_t c = 0; c < channels; ++c) head[i * channels + c] = state ? state[(c0 + c) * past + i] : 0.0f;
  for (int64_t t = 0; t < tokens; ++t) widenElements<E>(x + t * D + c0, channels, head + (past + t) * channels);
}

// The state of sequence n, of states that may be none.
inline const float* stateOf(const ShortConvArgs& p, const float* states, int64_t n) {
  return states ? states + (p.stateRows ? p.stateRows[n] : n) * p.D * (p.W - 1) : nullptr;
}

// The last W-1 tokens that a sequence has seen. In place over its initial state if need be.
template <class E>
void writeFinalState(const ShortConvArgs& p, int64_t n) {
  const int64_t past = p.W - 1, T = p.sequences.tokens(n);
  const auto* x = elements<E>(p.x, p.sequences.begin(n) * p.D);
  const float* initial = stateOf(p, p.initialState, n);
  float* out = const_cast<float*>(stateOf(p, p.finalState, n));
  for (int64_t d = 0; d < p.D; ++d)
    for (int64_t i = 0; i < past; ++i) {
      const int64_t t = T - past + i;
      out[d * past + i] = t >= 0 ? E::one(x + t * p.D + d) : initial ? initial[d * past + T + i] : 0.0f;
    }
}

// Tokens [t0, t1) of one sequence, channels [c0, c0 + p.channels): y starts at token t0. t0 is 0 or at least W-1.
template <class E, class Y>
void convSpan(TapLoop<E, Y> p, const typename E::Element* x, const float* state, int64_t D, int64_t c0, int64_t t0,
              int64_t t1) {
  const int64_t past = p.W - 1, early = t0 == 0 ? std::min(t1, past) : 0;
  if (early > 0) {  // through float32, which the state is
    const int64_t wide = std::is_same_v<Y, F32> ? 0 : early * p.channels;
    Scratch scratch(alignFloats(2 * past * p.channels) + wide);
    float *head = scratch.take(2 * past * p.channels), *y = scratch.take(wide);
    fillHead<E>(x, state, D, p.W, c0, p.channels, early, head);
    TapLoop<F32, F32> loop{head, p.channels, p.taps, p.ldTaps, p.W, p.bias, p.silu, y, p.channels, p.channels};
    if constexpr (std::is_same_v<Y, F32>) {
      loop.y = p.y;
      loop.ldY = p.ldY;
    }
    conv(loop, early);
    if (wide)
      for (int64_t t = 0; t < early; ++t) narrowElements<Y>(y + t * p.channels, p.channels, p.y + t * p.ldY);
  }
  if (t0 + early == t1) return;
  p.x = x + (t0 + early - past) * D + c0;
  p.ldX = D;
  p.y += early * p.ldY;
  conv(p, t1 - t0 - early);
}

template <class E>
void forwardBlocks(const ShortConvArgs& p, const float* taps, const float* bias, int64_t begin, int64_t end) {
  for (int64_t block = begin; block < end; ++block) {
    const int64_t n = p.sequences.sequenceOf(block), first = p.sequences.begin(n);
    const int64_t t0 = (block - p.sequences.firstBlock(n)) * kConvBlock;
    const int64_t t1 = std::min(p.sequences.tokens(n), t0 + kConvBlock);
    const TapLoop<E, E> loop{nullptr, 0, taps, p.D, p.W, bias, p.silu, elements<E>(p.y, (first + t0) * p.D), p.D, p.D};
    convSpan(loop, elements<E>(p.x, first * p.D), stateOf(p, p.initialState, n), p.D, 0, t0, t1);
  }
}

// Parameters of a backward in float32.
struct Parameters {
  const float* taps;      // [W, D]
  const float* reversed;  // [W, D]
  const float* bias;      // [D], or null
};

// Some channels of a block of sequence n, which has T tokens from token `first` on.
struct Stripe {
  int64_t n, first, T, t0, c0, channels;
};

// d[t - t0] = the gradient at the activation's input of tokens [t0, end); zero from s.T on. [end - t0, channels]
template <class E>
void activationGradient(const ShortConvBackwardArgs& p, const Parameters& w, const Stripe& s, const float* state,
                        int64_t t0, int64_t end, float* d) {
  const int64_t stop = std::min(end, s.T), channels = s.channels;
  const auto *x = elements<E>(p.x, s.first * p.D), *dY = elements<E>(p.dY, s.first * p.D + s.c0);
  if (p.silu && stop > t0) {
    const float* bias = w.bias ? w.bias + s.c0 : nullptr;
    const TapLoop<E, F32> loop{nullptr, 0, w.taps + s.c0, p.D, p.W, bias, false, d, channels, channels};
    convSpan(loop, x, state, p.D, s.c0, t0, stop);
  }
  for (int64_t t = t0; t < end; ++t) {
    float* row = d + (t - t0) * channels;
    for (int64_t c = 0; c < channels; c += kLanes) {
      const int n = lanesLeft(c, channels);
      Vec g = zero();
      if (t < stop) g = get<E>(dY + t * p.D + c, n);
      if (t < stop && p.silu) g = g * siluAndSlope(get(row + c, n)).slope;
      put(row + c, g, n);
    }
  }
}

// partial [W + 1, D] of this block: dWeight by tap, then dBias
template <class E>
void sumTaps(const ShortConvBackwardArgs& p, const Stripe& s, const float* state, int64_t t0, int64_t t1,
             const float* d, float* partial) {
  const int64_t past = p.W - 1, early = t0 == 0 ? std::min(t1, past) : 0, channels = s.channels;
  const auto* x = elements<E>(p.x, s.first * p.D);
  for (int64_t j = 0; j <= p.W; ++j) std::memset(partial + j * p.D, 0, static_cast<size_t>(channels) * sizeof(float));
  if (early > 0) {
    Scratch scratch(2 * past * channels);
    float* head = scratch.take(2 * past * channels);
    fillHead<E>(x, state, p.D, p.W, s.c0, channels, early, head);
    TapLoop<F32, F32> loop{head, channels, nullptr, p.D, p.W, nullptr, false, nullptr, 0, channels};
    correlate(loop, d, channels, early, partial);
  }
  if (t0 + early < t1) {
    const auto* first = x + (t0 + early - past) * p.D + s.c0;
    TapLoop<E, F32> loop{first, p.D, nullptr, p.D, p.W, nullptr, false, nullptr, 0, channels};
    correlate(loop, d + early * channels, channels, t1 - t0 - early, partial);
  }
  float* bias = partial + p.W * p.D;
  for (int64_t t = 0; t < t1 - t0; ++t)
    for (int64_t c = 0; c < channels; ++c) bias[c] += d[t * channels + c];
}

// The tokens before the first: what the first outputs, and through a short sequence the final state, owe to them.
void initialStateGradient(const ShortConvBackwardArgs& p, const float* taps, const Stripe& s, const float* d) {
  const int64_t past = p.W - 1;
  const int64_t state = (s.n * p.D + s.c0) * past;
  for (int64_t c = 0; c < s.channels; ++c)
    for (int64_t i = 0; i < past; ++i) {
      double g = 0;
      for (int64_t j = std::max<int64_t>(0, i - s.T + 1); j <= i; ++j)
        g += static_cast<double>(taps[j * p.D + s.c0 + c]) * d[(i - j) * s.channels + c];
      if (p.dFinalState && i >= s.T) g += p.dFinalState[state + c * past + i - s.T];
      p.dInitialState[state + c * past + i] = static_cast<float>(g);
    }
}

// dX_t = sum_j weight_j d_{t+W-1-j}: the same convolution with the taps reversed, over the tokens to come.
void inputGradient(const ShortConvBackwardArgs& p, const Parameters& w, const Stripe& s, int64_t t0, int64_t t1,
                   const float* d, float* dX, int64_t ld) {
  const int64_t past = p.W - 1, channels = s.channels;
  conv<F32, F32>({d, channels, w.reversed + s.c0, p.D, p.W, nullptr, false, dX, ld, channels}, t1 - t0);
  if (p.dFinalState)
    for (int64_t t = std::max(t0, s.T - past); t < t1; ++t)
      for (int64_t c = 0; c < channels; ++c)
        dX[(t - t0) * ld + c] += p.dFinalState[(s.n * p.D + s.c0 + c) * past + t - (s.T - past)];
}

template <class E>
void backwardStripe(const ShortConvBackwardArgs& p, const Stripe& s, const Parameters& w, float* partial) {
  const int64_t past = p.W - 1, t0 = s.t0, t1 = std::min(s.T, t0 + kConvBlock), channels = s.channels;
  const float* state = p.initialState ? p.initialState + s.n * p.D * past : nullptr;
  const int64_t wide = p.gradDType == DType::F32 ? 0 : kConvBlock * channels;
  Scratch scratch(alignFloats((kConvBlock + past) * channels) + wide);
  float *d = scratch.take((kConvBlock + past) * channels), *block = scratch.take(wide);
  activationGradient<E>(p, w, s, state, t0, t1 + past, d);
  const int64_t at = (s.first + t0) * p.D + s.c0;
  inputGradient(p, w, s, t0, t1, d, wide ? block : elements<F32>(p.dX, at), wide ? channels : p.D);
  if (wide)
    for (int64_t t = t0; t < t1; ++t)
      narrow(block + (t - t0) * channels, channels, p.dX, p.gradDType, at + (t - t0) * p.D);
  sumTaps<E>(p, s, state, t0, t1, d, partial + s.c0);
  if (t0 == 0 && p.dInitialState) initialStateGradient(p, w.taps, s, d);
}

template <class E>
void backwardStripes(const ShortConvBackwardArgs& p, const Parameters& w, float* partial, int64_t begin, int64_t end) {
  const int64_t stripes = (p.D + kStripe - 1) / kStripe;
  for (int64_t task = begin; task < end; ++task) {
    const int64_t block = task / stripes, c0 = task % stripes * kStripe, n = p.sequences.sequenceOf(block);
    const int64_t t0 = (block - p.sequences.firstBlock(n)) * kConvBlock;
    const Stripe s{n, p.sequences.begin(n), p.sequences.tokens(n), t0, c0, std::min(kStripe, p.D - c0)};
    backwardStripe<E>(p, s, w, partial + block * (p.W + 1) * p.D);
  }
}

// dWeight [D, W] from its transpose.
template <class G>
void writeTaps(const float* sums, int64_t D, int64_t W, void* dWeight) {
  for (int64_t d = 0; d < D; ++d)
    for (int64_t j = 0; j < W; ++j) G::putOne(elements<G>(dWeight, d * W + j), sums[j * D + d]);
}

// Tokens of a block, at most.
int64_t blockTokens(const ConvSequences& s) { return s.starts ? kConvBlock : std::min(s.T, kConvBlock); }

}  // namespace

void shortConv(const ShortConvArgs& p) {
  Scratch scratch(alignFloats(p.W * p.D) + floatsOf(p.bias, p.biasDType, p.D));
  float* taps = scratch.take(p.W * p.D);  // [W, D]
  takeTaps(p.weight, p.weightDType, p.D, p.W, false, taps);
  const float* bias = asFloats(p.bias, p.biasDType, p.D, scratch);
  const Split s = splitWork(p.sequences.blockCount(), blockTokens(p.sequences) * (2 * p.W + (p.silu ? 30 : 4)) * p.D);
  const Split states = splitWork(p.finalState ? p.sequences.N : 0, 8 * p.D * (p.W - 1));
  withDType(p.dtype, [&](auto e) {
    using E = decltype(e);
    parallelFor(s.tasks, p.cancel, [&](int64_t t) { forwardBlocks<E>(p, taps, bias, s.begin(t), s.end(t)); });
    // After the outputs, which have read what these may write over.
    parallelFor(states.tasks, p.cancel, [&](int64_t t) {
      for (int64_t n = states.begin(t); n < states.end(t); ++n) writeFinalState<E>(p, n);
    });
  });
}

void shortConvBackward(const ShortConvBackwardArgs& p) {
  const int64_t blocks = p.sequences.blockCount(), stripes = (p.D + kStripe - 1) / kStripe, row = (p.W + 1) * p.D;
  Scratch scratch(2 * alignFloats(p.W * p.D) + floatsOf(p.bias, p.biasDType, p.D) + alignFloats(row) +
                  alignFloats(blocks * row));
  float* taps = scratch.take(p.W * p.D);
  float* reversed = scratch.take(p.W * p.D);
  const float* bias = asFloats(p.bias, p.biasDType, p.D, scratch);
  float* sums = scratch.take(row);              // [W + 1, D]
  float* partial = scratch.take(blocks * row);  // [blocks, W + 1, D]
  takeTaps(p.weight, p.weightDType, p.D, p.W, false, taps);
  takeTaps(p.weight, p.weightDType, p.D, p.W, true, reversed);
  const Parameters w{taps, reversed, bias};
  const Split s = splitWork(blocks * stripes, kConvBlock * (6 * p.W + 50) * std::min(p.D, kStripe));
  withDType(p.dtype, [&](auto e) {
    parallelFor(s.tasks, p.cancel,
                [&](int64_t t) { backwardStripes<decltype(e)>(p, w, partial, s.begin(t), s.end(t)); });
  });
  rankone::rowSum({partial, sums, blocks, row, p.cancel});
  withDType(p.dWeightDType, [&](auto g) { writeTaps<decltype(g)>(sums, p.D, p.W, p.dWeight); });
  if (p.dBias) narrow(sums + p.W * p.D, p.D, p.dBias, p.dBiasDType, 0);
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
